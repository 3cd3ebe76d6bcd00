// The connection: it breaks, comes back, skips, and sends nonsense; ranges, pause and what the address says.

import assert from "node:assert/strict";
import { test } from "node:test";
import { plain, text, texts, until, useBrowser, withPage } from "./harness.mjs";
import { empty, known } from "./states.mjs";

useBrowser();
const GONE = /Failed to load resource|ERR_/;

test("the dashboard's server goes away and comes back without a reload", () =>
  withPage({ errors: GONE }, async ({ page, server }) => {
    await page.evaluate(() => (globalThis.same = true));
    server.leave();
    await until(page, "#words", /^The dashboard's server has not answered since \d\d:\d\d\. The numbers are from then; this page comes back by itself\.$/, 8000);
    assert.equal(await page.getAttribute("#sentence", "data-level"), "away");
    assert.equal(await page.locator(".panel.stale").count(), 5);
    assert.deepEqual(await texts(page, "#headline .figure"), ["1 004", "0.4 s", "≈ 1 000 000", "1 000 000", "7"]);
    server.replace({ ...known(Date.now()), headline: { ...server.state.headline, dead_letters: 8 } });
    server.comeBack();
    await until(page, "#words", /^Both layers agree/, 10_000);
    assert.equal(await text(page, "#headline li:last-child .figure"), "8");
    assert.equal(await page.locator(".stale").count(), 0);
    assert.equal(await page.evaluate(() => globalThis.same), true);
  }));

test("a short break is not worth a word", () =>
  withPage({ errors: GONE }, async ({ page, server }) => {
    await page.evaluate(() => {
      globalThis.said = [];
      new MutationObserver(() => globalThis.said.push(document.querySelector("#words").textContent)).observe(document.querySelector("#words"), { childList: true, characterData: true, subtree: true });
    });
    server.leave();
    server.comeBack();
    await page.waitForResponse((response) => response.url().endsWith("/events"), { timeout: 8000 });
    server.patch({ headline: { dead_letters: 9 } });
    await until(page, "#headline li:last-child .figure", "9", 4000);
    assert.deepEqual(await page.evaluate(() => globalThis.said), []);
  }));

test("after a gap in the ids, and after nonsense, the page asks for the whole state again", () =>
  withPage({ errors: /not JSON/ }, async ({ page, server }) => {
    server.replace(empty(Date.now()));
    server.patch({ headline: { dead_letters: 3 } });
    await until(page, "#headline li:last-child .figure", "3", 4000);
    assert.equal(await text(page, "#kind"), "Empty");
    const streams = server.seen.filter((line) => line.endsWith("/events")).length;
    assert.equal(streams, 2);
    server.raw('event: patch\nid: 1000000\ndata: {"headline":\n\n');
    await page.waitForTimeout(200);
    server.patch({ headline: { dead_letters: 4 } });
    await until(page, "#headline li:last-child .figure", "4", 6000);
  }));

test("a patch removes what is null, and replaces lists as a whole", () =>
  withPage({ state: "differs" }, async ({ page, server }) => {
    await page.click("#samples-numbers summary");
    await until(page, "#samples-numbers tbody tr:nth-child(5)", /Dead letter$/);
    server.patch({ layers: { verdict: { samples: { lost: null, dead_letter: ["a"] } } } });
    await until(page, "#samples-numbers tbody tr:nth-child(3)", "a Dead letter");
    assert.equal(await page.locator("#samples-numbers tbody tr").count(), 3);
    server.patch({ layers: { verdict: null }, pipeline: { heartbeat: [{ check: "lag", ok: false, message: "too late" }] } });
    await until(page, "#layers .verdict", "No verdict yet: rtp verify compares the two.");
    assert.deepEqual(await texts(page, "#pipeline .group:last-child li"), ["Lag too late"]);
  }));

test("a verdict with explained differences only is content", () =>
  withPage({}, async ({ page, server }) => {
    server.patch({ layers: { verdict: { classes: { in_flight: 2, not_loaded: 3 } } } });
    await until(page, "#layers .judged strong", "Both layers agree; 5 differences explained");
    assert.equal(await page.locator("#layers .classes .fails").count(), 0);
    assert.equal(await page.locator("#layers .classes li").count(), 2);
  }));

test("a state without anything in it is no error", () =>
  withPage({}, async ({ page, server }) => {
    const nulls = Object.fromEntries(Object.keys(server.state).map((key) => [key, null]));
    server.patch({ ...nulls, version: 1 });
    await until(page, "#words", "No verdict yet.");
    assert.deepEqual(await texts(page, "#headline .figure"), ["–", "–", "–", "–", "–"]);
  }));

test("the range: by click, by key, in the address, in the requests", () =>
  withPage({ address: "/?range=24h" }, async ({ page, server }) => {
    const pressed = () => page.locator('#ranges [aria-pressed="true"]').allInnerTexts().then((all) => all.map(plain));
    assert.deepEqual(await pressed(), ["24 h"]);
    assert.ok(server.seen.includes("GET /api/v1/series?range=24h"));
    await page.click('#ranges [data-range="7d"]');
    assert.equal(new URL(page.url()).search, "?range=7d");
    await page.keyboard.press("1");
    assert.equal(new URL(page.url()).search, "?range=15m");
    await until(page, '#ranges [aria-pressed="true"]', "15 min");
    await page.keyboard.press("5");
    assert.equal(new URL(page.url()).search, "?range=all");
    await page.waitForFunction(() => document.querySelector("#ingestion .peak").textContent);
    assert.deepEqual(server.seen.filter((line) => line.includes("/series?")).map((line) => line.split("=")[1]), ["24h", "7d", "15m", "all"]);
    await page.reload();
    await until(page, '#ranges [aria-pressed="true"]', "all");
  }));

test("a range that does not exist is the usual one", () =>
  withPage({ address: "/?range=%3Cscript%3E" }, async ({ page, server }) => {
    await until(page, '#ranges [aria-pressed="true"]', "1 h");
    assert.ok(server.seen.includes("GET /api/v1/series?range=1h"));
  }));

test("pause holds the numbers, and going on shows the newest", () =>
  withPage({}, async ({ page, server }) => {
    await page.keyboard.press(" ");
    await until(page, "#clock", /^paused \d\d:\d\d:\d\d UTC$/);
    const clock = await text(page, "#clock");
    server.patch({ headline: { dead_letters: 8 } });
    server.patch({ headline: { dead_letters: 9 } });
    await page.waitForTimeout(1300);
    assert.equal(await text(page, "#headline li:last-child .figure"), "7");
    assert.equal(await text(page, "#clock"), clock);
    await page.click("#pause");
    await until(page, "#headline li:last-child .figure", "9");
    assert.doesNotMatch(await text(page, "#clock"), /paused/);
  }));

test("the charts go on between two fetches of the series", () =>
  withPage({ address: "/?range=15m" }, async ({ page, server }) => {
    await page.click("#rates-numbers summary");
    await until(page, "#rates-numbers tbody tr td:nth-child(3)", "1 004.2");
    server.patch({ now: server.state.now + 6_000, ingestion: { rates: { produce: 77 } } });
    await until(page, "#rates-numbers tbody tr td:nth-child(3)", "77");
    assert.equal(server.seen.filter((line) => line.includes("/series?")).length, 1);
  }));

test("nothing jumps while the page loads and when numbers change", () =>
  withPage({ ready: false }, async ({ page, server }) => {
    await page.evaluate(() => {
      globalThis.shift = 0;
      new PerformanceObserver((list) => list.getEntries().forEach((entry) => (globalThis.shift += entry.value))).observe({ type: "layout-shift", buffered: true });
    });
    await page.waitForSelector("html.ready");
    await page.waitForFunction(() => document.querySelector("#ingestion .peak").textContent);
    const tops = () => page.locator(".panel").evaluateAll((panels) => panels.map((panel) => Math.round(panel.getBoundingClientRect().top)));
    const before = await tops();
    server.patch({ headline: { events_per_second: 123_456, lag_seconds: 0.05, lag_records: 3 }, ingestion: { rates: { stream: 123_456 } } });
    await until(page, "#headline .figure", "123 k");
    assert.deepEqual(await tops(), before);
    const shift = await page.evaluate(() => globalThis.shift);
    assert.ok(shift < 0.05, `layout shift ${shift}`);
  }));
