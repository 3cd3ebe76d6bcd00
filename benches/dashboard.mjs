// The dashboard with many events behind it: how soon its page paints, how soon an event appears on it, how much memory
// its server takes, and whether the pipeline is slower while 200 browsers' streams are read. `just bench-dashboard` runs it;
// docs/benchmarks.md explains how to read it. The servers are those of RTP_EVENT_LOG and the others, or the embedded ones.

import { spawn, spawnSync } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { once } from "node:events";
import { parseArgs } from "node:util";
import { launch, plain } from "../tests/browser/harness.mjs";

const { values: options } = parseArgs({
  options: {
    events: { type: "string", default: "10000000" },
    pairs: { type: "string", default: "5" },
    streams: { type: "string", default: "200" },
    "pair-events": { type: "string", default: "200000" },
    dir: { type: "string" },
  },
});
const rtpBinary = resolve(process.env.RTP_BIN);
const folder = resolve(options.dir ?? join("target", "tmp", `dashboard-${options.events}`));
const count = Number(options.events);

/** Runs a command to its end, and returns its seconds; it must succeed. */
function rtp(...args) {
  const began = process.hrtime.bigint();
  const done = spawnSync(rtpBinary, args, { cwd: folder, encoding: "utf8" });
  if (done.status !== 0) throw new Error(`rtp ${args.join(" ")} ended with ${done.status}: ${done.stderr}`);
  return Number(process.hrtime.bigint() - began) / 1e9;
}

const COUNTRIES = ["AU", "BR", "CA", "CH", "DE", "DK", "ES", "FI", "FR", "GB", "IE", "IN", "IR", "MX", "NL", "NO", "NZ", "RS", "TR", "UA", "US"];
const two = (n) => String(n).padStart(2, "0");

/** One user, whose key has the number's digits spread over it, as random keys are. */
function user(n, kind) {
  const spread = ((n * 2654435761) >>> 0).toString(16).padStart(8, "0");
  const id = `${spread}-${kind}-4000-8000-${String(n).padStart(12, "0")}`;
  const born = `${1945 + (n % 60)}-${two(1 + (n % 12))}-${two(1 + (n % 28))}T08:00:00.000Z`;
  const came = `${2002 + (n % 20)}-${two(1 + (n % 12))}-${two(1 + (n % 28))}T08:00:00.000Z`;
  const time = `2026-11-01T${two(n % 24)}:${two(n % 60)}:${two((n * 7) % 60)}.000Z`;
  return `{"id":"${id}","first_name":"Rose","last_name":"Heldt","gender":"${n % 2 ? "male" : "female"}","address":"${n % 9999} Dame Street, Navan, Clare, Ireland","post_code":"${10000 + (n % 90000)}","email":"user${n}@domain${n % 1000}.example","username":"bigfish${n}","dob":"${born}","registered_date":"${came}","phone":"0${n}","picture":"https://example.com/${n % 100}.jpg","nationality":"${COUNTRIES[n % COUNTRIES.length]}","fetched_at":"${time}"}\n`;
}

async function writeUsers(file, from, to, kind) {
  const out = createWriteStream(join(folder, file));
  for (let n = from; n < to; ) {
    let some = "";
    for (const end = Math.min(to, n + 5000); n < end; n++) some += user(n, kind);
    if (!out.write(some)) await once(out, "drain");
  }
  out.end();
  await once(out, "finish");
}

/** Fills log and stores once; a later run finds them. */
async function fill() {
  if (existsSync(join(folder, "filled"))) return;
  mkdirSync(folder, { recursive: true });
  rtp("init");
  await writeUsers("users.ndjson", 0, count, "0000");
  const spent = [rtp("produce", "users.ndjson"), rtp("stream", "--until-end"), rtp("load-batch", "users.ndjson"), rtp("verify"), rtp("aggregate", "--date", "2026-11-01")];
  console.error(`filled with ${count} users: produce, stream, load-batch, verify and aggregate took ${spent.map((s) => `${s.toFixed(0)} s`).join(", ")}`);
  rmSync(join(folder, "users.ndjson"));
  writeFileSync(join(folder, "filled"), "");
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const spreadOf = (numbers, digits) => `${median(numbers).toFixed(digits)} (${Math.min(...numbers).toFixed(digits)} to ${Math.max(...numbers).toFixed(digits)})`;

/** Peak resident memory of a process in MB. */
const peak = (pid) => Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) * 1024 / 1e6;

/** Milliseconds until a new browser window has painted for the first time, and until it shows the state. */
async function paint(browser, url) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector("html.ready");
  const ready = await page.evaluate(() => performance.now());
  const first = await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
  const painted = await first.jsonValue();
  await context.close();
  return { painted, ready };
}

/** Milliseconds from the end of `rtp produce` of one event until the page says that one more waits for the stream. */
async function update(page, waiting) {
  writeFileSync(join(folder, "one.ndjson"), user(waiting, "1111"));
  rtp("produce", "one.ndjson");
  const began = performance.now();
  const expected = `${waiting} ${waiting === 1 ? "record" : "records"} to go`;
  for (;;) {
    const seen = plain(await page.locator("#headline li:nth-child(2) .under").innerText());
    if (seen === expected) return performance.now() - began;
    if (performance.now() - began > 30_000) throw new Error(`the page says "${seen}", not "${expected}"`);
  }
}

/** Opens streams of events as browsers do, and counts what arrives. */
async function openStreams(url, number) {
  const arrived = new Array(number).fill(0);
  const requests = await Promise.all(
    arrived.map(
      (_, i) =>
        new Promise((opened, failed) => {
          const request = get(`${url}/api/v1/events`, { agent: false }, (answer) => {
            if (answer.statusCode !== 200) failed(new Error(`stream ${i}: status ${answer.statusCode}`));
            answer.on("data", (some) => (arrived[i] += some.length));
            answer.on("error", () => {});
            opened(request);
          });
          request.on("error", failed);
        }),
    ),
  );
  return { arrived, close: () => requests.forEach((request) => request.destroy()) };
}

/** Seconds that `produce` and `stream` take for a new file of users. */
async function pipeline(run) {
  const each = Number(options["pair-events"]);
  await writeUsers("pair.ndjson", run * each, (run + 1) * each, "2222");
  spawnSync("sync");
  return rtp("produce", "pair.ndjson") + rtp("stream", "--until-end");
}

await fill();
rtp("stream", "--until-end");
const dashboard = spawn(rtpBinary, ["dashboard", "--port", "0"], { cwd: folder, stdio: ["ignore", "pipe", "ignore"] });
let browser;
try {
  const url = await new Promise((found) => createInterface({ input: dashboard.stdout }).once("line", found));
  browser = await launch();
  const paints = [];
  for (let i = 0; i < 7; i++) paints.push(await paint(browser, url));
  console.log(`first paint: ${spreadOf(paints.map((p) => p.painted), 0)} ms; everything is there after ${spreadOf(paints.map((p) => p.ready), 0)} ms`);

  const page = await browser.newPage();
  await page.goto(url);
  await page.waitForSelector("html.ready");
  const updates = [];
  for (let i = 1; i <= 10; i++) updates.push(await update(page, i));
  console.log(`an event is on the page after ${spreadOf(updates, 0)} ms`);
  await page.close();
  console.log(`the server's peak memory is ${peak(dashboard.pid).toFixed(1)} MB`);

  const ratios = [];
  const first = Date.now() % 1e6; // other users than those of an earlier run
  let received = 0;
  for (let i = 0; i < Number(options.pairs); i++) {
    const seconds = {};
    for (const side of i % 2 === 0 ? ["with", "without"] : ["without", "with"]) {
      const streams = side === "with" ? await openStreams(url, Number(options.streams)) : null;
      seconds[side] = await pipeline(first + 2 * i + (side === "with" ? 1 : 0));
      if (streams) {
        streams.close();
        received = Math.min(...streams.arrived);
        if (received === 0) throw new Error("a stream got nothing");
      }
    }
    console.error(`pair ${i + 1}: ${seconds.with.toFixed(2)} s with ${options.streams} streams, ${seconds.without.toFixed(2)} s without`);
    ratios.push(seconds.with / seconds.without);
  }
  console.log(`produce and stream of ${options["pair-events"]} events take ${spreadOf(ratios, 2)} times as long while ${options.streams} browsers' streams are read; each got ${received} bytes or more`);
  console.log(`the server's peak memory is ${peak(dashboard.pid).toFixed(1)} MB`);
} finally {
  await browser?.close();
  dashboard.kill("SIGTERM");
}
