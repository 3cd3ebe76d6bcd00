// The largest state that there can be, and a day of small ones: the page stays usable, and does not grow.

import assert from "node:assert/strict";
import { test } from "node:test";
import { stickingOut, text, until, useBrowser, WIDE, withPage } from "./harness.mjs";

useBrowser();

/** Counts the elements that the page makes from now on. */
const countMade = (page) =>
  page.evaluate(() => {
    globalThis.made = 0;
    for (const name of ["createElement", "createElementNS"]) {
      const make = Document.prototype[name];
      Document.prototype[name] = function (...given) {
        globalThis.made += 1;
        return make.apply(this, given);
      };
    }
  });

test("the largest state: it fits the window, and a change at the top makes nothing of it again", () =>
  withPage({ state: "largest", size: WIDE, address: "/?range=24h" }, async ({ page, server }) => {
    await page.waitForFunction(() => document.querySelector("#ingestion .peak").textContent);
    assert.deepEqual(await stickingOut(page), { wide: 0, out: [] });
    assert.equal(await page.locator("#profiles figure").count(), 22);
    assert.equal(await page.locator("#event_time figure:first-child .plot i").count(), 200);
    await countMade(page);
    server.patch({ headline: { dead_letters: 123 } });
    await until(page, "#headline li:last-child .figure", "123");
    const made = await page.evaluate(() => globalThis.made);
    assert.ok(made < 400, `${made} elements for one number`);
    // What does change is drawn, and what is opened is filled.
    server.patch({ profiles: { day: "2026-11-28" }, event_time: { histogram: { edges: [0, 1000, 2000], counts: [1, 2] } } });
    await until(page, "#profiles > header .legend", "batch, 2026-11-28");
    assert.equal(await page.locator("#event_time figure:first-child .plot i").count(), 2);
    await page.locator("#profiles summary").first().click();
    await page.waitForFunction(() => document.querySelector("#profiles details .scroll tbody tr"));
    server.patch({ servers: { batch_store: { up: true } } });
    await until(page, "#profiles > header .note", "batch, 2026-11-28");
  }));

test("a day of figures: neither the series nor the page grows", () =>
  withPage({ address: "/?range=15m" }, async ({ page, server }) => {
    await page.waitForFunction(() => document.querySelector("#ingestion .peak").textContent);
    await page.click("#rates-numbers summary");
    const devtools = await page.context().newCDPSession(page);
    const later = async (step) => {
      const at = server.state.now + 3 * 60_000;
      const number = 1_000 + step;
      server.patch({ now: at, headline: { events_per_second: number }, ingestion: { rates: { produce: number } }, layers: { realtime: { newest: at, last_write: at } }, pipeline: { heartbeat: [{ check: "lag", ok: true, message: `${step} s` }] } });
      await until(page, "#pipeline .group:last-child .said", `${step} s`, 5000);
    };
    const sizes = async () => {
      for (let times = 0; times < 3; times++) await devtools.send("HeapProfiler.collectGarbage");
      const { usedSize } = await devtools.send("Runtime.getHeapUsage");
      return { bytes: usedSize, elements: await page.locator("*").count(), ...(await devtools.send("Memory.getDOMCounters")) };
    };
    for (let step = 0; step < 20; step++) await later(step);
    const before = await sizes();
    for (let step = 20; step < 24 * 20; step++) await later(step);
    const after = await sizes();
    assert.ok(after.elements <= before.elements + 20, `${before.elements} elements, then ${after.elements}`);
    // The browser itself keeps what was drawn last; a leak would be some nodes each time.
    assert.ok(after.nodes <= before.nodes + 1_000, `${before.nodes} nodes, then ${after.nodes}`);
    assert.ok(after.jsEventListeners <= before.jsEventListeners + 5, `${before.jsEventListeners} listeners, then ${after.jsEventListeners}`);
    assert.ok(after.bytes <= before.bytes + 2_000_000, `${before.bytes} bytes, then ${after.bytes}`);
    // A point each three minutes, for 15 minutes: what is older has gone.
    assert.ok((await page.locator("#rates-numbers tbody tr").count()) <= 6);
    assert.equal(await text(page, "#rates-numbers tbody tr td"), "1 479");
  }));
