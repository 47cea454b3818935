// node validate.mjs FILE: what the AsyncAPI parser says of a document; exit code 1 when it refuses it.
import { fromFile, Parser } from "@asyncapi/parser";

const WORDS = ["error", "warning", "information", "hint"];
const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
for (const { severity, code, path, message } of diagnostics)
  console.log(`${WORDS[severity]} ${code} ${path.join(".")}: ${message}`);
process.exitCode = document && !diagnostics.some((d) => d.severity <= 1) ? 0 : 1;
