// Every panel shows the numbers of a known state, and what changes in them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { text, texts, until, useBrowser, withPage } from "./harness.mjs";
import { KEY, letter } from "./states.mjs";

useBrowser();
const NOW = Date.UTC(2026, 10, 28, 14, 2, 5);

test("the top: the sentence, its level in a word, four numbers", () =>
  withPage({ now: NOW }, async ({ page }) => {
    assert.equal(await text(page, "#words"), "Both layers agree: 1 000 000 rows, checked 2 minutes ago; the stream is 0.4 s behind.");
    assert.equal(await page.getAttribute("#sentence", "data-level"), "ok");
    assert.equal(await text(page, "#kind"), "In order");
    assert.deepEqual(await texts(page, "#headline .figure"), ["1 004", "0.4 s", "≈ 1 000 000", "1 000 000", "7"]);
    assert.deepEqual(await texts(page, "#headline .under"), ["into the event log", "412 records to go", "events that broke a rule"]);
    assert.deepEqual(await page.locator("#headline a").evaluateAll((links) => links.map((link) => link.getAttribute("href"))), ["#ingestion", "#ingestion", "#layers", "#ingestion"]);
    assert.match(await text(page, "#clock"), /^14:02:\d\d UTC$/);
    assert.equal(await page.title(), "users · rtp dashboard");
  }));

test("ingestion: rates, lag, dead letters with their reasons, and the same as tables", () =>
  withPage({ now: NOW }, async ({ page }) => {
    assert.deepEqual(await texts(page, "#ingestion .strip .value"), ["1 004 /s", "999 /s", "0 /s", "412", "0.4 s", "5"]);
    await until(page, "#ingestion .strip:nth-child(3) .peak", /^peak 2\d(\.\d)? k \/s$/);
    assert.deepEqual((await texts(page, "#ingestion .letters .what")).slice(0, 2), ['type Registered date: expected a timestamp, got "2008-13-01"', "bad_uuid Id: expected a UUID"]);
    assert.deepEqual((await texts(page, "#ingestion .letters .when")).slice(0, 2), ["4 minutes ago", "11 minutes ago"]);
    assert.equal(await text(page, "#ingestion .letters li:nth-child(2) .where"), "byte 40 of the input");
    await page.click("#rates-numbers summary");
    await until(page, "#rates-numbers tbody tr th", "14:02:05");
    assert.deepEqual((await texts(page, "#rates-numbers tbody tr:first-child td")), ["1 004.2", "998.6", "0", "412", "0.41"]);
    await page.click("#partitions-numbers summary");
    await until(page, "#partitions-numbers tbody", "0 140 1 131 2 141");
    await page.click("#letters-numbers summary");
    await until(page, "#letters-numbers tbody tr:nth-child(2)", "28 Nov 2026, 13:51:05 UTC byte 40 of the input bad_uuid id field id: bad_uuid: expected a UUID –");
  }));

test("ingestion: each dead letter counts once, wherever its record comes from", () =>
  withPage({ now: NOW }, async ({ page, server }) => {
    // Three files of four bad lines each, refused within one millisecond.
    const twelve = Array.from({ length: 12 }, (_, index) => letter(NOW - 1_000, 10 * (index % 4), { letter_offset: 100 + index, partition: null }));
    server.setSeries({ dead_letters: twelve });
    server.patch({ headline: { dead_letters: 12 }, ingestion: { dead_letters: twelve } });
    await page.keyboard.press("1");
    await until(page, "#ingestion .strip.last .now", "12 in this range");
  }));

test("ingestion: the dead letters are that many or more only if some of the range are not known", () =>
  withPage({ now: NOW }, async ({ page, server }) => {
    const note = (text) => until(page, "#ingestion .strip.last .now", text);
    // Older letters, which the range leaves out, do not make the number uncertain.
    await note("5 in this range");
    server.setSeries({ dead_letters_known_after: NOW - 30 * 60_000 });
    server.patch({ ingestion: { dead_letters_known_after: NOW - 20 * 60_000 } });
    await page.keyboard.press("3");
    await note("5 or more in this range");
    await page.keyboard.press("1");
    await note("2 in this range");
    // The state's letters begin after those of the series ended, or within them.
    server.setSeries({ now: NOW - 10 * 60_000 });
    server.patch({ ingestion: { dead_letters_known_after: NOW - 5 * 60_000 } });
    await page.keyboard.press("2");
    await note("5 or more in this range");
    server.patch({ ingestion: { dead_letters_known_after: NOW - 15 * 60_000 } });
    await note("5 in this range");
  }));

test("ingestion: the cursor shows the numbers of its moment, with the keyboard, too", () =>
  withPage({ now: NOW }, async ({ page }) => {
    await page.waitForFunction(() => document.querySelector("#ingestion .peak").textContent);
    await page.focus("#ingestion .frame");
    await page.keyboard.press("ArrowLeft");
    await until(page, "#ingestion .readout", "28 Nov 2026, 14:02:05 UTC");
    for (let step = 0; step < 16; step++) await page.keyboard.press("ArrowLeft");
    await until(page, "#ingestion .readout", /^28 Nov 2026, 13:58:05 UTC · dead letter: Registered date: expected a timestamp/);
    await page.mouse.move(0, 0);
    const box = await page.locator("#ingestion .strip:first-child .chart").boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + 10);
    await until(page, "#ingestion .readout", /^28 Nov 2026, 13:3[12]:\d\d UTC/);
    await page.mouse.move(0, 0);
    await until(page, "#ingestion .readout", "");
    await until(page, "#ingestion .strip .value", "1 004 /s");
  }));

test("event time: the histograms, p50 and p99", () =>
  withPage({ now: NOW }, async ({ page }) => {
    assert.deepEqual(await texts(page, "#event_time .mark"), ["p50 0.4 s", "p99 4.6 s"]);
    assert.deepEqual(await texts(page, "#event_time figure:first-child .ticks span"), ["13:02", "13:32", "14:02"]);
    assert.equal(await page.locator("#event_time figure:first-child .plot i").count(), 60);
    await page.click("#lateness-numbers summary");
    await until(page, "#lateness-numbers tbody tr:first-child", "early 7");
    await until(page, "#lateness-numbers tbody tr:nth-child(5)", "0.2 s to 0.5 s 88 700");
    await until(page, "#lateness-numbers tbody tr:last-child", "over 5 min 12");
    const tallest = await page.locator("#event_time figure:nth-child(2) .plot i").evaluateAll((bars) => bars.map((bar) => bar.style.getPropertyValue("--v")).indexOf("100.00%"));
    assert.equal(tallest, 4);
    await until(page, "#event_time figure:nth-child(2) .ticks span:first-child", "early");
  }));

test("times of another day say which, and of another year, too", () =>
  withPage({ now: NOW }, async ({ page, server }) => {
    const { edges, counts } = server.state.event_time.histogram;
    for (const [days, text] of [[1, "27 Nov, 13:02"], [365, "28 Nov 2025, 13:02"], [0, "13:02"]]) {
      server.patch({ event_time: { histogram: { edges: edges.map((edge) => edge - days * 86_400_000), counts } } });
      await until(page, "#event_time figure:first-child .ticks span:first-child", text);
    }
    const boundary = (text) => until(page, "#layers .sides tbody tr:nth-child(3)", `newest record loaded streams ${text}`);
    for (const [days, text] of [[0, "13:59"], [1, "27 Nov, 13:59"], [365, "28 Nov 2025, 13:59"]]) {
      server.patch({ layers: { batch: { boundary: NOW - 150_000 - days * 86_400_000 } } });
      await boundary(text);
    }
    await page.click("#rates-numbers summary");
    await page.keyboard.press("4");
    await until(page, "#rates-numbers tbody tr:last-child th", /^\d+ Nov, \d\d:\d\d:\d\d$/);
    await until(page, "#rates-numbers tbody tr:first-child th", /^\d\d:\d\d:\d\d$/);
  }));

test("layers: both sides, the verdict, its trend", () =>
  withPage({ now: NOW }, async ({ page }) => {
    assert.deepEqual(await texts(page, "#layers .sides tbody tr"), [
      "rows ≈ 1 000 000 1 000 000",
      "last write now 2 minutes ago",
      "newest record loaded streams 13:59",
      "last load streams upsert, 120 480 written, 2 minutes ago",
    ]);
    assert.match(await text(page, "#layers .judged"), /^Both layers agree checked 2 minutes ago in 12 s: 1 000 000 against 1 000 000 rows$/);
    await until(page, "#layers .trend .note", "25 verdicts, 2 of them with differences");
    assert.equal(await page.locator("#layers .trend i.differs").count(), 2);
  }));

test("layers: differences by class, those that fail first, with keys that open their explanation", () =>
  withPage({ state: "differs", now: NOW }, async ({ page }) => {
    assert.match(await text(page, "#layers .judged strong"), /^10 keys differ; 1 should not$/);
    assert.deepEqual(await texts(page, "#layers .classes b"), ["Lost", "Dead letter", "In flight"]);
    assert.deepEqual(await texts(page, "#layers .classes .number"), ["1", "7", "2"]);
    assert.equal(await text(page, "#layers .classes li:first-child .meaning"), "in no store, dead letter or reject, and not on its way");
    assert.equal(await text(page, "#layers .classes li:nth-child(2) .keys .note"), "and 5 more");
    assert.equal(await text(page, "#layers .by-column"), "by column: last_name 1, email 1");
    await page.click(`#layers [data-explain="${KEY}"]`);
    await until(page, "#explain .summary", /^Lost: the event was produced and read/);
    assert.deepEqual((await texts(page, "#explain .cards li:first-child")).slice(0, 2), ["File .rtp/landing/2026-11-27.ndjson Line 4 211", "Topic user_events Partition 1 Offset 33 871 Produced at 28 Nov 2026, 13:02:05 UTC Event time 28 Nov 2026, 13:02:04 UTC Run id day-2026-11-27 Committed yes"]);
  }));

test("the side panel shows a record's numbers as they are", () =>
  withPage({ now: NOW }, async ({ page }) => {
    await page.keyboard.press("/");
    await page.fill("#explain-key", "numbers");
    await page.keyboard.press("Enter");
    await until(page, "#explain .summary", 'Both stores have it: 1 "2".');
    const values = () => page.locator("#explain dl").allTextContents();
    assert.deepEqual(await page.locator("#explain section:nth-of-type(1) dl dl div").allInnerTexts().then((all) => all.map((each) => each.replace(/\s+/g, " "))), [
      "Big -9223372036854775807", "Small 0.00012", "Tiny 1e-300", "Loaded at 1795500000000", "List 12345, 7", "Is new false",
    ]);
    const all = (await values()).join();
    assert.match(all, /Key9007199254740993/);
    assert.match(all, /Count1\u202f234\u202f567/); // ours, not the record's
    assert.match(all, /Realtime9007199254740993Batch9007199254740992/);
  }));

test("profiles: shares of the batch layer and of the newest events, in the right order", () =>
  withPage({ now: NOW }, async ({ page }) => {
    assert.deepEqual(await texts(page, "#profiles > header .legend"), ["batch, 2026-11-27", "live, the last 5 000 events"]);
    assert.deepEqual(await texts(page, "#profiles h3"), ["Nationality", "Age band", "Gender", "Email domain", "Registrations by month", "Events by hour"]);
    assert.deepEqual(await texts(page, "#profiles figure:nth-child(1) .name"), ["US", "GB", "FR", "DE", "BR", "CA", "15 others"]);
    assert.match(await text(page, "#profiles figure:nth-child(1) li"), /^US 8\.1 %/);
    assert.deepEqual(await texts(page, "#profiles figure:nth-child(2) .name"), ["20-29", "30-39", "40-49", "50-59", "60-69", "70-79", "not given"]);
    assert.equal(await page.locator("#profiles figure:nth-child(5) .plot i").count(), 179);
    await page.click("#profile-gender-numbers summary");
    await until(page, "#profile-gender-numbers tbody tr", "female 506 100 51 % 52 %");
  }));

test("profiles: shares are of all rows, not of the values that were sent; hours without rows are there", () =>
  withPage({ now: NOW }, async ({ page, server }) => {
    const values = Array.from({ length: 10 }, (_, index) => [`N${index}`, 10]);
    const aggregates = [{ name: "nationality", kind: "value", total: 1_000, distinct: 400, values }, { name: "by_hour", kind: "hour", values: [["07", 5]] }];
    server.patch({ profiles: { aggregates, live: { aggregates: [{ name: "nationality", kind: "value", total: 50, distinct: 1, values: [["new here", 50]] }] } } });
    await until(page, "#profiles figure:nth-child(1) li:last-child", "394 others 94 % ; live 100 %");
    assert.equal(await text(page, "#profiles figure:nth-child(1) .note"), "400 values");
    assert.equal(await text(page, "#profiles figure:nth-child(1) li"), "N0 1.0 % ; live 0.0 %");
    // A value that is not among those that were sent is not known to have no rows.
    await page.click("#profile-nationality-numbers summary");
    await until(page, "#profile-nationality-numbers tbody tr:last-child", "new here – – 100 %");
    server.patch({ profiles: { day: null, aggregates: null }, next: [{ panel: "profiles", command: "rtp aggregate --date today", why: "no figures were computed yet" }] });
    await until(page, "#profiles .command code", "rtp aggregate --date today");
    assert.deepEqual(await texts(page, "#profiles figure li"), ["new here 100 %"]);
    server.patch({ profiles: { aggregates, live: null }, next: [] });
    await until(page, "#profiles figure:nth-child(1) li:last-child", "394 others 94 %");
    assert.equal(await page.locator("#profiles figure:nth-child(2) .plot i").count(), 24);
    // What only the stream has is among the others, too.
    const three = [{ name: "nationality", kind: "value", total: 3, distinct: 3, values: values.slice(0, 3).map(([name]) => [name, 1]) }];
    const nine = Array.from({ length: 9 }, (_, index) => [`new ${index}`, 1]);
    server.patch({ profiles: { aggregates: three, live: { aggregates: [{ name: "nationality", kind: "value", total: 9, distinct: 9, values: nine }] } } });
    await until(page, "#profiles figure:nth-child(1) li:last-child .name", "6 others");
  }));

test("pipeline: stages, servers, heartbeat", () =>
  withPage({ state: "away", now: NOW }, async ({ page }) => {
    // The page's clock goes on while a slow machine draws it.
    const stages = (await texts(page, "#pipeline .stage")).map((stage) => stage.replace(/running \d seconds ago/, "running now"));
    assert.deepEqual(stages, [
      "fetch done known by its records only",
      "produce running now",
      "stream failed 3 minutes ago waits for the store",
      "load-batch done 2 minutes ago · 4.2 s upsert, 120 480 rows",
      "verify done 2 minutes ago · 12 s agrees",
      "aggregate done 9 hours ago · 3.1 s 2026-11-27",
    ]);
    assert.deepEqual(await texts(page, "#pipeline .group:first-child li"), [
      "event log answers since 09:02 kafka://127.0.0.1:9092",
      "real-time store away since 13:59: connection refused cassandra://127.0.0.1:9042",
      "batch store answers since 09:02 postgres://rtp@127.0.0.1:5432/rtp",
    ]);
    assert.equal(await text(page, "#pipeline .group:last-child li:nth-child(2)"), "real-time store no answer: connection refused");
  }));

test("a server that is away: its numbers stay, greyed, with since when", () =>
  withPage({ state: "away", now: NOW }, async ({ page, server }) => {
    assert.equal(await text(page, "#layers > header .note"), "real-time store away since 13:59");
    assert.deepEqual(await texts(page, "#headline .value.stale .figure"), ["≈ 1 000 000"]);
    assert.deepEqual(await texts(page, "#layers td.stale strong"), ["≈ 1 000 000"]);
    assert.equal(await page.locator("#ingestion.stale").count(), 0);
    server.patch({ servers: { realtime_store: { up: true, since: NOW, message: null } }, sentence: { level: "ok", text: "Both layers agree." } });
    await until(page, "#words", "Both layers agree.");
    assert.equal(await page.locator(".stale").count(), 0);
  }));

test("what is not known is not called nothing", () =>
  withPage({ state: "empty", now: NOW }, async ({ page, server }) => {
    const unseen = Object.fromEntries(Object.keys(server.state.servers).map((name) => [name, { up: false, since: NOW }]));
    server.patch({ servers: unseen, next: [], headline: { dead_letters: null, rows: null }, profiles: null, event_time: null });
    await until(page, "#headline li:last-child .figure", "–");
    assert.equal(await text(page, "#ingestion .strip.last .value"), "–");
    for (const place of ["#ingestion .nothing", "#layers .verdict", "#profiles .nothing", "#event_time .nothing"]) assert.equal(await text(page, place), "");
    assert.equal(await text(page, "#layers .sides tbody tr:last-child"), "last load streams –");
    assert.equal(await text(page, "#layers .trend .note"), "");
    assert.doesNotMatch(await page.getAttribute("#layers .trend .row", "aria-label"), /agree/);
    server.patch({ pipeline: { stages: [{ name: "verify", status: "unknown", at: null, seconds: null, note: null }] }, sentence: { level: "of a newer server" } });
    await until(page, "#pipeline .stage", "verify not known yet");
    assert.equal(await text(page, "#kind"), "");
    server.patch({ servers: { batch_store: { up: true }, event_log: { up: true } }, headline: { dead_letters: 0 } });
    await until(page, "#profiles .nothing", "No figures yet.");
    assert.equal(await text(page, "#layers .sides tbody tr:last-child"), "last load streams none yet");
    assert.equal(await text(page, "#layers .trend .note"), "none in this range");
    assert.equal(await text(page, "#ingestion .nothing"), "No dead letters: no event has broken a rule.");
    assert.equal(await text(page, "#ingestion .strip.last .value"), "0");
  }));

test("an event appears within two seconds", () =>
  withPage({}, async ({ page, server }) => {
    const next = letter(Date.now(), 99, { message: "expected a timestamp, got \"yesterday\"" });
    server.patch({
      now: Date.now(),
      headline: { events_per_second: 1234.4, lag_records: 1, dead_letters: 8, rows: { realtime: { count: 1_000_001 } } },
      ingestion: { rates: { stream: 1234.4 }, dead_letters: [next, ...server.state.ingestion.dead_letters] },
      layers: { realtime: { count: 1_000_001, exact: true } },
    });
    await until(page, "#headline .figure", "1 234", 2000);
    assert.deepEqual(await texts(page, "#headline .figure"), ["1 234", "0.4 s", "≈ 1 000 001", "1 000 000", "8"]);
    assert.equal(await text(page, "#headline li:nth-child(2) .under"), "1 record to go");
    assert.equal(await text(page, "#ingestion .letters .what"), 'type Registered date: expected a timestamp, got "yesterday"');
    assert.equal(await text(page, "#layers .sides strong"), "1 000 001");
  }));

test("an empty pipeline: each panel says what fills it, with the command to copy", () =>
  withPage({ state: "empty", now: NOW }, async ({ page }) => {
    const commands = (panel) => texts(page, `#${panel} .command code`);
    assert.deepEqual(await commands("ingestion"), ["rtp fetch --count 1000 | rtp produce"]);
    assert.deepEqual(await commands("event_time"), ["rtp stream --until-end"]);
    assert.deepEqual(await commands("layers"), ["rtp load-batch .rtp/landing/2026-11-28.ndjson", "rtp verify"]);
    assert.deepEqual(await commands("profiles"), ["rtp aggregate --date 2026-11-27"]);
    assert.deepEqual(await commands("pipeline"), ["just run-dag"]);
    assert.equal(await text(page, "#ingestion .advice p"), "No event has arrived yet.");
    assert.deepEqual(await texts(page, "#headline .figure"), ["0", "0 s", "0", "0", "0"]);
    await page.click("#ingestion .copy[data-copy^=rtp]");
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "rtp fetch --count 1000 | rtp produce");
  }));

test("large numbers are short, with the exact one at hand", () =>
  withPage({ now: NOW }, async ({ page, server }) => {
    server.patch({ headline: { events_per_second: 1_234_567, rows: { batch: { count: 1_234_567_890 } } } });
    await until(page, "#headline .figure", "1.23 M");
    assert.equal(await page.getAttribute("#headline .figure", "data-tip"), "1\u202f234\u202f567");
    assert.match(await text(page, "#headline a"), /\(1 234 567\)/);
    const shown = () => page.locator("#headline .figure").first().evaluate((figure) => getComputedStyle(figure, "::after").visibility);
    assert.equal(await shown(), "hidden");
    await page.locator("#headline a").first().focus();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Shift+Tab");
    assert.equal(await shown(), "visible");
    assert.deepEqual((await texts(page, "#headline .figure")).slice(2), ["≈ 1 000 000", "1.23 G", "7"]);
  }));
