// The connection: it breaks, comes back, skips, and sends nonsense; ranges, pause and what the address says.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HIDING, plain, text, texts, until, useBrowser, withPage } from "./harness.mjs";
import { empty, known, letter } from "./states.mjs";

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

const LOCKED = /^The dashboard needs its token again, because it is no longer the one that this browser has shown: open http:\/\/127\.0\.0\.1:\d+\/\?token=TOKEN once, with the token in place of TOKEN\. The numbers are from \d\d:\d\d; this page goes on by itself\.$/;

test("a dashboard that wants another token: the page says what to do, and goes on once it is done", () =>
  withPage({ errors: GONE }, async ({ page, server }) => {
    server.lock();
    await until(page, "#words", LOCKED, 10_000);
    assert.equal(await text(page, "#kind"), "Locked");
    assert.match(await page.title(), /^Locked: users/);
    assert.equal(await page.locator(".panel.stale").count(), 5);
    assert.deepEqual(await texts(page, "#headline .figure"), ["1 004", "0.4 s", "≈ 1 000 000", "1 000 000", "7"]);
    await page.waitForTimeout(4000); // longer than it is patient with a server that is away
    assert.match(await text(page, "#words"), LOCKED);
    server.unlock();
    await until(page, "#words", /^Both layers agree/, 15_000);
    assert.equal(await page.locator(".stale").count(), 0);
  }));

test("a browser that has never shown the token is told how to", () =>
  withPage({ errors: GONE, ready: false, locked: true }, async ({ page, server }) => {
    await until(page, "#words", /^The dashboard needs its token: open http:\S+\/\?token=TOKEN once, with the token in place of TOKEN\. Then this page goes on by itself\.$/, 5000);
    server.unlock();
    await until(page, "#words", /^Both layers agree/, 15_000);
  }));

test("a server that is away after it was locked is not called locked", () =>
  withPage({ errors: GONE }, async ({ page, server }) => {
    server.lock();
    await until(page, "#words", LOCKED, 10_000);
    server.leave();
    await page.evaluate(() => dispatchEvent(new Event("online"))); // instead of waiting for the next try
    await until(page, "#words", /has not answered since/, 20_000);
  }));

test("a hidden page has no stream, says so, and shows the newest state when it is seen again", () =>
  withPage({ script: HIDING }, async ({ page, server }) => {
    const streams = (number) => untilTrue(() => server.streams() === number, `${server.streams()} streams`);
    await streams(1);
    await page.evaluate(() => globalThis.hide(true));
    await streams(0);
    assert.equal(await page.title(), "Paused while hidden: users · rtp dashboard");
    server.patch({ headline: { dead_letters: 8 } });
    await page.waitForTimeout(4000); // longer than it is patient with a server that is away
    assert.match(await text(page, "#words"), /^Both layers agree/);
    await page.evaluate(() => dispatchEvent(new Event("online")));
    assert.equal(server.streams(), 0);
    const fetched = () => server.seen.filter((line) => line.includes("/series?")).length;
    const before = fetched();
    await page.evaluate(() => globalThis.hide(false));
    await until(page, "#headline li:last-child .figure", "8");
    assert.equal(await page.title(), "users · rtp dashboard");
    assert.equal(await page.locator(".stale").count(), 0);
    await untilTrue(() => fetched() === before + 1, "the series was not fetched for the gap");
  }));

test("a server that is away when the page is seen again: since then, not since the page was hidden", () =>
  withPage({ script: HIDING, errors: GONE }, async ({ page, server }) => {
    await page.clock.install();
    await page.evaluate(() => globalThis.hide(true));
    server.leave();
    await page.clock.fastForward("02:00:00");
    await page.evaluate(() => globalThis.hide(false));
    await page.clock.runFor(6_000);
    await until(page, "#words", /^The dashboard's server has not answered since \d\d:\d\d\. The numbers are from (?!then)/, 4000);
    const [, since, from] = /since (\S+)\. The numbers are from (\S+?);/.exec(await text(page, "#words").then((words) => words.replace(/\d+ \w{3}, /g, "")));
    assert.equal((minutes(since) - minutes(from) + 1440) % 1440, 120);
  }));

const minutes = (clock) => Number(clock.slice(0, 2)) * 60 + Number(clock.slice(3));

test("seven tabs: those that are hidden leave the connections to the one that is seen", () =>
  withPage({ script: HIDING }, async ({ page, server, context }) => {
    const tabs = [page];
    while (tabs.length < 6) {
      const tab = await context.newPage();
      await tab.addInitScript(HIDING);
      await tab.goto(server.url);
      await tab.waitForSelector("html.ready");
      tabs.push(tab);
    }
    assert.equal(server.streams(), 6);
    // The seventh gets none of the six connections that a browser has for a server,
    const seventh = await context.newPage();
    await seventh.addInitScript(HIDING);
    await assert.rejects(seventh.goto(server.url, { timeout: 3000 }), /Timeout/);
    // until others are hidden.
    for (const tab of tabs) await tab.evaluate(() => globalThis.hide(true));
    await seventh.goto(server.url);
    await seventh.waitForSelector("html.ready");
    server.patch({ headline: { dead_letters: 9 } });
    await until(seventh, "#headline li:last-child .figure", "9");
    assert.equal(server.streams(), 1);
    // Each of them, in turn.
    await seventh.evaluate(() => globalThis.hide(true));
    for (const tab of tabs) {
      await tab.evaluate(() => globalThis.hide(false));
      await until(tab, "#headline li:last-child .figure", "9");
      await tab.evaluate(() => globalThis.hide(true));
    }
  }));

/** Waits until it is so. */
async function untilTrue(isSo, message) {
  for (const end = Date.now() + 3000; !isSo(); await new Promise((resolve) => setTimeout(resolve, 25))) assert.ok(Date.now() < end, message);
}

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
    await until(page, "#words", "No word about the pipeline.");
    assert.deepEqual(await texts(page, "#headline .figure"), ["–", "–", "–", "–", "–"]);
  }));

test("the range: by click, by key, in the address, in the requests", () =>
  withPage({ address: "/?range=24h" }, async ({ page, server }) => {
    const pressed = () => page.locator('#ranges [aria-pressed="true"]').allInnerTexts().then((all) => all.map(plain));
    // The page's own address: the browser tells us of a new one a little later.
    const isAt = (search) => page.waitForFunction((search) => location.search === search, search);
    assert.deepEqual(await pressed(), ["24 h"]);
    assert.ok(server.seen.includes("GET /api/v1/series?range=24h"));
    await page.click('#ranges [data-range="7d"]');
    await isAt("?range=7d");
    await page.keyboard.press("1");
    await isAt("?range=15m");
    await until(page, '#ranges [aria-pressed="true"]', "15 min");
    await page.keyboard.press("5");
    await isAt("?range=all");
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
  withPage({ script: 'globalThis.moved = 0; { const { now } = Date; Date.now = () => now() + globalThis.moved; }' }, async ({ page, server }) => {
    await page.click("#rates-numbers summary");
    await page.click("#letters-numbers summary");
    await until(page, "#rates-numbers tbody tr td:nth-child(2)", "1 004.2");
    await page.click("#pause");
    await until(page, "#clock", /^paused \d\d:\d\d:\d\d UTC$/);
    const clock = await text(page, "#clock");
    const held = () => texts(page, "#clock, #headline .figure, #ingestion .strip .now, #ingestion .letters .what, #rates-numbers tbody, #letters-numbers tbody, #layers .trend .note");
    const before = await held();
    // What happens during the pause, until long after the series are old.
    const later = server.state.now + 120_000;
    await page.evaluate(() => (globalThis.moved = 120_000));
    const requests = () => server.seen.filter((line) => line.includes("/series?")).map((line) => line.split("=")[1]);
    const asked = requests();
    const letters = [letter(later - 1_000, 99), ...server.state.ingestion.dead_letters];
    server.patch({ now: later, headline: { dead_letters: 8 }, ingestion: { rates: { produce: 77 }, dead_letters: letters } });
    server.patch({ headline: { dead_letters: 9 } });
    await page.waitForTimeout(1300);
    assert.deepEqual(await held(), before);
    assert.deepEqual(requests(), asked);
    // A range that the reader chooses ends with the pause, too. It began before the same range as of now.
    await page.keyboard.press("1");
    await until(page, "#ingestion .strip.last .now", "2 in this range");
    await untilTrue(() => requests().length === asked.length + 1, "the range was not fetched");
    assert.equal(requests().at(-1), "1h");
    const newest = () => text(page, "#rates-numbers tbody tr th");
    await page.waitForFunction(() => document.querySelectorAll("#rates-numbers tbody tr").length > 9);
    assert.ok((await newest()) <= clock.split(" ")[1], await newest());
    assert.equal(await page.locator("#letters-numbers tbody tr").count(), 5);
    assert.equal(await text(page, "#clock"), clock);
    await page.click("#pause");
    await until(page, "#headline li:last-child .figure", "9");
    await until(page, "#ingestion .strip.last .now", "3 in this range");
    await until(page, "#rates-numbers tbody tr td:nth-child(2)", "77");
    assert.doesNotMatch(await text(page, "#clock"), /paused/);
  }));

test("the charts go on between two fetches of the series", () =>
  withPage({ address: "/?range=15m" }, async ({ page, server }) => {
    await page.click("#rates-numbers summary");
    await until(page, "#rates-numbers tbody tr td:nth-child(2)", "1 004.2");
    server.patch({ now: server.state.now + 6_000, ingestion: { rates: { produce: 77 } } });
    await until(page, "#rates-numbers tbody tr td:nth-child(2)", "77");
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
