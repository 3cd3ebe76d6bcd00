// What all tests of the page share: a browser, a page on a server with a known state, and the rule that nothing may go
// wrong unseen: no error on the console, no request to anywhere else, no violation of the content-security policy.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before } from "node:test";
import { serve } from "./fixture_server.mjs";

const require = createRequire(join(process.env.RTP_BROWSER_TOOLS ?? ".", "package.json"));
const { chromium } = require("playwright-core");
const axe = require("axe-core");

export const PHONE = { width: 360, height: 740 };
export const WIDE = { width: 1440, height: 900 };

export async function launch() {
  const args = ["--disable-dev-shm-usage", ...(process.getuid?.() === 0 ? ["--no-sandbox"] : [])];
  return chromium.launch({ executablePath: process.env.RTP_CHROMIUM, args });
}

let browser;
/** Starts the browser for the tests of a file. */
export function useBrowser() {
  before(async () => {
    browser = await launch();
  });
  after(() => browser.close());
}

/** Opens the page and runs the test with it. `errors`: what this test may see on the console. */
export async function withPage(options, test) {
  const { state = "known", now, url, address = "/", size = WIDE, scheme = "light", motion = "no-preference", errors = null, ready = true, locked = false, script = null, allowed = [] } = options;
  const server = url ? { url } : await serve({ state, now, locked });
  const context = await browser.newContext({ viewport: size, colorScheme: scheme, reducedMotion: motion, permissions: ["clipboard-read", "clipboard-write"] });
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !errors?.test(message.text())) problems.push(`${message.type()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => problems.push(`exception: ${error.stack}`));
  page.on("dialog", (dialog) => {
    problems.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  context.on("request", (request) => {
    const origin = new URL(request.url()).origin;
    if (![new URL(server.url).origin, ...allowed].includes(origin) && !request.url().startsWith("data:")) problems.push(`request to ${request.url()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => globalThis.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
  });
  if (script) await page.addInitScript(script);
  try {
    await page.goto(server.url + address);
    if (ready) await page.waitForSelector("html.ready");
    await test({ page, server, context });
    problems.push(...(await page.evaluate(() => globalThis.violations)).map((text) => `policy: ${text}`));
    assert.deepEqual(problems, []);
  } finally {
    await context.close();
    await server.close?.();
  }
}

/** A script that lets `hide(true)` hide the page, and `hide(false)` show it: Chromium without a window shows all tabs. */
export const HIDING = `{
  let hidden = globalThis.name === "hidden";
  Object.defineProperties(Document.prototype, {
    hidden: { get: () => hidden },
    visibilityState: { get: () => (hidden ? "hidden" : "visible") },
  });
  globalThis.hide = (value) => {
    hidden = value;
    document.dispatchEvent(new Event("visibilitychange"));
  };
}`;

/** A text as a person reads it: any white space is one space. */
export const plain = (text) => (text ?? "").replace(/\s+/g, " ").trim();
export const text = async (page, selector) => plain(await page.locator(selector).first().innerText());
export const texts = async (page, selector) => (await page.locator(selector).allInnerTexts()).map(plain);

/** Waits until the selected text is, or contains, what is expected. */
export async function until(page, selector, expected, timeout = 10_000) {
  const seen = () => page.locator(selector).first().innerText({ timeout: 500 }).then(plain, () => null);
  const end = Date.now() + timeout;
  let last;
  do {
    last = await seen();
    if (expected instanceof RegExp ? expected.test(last) : last === expected) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  } while (Date.now() < end);
  assert.fail(`${selector} is "${last}" after ${timeout} ms, not ${expected}`);
}

/** The serious and critical findings of axe, and the colours that are hard to read. */
export async function findings(page) {
  // Without page.addScriptTag, which the policy forbids.
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  return violations.filter(({ impact }) => ["serious", "critical"].includes(impact)).map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} ${node.any[0]?.message ?? ""}`).join("; ")}`);
}

/** Opens all tables of numbers. */
export async function openAll(page) {
  await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  await page.waitForFunction(() => [...document.querySelectorAll("details .scroll")].every((place) => place.firstElementChild));
}

/** Elements that stick out of the window sideways, unless they scroll in a place of their own. */
export const stickingOut = (page) =>
  page.evaluate(() => {
    const out = [...document.querySelectorAll("body *")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width > 1 && box.right > innerWidth + 1 && !element.closest(".scroll, .sr, .skip, .chart, dialog:not([open])");
    });
    return { wide: document.documentElement.scrollWidth - innerWidth, out: out.map((element) => `${element.tagName}.${element.className}`) };
  });
