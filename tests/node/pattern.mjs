// Reads lines of JSON, [pattern, text]; says true, false, or null where the pattern is none of ECMA-262.
// As JSON Schema asks for it: with the flag u. Where only that refuses the pattern, without.
import { createInterface } from "node:readline";

function read(pattern) {
  for (const flags of ["u", ""]) {
    try {
      return new RegExp(pattern, flags);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  return null;
}

for await (const line of createInterface({ input: process.stdin })) {
  const [pattern, text] = JSON.parse(line);
  console.log(JSON.stringify(read(pattern)?.test(text) ?? null));
}
