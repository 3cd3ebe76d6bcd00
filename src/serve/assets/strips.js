// The strips of the ingestion panel: a small uPlot a measure, one time axis, one cursor.

import { h } from "./dom.js";
import { clock, day } from "./format.js";
import { now, zone } from "./model.js";

const STRIP = 38;
const LAST = 54; // with the marks and the axis under it

/** A colour of the stylesheet, resolved for the theme. */
function colour(name, strength = "100%") {
	probe.style.color = `color-mix(in srgb, var(${name}) ${strength}, transparent)`;
	return getComputedStyle(probe).color;
}
const probe = h("span", { hidden: true, "aria-hidden": "true" });
document.body.append(probe);

/** Builds the strips into `place`. `measures`: [{hue, text}]; the last is that of the marks. `onCursor(index)` gets
 * null when the cursor leaves. */
export function build(place, measures, onCursor) {
	const strips = measures.map((measure) => strip(measure, measures, onCursor));
	const frame = h("div", { class: "frame", tabindex: "0", role: "group", "aria-label": "Charts over time: the left and right arrow keys move the cursor" });
	frame.append(...strips.map((strip) => strip.row));
	place.append(frame);
	let cursor = null;

	const fit = (given) => {
		for (const { plot, height, row } of strips) {
			const width = given ?? row.querySelector(".chart").clientWidth;
			if (width && Math.abs(plot.width - width) > 0.5) plot.setSize({ width, height });
		}
	};
	new ResizeObserver(() => fit()).observe(frame);

	const move = (index) => {
		const { plot } = strips[0];
		const times = plot.data[0] ?? [];
		if (!times.length) return;
		cursor = index === null ? null : Math.max(0, Math.min(times.length - 1, index));
		const left = cursor === null ? -10 : plot.valToPos(times[cursor], "x");
		for (const strip of strips) strip.plot.setCursor({ left, top: cursor === null ? -10 : 4 });
		onCursor(cursor);
	};
	frame.addEventListener("keydown", (event) => {
		const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
		const times = strips[0].plot.data[0] ?? [];
		if (step === undefined) return;
		event.preventDefault();
		move((cursor ?? (step > 0 ? -1 : times.length)) + step);
	});
	frame.addEventListener("blur", () => move(null));

	return {
		/** Shows these columns, each with its largest value, from `from` to `to` (s). */
		show(times, columns, from, to, marks) {
			strips.forEach(({ plot }, index) => {
				plot.marks = index === strips.length - 1 ? marks : [];
				plot.bounds = [from, to];
				plot.setData([times, columns[index] ?? times.map(() => null)]);
			});
		},
		/** Takes the width that there is, or this one. */
		fit,
		redraw: () => strips.forEach(({ plot }) => plot.redraw(false)),
		rows: strips.map((strip) => strip.row),
		values: strips.map((strip) => strip.value),
		notes: strips.map((strip) => strip.note),
	};
}

function strip(measure, measures, onCursor) {
	const last = measure === measures.at(-1);
	const chart = h("div.chart", {});
	const value = h("span.value", {});
	const note = h("span.peak", {});
	const row = h("div", { class: last ? "strip last" : "strip" }, h("span", { class: `name hue ${measure.hue}` }, measure.text), chart, h("span.now", {}, value, note));
	const height = last ? LAST : STRIP;
	const options = {
		width: 300,
		height,
		padding: [4, 0, last ? 0 : 2, 0],
		legend: { show: false },
		cursor: { sync: { key: "rtp", setSeries: false }, y: false, drag: { x: false, y: false, setScale: false }, points: { size: 6, width: 0 } },
		tzDate: (time) => globalThis.uPlot.tzDate(new Date(time * 1000), zone()),
		scales: { x: { time: true, range: (plot) => plot.bounds ?? [0, 1] }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(1e-9, high ?? 0)] } },
		axes: [last ? axis() : { show: false }, { show: false }],
		series: [{}, last ? marked() : line(measure.hue)],
		hooks: {
			setCursor: [(plot) => plot.cursor.left >= 0 && onCursor(plot.cursor.idx)],
			draw: [(plot) => ground(plot, measure, last)],
		},
	};
	const plot = new globalThis.uPlot(options, [[], []], chart);
	chart.addEventListener("mouseleave", () => onCursor(null));
	chart.setAttribute("aria-hidden", "true"); // the numbers beside it and the table say the same
	return { row, plot, value, note, height };
}

const line = (hue) => ({
	stroke: () => colour(`--${hue}`),
	fill: () => colour(`--${hue}`, "13%"),
	width: 1.5,
	points: { show: false },
});

const marked = () => ({ stroke: () => "transparent", width: 0, points: { show: false } });

function axis() {
	return {
		size: 26,
		gap: 4,
		font: '11px Inter, system-ui, sans-serif',
		stroke: () => colour("--dim"),
		grid: { show: false },
		ticks: { show: true, size: 4, width: 1, stroke: () => colour("--line") },
		space: 74,
		values: (plot, splits) => {
			const span = splits.length > 1 ? splits.at(-1) - splits[0] : 0;
			const step = splits.length > 1 ? splits[1] - splits[0] : 60;
			// A label that would be cut off at an end is left out.
			const whole = (time) => Math.min(plot.valToPos(time, "x"), plot.width - plot.valToPos(time, "x")) > 20;
			return splits.map((time) => (whole(time) ? label(time * 1000, step, span) : ""));
		},
	};
}

function label(time, step, span) {
	const at = clock(time, zone(), step < 60);
	const date = day(time, zone(), now());
	return step >= 86_400 || (span > 86_400 && at === "00:00") ? date : at;
}

/** The line that a strip stands on; in the last one, the dead letters on it. */
function ground(plot, measure, last) {
	const { ctx, bbox } = plot;
	const ratio = globalThis.devicePixelRatio || 1;
	ctx.save();
	ctx.fillStyle = colour("--line");
	ctx.fillRect(bbox.left, bbox.top + bbox.height - Math.round(ratio), bbox.width, Math.max(1, Math.round(ratio)));
	if (last) {
		ctx.fillStyle = colour(`--${measure.hue}`);
		for (const [time, number] of columnsOf(plot, plot.marks ?? [], ratio)) {
			const tall = Math.min(bbox.height, (6 + 6 * Math.log2(number)) * ratio);
			ctx.fillRect(time - ratio, bbox.top + bbox.height - tall, 2 * ratio, tall);
		}
	}
	ctx.restore();
}

/** Marks by their pixel, with how many there are: a mark is never hidden by another one. */
function columnsOf(plot, times, ratio) {
	const columns = new Map();
	for (const time of times) {
		const x = plot.valToPos(time, "x", true);
		if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
		const column = Math.round(x / (3 * ratio)) * 3 * ratio;
		columns.set(column, (columns.get(column) ?? 0) + 1);
	}
	return columns;
}
