// Known states of the dashboard's server, in the form that docs/dashboard.md describes, and series to go with them.

const MINUTE = 60_000;
const HOUR = 3_600_000;
const DAY = 86_400_000;

/** The same numbers in each run, between 0 and 1. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

export const KEY = "0b7c6a1e-52f4-4a8e-9d3a-0f1c2b3a4d5e";

const CLASSES = [
  { name: "lost", meaning: "in no store, dead letter or reject, and not on its way", fails: true },
  { name: "changed_behind", meaning: "changed in a store behind the pipeline's back", fails: true },
  { name: "in_flight", meaning: "in the log, not read by the stream yet", fails: false },
  { name: "not_loaded", meaning: "newer than the last load", fails: false },
  { name: "dead_letter", meaning: "broke a rule; it is in the dead letters", fails: false },
];

const verdict = (at, classes = {}, more = {}) => ({
  run_id: `verify-${at}`,
  started_at: at - 12_400,
  ended_at: at,
  agrees: !classes.lost && !classes.changed_behind,
  rows: [1_000_000, 1_000_000],
  classes,
  columns: {},
  samples: {},
  ...more,
});

export const letter = (at, offset, more = {}) => ({
  at,
  letter_partition: 0,
  letter_offset: offset,
  partition: offset % 3,
  offset,
  rule: "type",
  field: "registered_date",
  message: `expected a timestamp, got "${2000 + (offset % 20)}-13-01"`,
  key: `5f0e${String(offset).padStart(4, "0")}-aaaa-4bbb-8ccc-1234567890ab`,
  ...more,
});

function months(total) {
  const next = random(7);
  const names = [];
  for (let year = 2012; year <= 2026; year++) for (let month = 1; month <= (year === 2026 ? 11 : 12); month++) names.push(`${year}-${String(month).padStart(2, "0")}`);
  return names.map((name) => [name, Math.round((total / names.length) * (0.75 + 0.5 * next()))]);
}

const shares = (total, all) => all.map(([name, share]) => [name, Math.round(total * share)]);
const NATIONS = [["US", 0.081], ["GB", 0.0675], ["FR", 0.064], ["DE", 0.0615], ["BR", 0.059], ["CA", 0.057], ["AU", 0.0555], ["ES", 0.054], ["NL", 0.0525], ["TR", 0.0505], ["IN", 0.049], ["MX", 0.0475], ["IE", 0.046], ["NZ", 0.0445], ["CH", 0.043], ["FI", 0.0415], ["DK", 0.04], ["NO", 0.038], ["UA", 0.031], ["RS", 0.0145], [null, 0.0025]];

function aggregates(total, tilt = 0) {
  return [
    { name: "nationality", kind: "value", values: shares(total, NATIONS.map(([name, share], index) => [name, share * (1 + tilt * Math.sin(index * 2.1))])) },
    { name: "age_band", kind: "band", values: shares(total, [["20-29", 0.14 - tilt / 20], ["30-39", 0.192], ["40-49", 0.196 + tilt / 15], ["50-59", 0.188], ["60-69", 0.172], ["70-79", 0.109], [null, 0.003]]) },
    { name: "gender", kind: "value", values: shares(total, [["female", 0.5061 + tilt / 10], ["male", 0.4939 - tilt / 10]]) },
    { name: "email_domain", kind: "domain", values: shares(total, [["example.com", 0.9981], ["example.org", 0.0015], ["example.net", 0.0004]]) },
    { name: "registrations_by_month", kind: "month", values: months(total) },
    { name: "events_by_hour", kind: "hour", values: Array.from({ length: 24 }, (_, hour) => [String(hour).padStart(2, "0"), Math.round((total / 24) * (1 + 0.55 * Math.sin(((hour - 8) / 24) * 2 * Math.PI)))]) },
  ];
}

function eventTime(now) {
  const next = random(3);
  const edges = Array.from({ length: 61 }, (_, index) => now - HOUR + index * MINUTE);
  return {
    since: now - HOUR,
    histogram: { edges, counts: edges.slice(1).map((_, index) => 58_000 + Math.round(2_400 * Math.sin(index / 6) + 1_800 * next())) },
    lateness: {
      edges: [null, 0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, null],
      counts: [7, 1_200, 9_800, 31_400, 88_700, 61_300, 22_100, 9_400, 3_100, 900, 240, 80, 12],
      p50: 0.38,
      p99: 4.6,
    },
  };
}

/** A million rows in each layer, a thousand events a second, nothing wrong. */
export function known(now) {
  return {
    version: 1,
    rtp: "0.1.0",
    dataset: "users",
    zone: "UTC",
    now,
    started: now - 5 * HOUR,
    sentence: { level: "ok", text: "Both layers agree: 1,000,000 rows, checked 2 minutes ago; the stream is 0.4 s behind." },
    headline: {
      events_per_second: 1_004.2,
      lag_seconds: 0.4,
      lag_records: 412,
      rows: { realtime: { count: 1_000_000, exact: false }, batch: { count: 1_000_000, exact: true } },
      dead_letters: 7,
    },
    servers: {
      event_log: { address: "kafka://127.0.0.1:9092", up: true, since: now - 5 * HOUR, message: null },
      realtime_store: { address: "cassandra://127.0.0.1:9042", up: true, since: now - 5 * HOUR, message: null },
      batch_store: { address: "postgres://rtp@127.0.0.1:5432/rtp", up: true, since: now - 5 * HOUR, message: null },
    },
    ingestion: {
      rates: { produce: 1_004.2, stream: 998.6, load: 0 },
      lag: { records: 412, seconds: 0.4, partitions: [[0, 140], [1, 131], [2, 141]] },
      dead_letters: [letter(now - 4 * MINUTE, 48), letter(now - 11 * MINUTE, 40, { rule: "bad_uuid", field: "id", message: "field id: bad_uuid: expected a UUID", partition: null, key: null }), letter(now - 31 * MINUTE, 33), letter(now - 31 * MINUTE - 900, 32), letter(now - 44 * MINUTE, 12)],
    },
    event_time: eventTime(now),
    layers: {
      realtime: { count: 1_000_000, exact: false, last_write: now - 200 },
      batch: { count: 1_000_000, exact: true, last_write: now - 140_000, boundary: now - 150_000, last_load: { run_id: "day-2026-11-27", mode: "upsert", loaded_at: now - 140_000, written: 120_480 } },
      verdict: verdict(now - 2 * MINUTE),
      classes: CLASSES,
    },
    profiles: { day: "2026-11-27", aggregates: aggregates(1_000_000), live: { since: now - 5_000, events: 5_000, aggregates: aggregates(5_000, 0.16) } },
    pipeline: {
      stages: [
        { name: "fetch", status: "done", at: null, seconds: null, note: "known by its records only" },
        { name: "produce", status: "running", at: now - 1_000, seconds: null, note: null },
        { name: "stream", status: "running", at: now - 500, seconds: null, note: "412 behind" },
        { name: "load-batch", status: "done", at: now - 140_000, seconds: 4.2, note: "upsert, 120 480 rows" },
        { name: "verify", status: "done", at: now - 2 * MINUTE, seconds: 12.4, note: "agrees" },
        { name: "aggregate", status: "done", at: now - 9 * HOUR, seconds: 3.1, note: "2026-11-27" },
      ],
      heartbeat: [
        { check: "event_log", ok: true, message: "answered in 4 ms" },
        { check: "realtime_store", ok: true, message: "answered in 6 ms; last write now" },
        { check: "batch_store", ok: true, message: "answered in 3 ms; last load 2 minutes ago" },
        { check: "lag", ok: true, message: "0.4 s" },
      ],
    },
    next: [],
  };
}

/** A fresh start: nothing has run yet. */
export function empty(now) {
  const state = known(now);
  const next = (panel, command, why) => ({ panel, command, why });
  return {
    ...state,
    started: now - 5_000,
    sentence: { level: "empty", text: "No event has arrived yet: the panels say what fills them." },
    headline: { events_per_second: 0, lag_seconds: null, lag_records: 0, rows: { realtime: { count: 0, exact: true }, batch: { count: 0, exact: true } }, dead_letters: 0 },
    ingestion: { rates: { produce: 0, stream: 0, load: 0 }, lag: { records: 0, seconds: null, partitions: [[0, 0], [1, 0], [2, 0]] }, dead_letters: [] },
    event_time: { since: now - 5_000, histogram: { edges: [], counts: [] }, lateness: { edges: [], counts: [], p50: null, p99: null } },
    layers: {
      realtime: { count: 0, exact: true, newest: null, last_write: null },
      batch: { count: 0, exact: true, newest: null, last_write: null, boundary: null, last_load: null },
      verdict: null,
      classes: CLASSES,
    },
    profiles: null,
    pipeline: { stages: state.pipeline.stages.map(({ name }) => ({ name, status: "never", at: null, seconds: null, note: null })), heartbeat: [] },
    next: [
      next("ingestion", "rtp fetch --count 1000 | rtp produce", "no event has arrived yet"),
      next("event_time", "rtp stream --until-end", "no event has been streamed yet"),
      next("layers", "rtp load-batch .rtp/landing/2026-11-28.ndjson", "the batch store holds no rows yet"),
      next("layers", "rtp verify", "nothing has been compared yet"),
      next("profiles", "rtp aggregate --date 2026-11-27", "no day has figures yet"),
      next("pipeline", "just run-dag", "no stage has run yet"),
    ],
  };
}

/** The real-time store does not answer, for three minutes now. */
export function away(now) {
  const state = known(now);
  const since = now - 3 * MINUTE;
  return {
    ...state,
    sentence: { level: "away", text: "The real-time store has not answered for 3 minutes; events wait in the log." },
    headline: { ...state.headline, events_per_second: 0, lag_seconds: 184, lag_records: 183_912 },
    servers: { ...state.servers, realtime_store: { ...state.servers.realtime_store, up: false, since, message: "connection refused" } },
    ingestion: { ...state.ingestion, rates: { produce: 1_004.2, stream: 0, load: 0 }, lag: { records: 183_912, seconds: 184, partitions: [[0, 61_304], [1, 61_298], [2, 61_310]] } },
    pipeline: {
      stages: state.pipeline.stages.map((stage) => (stage.name === "stream" ? { ...stage, status: "failed", at: since, note: "waits for the store" } : stage)),
      heartbeat: state.pipeline.heartbeat.map((check) => (check.check === "realtime_store" ? { ...check, ok: false, message: "no answer: connection refused" } : check)),
    },
  };
}

/** Three rows differ: one is lost, two are on their way. */
export function differs(now) {
  const state = known(now);
  const found = verdict(now - 40_000, { lost: 1, in_flight: 2, dead_letter: 7 }, {
    rows: [999_999, 1_000_000],
    columns: { last_name: 1, email: 1 },
    samples: { lost: [KEY], in_flight: ["7d0b3c44-0000-4000-8000-00000000000a", "7d0b3c44-0000-4000-8000-00000000000b"], dead_letter: ["5f0e0048-aaaa-4bbb-8ccc-1234567890ab", "5f0e0033-aaaa-4bbb-8ccc-1234567890ab"] },
  });
  return {
    ...state,
    sentence: { level: "bad", text: "10 rows differ: 1 is lost, 2 are in flight, 7 are in the dead letters." },
    headline: { ...state.headline, rows: { realtime: { count: 999_999, exact: true }, batch: { count: 1_000_000, exact: true } } },
    layers: { ...state.layers, realtime: { ...state.layers.realtime, count: 999_999, exact: true }, verdict: found },
    pipeline: { ...state.pipeline, stages: state.pipeline.stages.map((stage) => (stage.name === "verify" ? { ...stage, status: "failed", at: now - 40_000, note: "1 lost" } : stage)) },
  };
}

export const HOSTILE = `<img src=x onerror="window.stung=1"><script>window.stung=1</script>"'><svg onload=window.stung=1>javascript:window.stung=1`;

/** Hostile text in each text of a state: what a record, a server's message or a dataset could put there. */
export function hostile(now) {
  const kept = new Set(["level", "kind", "status", "panel", "zone", "day"]);
  const sting = (value, name) => {
    if (typeof value === "string") return kept.has(name) ? value : HOSTILE;
    if (Array.isArray(value)) return value.map((each) => sting(each, name));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, sting(inner, key)]));
  };
  const state = sting(differs(now));
  const named = (values) => Object.fromEntries(Object.values(values).map((value, index) => [HOSTILE + index, value]));
  const { verdict: found } = state.layers;
  state.layers.verdict = { ...found, classes: named(found.classes), columns: named(found.columns), samples: named(found.samples) };
  state.next = [{ panel: "pipeline", command: HOSTILE, why: HOSTILE }];
  return state;
}

/** As much of everything as a server sends, and more, with a long hostile text wherever there is a text. */
export function largest(now) {
  const long = (index) => `${index} ${HOSTILE} ${"wide_as_a_key_without_any_blank".repeat(80)}`;
  const times = (number, each) => Array.from({ length: number }, (_, index) => each(index));
  const state = hostile(now);
  const counts = (number) => ({ edges: times(number + 1, (index) => now - HOUR + (index * HOUR) / number), counts: times(number, (index) => (index * 37) % 101) });
  const by = (name, kind, values) => ({ name: long(name), kind, total: 10 ** 9, distinct: 10_000, values });
  const servers = Object.keys(state.servers).map((name, index) => [name, { address: long(index), up: index < 2, since: now - HOUR, message: long(index) }]);
  return {
    ...state,
    sentence: { level: "bad", text: long("sentence") },
    servers: Object.fromEntries(servers),
    ingestion: { rates: { produce: 1e12, stream: 1e12, load: 1e12 }, lag: { records: 1e15, seconds: 1e9, partitions: times(1_000, (index) => [index, 1e12]) }, dead_letters: times(20, (index) => letter(now - index * 1000, 1e12 + index, { rule: long(index), field: long(index), message: long(index), key: long(index) })) },
    event_time: { since: now - HOUR, histogram: counts(200), lateness: { edges: [...times(200, (index) => index ** 3), null], counts: times(200, (index) => index), p50: 27, p99: 5e6 } },
    layers: {
      ...state.layers,
      classes: times(12, (index) => ({ name: long(index), meaning: long(index), fails: index % 2 === 0 })),
      verdict: {
        ...verdict(now - 40_000),
        agrees: false,
        run_id: long("run"),
        classes: Object.fromEntries(times(12, (index) => [long(index), 10 ** index])),
        columns: Object.fromEntries(times(200, (index) => [long(index), index])),
        samples: Object.fromEntries(times(12, (index) => [long(index), times(20, long)])),
      },
    },
    profiles: {
      day: "2026-11-27",
      aggregates: [
        ...times(20, (name) => by(`value ${name}`, "value", times(60, (index) => [long(index), 1_000 - index]))),
        by("month", "month", times(1_200, (index) => [`${1926 + Math.floor(index / 12)}-${String((index % 12) + 1).padStart(2, "0")}`, index])),
        by("band", "band", times(200, (index) => [`${index}-${index}`, index])),
      ],
    },
    pipeline: {
      stages: state.pipeline.stages.map((stage) => ({ ...stage, name: long(stage.name), note: long("note"), seconds: 1e9 })),
      heartbeat: times(20, (index) => ({ check: long(index), ok: index % 2 === 0, message: long(index) })),
    },
    next: ["ingestion", "event_time", "layers", "pipeline"].flatMap((panel) => times(4, (index) => ({ panel, command: long(index), why: long(index) }))),
  };
}

const STEPS = { "15m": [15 * MINUTE, 5], "1h": [HOUR, 15], "24h": [DAY, 300], "7d": [7 * DAY, 1800], all: [30 * DAY, 7200] };

/** Series that end in the state's numbers. */
export function series(range, state) {
  const [span, step] = STEPS[range];
  const next = random(11);
  const now = state.now;
  const length = Math.floor((span / (step * 1000)) * (range === "all" ? 0.7 : 1));
  const t = Array.from({ length }, (_, index) => now - (length - 1 - index) * step * 1000);
  const quiet = state.sentence.level === "empty";
  const wave = (base, spread) => t.map((_, index) => (quiet ? 0 : Math.max(0, base * (1 + spread * (next() - 0.5) + 0.06 * Math.sin(index / 17)))));
  const produce = wave(1_000, 0.08);
  // A pause of the stream in the middle, which it then catches up with.
  const [stop, go] = [Math.floor(length * 0.56), Math.floor(length * 0.6)];
  const stream = produce.map((rate, index) => (index >= stop && index < go ? 0 : index >= go && index < go + (go - stop) * 2 ? rate * 1.5 : rate * (0.97 + 0.05 * next())));
  let behind = 0;
  const lag = produce.map((rate, index) => {
    behind = Math.max(0, behind + (rate - stream[index]) * (index >= stop && index < go + (go - stop) * 2 ? step : 0));
    return Math.round(behind + 380 + 90 * next());
  });
  const load = t.map((_, index) => (quiet ? 0 : index % Math.max(8, Math.floor(length / 12)) < 2 ? 24_000 + 5_000 * next() : 0));
  if (!quiet) {
    for (const [column, rate] of [[produce, "produce"], [stream, "stream"], [load, "load"]]) column[length - 1] = state.ingestion.rates[rate];
    lag[length - 1] = state.ingestion.lag.records;
  }
  const verdicts = quiet
    ? []
    : Array.from({ length: 24 }, (_, index) => verdict(now - (24 - index) * Math.min(span / 25, HOUR), index === 9 ? { lost: 2, in_flight: 5 } : index === 10 ? { lost: 1 } : index % 5 === 2 ? { in_flight: 1 + (index % 4) } : {}));
  return {
    range,
    step_s: step,
    now,
    t,
    rates: { produce, stream, load },
    lag_records: quiet ? t.map(() => 0) : lag,
    lag_seconds: quiet ? t.map(() => null) : lag.map((records) => Math.round(records / 10) / 100),
    dead_letters: state.ingestion.dead_letters,
    verdicts,
  };
}

/** What `rtp explain KEY --format json` answers. */
export function explain(key, now) {
  return {
    summary: "Lost: the event was produced and read, but neither store holds the record, and no dead letter or reject names it.",
    key,
    landing: [{ file: ".rtp/landing/2026-11-27.ndjson", line: 4_211 }],
    versions: [{ topic: "user_events", partition: 1, offset: 33_871, produced_at: now - HOUR, event_time: now - HOUR - 400, run_id: "day-2026-11-27", committed: true }],
    realtime: null,
    batch: { run_id: "day-2026-11-27", loaded_at: now - 140_000, digest: "9f1c22ab" },
    dead_letters: [],
    verdict: { run_id: "verify-42", names_it: true, class: "lost" },
  };
}

/** An explanation whose numbers JavaScript cannot hold, as the server sends it. */
export const NUMBERS = String.raw`{
  "summary": "Both stores have it: 1 \"2\".", "key": 9007199254740993, "count": 1234567,
  "realtime": {"rows": 1, "values": {"big": -9223372036854775807, "small": 0.00012, "tiny": 1e-300, "loaded_at": 1795500000000, "list": [12345, "7"], "is_new": false}},
  "differences": [{"column": "big", "realtime": 9007199254740993, "batch": 9007199254740992}]
}`;
