// Charts of bars, made of elements: they resize by themselves, print, and need no canvas.

import { h } from "./dom.js";
import { exact, percent } from "./format.js";

const DENSE = 80; // with more columns, gaps between them would be uneven

/** Columns side by side. `bars`: [{label, value}], `marks`: [{at: 0..1, text}], `ticks`: [{at: 0..1, text}]. */
export function columns({ hue, label, bars, marks = [], ticks = [] }) {
	const most = bars.reduce((most, bar) => Math.max(most, bar.value ?? 0), 1e-9);
	return h(
		"div",
		{ class: `columns ${hue}`, role: "img", "aria-label": label },
		h(
			"div",
			{ class: ["plot", marks.length && "marks", bars.length > DENSE && "dense"].filter(Boolean).join(" ") },
			bars.map((bar) => h("i", { title: `${bar.label}: ${exact(bar.value)}`, css: { "--v": share(bar.value, most) } })),
			marks.map((mark) => h("b", { class: mark.at > 0.7 ? "mark left" : "mark", css: { "--x": `${(mark.at * 100).toFixed(2)}%`, "--row": String(mark.row ?? 0) } }, h("span", {}, mark.text))),
		),
		h("div.ticks", {}, ticks.map((tick) => h("span", { class: tick.at < 0.04 ? "first" : tick.at > 0.96 ? "last" : null, css: { "--x": `${(tick.at * 100).toFixed(2)}%` } }, tick.text))),
	);
}

/** Shares: a bar of the batch layer, a dot of the newest events. `rows`: [{name, known, count, share, live, rest}] */
export function shares({ label, rows }) {
	// Several values together would only look like the largest of them.
	const most = Math.max(0.0001, ...rows.map((row) => (row.rest ? 0 : Math.max(row.share, row.live))));
	return h(
		"ul",
		{ class: "shares", "aria-label": label },
		rows.map((row) =>
			h(
				"li",
				{ title: row.rest ? null : `${row.name}: ${exact(row.count)}, batch ${percent(row.share)}, live ${percent(row.live)}` },
				h("span", { class: row.known ? "name" : "name unknown" }, row.name),
				h(
					"span",
					{ class: "track", "aria-hidden": "true" },
					!row.rest && row.share !== null && h("i", { css: { "--v": share(row.share, most) } }),
					!row.rest && row.live !== null && h("b", { css: { "--v": share(row.live, most) } }),
				),
				h("span.share", {}, percent(row.share ?? row.live)),
				row.share !== null && row.live !== null && h("span.sr", {}, `; live ${percent(row.live)}`),
			),
		),
	);
}

const share = (value, most) => `${(Math.max(0, Math.min(1, (value ?? 0) / most)) * 100).toFixed(2)}%`;

/** Where a value lies on a histogram whose bins are equally wide on the page, as 0..1. */
export function position(value, edges) {
	const bins = edges.length - 1;
	if (typeof value !== "number" || bins < 1) return null;
	for (let bin = 0; bin < bins; bin++) {
		const [from, to] = [edges[bin] ?? -Infinity, edges[bin + 1] ?? Infinity];
		if (value > to) continue;
		const inside = Number.isFinite(from) && Number.isFinite(to) && to > from ? (value - from) / (to - from) : 0.5;
		return (bin + Math.max(0, Math.min(1, inside))) / bins;
	}
	return 1;
}
