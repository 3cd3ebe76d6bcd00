// Both layers side by side, the last verdict, how the verdicts went, and what differs.

import { h } from "./dom.js";
import { count, duration, exact, moment, plural, words, DASH } from "./format.js";
import { answers, emptyState, hue, icon, keyButton, none, nothing, numbers, timeAgo, timeAt } from "./parts.js";
import { away, model, zone } from "./model.js";

export const panel = { id: "layers", servers: ["realtime_store", "batch_store"], reads: (state) => [state?.layers, model.series], render };

const TREND = 48;
const SAMPLES = 4;

function render(state) {
	const layers = state?.layers ?? {};
	const advice = emptyState("layers");
	const compared = advice && !layers.verdict ? [] : [verdict(layers), trend(layers)];
	return [sides(layers), advice, compared, tables(layers)];
}

function sides({ realtime, batch }) {
	const gone = (name) => (away([name]).length ? "stale" : null);
	const [fast, slow] = [gone("realtime_store"), gone("batch_store")];
	const row = (name, left, right) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: fast }, left), h("td", { class: slow }, right));
	const load = batch?.last_load;
	return h(
		"table.sides",
		{},
		h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, hue("stream", "real time")), h("th", { scope: "col" }, hue("load", "batch")))),
		h(
			"tbody",
			{},
			row("rows", h("strong", { title: estimate(realtime) }, count(realtime)), h("strong", { title: estimate(batch) }, count(batch))),
			row("last write", timeAgo(realtime?.last_write), timeAgo(batch?.last_write)),
			row("newest record loaded", none("streams"), timeAt(batch?.boundary)),
			row("last load", none("streams"), load ? loaded(load) : none(answers("batch_store") ? "none yet" : DASH)),
		),
	);
}

const loaded = (load) => [h("span", { title: `run ${load.run_id}` }, `${load.mode}, ${exact(load.written)} written, `), timeAgo(load.loaded_at)];
const estimate = (layer) => (layer?.exact === false ? "An estimate: an exact count would cost a scan" : null);
const total = (verdict) => Object.values(verdict?.classes ?? {}).reduce((sum, number) => sum + number, 0);

function verdict(layers) {
	const last = layers.verdict;
	if (!last) return h("div.verdict", {}, nothing("No verdict yet: rtp verify compares the two.", "batch_store"));
	const differ = total(last);
	const text = last.agrees ? (differ ? `Both layers agree; ${plural(differ, "difference")} explained` : "Both layers agree") : differences(last, layers.classes ?? []);
	const [left, right] = last.rows ?? [];
	const took = duration((last.ended_at - last.started_at) / 1000);
	return h(
		"div",
		{ class: last.agrees ? "verdict agrees" : "verdict differs" },
		h(
			"p.judged",
			{},
			icon(last.agrees ? "ok" : "bad"),
			h("strong", {}, text),
			h("span.note", {}, "checked ", timeAgo(last.ended_at), ` in ${took}: ${exact(left)} against ${exact(right)} rows`, comparedWith(last)),
		),
		classes(last, layers.classes ?? []),
		columnsThatDiffer(last),
	);
}

/** What was tolerated or compared in addition. */
const comparedWith = (each) => (each.options?.length ? `, compared with ${each.options.join(" ")}` : "");

/** Whether a difference of this class fails; of an unknown class, it does if the verdict says so. */
const fails = (name, last, known) => known.find((each) => each.name === name)?.fails ?? !last.agrees;

function differences(last, known) {
	const failing = Object.entries(last.classes ?? {}).reduce((sum, [name, number]) => sum + (fails(name, last, known) ? number : 0), 0);
	const all = total(last);
	if (!all) return "The layers do not agree, although no row differs";
	return `${plural(all, "key")} ${all === 1 ? "differs" : "differ"}` + (failing < all ? `; ${exact(failing)} should not` : "");
}

/** Those that fail come first; each with what it means and some of its keys. */
function classes(last, known) {
	const about = new Map(known.map((each) => [each.name, each]));
	const found = Object.entries(last.classes ?? {}).filter(([, number]) => number > 0);
	const bad = (name) => fails(name, last, known);
	found.sort((a, b) => bad(b[0]) - bad(a[0]) || b[1] - a[1]);
	if (!found.length) return null;
	return h(
		"ul",
		{ class: "classes", "aria-label": "Differences by class" },
		found.map(([name, number]) => {
			const keys = (last.samples?.[name] ?? []).slice(0, SAMPLES);
			return h(
				"li",
				{ class: bad(name) ? "fails" : null },
				h("span.number", {}, exact(number)),
				h(
					"span.class",
					{},
					h("b", {}, words(name)),
					!bad(name) && h("span.note", {}, " does not fail"),
					h("span.meaning", {}, about.get(name)?.meaning),
				),
				h("span.keys", {}, keys.map(keyButton), keys.length > 0 && number > keys.length && h("span.note", {}, `and ${exact(number - keys.length)} more`)),
			);
		}),
	);
}

function columnsThatDiffer(last) {
	const found = Object.entries(last.columns ?? {}).filter(([, number]) => number > 0).sort((a, b) => b[1] - a[1]);
	if (!found.length) return null;
	return h("p.note.by-column", {}, "by column: ", found.map(([name, number]) => `${name} ${exact(number)}`).join(", "));
}

/** All verdicts of the range and the last one, the oldest first. */
function verdicts(layers) {
	const all = new Map();
	for (const each of [...(model.series?.verdicts ?? []), layers.verdict]) if (each) all.set(`${each.run_id}/${each.ended_at}`, each);
	return [...all.values()].sort((a, b) => a.ended_at - b.ended_at).slice(-TREND);
}

function trend(layers) {
	const all = verdicts(layers);
	const most = Math.log2(2 + Math.max(0, ...all.map(total)));
	const bad = all.filter((each) => !each.agrees).length;
	const known = answers("batch_store") && model.series !== null;
	const label = all.length ? `${plural(all.length, "verdict")}, ${bad ? `${exact(bad)} of them with differences` : "all agree"}` : known ? "none in this range" : "not known yet";
	return h(
		"div.trend",
		{},
		h("h3", {}, "Verdicts"),
		h(
			"div",
			{ class: "row", role: "img", "aria-label": label },
			all.map((each) => {
				const title = `${moment(each.ended_at, zone())}: ${each.agrees ? "agree" : plural(total(each), "difference")}`;
				return h("i", { class: each.agrees ? "agrees" : "differs", title, css: { "--v": `${(Math.log2(1 + total(each)) / most) * 100}%` } });
			}),
		),
		h("span.note", {}, all.length || known ? label : "\u00a0"),
	);
}

function tables(layers) {
	const found = (each) => Object.entries(each.classes ?? {}).filter(([, number]) => number).map(([name, number]) => `${name} ${number}`);
	const row = (each) => [moment(each.ended_at, zone()), (each.agrees ? "agree" : "differ") + comparedWith(each), ...(each.rows ?? [null, null]), found(each).join(", ") || "none"];
	const rows = () => verdicts(layers).reverse().map(row);
	const samples = () => Object.entries(layers.verdict?.samples ?? {}).flatMap(([name, keys]) => keys.map((key) => [key, words(name)]));
	return h(
		"div.tables",
		{},
		numbers("verdicts", "Verdicts", ["Ended", "Verdict", "Real-time rows", "Batch rows", "Differences"], rows),
		numbers("samples", "Keys that differ", ["Key", "Class"], samples),
	);
}
