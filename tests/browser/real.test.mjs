// The page on `rtp dashboard` itself, with embedded stores: RTP_BIN is the binary. With RTP_DASHBOARD_URL, the page of a
// dashboard that runs there is looked at, too, and compared with the state that it serves.

import assert from "node:assert/strict";
import { execFile, spawn, spawnSync } from "node:child_process";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { promisify } from "node:util";
import { findings, PHONE, plain, stickingOut, text, texts, until, useBrowser, withPage } from "./harness.mjs";

useBrowser();
const { RTP_BIN, RTP_DASHBOARD_URL } = process.env;
const lacksDashboard = !RTP_BIN ? "RTP_BIN is not set" : spawnSync(RTP_BIN, ["dashboard", "--help"]).status === 0 ? false : "this rtp has no dashboard";
const keepsVerdicts = !lacksDashboard && /--history/.test(spawnSync(RTP_BIN, ["verify", "--help"]).stdout);
const DAY = "2026-11-27";
// A debug build on a busy machine may be late; the page's own two seconds are tested with the fixture server.
const PATIENCE = 15_000;

/** A folder with the pipeline's files, and what runs in it. */
class Place {
  running = [];

  static async make() {
    const place = new Place();
    place.folder = await mkdtemp(join(tmpdir(), "rtp-browser-"));
    const kept = Object.entries(process.env).filter(([name]) => !name.startsWith("RTP_"));
    place.environment = { ...Object.fromEntries(kept), RTP_AS_OF: DAY };
    return place;
  }

  /** Runs a command to its end; its exit status must be the expected one. */
  async rtp(args, status = 0) {
    const done = await promisify(execFile)(RTP_BIN, args, { cwd: this.folder, env: this.environment }).then((out) => ({ ...out, code: 0 }), (error) => error);
    assert.equal(done.code, status, `rtp ${args.join(" ")}: ${done.stderr}`);
    return done.stdout;
  }

  /** Starts a command that goes on; returns the first line that it prints. */
  async start(args) {
    const child = spawn(RTP_BIN, args, { cwd: this.folder, env: this.environment, stdio: ["ignore", "pipe", "ignore"] });
    this.running.push(child);
    for await (const line of createInterface({ input: child.stdout })) return { child, line };
    throw new Error(`rtp ${args.join(" ")} printed nothing`);
  }

  async stop(child) {
    if (child.exitCode === null) {
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await gone;
    }
    this.running = this.running.filter((other) => other !== child);
    return child.exitCode;
  }

  async end() {
    for (const child of this.running) await this.stop(child);
    await rm(this.folder, { recursive: true, force: true });
  }
}

const stateOf = async (url) => (await fetch(`${url}/api/v1/state`)).json();

test("from an empty pipeline to a verdict, on rtp dashboard", { skip: lacksDashboard }, async () => {
  const place = await Place.make();
  try {
    await place.rtp(["init"]);
    const { line: api } = await place.start(["mock-api", "--port", "0"]);
    place.environment.RTP_API_URL = `${api}/api/1.4/`;
    await place.rtp(["fetch", "--count", "300", "--trailer", "--out", "day.ndjson"]);
    const { line: url, child } = await place.start(["dashboard", "--port", "0"]);
    await withPage({ url, errors: /Failed to load resource|ERR_/ }, async ({ page }) => {
      await until(page, "#kind", "Empty", PATIENCE);
      assert.ok((await texts(page, "#ingestion .command code")).some((command) => command.startsWith("rtp ")));

      await place.rtp(["produce", "day.ndjson"]);
      await until(page, "#headline li:nth-child(2) .under", "300 records to go", PATIENCE);

      await place.rtp(["stream", "--until-end"]);
      await place.rtp(["load-batch", "day.ndjson"]);
      await until(page, "#layers .sides tbody tr", /^rows (≈ )?300 (≈ )?300$/, PATIENCE);
      await place.rtp(["verify"]);
      if (keepsVerdicts) {
        await until(page, "#layers .judged strong", "Both layers agree", PATIENCE);
        assert.match(await text(page, "#pipeline .stage.verify"), /^verify done/);
      }
      await until(page, "#kind", "In order", PATIENCE);
      assert.match(await text(page, "#event_time figure:first-child .note"), /^300 events$/);

      await place.rtp(["aggregate", "--date", DAY]);
      await until(page, "#profiles > header .legend", `batch, ${DAY}`, PATIENCE);
      assert.ok((await texts(page, "#profiles h3")).length >= 3);

      const [from, to] = [join(place.folder, ".rtp/realtime.db"), join(place.folder, "aside.db")];
      await rename(from, to);
      await until(page, "#layers > header .note", /^real-time store away since \d\d:\d\d$/, PATIENCE);
      assert.equal(await page.getAttribute("#sentence", "data-level"), "away");
      assert.match(await text(page, "#layers .sides tbody tr"), /^rows (≈ )?300 (≈ )?300$/);
      await rename(to, from);
      await until(page, "#kind", "In order", PATIENCE);
      assert.equal(await page.locator(".stale").count(), 0);
      await agrees(page, url);

      // The dashboard itself is stopped, and started again on its port.
      assert.equal(await place.stop(child), 0);
      await until(page, "#words", /^The dashboard's server has not answered since/, PATIENCE);
      await place.start(["dashboard", "--port", new URL(url).port]);
      await until(page, "#kind", "In order", PATIENCE);
      assert.deepEqual(await findings(page), []);
    });
    await withPage({ url, size: PHONE, scheme: "dark" }, async ({ page }) => {
      await until(page, "#kind", "In order", PATIENCE);
      assert.deepEqual(await stickingOut(page), { wide: 0, out: [] });
    });
  } finally {
    await place.end();
  }
});

test("with a token: a link from another site, a restart, and a restart with another token", { skip: lacksDashboard }, async () => {
  const place = await Place.make();
  const serve = async (token, port) => {
    await writeFile(join(place.folder, "token"), token, { mode: 0o600 });
    return place.start(["dashboard", "--port", port, "--token-file", "token"]);
  };
  const elsewhere = "http://elsewhere.example";
  try {
    await place.rtp(["init"]);
    const one = await serve("the-first-token-of-this-test", "0");
    const url = one.line;
    const { port } = new URL(url);
    await withPage({ url, address: "/?range=7d&token=the-first-token-of-this-test", errors: /Failed to load resource|ERR_/, allowed: [elsewhere] }, async ({ page, context }) => {
      await until(page, "#kind", "Empty", PATIENCE);
      assert.equal(page.url(), `${url}/?range=7d`);

      await context.route(`${elsewhere}/**`, (route) => route.fulfill({ contentType: "text/html", body: `<a href="${url}/?range=24h">look</a>` }));
      const other = await context.newPage();
      await other.goto(elsewhere);
      await other.click("a");
      await until(other, "#kind", "Empty", PATIENCE);
      assert.equal(other.url(), `${url}/?range=24h`);
      await other.close();

      await place.stop(one.child);
      await until(page, "#words", /has not answered since/, PATIENCE);
      const same = await serve("the-first-token-of-this-test", port);
      await until(page, "#kind", "Empty", PATIENCE);

      await place.stop(same.child);
      await serve("another-token-of-this-test", port);
      await until(page, "#words", /^The dashboard needs its token again, .* open http:\S+\/\?token=TOKEN once/, PATIENCE);
      const shown = await context.newPage();
      await shown.goto(`${url}/?token=another-token-of-this-test`);
      await until(shown, "#kind", "Empty", PATIENCE);
      await until(page, "#kind", "Empty", PATIENCE);
    });
  } finally {
    await place.end();
  }
});

test("the page of a running dashboard shows what its API says", { skip: RTP_DASHBOARD_URL ? false : "RTP_DASHBOARD_URL is not set" }, () =>
  withPage({ url: RTP_DASHBOARD_URL.replace(/\/$/, "") }, async ({ page, server }) => {
    await agrees(page, server.url);
    assert.deepEqual(await findings(page), []);
  }),
);

/** The numbers at the top are those of the API, which may have changed in between. */
async function agrees(page, url) {
  const grouped = (count) => count.toString().replace(/\B(?=(\d{3})+(?!\d))/g, " ");
  const end = Date.now() + PATIENCE;
  for (;;) {
    const state = await stateOf(url);
    const { rows } = state.headline;
    const expected = [rows.realtime, rows.batch].map((side) => (side ? (side.exact ? "" : "≈ ") + grouped(side.count) : "–"));
    const shown = (await texts(page, "#headline li:nth-child(3) .figure")).map(plain);
    const words = await text(page, "#words");
    const sentence = plain(state.sentence.text.replace(/(\d),(?=\d{3})/g, "$1 "));
    if (JSON.stringify([expected, sentence]) === JSON.stringify([shown, words])) return;
    if (Date.now() > end) assert.deepEqual([shown, words], [expected, sentence]);
  }
}
