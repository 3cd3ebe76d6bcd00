// Profiles: what is in the data. Bars are the figures of `rtp aggregate`, dots those of the newest events.

import { h } from "./dom.js";
import { exact, percent, plural, words } from "./format.js";
import { columns, shares } from "./bars.js";
import { emptyState, nothing, numbers } from "./parts.js";

export const panel = { id: "profiles", servers: ["batch_store"], reads: (state) => [state?.profiles], render, note };

const LISTED = 6;
const IN_ORDER = new Set(["band", "month", "hour", "lateness"]);
const AS_COLUMNS = new Set(["month", "hour", "lateness"]);
const LATENESS = ["early", "under 1s", "under 1m", "under 10m", "under 1h", "under 1d", "1d or more"];
const UNBORN = "under 0";
const NONE = "not given";
const HOURS = Array.from({ length: 24 }, (_, hour) => String(hour).padStart(2, "0"));

function note(state) {
	const { day, live } = state?.profiles ?? {};
	return [day && h("span.legend.load", {}, `batch, ${day}`), live?.events > 0 && h("span.legend.stream.dots", {}, `live, the last ${plural(live.events, "event")}`)];
}

function render(state) {
	const { aggregates, live } = state?.profiles ?? {};
	const [batch, fast] = [aggregates, live?.aggregates].map((all) => new Map((all ?? []).map((each) => [each.name, each])));
	const names = [...new Set([...batch.keys(), ...fast.keys()])];
	const advice = emptyState("profiles");
	if (!names.length) return [advice ?? nothing("No figures yet.", "batch_store")];
	const shown = names.map((name) => profile(name, batch.get(name), fast.get(name)));
	const order = (each) => (each.wide ? 1 : 0);
	return [advice, h("div.profiles", {}, shown.sort((a, b) => order(a) - order(b)).map((each) => each.element))];
}

/** Counts of one side, and shares of all its rows. What was not sent is not known. */
function side({ values = [], total, distinct } = {}) {
	const counts = new Map(values);
	const all = total ?? values.reduce((sum, [, count]) => sum + count, 0);
	const count = (text) => counts.get(text) ?? (distinct > values.length ? null : 0);
	return { texts: [...counts.keys()], count, share: (text) => (all && count(text) !== null ? count(text) / all : null) };
}

/** The values of both sides. */
function rowsOf(kind, batch, live) {
	const [slow, fast] = [side(batch), side(live)];
	let texts = [...new Set([...slow.texts, ...fast.texts])];
	if (kind === "month") texts = withGaps(texts);
	else if (kind === "hour") texts = [...new Set([...HOURS, ...texts])];
	if (IN_ORDER.has(kind)) texts.sort((a, b) => place(kind, a) - place(kind, b) || (a ?? "").localeCompare(b ?? ""));
	else texts.sort((a, b) => slow.count(b) - slow.count(a) || fast.count(b) - fast.count(a));
	return texts.map((text) => ({ name: text ?? NONE, known: text !== null, count: (batch ? slow : fast).count(text), share: slow.share(text), live: fast.share(text) }));
}

/** The place of a value along its axis, after which come those without a value. */
function place(kind, text) {
	if (text === null) return Infinity;
	if (kind === "lateness") return LATENESS.indexOf(text) < 0 ? LATENESS.length : LATENESS.indexOf(text);
	if (kind === "band") return text === UNBORN ? -1 : parseInt(text, 10);
	return 0;
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
	const { kind, distinct } = batch ?? live;
	const rows = rowsOf(kind, batch, live);
	const title = words(name);
	const wide = AS_COLUMNS.has(kind);
	const chart = !rows.length ? nothing("No rows.", "batch_store") : wide ? overTime(title, rows, batch ? "load" : "stream") : ranking(title, rows, kind, distinct ?? rows.length);
	const table = numbers(`profile-${name}`, title, [title, batch ? "Rows" : "Events", "Batch", "Live"], () => rows.map((row) => [row.name, row.count, percent(row.share), percent(row.live)]));
	const note = kind === "band" || wide ? "" : plural(distinct ?? rows.filter((row) => row.known).length, "value");
	const caption = h("figcaption", {}, h("h3", {}, title), h("span.note", {}, note));
	return { wide, element: h("figure", { class: wide ? "profile wide" : "profile", "data-id": name }, caption, chart, table) };
}

function ranking(title, rows, kind, distinct) {
	const listed = kind === "band" || rows.length <= LISTED + 1 ? rows : rows.slice(0, LISTED);
	const rest = Math.max(distinct, rows.length) - listed.length; // the figures do not know what only the stream has
	const left = (part) => (rows.every((row) => row[part] === null) ? null : Math.max(0, 1 - listed.reduce((sum, row) => sum + row[part], 0)));
	const others = rest > 0 ? [{ name: plural(rest, "other"), rest: true, share: left("share"), live: left("live") }] : [];
	return shares({ label: title, rows: [...listed, ...others] });
}

function overTime(title, rows, hue) {
	const bars = rows.map((row) => ({ label: row.name, value: row.count }));
	const ends = rows.length > 2 ? [0, Math.floor((rows.length - 1) / 2), rows.length - 1] : rows.map((_, index) => index);
	const ticks = ends.map((index) => ({ at: rows.length > 1 ? index / (rows.length - 1) : 0.5, text: rows[index].name }));
	return columns({ hue, label: `${title}: ${plural(rows.length, "column")}, from ${rows[0].name} to ${rows.at(-1).name}`, bars, ticks });
}
