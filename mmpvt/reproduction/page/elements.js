"use strict";
// Everything on the page is made of these: text is only ever set as text.

function make(kind, tag, attributes, children) {
  const element = kind ? document.createElementNS(kind, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return element;
}
const el = (tag, attributes, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes, ...children) =>
  make("http://www.w3.org/2000/svg", tag, attributes, children);

const isNumber = (value) => typeof value === "number";
const fixed = (value, digits) =>
  isNumber(value) ? value.toFixed(digits).replace(/^-/, "−") : "–";
const percent = (share) => fixed(isNumber(share) ? 100 * share : null, 1);

function difference(value, target, digits) {
  if (!isNumber(value) || !isNumber(target)) return null;
  const gap = Number((value - target).toFixed(digits));
  const text = (gap > 0 ? "+" : "") + fixed(gap, digits);
  return { gap, text, kind: gap > 0 ? "up" : gap < 0 ? "down" : "soft" };
}

let fields = 0;
function field(label, control) {
  control.id = `field-${fields++}`;
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control);
}

function choice(label, options, chosen, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) },
    options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  return field(label, select);
}
