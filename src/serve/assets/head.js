// The top of the page: the sentence, the four numbers, the ranges, the clock.

import { $, fill, h } from "./dom.js";
import { count, duration, exact, moment, short, since, plural, DASH } from "./format.js";
import { icon } from "./parts.js";
import { away, model, now, RANGES, zone } from "./model.js";

const KINDS = { ok: "In order", busy: "At work", bad: "Look here", empty: "Empty", away: "Away", locked: "Locked" };

export function drawHead(state) {
	$("#dataset").textContent = state?.dataset ?? "";
	drawSentence(state);
	fill($("#headline"), headline(state));
	drawRanges();
	drawPause();
	drawClock();
	fill($("#foot"), foot(state));
}

function drawSentence(state) {
	const { level, text } = sentence(state);
	const place = $("#sentence");
	if (place.dataset.level !== level) place.dataset.level = level;
	fill($("#kind"), level !== "none" && [icon(level), KINDS[level]]);
	const words = $("#words");
	if (words.textContent !== text) words.textContent = text;
	announce(level, text);
	drawTitle();
}

let announced = "";

/** Tells a screen reader the level and its cause when they change, not each second that the sentence counts. */
function announce(level, text) {
	const calm = ["ok", "busy", "empty"].includes(level);
	// While something is wrong, how far the stream is behind is no news.
	const cause = calm ? "" : text.replace(/; the stream\b.*/, "").replace(/[\d\u202f.,:]+\s*(s|minutes?|hours?|days?)?\b/g, "#");
	if (level === "none" || `${level} ${cause}` === announced) return;
	announced = `${level} ${cause}`;
	$("#said").textContent = `${KINDS[level]}: ${text}`;
}

/** The name of the tab. A hidden page hears of nothing, so it must not look as if all were in order. */
export function drawTitle() {
	const { level } = sentence(model.state);
	const kind = document.hidden ? "Paused while hidden: " : level === "ok" || level === "none" ? "" : `${KINDS[level]}: `;
	const dataset = model.state?.dataset;
	document.title = `${kind}${dataset ? `${dataset} · ` : ""}rtp dashboard`;
}

function sentence(state) {
	if (model.lost !== null) return lost(model.lost);
	const said = state?.sentence;
	if (!said?.text) return { level: "none", text: state ? "No word about the pipeline." : "Connecting…" };
	// A level of a newer server is not guessed.
	return { level: Object.hasOwn(KINDS, said.level) ? said.level : "none", text: said.text.replace(/(\d) (?=(s|min|h|d)\b)/g, "$1\u00a0").replace(/(\d),(?=\d{3})/g, "$1\u202f") };
}

/** Why there is no state, and what to do. */
function lost({ since: from, seen, refused }) {
	const time = (at) => since(at, now(), zone());
	const old = seen === null ? "" : `The numbers are from ${time(seen) === time(from) && !refused ? "then" : time(seen)}; `;
	if (refused) {
		const why = seen === null ? "needs its token" : "needs its token again, because it is no longer the one that this browser has shown";
		return { level: "locked", text: `The dashboard ${why}: open ${location.origin}/?token=TOKEN once, with the token in place of TOKEN. ${old || "Then "}this page goes on by itself.` };
	}
	return { level: "away", text: `The dashboard's server has not answered since ${time(from)}. ${old ? `${old}this page comes back by itself.` : "This page tries again by itself."}` };
}

function headline(state) {
	const numbers = state?.headline ?? {};
	const rows = numbers.rows ?? {};
	const records = numbers.lag_records;
	const behind = numbers.lag_seconds ?? (records === 0 ? 0 : null);
	return [
		number("ingestion", "Events a second", [["event_log", numbers.events_per_second, short]], "into the event log"),
		number("ingestion", "Behind", [["event_log", behind, duration, duration]], typeof records === "number" && `${plural(records, "record")} to go`),
		number("layers", "Rows", [
			["realtime_store", rows.realtime?.count, () => count(rows.realtime, large), exact, "real time", "stream"],
			["batch_store", rows.batch?.count, () => count(rows.batch, large), exact, "batch", "load"],
		]),
		number("ingestion", "Dead letters", [["event_log", numbers.dead_letters, short]], "events that broke a rule"),
	];
}

// A difference of one row must be visible, so the counts stay exact as long as there is room.
const large = (value) => (value < 1e8 ? exact(value) : short(value));

/** A number that links to its panel. `values`: [server, value, short form, exact form, name, hue]. */
function number(panel, label, values, under) {
	return h(
		"li",
		{},
		h(
			"a",
			{ href: `#${panel}` },
			h("span.label", {}, label),
			h(
				"span.values",
				{},
				values.map(([server, value, how, whole = exact, name, hue]) => {
					const gone = model.lost !== null || away([server]).length > 0;
					const [text, full] = [how(value), whole(value)];
					const hidden = text.replace("≈", "").trim() !== full && typeof value === "number";
					return h(
						"span",
						{ class: gone ? "value stale" : "value" },
						h("span", { class: "figure", "data-tip": hidden ? full : null }, text),
						hidden && h("span.sr", {}, ` (${full})`),
						name && h("span", { class: `hue ${hue}` }, name),
					);
				}),
			),
			under && h("span.under", {}, under),
		),
	);
}

function drawRanges() {
	fill(
		$("#ranges"),
		RANGES.map((range, index) =>
			h(
				"button",
				{ "data-range": range.name, "aria-pressed": String(range === model.range), title: `${range.words} (${index + 1})` },
				range.text,
			),
		),
	);
}

function drawPause() {
	const button = $("#pause");
	const paused = model.paused !== null;
	button.setAttribute("aria-pressed", String(paused));
	button.title = paused ? "Go on (space)" : "Pause (space)";
}

export function drawClock() {
	const paused = model.paused !== null;
	const time = model.state ? since(now(), Date.now() + model.ahead, zone(), true) : "--:--:--";
	fill(
		$("#clock"),
		paused && h("strong", {}, "paused "),
		h("span", { title: moment(now(), zone()) }, time),
		h("span.zone", {}, ` ${model.state ? zone() : ""}`),
	);
}

function foot(state) {
	return [
		h("span", {}, `rtp ${state?.rtp ?? DASH}`),
		h("span", {}, state?.started ? `collecting since ${since(state.started, now(), zone())} ${zone()}` : "not connected yet"),
		h("span", {}, "Read-only. Press ", h("kbd", {}, "?"), " for the keys."),
	];
}
