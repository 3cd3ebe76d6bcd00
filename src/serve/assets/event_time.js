// Event time: when the events happened, and how long each took to arrive.

import { h } from "./dom.js";
import { clock, day, duration, moment, plural, sameDay } from "./format.js";
import { columns, position } from "./bars.js";
import { emptyState, nothing, numbers } from "./parts.js";
import { now, zone } from "./model.js";

export const panel = { id: "event_time", servers: ["event_log"], reads: (state) => [state?.event_time], render };

function render(state) {
	const data = state?.event_time;
	return [times(data, emptyState("event_time")), lateness(data)];
}

const sum = (counts) => counts.reduce((total, count) => total + (count ?? 0), 0);
const usable = (histogram) => histogram?.edges?.length === histogram?.counts?.length + 1 && histogram.counts.length > 0;

/** Without the empty bins at both ends, as long as a few are left. */
function trimmed({ edges, counts }) {
	const used = counts.flatMap((count, index) => (count ? index : []));
	const from = Math.max(0, Math.min(used[0] ?? 0, counts.length - 6));
	const to = Math.min(counts.length, Math.max((used.at(-1) ?? 0) + 1, from + 6));
	return { edges: edges.slice(from, to + 1), counts: counts.slice(from, to) };
}

function figure(name, note, chart, table) {
	return h("figure", {}, h("figcaption", {}, h("h3", {}, name), h("span.note", {}, note)), chart, table);
}

function times(data, advice) {
	const histogram = data?.histogram;
	if (!usable(histogram)) return figure("When events happened", "", advice ?? waiting(), null);
	const { edges, counts } = histogram;
	const total = sum(counts);
	const range = edges.at(-1) - edges[0];
	// Of another day than today, the first tick at least says which.
	const dated = (time, index) => range > 2 * 86_400_000 || (index === 0 && !sameDay(time, now(), zone()));
	const timed = (time) => range <= 2 * 86_400_000 && clock(time, zone(), range < 600_000);
	const at = (index) => [dated(edges[index], index) && day(edges[index], zone(), now()), timed(edges[index])].filter(Boolean).join(", ");
	const span = (index) => {
		const [from, to] = [edges[index], edges[index + 1]];
		return `${moment(from, zone())} to ${sameDay(from, to, zone()) ? clock(to, zone()) : moment(to, zone())}`;
	};
	const bars = counts.map((value, index) => ({ label: span(index), value }));
	const middle = Math.floor(counts.length / 2);
	const ticks = [0, middle, counts.length].map((index) => ({ at: index / counts.length, text: at(index) }));
	const label = `Event times of ${plural(total, "event")}, from ${moment(edges[0], zone())} to ${moment(edges.at(-1), zone())}`;
	const rows = () => counts.map((value, index) => [moment(edges[index], zone()), moment(edges[index + 1], zone()), value]);
	return figure("When events happened", plural(total, "event"), columns({ hue: "produce", label, bars, ticks }), numbers("times", "Event times", ["From", "To", "Events"], rows));
}

/** The part without a lower edge: events that arrived before their own time. */
const early = (to) => (to === 0 ? "early" : `under ${duration(to)}`);

function lateness(data) {
	const histogram = data?.lateness;
	const name = "Lateness: arrival minus event time";
	if (!usable(histogram)) return figure(name, "", waiting(), null);
	const { edges, counts } = trimmed(histogram);
	const span = (index) => {
		const [from, to] = [edges[index], edges[index + 1]];
		if (from === null) return early(to);
		return to === null ? `over ${duration(from)}` : `${duration(from)} to ${duration(to)}`;
	};
	const bars = counts.map((value, index) => ({ label: span(index), value }));
	const marks = [
		{ text: `p50 ${duration(data.lateness.p50)}`, at: position(data.lateness.p50, edges), row: 0 },
		{ text: `p99 ${duration(data.lateness.p99)}`, at: position(data.lateness.p99, edges), row: 1 },
	].filter((mark) => mark.at !== null);
	const step = Math.max(1, Math.ceil(edges.length / 5));
	const ticks = edges.map((edge, index) => ({ at: index / counts.length, text: edge !== null ? duration(edge) : index ? "∞" : early(edges[1]), index })).filter((tick) => tick.index % step === 0);
	const label = `Lateness of ${plural(sum(counts), "event")}: half within ${duration(data.lateness.p50)}, 99 of 100 within ${duration(data.lateness.p99)}`;
	const rows = () => counts.map((value, index) => [span(index), value]);
	return figure(name, `half within ${duration(data.lateness.p50)}`, columns({ hue: "stream", label, bars, marks, ticks }), numbers("lateness", "Lateness", ["Lateness", "Events"], rows));
}

const waiting = () => h("div.columns.waiting", {}, nothing("No event with a time yet.", "event_log"));
