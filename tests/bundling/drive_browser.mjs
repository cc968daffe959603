/**
 * Drives a browser: each line of standard input is a visit as JSON, each line of standard output what came of it.
 * A visit is `url`, `wait` (a selector of what appears), `choose` and `drop` (an image file), `enter` (a
 * text), `then` (waited for after the input), `read` (an expression), and `shot` (a PNG to write), `width` and `scheme` for it.
 */

import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { readFile } from "node:fs/promises";

const [packages, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(path.join(packages, "package.json"))("playwright-core");
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"],
});

async function visit({ url, wait, choose, drop, enter, then, read, shot, width = 900, scheme = "light" }) {
  const context = await browser.newContext({ viewport: { width, height: 700 }, colorScheme: scheme });
  const page = await context.newPage();
  const appears = (selector) => page.waitForSelector(selector, { state: "attached", timeout: 60_000 });
  const complaints = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  try {
    await page.goto(url);
    await appears(wait);
    if (choose) await page.setInputFiles("#file", choose);
    if (enter) {
      await page.fill("#text", enter);
      await page.click("#words button");
    }
    if (drop) {
      const bytes = [...(await readFile(drop))];
      const carried = await page.evaluateHandle(([name, content]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(content)], name));
        return transfer;
      }, [path.basename(drop), bytes]);
      await page.dispatchEvent("#drop", "drop", { dataTransfer: carried });
    }
    if (then) await appears(then);
    const found = read ? await page.evaluate(read) : null;
    if (shot) await page.screenshot({ path: shot, fullPage: true });
    return { found, text: await page.innerText("body"), title: await page.title(), complaints };
  } catch (error) {
    return { error: error.message, complaints };
  } finally {
    await context.close();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await visit(JSON.parse(line)))}\n`);
}
await browser.close();
