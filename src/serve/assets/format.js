// Numbers and times as words. What is not known (null) is a dash.

const THIN = "\u202f"; // narrow and unbreakable
export const DASH = "–";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** 1234567 as "1 234 567", with thin spaces. */
export function exact(value) {
	if (!known(value)) return DASH;
	return grouped(String(Math.abs(value) < 1e15 ? Math.round(value * 1000) / 1000 : value));
}

/** The text of a number, with thin spaces before its point. */
export function grouped(text) {
	const [whole, ...rest] = text.split(".");
	return [whole.replace(/\B(?=(\d{3})+(?!\d))/g, THIN).replace("-", "−"), ...rest].join(".");
}

/** 1234567 as "1.23 M"; below ten thousand as it is. */
export function short(value) {
	if (!known(value)) return DASH;
	const size = Math.abs(value);
	if (size < 9999.5) return exact(size < 9.95 ? Math.round(value * 10) / 10 : Math.round(value));
	const [unit, letter] = size < 999_500 ? [1e3, "k"] : size < 999_500_000 ? [1e6, "M"] : [1e9, "G"];
	return `${String(Number((value / unit).toPrecision(3))).replace("-", "−")}${THIN}${letter}`;
}

/** A count that may be an estimate. */
export function count(counted, how = exact) {
	if (!counted || !known(counted.count)) return DASH;
	return (counted.exact === false ? "≈" + THIN : "") + how(counted.count);
}

/** Seconds as "0.4 s", "45 s", "3 min 20 s", "2 h 5 min", "4 d 3 h". */
export function duration(seconds) {
	if (!known(seconds)) return DASH;
	if (seconds < 0) return "−" + duration(-seconds);
	if (seconds > 0 && seconds < 0.0995) return `${Math.max(1, Math.round(seconds * 1000))}${THIN}ms`;
	if (seconds < 9.95) return `${Math.round(seconds * 10) / 10}${THIN}s`;
	const whole = Math.round(seconds);
	const pair = (size, unit, small, smallUnit) => {
		const rest = Math.floor((whole % size) / small);
		return `${exact(Math.floor(whole / size))}${THIN}${unit}` + (rest ? ` ${rest}${THIN}${smallUnit}` : "");
	};
	if (whole < 100) return `${whole}${THIN}s`;
	if (whole < 3600) return pair(60, "min", 1, "s");
	if (whole < 86400) return pair(3600, "h", 60, "min");
	return pair(86400, "d", 3600, "h");
}

/** The time since then: "now", "12 seconds ago", "2 hours ago", "in 5 minutes". */
export function ago(time, now) {
	if (!known(time)) return DASH;
	const seconds = Math.round((now - time) / 1000);
	const size = Math.abs(seconds);
	if (size < 2) return "now";
	const [unit, name] = size < 90 ? [1, "second"] : size < 5400 ? [60, "minute"] : size < 129600 ? [3600, "hour"] : [86400, "day"];
	const number = Math.round(size / unit);
	const words = `${exact(number)} ${name}${number === 1 ? "" : "s"}`;
	return seconds < 0 ? `in ${words}` : `${words} ago`;
}

const formats = new Map();
function parts(time, zone) {
	if (!formats.has(zone)) {
		const options = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
		let format;
		try {
			format = new Intl.DateTimeFormat("en-GB", { ...options, timeZone: zone });
		} catch {
			format = new Intl.DateTimeFormat("en-GB", { ...options, timeZone: "UTC" }); // the engine does not know this zone
		}
		formats.set(zone, format);
	}
	return Object.fromEntries(formats.get(zone).formatToParts(time).map(({ type, value }) => [type, value]));
}

/** "14:02:05", or "14:02" without seconds. */
export function clock(time, zone, seconds = true) {
	if (!known(time)) return DASH;
	const at = parts(time, zone);
	return `${at.hour}:${at.minute}` + (seconds ? `:${at.second}` : "");
}

/** "27 Nov", or "27 Nov 2025" if that was another year than `now`. */
export function day(time, zone, now = time) {
	if (!known(time)) return DASH;
	const at = parts(time, zone);
	return `${at.day} ${at.month}${at.year === parts(now, zone).year ? "" : ` ${at.year}`}`;
}

/** Whether both times are on the same day. */
export const sameDay = (one, other, zone) => day(one, zone, other) === day(other, zone);

/** "27 Nov 2026, 14:02:05 UTC". */
export function moment(time, zone) {
	if (!known(time) || Math.abs(time) > 8.64e15) return DASH;
	const at = parts(time, zone);
	return `${at.day} ${at.month} ${at.year}, ${at.hour}:${at.minute}:${at.second} ${zone}`;
}

/** The time of day, after the day if that is another one. */
export function since(time, now, zone, seconds = false) {
	if (!known(time) || Math.abs(time) > 8.64e15) return DASH;
	const at = clock(time, zone, seconds);
	return sameDay(time, now, zone) ? at : `${day(time, zone, now)}, ${at}`;
}

/** 0.1234 as "12.3 %". */
export function percent(share) {
	if (!known(share)) return DASH;
	const value = share * 100;
	return `${value > 0 && value < 0.1 ? "< 0.1" : value < 9.95 ? value.toFixed(1) : Math.round(value)}${THIN}%`;
}

/** "1 row", "2 rows". */
export const plural = (number, one, many = one + "s") => `${exact(number)} ${number === 1 ? one : many}`;

/** A name of the declaration as words: "age_band" as "Age band". */
export function words(name) {
	return String(name).replace(/[_-]/g, " ").replace(/^./u, (first) => first.toUpperCase());
}
