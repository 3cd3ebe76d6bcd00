// The server's state, the series of the chosen range, and what the viewer chose.

export const RANGES = [
	{ name: "15m", text: "15 min", words: "The last 15 minutes", ms: 900_000 },
	{ name: "1h", text: "1 h", words: "The last hour", ms: 3_600_000 },
	{ name: "24h", text: "24 h", words: "The last 24 hours", ms: 86_400_000 },
	{ name: "7d", text: "7 d", words: "The last 7 days", ms: 604_800_000 },
	{ name: "all", text: "all", words: "All that is kept", ms: null },
];
const FIRST = "1h";

export const SERVERS = { event_log: "event log", realtime_store: "real-time store", batch_store: "batch store" };

export const model = {
	state: null,
	series: null,
	range: rangeOfAddress(),
	/** If there are no states any more, in server time: {since, seen: of the last one or null, refused: for want of a token}. */
	lost: null,
	/** The time of what is shown, if not now. */
	paused: null,
	/** The server's clock minus ours, in ms. */
	ahead: 0,
};

export const zone = () => model.state?.zone || "UTC";

/** Now, by the server's clock; while paused, the moment of the pause. */
export const now = () => model.paused ?? Date.now() + model.ahead;

export function rangeNamed(name) {
	return RANGES.find((range) => range.name === name) ?? null;
}

function rangeOfAddress() {
	return rangeNamed(new URLSearchParams(location.search).get("range")) ?? rangeNamed(FIRST);
}

/** Keeps the range in the address, so that a view can be shared. */
export function chooseRange(range) {
	model.range = range;
	const address = new URL(location.href);
	address.searchParams.set("range", range.name);
	history.replaceState(null, "", address);
}

/** Applies a JSON merge patch (RFC 7396) and returns the result; neither argument is changed. */
export function merge(target, patch) {
	if (!isObject(patch)) return patch;
	const merged = new Map(isObject(target) ? Object.entries(target) : []);
	for (const [key, value] of Object.entries(patch)) {
		if (value === null) merged.delete(key);
		else merged.set(key, merge(merged.get(key), value));
	}
	return Object.fromEntries(merged);
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Those of the named servers that do not answer. */
export function away(names) {
	return names.map((name) => ({ name: SERVERS[name], ...model.state?.servers?.[name] })).filter((server) => server.up === false);
}

/** What an empty panel says: the commands that fill it. */
export const advice = (panel) => (model.state?.next ?? []).filter((step) => step.panel === panel);
