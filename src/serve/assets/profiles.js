// Profiles: what is in the data. Bars are the batch layer's figures, dots those of the events since the dashboard runs.

import { h } from "./dom.js";
import { exact, percent, plural, since, words } from "./format.js";
import { columns, shares } from "./bars.js";
import { emptyState, nothing, numbers } from "./parts.js";
import { now, zone } from "./model.js";

export const panel = { id: "profiles", servers: ["batch_store"], render, note };

const LISTED = 6;
const DOTTED = 36; // with more columns, dots would hide them
const IN_ORDER = new Set(["band", "month", "hour", "lateness"]);
const AS_COLUMNS = new Set(["month", "hour", "lateness"]);
const NONE = "not given";
const HOURS = Array.from({ length: 24 }, (_, hour) => String(hour).padStart(2, "0"));

function note(state) {
	const profiles = state?.profiles;
	if (!profiles) return [];
	return [
		h("span", { class: "legend load" }, profiles.day ? `batch, ${profiles.day}` : "batch: no figures yet"),
		profiles.live?.since && h("span", { class: "legend stream dots" }, `live since ${since(profiles.live.since, now(), zone())}`),
	];
}

function render(state) {
	const empty = emptyState("profiles");
	if (empty) return [empty];
	const profiles = state?.profiles ?? {};
	const batch = new Map((profiles.aggregates ?? []).map((each) => [each.name, each]));
	const live = new Map((profiles.live?.aggregates ?? []).map((each) => [each.name, each]));
	const names = [...new Set([...batch.keys(), ...live.keys()])];
	if (!names.length) return [nothing("No figures yet.", "batch_store")];
	const shown = names.map((name) => profile(name, batch.get(name), live.get(name)));
	const order = (each) => (each.wide ? 1 : 0);
	return [h("div", { class: "profiles" }, shown.sort((a, b) => order(a) - order(b)).map((each) => each.element))];
}

const sum = (aggregate) => aggregate?.total ?? (aggregate?.values ?? []).reduce((total, [, count]) => total + count, 0);
const counts = (aggregate) => new Map((aggregate?.values ?? []).map(([text, count]) => [text, count]));

/** All values of both, with their counts and shares; a side without figures has no share. */
function rowsOf(kind, batch, live) {
	const [slow, fast, all, new_] = [counts(batch), counts(live), sum(batch), sum(live)];
	let texts = [...new Set([...slow.keys(), ...fast.keys()])];
	if (kind === "month") texts = withGaps(texts);
	else if (kind === "hour") texts = [...new Set([...HOURS, ...texts])];
	else if (!IN_ORDER.has(kind)) texts.sort((a, b) => (slow.get(b) ?? 0) - (slow.get(a) ?? 0) || (fast.get(b) ?? 0) - (fast.get(a) ?? 0));
	return texts.map((text) => ({
		name: text ?? NONE,
		known: text !== null,
		count: slow.get(text) ?? 0,
		liveCount: fast.get(text) ?? 0,
		batch: all ? (slow.get(text) ?? 0) / all : null,
		live: new_ ? (fast.get(text) ?? 0) / new_ : null,
	}));
}

/** Every month from the first to the last one, so that a gap is a gap. */
function withGaps(texts) {
	const months = texts.filter((text) => /^\d{4}-\d{2}$/.test(text ?? "")).sort();
	if (months.length < 2) return texts;
	const index = (text) => Number(text.slice(0, 4)) * 12 + Number(text.slice(5)) - 1;
	const [from, to] = [index(months[0]), index(months.at(-1))];
	if (to - from > 1200) return texts;
	const every = Array.from({ length: to - from + 1 }, (_, step) => `${String(Math.floor((from + step) / 12)).padStart(4, "0")}-${String(((from + step) % 12) + 1).padStart(2, "0")}`);
	return [...every, ...texts.filter((text) => !months.includes(text))];
}

function profile(name, batch, live) {
	const kind = (batch ?? live).kind;
	const rows = rowsOf(kind, batch, live);
	const title = words(name);
	const wide = AS_COLUMNS.has(kind);
	const chart = !rows.length ? nothing("No rows.", "batch_store") : wide ? overTime(title, rows) : ranking(title, rows, kind);
	const side = (count, share) => (share === null ? [null, null] : [count, percent(share)]);
	const line = (row) => [row.name, ...side(row.count, row.batch), ...side(row.liveCount, row.live)];
	const table = numbers(`profile-${name}`, title, [title, "Batch", "Batch share", "Live", "Live share"], () => rows.map(line));
	const caption = h("figcaption", {}, h("h3", {}, title), h("span", { class: "note" }, distinct(rows, kind)));
	return { wide, element: h("figure", { class: wide ? "profile wide" : "profile", "data-id": name }, caption, chart, table) };
}

const distinct = (rows, kind) => (kind === "band" || AS_COLUMNS.has(kind) ? "" : plural(rows.filter((row) => row.known).length, "value"));

function ranking(title, rows, kind) {
	const listed = kind === "band" || rows.length <= LISTED + 1 ? rows.slice(0, 12) : rows.slice(0, LISTED);
	const rest = rows.slice(listed.length);
	// Not all of them may have been sent.
	const left = (side) => (rows[0]?.[side] == null ? null : Math.max(0, 1 - listed.reduce((share, row) => share + row[side], 0)));
	const others = rest.length ? [{ name: `${exact(rest.length)} others`, rest: true, batch: left("batch"), live: left("live") }] : [];
	return shares({ label: title, rows: [...listed, ...others] });
}

function overTime(title, rows) {
	const bars = rows.map((row) => ({ label: row.name, value: row.batch === null ? row.liveCount : row.count, dot: row.batch === null || rows.length > DOTTED ? null : row.live, share: row.batch }));
	const ends = rows.length > 2 ? [0, Math.floor((rows.length - 1) / 2), rows.length - 1] : rows.map((_, index) => index);
	const ticks = ends.map((index) => ({ at: rows.length > 1 ? index / (rows.length - 1) : 0.5, text: rows[index].name }));
	return columns({ hue: rows.some((row) => row.batch !== null) ? "load" : "stream", label: `${title}: ${plural(rows.length, "column")}, from ${rows[0].name} to ${rows.at(-1).name}`, bars, ticks });
}

