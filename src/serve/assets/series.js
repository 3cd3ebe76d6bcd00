// The series of the chosen range: fetched now and then, and continued by the states in between.

import { model, now, RANGES } from "./model.js";

const FETCH_EVERY = 30_000;
const MOST = 2_000; // points, while no series can be fetched

let fetched = 0;
let asking = null;

/** Fetches the series if it is old, or at once if `must`. `onSeries` is called when there is a new one. */
export async function refresh(onSeries, must = false) {
	if (!must && (asking || Date.now() - fetched < FETCH_EVERY)) return;
	asking?.abort();
	const mine = (asking = new AbortController());
	fetched = Date.now();
	const { name: range, ms } = model.range;
	try {
		const response = await fetch(`/api/v1/series?range=${encodeURIComponent(asked(ms))}`, { signal: mine.signal, headers: { accept: "application/json" } });
		if (!response.ok) throw new Error(`status ${response.status}`);
		const series = await response.json();
		if (mine !== asking) return;
		model.series = { ...(model.paused === null ? series : cut(series, ms)), range };
		onSeries();
	} catch {
		// The stream's state says that the server is away, and the next refresh tries again.
		fetched = Date.now() - FETCH_EVERY + 2_000;
	} finally {
		if (mine === asking) asking = null;
	}
}

/** The range to ask for. While paused, it begins earlier than now minus the chosen one, so a longer one may be needed. */
function asked(ms) {
	const needed = ms === null ? Infinity : ms + (Date.now() + model.ahead - now());
	const fitting = model.paused === null ? model.range : RANGES.find((range) => range.ms >= needed);
	return (fitting ?? RANGES.at(-1)).name;
}

/** A series that ends with the pause, and begins the chosen range before it. */
function cut(series, ms) {
	const [from, to] = [ms === null ? -Infinity : now() - ms, now()];
	const inside = (time) => time >= from && time <= to;
	// A step that goes on after the pause has what happened then.
	const whole = (time) => inside(time) && time + (series.step_s ?? 0) * 1000 <= to;
	const column = (values) => values?.filter((_, index) => whole(series.t[index]));
	return {
		...series,
		t: column(series.t),
		rates: Object.fromEntries(Object.entries(series.rates ?? {}).map(([name, values]) => [name, column(values)])),
		lag_records: column(series.lag_records),
		lag_seconds: column(series.lag_seconds),
		dead_letters: series.dead_letters?.filter((letter) => inside(letter.at)),
		verdicts: series.verdicts?.filter((each) => inside(each.ended_at)),
	};
}

/** Adds the state's figures to the series, once a step. */
export function extend(state) {
	const series = model.series;
	const ingestion = state.ingestion;
	if (!series?.t || !ingestion || typeof state.now !== "number") return;
	const last = series.t.at(-1) ?? 0;
	if (state.now - last < Math.max(1, series.step_s ?? 1) * 1000) return;
	const rates = Object.entries(series.rates ?? {}).map(([name, column]) => [column, ingestion.rates?.[name]]);
	const all = [[series.t, state.now], ...rates, [series.lag_records, ingestion.lag?.records], [series.lag_seconds, ingestion.lag?.seconds]];
	const first = series.t.findIndex((time) => model.range.ms === null || time >= state.now - model.range.ms);
	const gone = Math.max(first < 0 ? series.t.length : first, series.t.length + 1 - MOST);
	for (const [column, value] of all) {
		column?.push(value ?? null);
		column?.splice(0, gone);
	}
}

/** Dead letters of the series and those that arrived since, the newest first. */
export function deadLetters() {
	const seen = new Map();
	for (const letter of [...(model.state?.ingestion?.dead_letters ?? []), ...(model.series?.dead_letters ?? [])]) {
		seen.set(`${letter.letter_partition}/${letter.letter_offset}`, letter);
	}
	return [...seen.values()].sort((a, b) => (b.at ?? 0) - (a.at ?? 0));
}

/** Whether dead letters from this time on may be missing in `deadLetters`. The state has the newest; the series have more,
 * up to when they were fetched. */
export function lacksLetters(from) {
	const inState = model.state?.ingestion?.dead_letters_known_after ?? -Infinity;
	const { dead_letters_known_after: inSeries, now: fetched } = model.series ?? {};
	if (inState < from) return false;
	return fetched === undefined || inState > fetched || (inSeries ?? -Infinity) >= from;
}
