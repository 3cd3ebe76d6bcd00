#!/usr/bin/env node
// Serves the dashboard's page with known states instead of a pipeline, with the same headers as `rtp dashboard`:
//   node tests/browser/fixture_server.mjs [--port 8601] [--state known|empty|away|differs|hostile|largest] [--still]
// Without --still its numbers move, as those of a running pipeline do. Tests import `serve`.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import * as states from "./states.mjs";

export const ASSETS = fileURLToPath(new URL("../../src/serve/assets/", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
const HEADERS = {
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-cache",
};

/** Starts a server. `now` in its states is fixed, unless `now` is left out. */
export async function serve({ port = 0, state = "known", now = Date.now(), locked = false } = {}) {
  const shared = { state: states[state](now), id: 1, series: {}, streams: new Set(), away: false, locked, seen: [] };
  const server = createServer((request, response) => {
    answer(shared, request, response).catch((error) => {
      console.error(error);
      response.destroy();
    });
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** The requests so far, as "GET /path". */
    seen: shared.seen,
    get state() {
      return shared.state;
    },
    streams: () => shared.streams.size,
    /** What the series have in place of what goes with the state. */
    setSeries(series) {
      shared.series = series;
    },
    /** Sends a merge patch (RFC 7396) to every page. */
    patch(patch) {
      shared.state = merge(shared.state, patch);
      shared.id += 1;
      for (const stream of shared.streams) event(stream, "patch", shared.id, patch);
    },
    /** Another state, with no word to the pages that are connected: as if a patch got lost. */
    replace(state) {
      shared.state = state;
      shared.id += 7;
    },
    /** Sends something that a page must survive. */
    raw(text) {
      for (const stream of shared.streams) stream.write(text);
    },
    /** The server goes away: streams end, and each request is cut off. */
    leave() {
      shared.away = true;
      for (const stream of shared.streams) stream.destroy();
    },
    comeBack() {
      shared.away = false;
    },
    /** The server wants a token that the browser has not shown: as after a restart with another one. */
    lock() {
      shared.locked = true;
      for (const stream of shared.streams) stream.destroy();
    },
    unlock() {
      shared.locked = false;
    },
    async close() {
      for (const stream of shared.streams) stream.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function answer(shared, request, response) {
  const url = new URL(request.url, "http://127.0.0.1");
  shared.seen.push(`${request.method} ${url.pathname}${url.search}`);
  if (shared.away) return response.destroy();
  const json = (body, status = 200) => send(response, status, "application/json", JSON.stringify(body));
  if (shared.locked && url.pathname.startsWith("/api/")) return json({ status: 401, detail: "this server needs its token" }, 401);
  if (url.pathname === "/api/v1/state") return json(shared.state);
  if (url.pathname === "/api/v1/events") return open(shared, response);
  if (url.pathname === "/api/v1/series") {
    const range = url.searchParams.get("range") ?? "1h";
    return ["15m", "1h", "24h", "7d", "all"].includes(range) ? json({ ...states.series(range, shared.state), ...shared.series }) : json({ error: "range: expected 15m, 1h, 24h, 7d or all" }, 400);
  }
  if (url.pathname === "/api/v1/explain") {
    const key = url.searchParams.get("key");
    if (key === "nonsense") return json({ error: "key: expected a UUID, got \"nonsense\"" }, 400);
    if (key === "numbers") return send(response, 200, "application/json", states.NUMBERS);
    const told = states.explain(key, shared.state.now);
    return json(key === states.HOSTILE ? { ...told, summary: key, landing: [{ [key]: key }], [key]: key } : told);
  }
  const name = url.pathname === "/" ? "index.html" : (/^\/assets\/([\w.-]+)$/.exec(url.pathname)?.[1] ?? "");
  if (!(extname(name) in TYPES)) return send(response, 404, "text/plain", "not found");
  send(response, 200, TYPES[extname(name)], await readFile(join(ASSETS, name)));
}

function send(response, status, type, body) {
  response.writeHead(status, { ...HEADERS, "content-type": type });
  response.end(body);
}

function open(shared, response) {
  response.writeHead(200, { ...HEADERS, "content-type": "text/event-stream", "cache-control": "no-store" });
  response.write("retry: 2000\n\n");
  event(response, "state", shared.id, shared.state);
  shared.streams.add(response);
  response.on("close", () => shared.streams.delete(response));
}

const event = (stream, name, id, data) => stream.write(`event: ${name}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`);

function merge(target, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const merged = target !== null && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else merged[key] = merge(merged[key], value);
  }
  return merged;
}

/** Numbers that move, for looking at the page while working on it. */
function move(server) {
  const next = states.random(Date.now());
  setInterval(() => {
    const produce = 1_000 + 60 * (next() - 0.5);
    const stream = produce + 20 * (next() - 0.5);
    const records = Math.round(400 + 100 * next());
    server.patch({
      now: Date.now(),
      headline: { events_per_second: stream, lag_records: records, lag_seconds: records / 1000 },
      ingestion: { rates: { produce, stream }, lag: { records, seconds: records / 1000 } },
      layers: { realtime: { last_write: Date.now() - 200 } },
    });
  }, 1000);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { port: { type: "string", default: "8601" }, state: { type: "string", default: "known" }, still: { type: "boolean" } } });
  const server = await serve({ port: Number(values.port), state: values.state });
  if (!values.still && values.state !== "empty") move(server);
  console.log(server.url);
}
