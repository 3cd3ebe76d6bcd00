// The side panel: one record's life, as `rtp explain` tells it.

import { $, fill, h } from "./dom.js";
import { grouped, moment, words, DASH } from "./format.js";
import { zone } from "./model.js";
import { none } from "./parts.js";

const dialog = $("#explain");
const input = h("input", { type: "search", id: "explain-key", name: "key", autocomplete: "off", spellcheck: "false", placeholder: "a key" });
const answer = h("div", { class: "answer", id: "explain-answer", "aria-live": "polite" });
const form = h(
	"form",
	{},
	h("label", { for: "explain-key" }, "Key"),
	h("span.field", {}, input, h("button", { type: "submit" }, "Explain")),
);
fill(
	dialog,
	h(
		"header",
		{},
		h("h2", { id: "explain-name", tabindex: "-1" }, "One record’s life"),
		h("button", { class: "close", "data-close": "explain" }, "Close"),
	),
	form,
	answer,
);
form.addEventListener("submit", (event) => {
	event.preventDefault();
	const key = input.value.trim();
	if (key) ask(key);
});

let asking = null;

/** Opens the panel, with a key's explanation or to type one. */
export function openExplain(key = null) {
	if (!dialog.open) dialog.showModal();
	if (key === null) {
		input.select();
		input.focus();
		return;
	}
	input.value = key;
	$("#explain-name").focus();
	ask(key);
}

async function ask(key) {
	asking?.abort();
	const mine = (asking = new AbortController());
	fill(answer, h("p.nothing", {}, "Looking in the log and both stores…"));
	let shown;
	try {
		const response = await fetch(`/api/v1/explain?key=${encodeURIComponent(key)}`, { signal: mine.signal, headers: { accept: "application/json" } });
		const body = parsed(await response.text());
		shown = body && typeof body === "object" ? story(body, response) : [status(response)];
	} catch (error) {
		if (error.name === "AbortError") return;
		shown = [h("p.problem", {}, "The dashboard's server does not answer. Try again when it is back.")];
	}
	if (mine === asking) fill(answer, shown);
}

const status = (response) => h("p.problem", {}, `The server answered with status ${response.status}.`);

function story(body, response) {
	const { summary, ...rest } = body;
	const said = summary ?? body.error?.message ?? body.error ?? body.message ?? body.detail;
	const heading = said && h("p", { class: response.ok ? "summary" : "problem" }, typeof said === "string" ? said : JSON.stringify(said));
	if (!response.ok && !summary) return [heading ?? status(response), h("p", {}, body.expected)];
	return [heading, Object.entries(rest).map(([name, value]) => section(name, value))];
}

function section(name, value) {
	if (!isObject(value) && !Array.isArray(value)) return h("dl", {}, h("dt", {}, words(name)), h("dd", {}, shown(name, value)));
	return h("section", {}, h("h3", {}, words(name)), shown(name, value));
}

// Marks a number's own text, because a JavaScript number has no 64 bits. No text of a record can begin with it.
const MARK = `${Math.random()}#`;
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;
const numeral = (value) => (typeof value === "string" && value.startsWith(MARK) ? value.slice(MARK.length) : null);

/** JSON with each number as its text, marked; null if it is not JSON. */
function parsed(text) {
	try {
		return JSON.parse(text.replace(TOKENS, (token) => (token[0] === '"' ? token : `"${MARK}${token}"`)));
	} catch {
		return null;
	}
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const TIME = /(^|_)(at|time|since|newest|until|boundary|modified)$/;

const OF_RECORD = new Set(["key", "values", "differences"]);

/** Any JSON value, readable; `inRow`: inside a record, whose values are shown as they are. */
function shown(name, value, inRow = false) {
	const isRow = inRow || OF_RECORD.has(name);
	if (value == null || value === "") return none(DASH);
	if (value === true) return isRow ? "true" : "yes";
	if (value === false) return isRow ? "false" : "no";
	const number = numeral(value);
	if (number !== null) return isRow ? number : TIME.test(name) && number > 1e11 ? h("span", { title: number }, moment(Number(number), zone())) : grouped(number);
	if (Array.isArray(value)) return list(name, value, isRow);
	if (isObject(value)) return fields(value, isRow);
	return h("span.text", {}, String(value));
}

function list(name, values, isRow) {
	if (!values.length) return none("none");
	if (values.every((value) => !isObject(value) && !Array.isArray(value))) return values.map((value, index) => [index > 0 && ", ", shown(name, value, isRow)]);
	return h("ol.cards", {}, values.map((value) => h("li", {}, shown(name, value, isRow))));
}

const fields = (value, isRow) => h("dl", {}, Object.entries(value).map(([name, inner]) => field(name, inner, isRow)));

function field(name, value, isRow) {
	const deep = isObject(value) || Array.isArray(value);
	return h("div", { class: deep && "deep" }, h("dt", {}, words(name)), h("dd", {}, shown(name, value, isRow)));
}
