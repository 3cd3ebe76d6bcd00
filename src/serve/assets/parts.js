// Small pieces that several panels share.

import { h } from "./dom.js";
import { ago, exact, moment, since, DASH } from "./format.js";
import { advice, away, model, now, zone } from "./model.js";

const ICONS = {
	ok: "M3.5 8.5l3 3 6-7",
	busy: "M12.8 6A5 5 0 1 0 13 9M13 2.8V6H9.8",
	bad: "M8 2.4 14.3 13.4H1.7zM8 6.6v3M8 11.4v.1",
	empty: "M4 8h8",
	away: "M4.2 4.2l7.6 7.6M11.8 4.2l-7.6 7.6",
	locked: "M3.8 7.4h8.4v5.8H3.8zM5.8 7.2V5.4a2.2 2.2 0 0 1 4.4 0v1.8",
};

/** A shape for each level, so that colour is never alone. */
export function icon(level) {
	return h("svg", { viewBox: "0 0 16 16", class: `icon ${level}`, "aria-hidden": "true" }, h("path", { d: ICONS[level] ?? ICONS.empty }));
}

/** What stands where there is no value. */
export const none = (text) => h("span.none", {}, text);

/** A time as "2 minutes ago", which goes on counting; exact on hover. */
export function timeAgo(time) {
	if (typeof time !== "number") return none(DASH);
	return h("span", { title: moment(time, zone()), "data-ago": time }, ago(time, now()));
}

/** A point in time, exact on hover. */
export function timeAt(time) {
	if (typeof time !== "number") return none(DASH);
	return h("span", { title: moment(time, zone()) }, since(time, now(), zone()));
}

/** Lets all relative times go on. */
export function tick() {
	for (const element of document.querySelectorAll("[data-ago]")) {
		const text = ago(Number(element.dataset.ago), now());
		if (element.textContent !== text) element.textContent = text;
	}
}

/** A key of a record, which opens its explanation. */
export function keyButton(key) {
	return h("button", { class: "key", "data-explain": key, title: `Explain ${key}` }, key);
}

/** A command with a button that copies it. */
export function command(text) {
	return h("div.command", {}, h("code", {}, text), h("button", { class: "copy", "data-copy": text, "aria-label": `Copy: ${text}` }, "Copy"));
}

/** What fills the panel, with the commands; null if nothing is missing. */
export function emptyState(panel) {
	const steps = advice(panel);
	if (!steps.length) return null;
	return h(
		"div.advice",
		{},
		steps.map((step) => h("div", {}, h("p", {}, sentence(step.why)), command(step.command))),
	);
}

const sentence = (text) => `${String(text ?? "").replace(/^./u, (first) => first.toUpperCase())}.`.replace(/([.!?])\.$/, "$1");

/** Whether a server answers, so that what it does not have is not there. */
export const answers = (server) => model.state?.servers?.[server]?.up === true;

/** Says that there is nothing, if the server that would have it answers. */
export const nothing = (text, server) => h("p.nothing", {}, answers(server) ? text : "\u00a0");

/** A line for each server of the panel that does not answer. */
export function awayNotes(names) {
	return away(names).map((server) =>
		h("span", { class: "away-note", title: server.message }, icon("away"), ` ${server.name} away since `, timeAt(server.since)),
	);
}

/** A stage's or layer's name with its hue. */
export const hue = (stage, text) => h("span", { class: `hue ${stage}` }, text);

/** The numbers of a chart as a table, filled only while open. */
export function numbers(id, name, columns, rows) {
	return h(
		"details",
		{ class: "numbers", id: `${id}-numbers` },
		h("summary", {}, "Numbers", h("span.sr", {}, `: ${name.replace(/^./u, (first) => first.toLowerCase())}`)),
		// It scrolls, so the keyboard must reach it.
		h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, isOpen(id) && table(name, columns, rows())),
	);
}

const isOpen = (id) => document.getElementById(`${id}-numbers`)?.open === true;

function table(name, columns, rows) {
	return h(
		"table",
		{},
		h("caption", {}, name, h("button", { class: "copy", "data-copy": tsv(columns, rows), "aria-label": `Copy ${name} as a table` }, "Copy")),
		h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column)))),
		h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) => h(index ? "td" : "th", index ? {} : { scope: "row" }, shown(cell)))))),
	);
}

const shown = (cell) => (typeof cell === "number" ? exact(cell) : (cell ?? DASH));
const tsv = (columns, rows) => [columns, ...rows].map((row) => row.map((cell) => String(cell ?? "").replace(/[\t\n]/g, " ")).join("\t")).join("\n");
