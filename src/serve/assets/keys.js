// The keyboard, and the list of its keys.

import { $, fill, h } from "./dom.js";
import { RANGES } from "./model.js";

const dialog = $("#keys");
const LIST = [
	[["1", "2", "3", "4", "5"], `time range: ${RANGES.map((range) => range.text).join(", ")}`],
	[["Space"], "pause, go on"],
	[["/"], "look a key up"],
	[["←", "→"], "move the cursor of the focused charts"],
	[["?"], "this list"],
	[["Esc"], "close"],
];
fill(
	dialog,
	h("header", {}, h("h2", { id: "keys-name", tabindex: "-1" }, "Keys"), h("button", { class: "close", "data-close": "keys" }, "Close")),
	h("dl", {}, LIST.map(([keys, text]) => h("div", {}, h("dt", {}, keys.map((key) => h("kbd", {}, key))), h("dd", {}, text)))),
);

export function openKeys() {
	if (!dialog.open) dialog.showModal();
	$("#keys-name").focus();
}

/** Calls the action of each key, unless somebody types or a dialog is open. */
export function listen({ range, pause, look }) {
	document.addEventListener("keydown", (event) => {
		if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
		if (document.querySelector("dialog[open]")) return;
		const target = event.target instanceof Element ? event.target : document.body;
		if (target.closest("input, textarea, select, [contenteditable]")) return;
		const act = action(event.key, target, { range, pause, look });
		if (!act) return;
		event.preventDefault();
		if (!event.repeat) act();
	});
}

function action(key, target, { range, pause, look }) {
	if (key === "/") return look;
	if (key === "?") return openKeys;
	// Space presses the button that has the focus.
	if (key === " ") return target.closest("button, a, summary, .scroll") ? null : pause;
	const chosen = /^[1-9]$/.test(key) ? RANGES[Number(key) - 1] : null;
	return chosen && (() => range(chosen));
}
