// Events a second of each stage, how far the stream is behind, and the dead letters, over one time axis.

import { h } from "./dom.js";
import { duration, exact, moment, plural, short, since, words, DASH } from "./format.js";
import { emptyState, keyButton, nothing, numbers, timeAgo } from "./parts.js";
import { model, now, zone } from "./model.js";
import { deadLetters, lacksLetters } from "./series.js";
import { build } from "./strips.js";

const rate = (value) => (typeof value === "number" ? `${short(value)}\u202f/s` : DASH);
const MEASURES = [
	...["produce", "stream", "load"].map((name) => {
		const of = (it) => it.rates?.[name];
		return { text: name, hue: name, how: rate, live: of, of };
	}),
	{ text: "lag, records", hue: "lag", how: short, live: (it) => it.lag?.records, of: (it) => it.lag_records },
	{ text: "lag, time", hue: "lag", how: duration, live: (it) => it.lag?.seconds, of: (it) => it.lag_seconds },
	{ text: "dead letters", hue: "dead" },
];
const LISTED = 3;

const keep = h("div", { class: "strips", "data-keep": "strips" });
const readout = h("span", { class: "readout", "data-keep": "readout" });
let strips = null;
let cursor = null;
let shown = [];

export const panel = { id: "ingestion", servers: ["event_log"], render, note: () => [readout], redraw: () => strips?.redraw(), fit: (width) => strips?.fit(width) };

function render(state) {
	if (!strips) {
		strips = build(keep, MEASURES, (index) => {
			cursor = index;
			label(model.state?.ingestion ?? {});
		});
	}
	const letters = deadLetters();
	draw(letters, state?.ingestion ?? {});
	label(state?.ingestion ?? {});
	const advice = emptyState("ingestion");
	return [keep, advice, letters.length || !advice ? letterList(letters) : null, table()];
}

/** The range on the axis, in seconds; of "all", from the first time that is known. */
function bounds(times) {
	const end = now() / 1000;
	const start = model.range.ms === null ? Math.min(times[0] ?? end - 900, end - 60) : end - model.range.ms / 1000;
	return [start, end];
}

function draw(letters, ingestion) {
	const series = model.series ?? {};
	const times = (series.t ?? []).map((time) => time / 1000);
	shown = MEASURES.map((measure) => measure.of?.(series) ?? null);
	const [from, to] = bounds(times);
	strips.show(times, shown, from, to, letters.map((letter) => letter.at / 1000));
	MEASURES.forEach((measure, index) => {
		const values = shown[index]?.filter((value, at) => typeof value === "number" && times[at] >= from);
		strips.notes[index].textContent = values?.length ? `peak ${measure.how(values.reduce((most, value) => Math.max(most, value), 0))}` : "";
	});
	const never = (measure, index) => measure.of && typeof measure.live(ingestion) !== "number" && !shown[index]?.some((value) => typeof value === "number");
	MEASURES.forEach((measure, index) => (strips.rows[index].hidden = model.state !== null && never(measure, index)));
	const inside = letters.filter((letter) => letter.at / 1000 >= from).length;
	strips.notes[MEASURES.length - 1].textContent = inside ? (lacksLetters(from * 1000) ? "or more in this range" : "in this range") : "";
	strips.values[MEASURES.length - 1].textContent = inside || exact(model.state?.headline?.dead_letters && inside);
}

/** The numbers beside the strips: at the cursor, or now. */
function label(ingestion) {
	const times = model.series?.t ?? [];
	const at = cursor === null ? undefined : times[cursor];
	MEASURES.slice(0, -1).forEach((measure, index) => {
		const value = at === undefined ? measure.live(ingestion) : shown[index]?.[cursor];
		strips.values[index].textContent = measure.how(value);
		strips.values[index].title = exact(value);
	});
	keep.classList.toggle("past", at !== undefined);
	readout.textContent = at === undefined ? "" : `${moment(at, zone())}${near(at)}`;
}

/** The dead letters at the cursor, in words. */
function near(time) {
	const [from, to] = bounds(model.series.t.map((each) => each / 1000));
	const reach = Math.max(500, ((to - from) * 1000) / 150);
	const letters = deadLetters().filter((letter) => Math.abs(letter.at - time) <= reach);
	if (!letters.length) return "";
	const first = letters.reduce((best, letter) => (Math.abs(letter.at - time) < Math.abs(best.at - time) ? letter : best));
	return ` · ${letters.length > 1 ? `${plural(letters.length, "dead letter")}, one of them: ` : "dead letter: "}${reason(first)}`;
}

/** The message, whose own words for the field and the rule are shown before it. */
function reason({ field, rule, message }) {
	const rest = [`field ${field}: `, `${rule}: `].reduce((text, known) => (text.startsWith(known) ? text.slice(known.length) : text), message ?? "");
	return [field && words(field), rest].filter(Boolean).join(": ");
}
/** Of an event in the topic, or of a line that a command has read. */
const place = ({ partition, offset }) => (partition == null ? `byte ${exact(offset)} of the input` : `partition ${partition}, offset ${exact(offset)}`);

function letterList(letters) {
	if (!letters.length) return nothing("No dead letters: no event has broken a rule.", "event_log");
	return h(
		"ol",
		{ class: "letters", "aria-label": "The latest dead letters" },
		letters.slice(0, LISTED).map((letter) =>
			h(
				"li",
				{},
				h("span.when", {}, timeAgo(letter.at)),
				h("span.what", {}, h("span.rule", {}, letter.rule ?? "rule"), " ", reason(letter)),
				h("span.where", {}, typeof letter.key === "string" && letter.key ? keyButton(letter.key) : place(letter)),
			),
		),
	);
}

function table() {
	const series = model.series;
	const rows = () => {
		const over = (series?.t ?? []).map((time, index) => [
			since(time, now(), zone(), true),
			...MEASURES.slice(0, -1).map((measure) => measure.of(series)?.[index] ?? null),
		]);
		return over.slice(-400).reverse();
	};
	const letters = () => deadLetters().map((letter) => [moment(letter.at, zone()), place(letter), letter.rule, letter.field, letter.message, letter.key]);
	const partitions = () => (model.state?.ingestion?.lag?.partitions ?? []).map(([partition, records]) => [String(partition), records]);
	return h(
		"div.tables",
		{},
		numbers("rates", "Rates and lag over time", [`Time (${zone()})`, "Produce /s", "Stream /s", "Load /s", "Lag, records", "Lag, s"], rows),
		numbers("letters", "Dead letters", ["Time", "Place", "Rule", "Field", "Reason", "Key"], letters),
		numbers("partitions", "Lag by partition", ["Partition", "Records"], partitions),
	);
}
