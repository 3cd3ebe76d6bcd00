// Connects the server's states with the panels, and the viewer's clicks and keys with both.

import { $, fill } from "./dom.js";
import { drawClock, drawHead, drawTitle } from "./head.js";
import { openExplain } from "./explain.js";
import { listen, openKeys } from "./keys.js";
import { day } from "./format.js";
import { away, chooseRange, model, now, rangeNamed, zone } from "./model.js";
import { awayNotes, tick } from "./parts.js";
import { extend, refresh } from "./series.js";
import { follow } from "./stream.js";
import { panel as ingestion } from "./ingestion.js";
import { panel as eventTime } from "./event_time.js";
import { panel as layers } from "./layers.js";
import { panel as profiles } from "./profiles.js";
import { panel as pipeline } from "./pipeline.js";

const PANELS = [ingestion, eventTime, layers, profiles, pipeline];
let latest = null; // the newest state, which a pause does not show
let due = false;
let missed = false; // states, while the page was hidden

function draw() {
	due = false;
	const { state } = model;
	drawHead(state);
	for (const panel of PANELS) {
		const place = document.getElementById(panel.id);
		place.classList.toggle("stale", model.lost !== null || away(panel.servers).length > 0);
		if (!isNews(panel, place, state)) continue;
		fill($(":scope > header > .note", place), awayNotes(panel.servers), panel.note?.(state));
		fill($(":scope > .body", place), panel.render(state));
	}
	document.documentElement.classList.toggle("ready", state !== null);
}

const drawn = new Map();

/** Whether what a panel shows has changed, besides times, which go on by themselves. A patch keeps what it does not name. */
function isNews({ id, reads }, place, state) {
	const open = [...place.querySelectorAll("details[open]")].map((details) => details.id).join();
	const shown = reads && [...reads(state), state?.servers, state?.next, state === null, open, day(now(), zone())];
	const before = drawn.get(id);
	drawn.set(id, shown);
	return !shown || !before || shown.some((value, index) => value !== before[index]);
}

/** Draws before the next frame, once for everything that happened until then. */
function drawSoon() {
	if (due) return;
	due = true;
	requestAnimationFrame(draw);
}

function show(state) {
	model.state = state;
	extend(state);
	drawSoon();
}

function range(chosen) {
	chooseRange(chosen);
	model.series = null;
	refresh(drawSoon, true);
	drawSoon();
}

function pause() {
	model.paused = model.paused === null ? now() : null;
	if (model.paused === null && latest) {
		show(latest);
		refresh(drawSoon, true); // it has a gap
	}
	drawSoon();
}

follow({
	onState(state) {
		if (typeof state.now === "number") model.ahead = state.now - Date.now();
		const back = model.lost !== null || latest === null || missed;
		model.lost = null;
		missed = false;
		latest = state;
		if (model.paused === null || !model.state) show(state);
		else drawSoon();
		// A pause holds also the series; one that could not be fetched is still wanted.
		if (model.paused === null || model.series === null) refresh(drawSoon, back);
	},
	onLost({ since, seen, refused }) {
		model.lost = { since: since + model.ahead, seen: seen && seen + model.ahead, refused };
		drawSoon();
	},
	onHidden() {
		missed ||= document.hidden;
		drawTitle();
	},
});

setInterval(() => {
	drawClock();
	tick();
}, 1000);

function theme() {
	const root = document.documentElement;
	const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
	const next = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
	if (next === system) delete root.dataset.theme;
	else root.dataset.theme = next;
	try {
		if (next === system) localStorage.removeItem("rtp-theme");
		else localStorage.setItem("rtp-theme", next);
	} catch {
		// Storage is switched off.
	}
	ingestion.redraw();
}

async function copy(button) {
	try {
		await navigator.clipboard.writeText(button.dataset.copy);
		button.dataset.said = "Copied";
	} catch {
		button.dataset.said = "Not allowed";
	}
	setTimeout(() => delete button.dataset.said, 1500);
}

function beside(dialog, { clientX, clientY }) {
	const box = dialog.getBoundingClientRect();
	return clientX < box.left || clientX > box.right || clientY < box.top || clientY > box.bottom;
}

document.addEventListener("click", (event) => {
	const target = event.target instanceof Element ? event.target : null;
	const button = target?.closest("button");
	if (target instanceof HTMLDialogElement) return beside(target, event) && target.close();
	if (!button) return;
	const { dataset, id } = button;
	if (dataset.range) range(rangeNamed(dataset.range));
	else if (dataset.explain) openExplain(dataset.explain);
	else if (dataset.copy !== undefined) copy(button);
	else if (dataset.close) document.getElementById(dataset.close).close();
	else ({ pause, look: () => openExplain(), theme, help: openKeys })[id]?.();
});
// A table of numbers is filled when it opens.
document.addEventListener("toggle", drawSoon, true);
listen({ range, pause, look: () => openExplain() });

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => ingestion.redraw());
// Paper is white, and a canvas does not know how wide the style sheet makes it there.
const PAPER = 488;
let screen = null;
addEventListener("beforeprint", () => {
	screen = document.documentElement.dataset.theme ?? "";
	document.documentElement.dataset.theme = "light";
	ingestion.fit(PAPER);
	ingestion.redraw();
});
addEventListener("afterprint", () => {
	if (screen) document.documentElement.dataset.theme = screen;
	else delete document.documentElement.dataset.theme;
	ingestion.fit();
	ingestion.redraw();
});

draw();
