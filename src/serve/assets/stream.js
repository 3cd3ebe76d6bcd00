// The server's events: a full state first, then patches. It comes back by itself, whatever went wrong.

import { merge } from "./model.js";

const PATIENCE = 3_000; // a reconnect within this is not worth a word
const SILENCE = 30_000; // patches come each second: this connection is dead
const RETRY = 2_000;

/** Calls `onState` with each new state, `onLost` with the time of the last one when the server stays away. */
export function follow({ onState, onLost }) {
	let source = null;
	let state = null;
	let id = null;
	let last = Date.now();
	let heard = last;
	let told = false;
	let retry = null;

	function open() {
		clearTimeout(retry);
		retry = null;
		source?.close();
		source = new EventSource("/api/v1/events");
		source.addEventListener("state", (event) => take(event, () => JSON.parse(event.data)));
		source.addEventListener("patch", (event) => {
			// A patch after a gap would make a state that never was.
			if (state === null || Number(event.lastEventId) !== id + 1) return open();
			take(event, () => merge(state, JSON.parse(event.data)));
		});
		source.onerror = () => {
			// The browser itself tries again, unless the answer was not a stream.
			if (source.readyState === EventSource.CLOSED) again();
		};
	}

	function again() {
		source?.close();
		state = null;
		retry ??= setTimeout(open, RETRY);
	}

	function take(event, read) {
		try {
			state = read();
		} catch (error) {
			console.warn("rtp: an event that is not JSON; connecting again", error);
			return again();
		}
		id = Number(event.lastEventId);
		last = heard = Date.now();
		told = false;
		onState(state);
	}

	setInterval(() => {
		const quiet = Date.now() - last;
		const broken = source.readyState !== EventSource.OPEN;
		if (!told && quiet > PATIENCE && broken) {
			told = true;
			onLost(heard);
		}
		if (quiet > SILENCE && !broken) {
			last = Date.now(); // once each such time
			open();
		}
	}, 500);
	// A machine that slept, or a network that came back: no need to wait for the next try.
	addEventListener("online", open);
	addEventListener("pagehide", () => source?.close());
	addEventListener("pageshow", (event) => event.persisted && open());
	open();
}
