// Charts of bars, made of elements: they resize by themselves, print, and need no canvas.

import { h } from "./dom.js";
import { exact, percent } from "./format.js";

const DENSE = 80; // with more columns, gaps between them would be uneven

/** Columns side by side. `bars`: [{label, value}], with shares also {share, dot: share of the live events}; `marks`: [{at: 0..1, text}], `ticks`: [{at: 0..1, text}]. */
export function columns({ hue, label, bars, marks = [], ticks = [] }) {
	const height = (bar) => bar.share ?? bar.value ?? 0;
	const most = bars.reduce((most, bar) => Math.max(most, height(bar), bar.dot ?? 0), 1e-9);
	return h(
		"div",
		{ class: `columns ${hue}`, role: "img", "aria-label": label },
		h(
			"div",
			{ class: ["plot", marks.length && "marks", bars.length > DENSE && "dense"].filter(Boolean).join(" ") },
			bars.map((bar) =>
				h(
					"i",
					{ title: `${bar.label}: ${exact(bar.value)}`, css: { "--v": share(height(bar), most) } },
					typeof bar.dot === "number" && h("u", { css: { "--v": share(bar.dot, most) } }),
				),
			),
			marks.map((mark) => h("b", { class: mark.at > 0.7 ? "mark left" : "mark", css: { "--x": `${(mark.at * 100).toFixed(2)}%`, "--row": String(mark.row ?? 0) } }, h("span", {}, mark.text))),
		),
		h("div", { class: "ticks" }, ticks.map((tick) => h("span", { class: tick.at < 0.04 ? "first" : tick.at > 0.96 ? "last" : null, css: { "--x": `${(tick.at * 100).toFixed(2)}%` } }, tick.text))),
	);
}

/** What is in it, as shares: a bar for the batch layer's figures, a dot for those since the dashboard runs. */
export function shares({ label, rows }) {
	// Several values together are no bar: beside single ones it would only look like the largest of them.
	const most = Math.max(0.0001, ...rows.filter((row) => !row.rest).flatMap((row) => [row.batch ?? 0, row.live ?? 0]));
	return h(
		"ul",
		{ class: "shares", "aria-label": label },
		rows.map((row) =>
			h(
				"li",
				{ title: title(row) },
				h("span", { class: row.known ? "name" : "name unknown" }, row.name),
				h(
					"span",
					{ class: "track", "aria-hidden": "true" },
					!row.rest && h("i", { css: { "--v": share(row.batch, most) } }),
					!row.rest && row.live !== null && h("b", { css: { "--v": share(row.live, most) } }),
				),
				h("span", { class: "share" }, percent(row.batch ?? row.live)),
				row.live !== null && row.batch !== null && h("span", { class: "sr" }, `; live ${percent(row.live)}`),
			),
		),
	);
}

const title = (row) =>
	[
		row.batch === null || row.rest ? null : `${row.name}: ${exact(row.count)} (${percent(row.batch)})`,
		row.live === null || row.rest ? null : `live: ${exact(row.liveCount)} (${percent(row.live)})`,
	]
		.filter(Boolean)
		.join("; ");

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

