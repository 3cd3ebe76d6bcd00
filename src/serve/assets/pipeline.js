// Pipeline: the stages with their last runs, the servers, and the heartbeat's checks.

import { h } from "./dom.js";
import { duration, words } from "./format.js";
import { emptyState, icon, nothing, timeAgo, timeAt } from "./parts.js";
import { SERVERS } from "./model.js";

export const panel = { id: "pipeline", servers: [], reads: (state) => [state?.pipeline], render };

const HUES = { fetch: "fetch", produce: "produce", stream: "stream", "load-batch": "load", verify: "verify", aggregate: "aggregate" };
const STATUS = { done: ["ok", "done"], running: ["busy", "running"], failed: ["bad", "failed"], never: ["empty", "never run"], unknown: ["empty", "not known yet"] };

function render(state) {
	const stages = state?.pipeline?.stages ?? Object.keys(HUES).map((name) => ({ name, status: "never" }));
	return [
		h("ol", { class: "stages", "aria-label": "Stages" }, stages.map((each) => stage(each, state))),
		emptyState("pipeline"),
		h("div.checks", {}, servers(state), heartbeat(state)),
	];
}

function stage(each, state) {
	const [level, text] = state ? (STATUS[each.status] ?? ["empty", each.status]) : ["empty", "\u00a0"];
	const ran = each.status !== "never" && typeof each.at === "number";
	return h(
		"li",
		{ class: `stage ${HUES[each.name] ?? "lag"}` },
		h("span.name", {}, each.name),
		h("span", { class: `status ${level}` }, state && icon(level), text),
		(ran || !each.note) && h("span.ran", {}, ran ? [timeAgo(each.at), typeof each.seconds === "number" && ` · ${duration(each.seconds)}`] : "\u00a0"),
		each.note && h("span", { class: "note", title: each.note }, each.note),
	);
}

function servers(state) {
	const rows = Object.entries(SERVERS).map(([name, text]) => ({ text, ...state?.servers?.[name] }));
	return h(
		"div.group",
		{},
		h("h3", {}, "Servers"),
		h(
			"ul.list",
			{},
			rows.map((server) => {
				const [level, said] = server.up === true ? ["ok", "answers"] : server.up === false ? ["away", "away"] : ["empty", "not asked yet"];
				return h(
					"li",
					{ class: server.up === false && "gone" },
					icon(level),
					h("b", {}, server.text),
					h("span.said", {}, said, typeof server.since === "number" && [" since ", timeAt(server.since)], server.up === false && server.message && `: ${server.message}`),
					h("code", {}, server.address),
				);
			}),
		),
	);
}

function heartbeat(state) {
	const checks = state?.pipeline?.heartbeat ?? [];
	return h(
		"div.group",
		{},
		h("h3", {}, "Heartbeat"),
		checks.length
			? h("ul.list", {}, checks.map(one))
			: nothing("Nothing has been checked yet.", "event_log"),
	);
}

function one({ check, ok, message }) {
	const level = ok ? "ok" : ok === false ? "bad" : "empty";
	const name = SERVERS[String(check).replace("-", "_")] ?? words(check);
	return h("li", { class: ok === false && "gone" }, icon(level), h("b", {}, name), h("span.said", {}, message));
}
