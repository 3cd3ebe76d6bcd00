// The server's events: a full state first, then patches. It comes back by itself, whatever went wrong. A page that nobody
// sees has no stream: a browser keeps at most six connections to a server, so the seventh tab would wait for ever.

import { merge } from "./model.js";

const PATIENCE = 3_000; // a reconnect within this is not worth a word
const SILENCE = 30_000; // patches come each second: this connection is dead
const RETRY = 2_000;
const RETRY_REFUSED = 10_000; // until somebody has shown the token, in whatever tab

/** Calls `onState` with each new state, `onHidden` when the page is hidden or seen again, and `onLost` with model.js's `lost`. */
export function follow({ onState, onLost, onHidden }) {
	let source = null;
	let state = null;
	let id = null;
	let seen = null;
	let shown = Date.now(); // since when somebody looks
	let last = shown;
	let told = false;
	let refused = false;
	let retry = null;

	function open() {
		close();
		if (document.hidden) return;
		const mine = (source = new EventSource("/api/v1/events"));
		mine.addEventListener("state", (event) => take(event, () => JSON.parse(event.data)));
		mine.addEventListener("patch", (event) => {
			// A patch after a gap would make a state that never was.
			if (state === null || Number(event.lastEventId) !== id + 1) return open();
			take(event, () => merge(state, JSON.parse(event.data)));
		});
		mine.onerror = () => {
			// The browser itself tries again, unless the answer was not a stream.
			if (mine.readyState !== EventSource.CLOSED) return void (refused = false);
			again();
			ask();
		};
	}

	function close() {
		clearTimeout(retry);
		retry = null;
		source?.close();
		source = null;
		state = null;
	}

	function again() {
		close();
		retry = setTimeout(open, refused ? RETRY_REFUSED : RETRY);
	}

	const lost = () => onLost({ since: Math.max(seen ?? 0, shown), seen, refused });

	/** Whether the server wants a token, which the stream itself does not tell. */
	async function ask() {
		const status = await fetch("/api/v1/state", { method: "HEAD", cache: "no-store" }).then((answer) => answer.status, () => null);
		if (source?.readyState === EventSource.OPEN) return;
		const before = refused;
		refused = status === 401;
		if (refused && !before) lost();
	}

	function take(event, read) {
		try {
			state = read();
		} catch (error) {
			console.warn("rtp: an event that is not JSON; connecting again", error);
			return again();
		}
		id = Number(event.lastEventId);
		seen = last = Date.now();
		told = refused = false;
		onState(state);
	}

	setInterval(() => {
		if (document.hidden) return;
		const quiet = Date.now() - last;
		const broken = source?.readyState !== EventSource.OPEN;
		if (!told && !refused && quiet > PATIENCE && broken) {
			told = true;
			lost();
		}
		if (quiet > SILENCE && !broken) {
			last = Date.now(); // once each such time
			open();
		}
	}, 500);
	document.addEventListener("visibilitychange", () => {
		if (document.hidden) {
			close();
		} else {
			shown = last = Date.now();
			open();
		}
		onHidden();
	});
	// A network that came back: no need to wait for the next try.
	addEventListener("online", open);
	addEventListener("pagehide", close);
	addEventListener("pageshow", (event) => event.persisted && source === null && open());
	open();
	onHidden();
}
