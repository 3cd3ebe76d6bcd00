// Profiles: what is in the data, by the figures of `rtp aggregate`.

import { h } from "./dom.js";
import { exact, percent, plural, words } from "./format.js";
import { columns, shares } from "./bars.js";
import { emptyState, nothing, numbers } from "./parts.js";

export const panel = { id: "profiles", servers: ["batch_store"], reads: (state) => [state?.profiles], render, note };

const LISTED = 6;
const IN_ORDER = new Set(["band", "month", "hour", "lateness"]);
const AS_COLUMNS = new Set(["month", "hour", "lateness"]);
const NONE = "not given";
const HOURS = Array.from({ length: 24 }, (_, hour) => String(hour).padStart(2, "0"));

function note(state) {
	const day = state?.profiles?.day;
	return day && [h("span", { class: "legend load" }, `batch, ${day}`)];
}

function render(state) {
	const empty = emptyState("profiles");
	if (empty) return [empty];
	const aggregates = state?.profiles?.aggregates ?? [];
	if (!aggregates.length) return [nothing("No figures yet.", "batch_store")];
	const shown = aggregates.map(profile);
	const order = (each) => (each.wide ? 1 : 0);
	return [h("div", { class: "profiles" }, shown.sort((a, b) => order(a) - order(b)).map((each) => each.element))];
}

/** The values with their counts and their shares of all rows, of which not all values may have been sent. */
function rowsOf({ kind, total, values }) {
	const counts = new Map(values);
	const all = total ?? values.reduce((sum, [, count]) => sum + count, 0);
	let texts = [...counts.keys()];
	if (kind === "month") texts = withGaps(texts);
	else if (kind === "hour") texts = [...new Set([...HOURS, ...texts])];
	else if (!IN_ORDER.has(kind)) texts.sort((a, b) => counts.get(b) - counts.get(a));
	return texts.map((text) => {
		const count = counts.get(text) ?? 0;
		return { name: text ?? NONE, known: text !== null, count, share: all ? count / all : null };
	});
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

function profile({ name, kind, total, distinct, values }) {
	const rows = rowsOf({ kind, total, values: values ?? [] });
	const title = words(name);
	const wide = AS_COLUMNS.has(kind);
	const chart = !rows.length ? nothing("No rows.", "batch_store") : wide ? overTime(title, rows) : ranking(title, rows, kind, distinct ?? rows.length);
	const table = numbers(`profile-${name}`, title, [title, "Rows", "Share"], () => rows.map((row) => [row.name, row.count, percent(row.share)]));
	const different = distinct ?? rows.filter((row) => row.known).length;
	const note = kind === "band" || wide ? "" : plural(different, "value");
	const caption = h("figcaption", {}, h("h3", {}, title), h("span", { class: "note" }, note));
	return { wide, element: h("figure", { class: wide ? "profile wide" : "profile", "data-id": name }, caption, chart, table) };
}

function ranking(title, rows, kind, distinct) {
	const listed = kind === "band" || rows.length <= LISTED + 1 ? rows.slice(0, 12) : rows.slice(0, LISTED);
	const rest = distinct - listed.length;
	const left = Math.max(0, 1 - listed.reduce((sum, row) => sum + row.share, 0));
	const others = rest > 0 ? [{ name: plural(rest, "other"), rest: true, share: left }] : [];
	return shares({ label: title, rows: [...listed, ...others] });
}

function overTime(title, rows) {
	const bars = rows.map((row) => ({ label: row.name, value: row.count }));
	const ends = rows.length > 2 ? [0, Math.floor((rows.length - 1) / 2), rows.length - 1] : rows.map((_, index) => index);
	const ticks = ends.map((index) => ({ at: rows.length > 1 ? index / (rows.length - 1) : 0.5, text: rows[index].name }));
	return columns({ hue: "load", label: `${title}: ${plural(rows.length, "column")}, from ${rows[0].name} to ${rows.at(-1).name}`, bars, ticks });
}
