// node browser.mjs CHROMIUM: a headless browser that takes a command as JSON on each line of standard
// input and answers each with a line of JSON, { value } or { error }. One page at a time.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await puppeteer.launch({
  executablePath: process.argv[2],
  // the tests may run as root, and then Chromium's own sandbox does not
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--font-render-hinting=none"],
});
let page, context, complaints;

const commands = {
  async open({ url, width = 1280, height = 800, scheme = "light" }) {
    await context?.close(); // with its storage
    context = await browser.createBrowserContext();
    page = await context.newPage();
    complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (said) => { if (["error", "warn"].includes(said.type())) complaints.push(said.text()); });
    await page.setViewport({ width, height, isMobile: width < 600, hasTouch: width < 600 });
    await page.emulateMediaFeatures([
      { name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: "reduce" },
    ]);
    await page.goto(url);
  },
  async reload() { await page.reload(); },
  evaluate: ({ code }) => page.evaluate(code),
  /** Asked from here: puppeteer's own waitForFunction waits on in a document that a reload has taken away. */
  async wait({ code, seconds = 40 }) {
    const end = Date.now() + seconds * 1000;
    for (let why = null; !(await page.evaluate(code).catch((error) => void (why = error))); ) {
      if (Date.now() > end) throw new Error(`not so after ${seconds} s${why ? `: ${why}` : ""}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },
  async click({ at }) { await page.locator(at).setTimeout(10000).click(); },
  async type({ at, text }) { await page.locator(at).setTimeout(10000).wait(); await page.type(at, text); },
  async press({ key }) { await page.keyboard.press(key); },
  async picture({ path }) { await page.screenshot({ path }); },
  /** What axe-core finds wrong: rule, and the first nodes. */
  async axe() {
    await page.evaluate(axeSource);
    const found = await page.evaluate(() => globalThis.axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }));
    const rules = found.passes.length;
    return { rules, violations: found.violations.map((each) => [each.id, each.help,
      each.nodes.slice(0, 3).map((node) => [node.html.slice(0, 200), node.failureSummary])]) };
  },
  complaints: () => complaints,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await commands[command](given)) ?? null };
  } catch (error) {
    answer = { error: String(error) };
  }
  console.log(JSON.stringify(answer));
}
await browser.close();
