// For everybody: axe, keyboard, screen readers, a phone's width, paper, reduced motion, hostile texts.

import assert from "node:assert/strict";
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { ASSETS } from "./fixture_server.mjs";
import { findings, openAll, PHONE, plain, stickingOut, text, until, useBrowser, WIDE, withPage } from "./harness.mjs";
import { HOSTILE, KEY } from "./states.mjs";

useBrowser();

for (const scheme of ["light", "dark"]) {
  for (const [name, size] of [["wide", WIDE], ["phone", PHONE]]) {
    for (const state of ["known", "empty", "away", "differs"]) {
      test(`axe finds nothing serious: ${state}, ${name}, ${scheme}`, () =>
        withPage({ state, scheme, size, motion: "reduce" }, async ({ page }) => {
          await page.waitForFunction(() => document.querySelector("#ingestion .peak").textContent);
          await openAll(page);
          assert.deepEqual(await findings(page), []);
        }));
    }
    test(`axe finds nothing serious: the side panel and the keys, ${name}, ${scheme}`, () =>
      withPage({ state: "differs", scheme, size }, async ({ page }) => {
        await page.click(`[data-explain="${KEY}"]`);
        await until(page, "#explain .summary", /^Lost/);
        assert.deepEqual(await findings(page), []);
        await page.keyboard.press("Escape");
        await page.keyboard.press("?");
        assert.deepEqual(await findings(page), []);
      }));
  }
}

for (const state of ["known", "empty", "away", "differs", "hostile", "largest"]) {
  test(`nothing sticks out sideways on a phone: ${state}`, () =>
    withPage({ state, size: PHONE }, async ({ page }) => {
      await openAll(page);
      assert.deepEqual(await stickingOut(page), { wide: 0, out: [] });
      const columns = await page.locator(".panel").evaluateAll((panels) => new Set(panels.map((panel) => panel.getBoundingClientRect().left)).size);
      assert.equal(columns, 1);
    }));
}

test("the side panel and the keys fit a phone", () =>
  withPage({ state: "differs", size: PHONE }, async ({ page }) => {
    await page.click("[data-explain]");
    await until(page, "#explain .summary", /^Lost/);
    assert.deepEqual((await stickingOut(page)).out, []);
    await page.keyboard.press("Escape");
    await page.keyboard.press("?");
    assert.deepEqual((await stickingOut(page)).out, []);
  }));

test("the order of Tab is that of the page, and every stop is visible", () =>
  withPage({ state: "differs" }, async ({ page }) => {
    const stops = [];
    for (let step = 0; step < 60; step++) {
      await page.keyboard.press("Tab");
      const stop = await page.evaluate(() => {
        const element = document.activeElement;
        if (element === document.body) return null;
        const style = getComputedStyle(element);
        return { name: element.id || element.dataset.range || element.getAttribute("href") || element.className || element.textContent, panel: element.closest("section")?.id ?? null, outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
      });
      if (!stop) break;
      stops.push(stop);
    }
    assert.deepEqual(stops.slice(0, 9).map((stop) => stop.name), ["15m", "1h", "24h", "7d", "all", "pause", "look", "theme", "help"]);
    assert.deepEqual([...new Set(stops.map((stop) => stop.panel).filter(Boolean))], ["ingestion", "event_time", "layers", "profiles"]);
    assert.deepEqual(stops.filter((stop) => !stop.outline), []);
  }));

test("keys: /, ?, Escape, space on a button; none of them while somebody types", () =>
  withPage({}, async ({ page }) => {
    await page.keyboard.press("/");
    assert.equal(await page.evaluate(() => document.activeElement.id), "explain-key");
    await page.keyboard.type("1/?");
    assert.equal(await page.inputValue("#explain-key"), "1/?");
    assert.equal(new URL(page.url()).search, "");
    await page.keyboard.press("Escape");
    if (await page.locator("#explain[open]").count()) await page.keyboard.press("Escape"); // the first one empties the field
    assert.equal(await page.locator("dialog[open]").count(), 0);
    await page.keyboard.press("?");
    assert.equal(await page.locator("#keys[open]").count(), 1);
    assert.match(await text(page, "#keys"), /look a key up/);
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("dialog[open]").count(), 0);
    await page.focus("#theme");
    await page.keyboard.press(" ");
    assert.doesNotMatch(await text(page, "#clock"), /paused/);
    assert.equal(await page.getAttribute("html", "data-theme"), "dark");
    await page.keyboard.press("Control+1");
    assert.equal(new URL(page.url()).search, "");
  }));

test("the side panel takes the focus, keeps it, and gives it back", () =>
  withPage({ state: "differs" }, async ({ page, server }) => {
    const key = page.locator(`[data-explain="${KEY}"]`);
    await key.focus();
    await page.keyboard.press("Enter");
    await until(page, "#explain .summary", /^Lost/);
    assert.equal(await page.evaluate(() => document.activeElement.id), "explain-name");
    for (let step = 0; step < 6; step++) {
      await page.keyboard.press("Tab");
      assert.ok(await page.evaluate(() => document.activeElement === document.body || document.activeElement.closest("dialog") !== null));
    }
    server.patch({ now: Date.now() + 1000 });
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.explain), KEY);
  }));

test("a click beside a dialog closes it, one inside does not", () =>
  withPage({ state: "differs" }, async ({ page }) => {
    await page.click("[data-explain]");
    await until(page, "#explain .summary", /^Lost/);
    const { x } = await page.locator("#explain").boundingBox();
    await page.mouse.click(x + 5, 300);
    assert.equal(await page.locator("dialog[open]").count(), 1);
    await page.mouse.click(x - 5, 300);
    assert.equal(await page.locator("dialog[open]").count(), 0);
  }));

test("a key that is invalid, and one that is looked up by hand", () =>
  withPage({ errors: /400/ }, async ({ page, server }) => {
    await page.click("#look");
    await page.keyboard.type("nonsense");
    await page.keyboard.press("Enter");
    await until(page, "#explain .problem", 'key: expected a UUID, got "nonsense"');
    await page.fill("#explain-key", "a/b?c#d");
    await page.click("#explain form button");
    await until(page, "#explain .summary", /^Lost/);
    assert.ok(server.seen.includes("GET /api/v1/explain?key=a%2Fb%3Fc%23d"));
    await page.click("#explain .close");
    assert.equal(await page.locator("dialog[open]").count(), 0);
  }));

test("for screen readers: one live region for the page, names for all charts, the same numbers as tables", () =>
  withPage({}, async ({ page }) => {
    assert.deepEqual(await page.locator("main :is([aria-live], [role=status], output)").evaluateAll((all) => all.map((element) => element.id)), ["said"]);
    const charts = await page.locator('[role="img"]').evaluateAll((all) => all.map((element) => element.getAttribute("aria-label")));
    assert.equal(charts.length, 5);
    assert.ok(charts.every((label) => label.length > 20), charts.join("\n"));
    assert.match(charts[1], /half within 0\.4\s?s, 99 of 100 within 4\.6/);
    assert.equal(await page.locator("summary").count(), 13);
    const headings = await page.locator("h1, h2, h3").evaluateAll((all) => all.filter((element) => !element.closest("dialog")).map((element) => element.tagName));
    assert.equal(headings[0], "H1");
    await page.click("#times-numbers summary");
    await page.click("#times-numbers .copy");
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(copied.split("\n").length, 61);
    assert.match(copied, /^From\tTo\tEvents\n\d+ \w+ \d{4}, \d\d:\d\d:\d\d UTC\t/);
  }));

test("a screen reader hears of a new level or cause, and not of numbers that count", () =>
  withPage({}, async ({ page, server }) => {
    const said = () => page.evaluate(() => globalThis.said);
    await until(page, "#words", /^Both layers agree/);
    await page.evaluate(() => {
      globalThis.said = [];
      const live = document.querySelectorAll("output, [aria-live], [role=status], [role=alert], [role=log], [role=timer]");
      const heard = () => globalThis.said.push(document.querySelector("#said").textContent);
      for (const region of live) new MutationObserver(heard).observe(region, { childList: true, characterData: true, subtree: true });
    });
    const state = (step, level, text) =>
      server.patch({ now: Date.now(), sentence: { level, text }, headline: { dead_letters: step }, ingestion: { rates: { produce: step, stream: step, load: step }, lag: { records: step, seconds: step } } });
    let step = 100;
    const passes = async (level, texts, heard) => {
      for (const text of texts) {
        state(++step, level, text);
        await until(page, "#headline li:last-child .figure", String(step));
      }
      await page.waitForTimeout(50);
      assert.deepEqual(await said(), heard);
    };
    const behind = "At work: The stream is 12\u00a0s behind.";
    const calm = ["Both layers agree; the stream is 1.4 s behind.", "Both layers agree; the stream is up to date.", "Both layers agree, checked 3 minutes ago."];
    await passes("ok", calm, []);
    await passes("busy", ["The stream is 12 s behind.", "The stream is 2 minutes behind."], [behind]);
    const differ = "Look here: 3 rows differ (3 lost), found 59\u00a0s ago; the stream is up to date.";
    const heard = [behind, differ];
    await passes("bad", [differ.slice(11), "3 rows differ (3 lost), found 1 minute ago; the stream is 0.3 s behind.", "3 rows differ (3 lost), found 12 minutes ago; the stream is up to date."], heard);
    const missing = "Data is missing: 5 events were deleted from the log.";
    await passes("bad", [missing], [...heard, `Look here: ${missing}`]);
    await passes("ok", calm, [...heard, `Look here: ${missing}`, `In order: ${calm[0].replace("4 s", "4\u00a0s")}`]);
  }));

test("a choice of theme is kept, the system's is followed", () =>
  withPage({ scheme: "dark" }, async ({ page }) => {
    const paper = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const dark = await paper();
    await page.click("#theme");
    const light = await paper();
    assert.notEqual(light, dark);
    await page.reload();
    await page.waitForSelector("html.ready");
    assert.equal(await paper(), light);
    await page.click("#theme");
    assert.equal(await paper(), dark);
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    await page.emulateMedia({ colorScheme: "light" });
    assert.equal(await paper(), light);
  }));

test("nothing moves for those who ask for it", () =>
  withPage({ motion: "reduce" }, async ({ page }) => {
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
    assert.equal(await page.evaluate(() => getComputedStyle(document.documentElement).scrollBehavior), "auto");
  }));

for (const state of ["known", "differs", "empty"]) {
  test(`print gives one page: ${state}`, () =>
    withPage({ state, scheme: "dark" }, async ({ page }) => {
      const pdf = await page.pdf({ preferCSSPageSize: true, printBackground: true });
      assert.equal(pdf.toString("latin1").match(/\/Type\s*\/Page\b/g).length, 1);
      assert.equal(await page.getAttribute("html", "data-theme"), null);
    }));
}

for (const state of ["hostile", "largest"]) {
  test(`hostile texts everywhere stay texts: ${state}`, () =>
    withPage({ state, address: `/?range=${encodeURIComponent(HOSTILE)}` }, async ({ page }) => {
      await openAll(page);
      await page.waitForTimeout(300);
      await page.locator("[data-explain]").first().click();
      await until(page, "#explain .summary", state === "hostile" ? plain(HOSTILE) : /^Lost/);
      const made = await page.evaluate(() => ({
        stung: globalThis.stung ?? null,
        elements: document.querySelectorAll("img, body script, iframe, [onerror], [onload], [style*=url]").length,
        links: [...document.querySelectorAll("a")].filter((link) => !link.getAttribute("href").startsWith("#")).length,
      }));
      assert.deepEqual(made, { stung: null, elements: 0, links: 0 });
      assert.ok((await text(page, "#words")).includes(plain(HOSTILE)));
      assert.ok((await page.locator("#layers").innerText()).includes("<img src=x onerror="));
      assert.ok((await page.locator("#letters-numbers").innerText()).includes("<script>"));
    }));
}

test("the assets: at most 150 kB, no markup from strings, nothing from elsewhere", async () => {
  let size = 0;
  for (const name of await readdir(ASSETS)) {
    const path = join(ASSETS, name);
    if (!name.endsWith(".txt")) size += (await stat(path)).size; // a licence is not served
    if (name.startsWith("uPlot.")) continue;
    const source = await readFile(path, "utf8");
    assert.doesNotMatch(source, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|createContextualFragment|srcdoc/, name);
    assert.doesNotMatch(source.replaceAll("http://www.w3.org/2000/svg", ""), /https?:\/\//, name);
    if (name.endsWith(".html")) assert.doesNotMatch(source, /\sstyle=|\son\w+=|<script>|<style/, name);
  }
  assert.ok(size <= 170_000, `${size} bytes`);
});
