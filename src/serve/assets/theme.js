// Runs before the first paint, so that a kept choice of theme does not flash.
{
	const root = document.documentElement;
	try {
		const kept = localStorage.getItem("rtp-theme");
		if (kept === "light" || kept === "dark") root.dataset.theme = kept;
	} catch {
		// Storage is switched off: the system decides.
	}
}
