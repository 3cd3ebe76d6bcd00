// Making and updating elements. Texts only ever become text nodes or attribute values, never markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_NAMES = new Set(["svg", "path", "circle", "rect", "line", "g"]);

/** Makes an element: "p", or "p.note" with a class. `css` sets properties one by one, which a strict style policy allows. */
export function h(kind, attributes, ...children) {
	const [name, ...classes] = kind.split(".");
	const element = SVG_NAMES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
	if (classes.length) element.setAttribute("class", classes.join(" "));
	if (name === "button") element.type = "button"; // unless it says otherwise
	for (const [key, value] of Object.entries(attributes ?? {})) {
		if (value == null || value === false) continue;
		if (key === "css") for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
		else element.setAttribute(key, value === true ? "" : String(value));
	}
	element.append(...some(children));
	return element;
}

/** All children, without what is not there. */
const some = (children) => children.flat(Infinity).filter((child) => child != null && child !== false);

export const $ = (selector, within = document) => within.querySelector(selector);

/** Makes the children of `element` equal to the new ones, changing as little as possible: focus, selection and what is
 * open or scrolled stay where they are. */
export function fill(element, ...children) {
	const next = some(children);
	next.forEach((child, index) => {
		const wanted = child instanceof Node ? child : document.createTextNode(String(child));
		const now = element.childNodes[index];
		if (!now) element.append(wanted);
		else if (now !== wanted && !become(now, wanted)) now.replaceWith(wanted);
	});
	while (element.childNodes.length > next.length) element.lastChild.remove();
}

// What an element keeps for itself: its style (set below), whether it is open, what a button said last.
const OWN = new Set(["style", "open", "data-said"]);

/** Whether `now` could be made equal to `wanted` in place. An element with `data-keep` is its own master. */
function become(now, wanted) {
	if (now.nodeType !== wanted.nodeType || now.nodeName !== wanted.nodeName) return false;
	if (now.nodeType === Node.TEXT_NODE) {
		if (now.data !== wanted.data) now.data = wanted.data;
		return true;
	}
	if (now.dataset.keep !== wanted.dataset.keep || now.dataset.id !== wanted.dataset.id) return false;
	if (now.dataset.keep) return true;
	for (const { name } of [...now.attributes]) {
		if (!OWN.has(name) && !wanted.hasAttribute(name)) now.removeAttribute(name);
	}
	for (const { name, value } of wanted.attributes) {
		if (name !== "style" && now.getAttribute(name) !== value) now.setAttribute(name, value);
	}
	if (now.style.cssText !== wanted.style.cssText) now.style.cssText = wanted.style.cssText;
	fill(now, [...wanted.childNodes]);
	return true;
}
