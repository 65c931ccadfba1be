"use strict";
// Elements from nested calls. Text always becomes a text node, so no string of the data is parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawing(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

// A labelled choice: options are [value, text], or {group, options}.
function choice(label, options, chosen, changed) {
  const option = ([value, text]) => element("option", { value, selected: value === chosen }, text);
  const list = options.map((one) =>
    Array.isArray(one) ? option(one) : element("optgroup", { label: one.group }, one.options.map(option)));
  const select = element("select", { onchange: () => changed(select.value) }, list);
  return element("label", {}, label, select);
}

// Numbers as in the tables of the page: .131 for shares, otherwise four digits.
function written(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  const minus = value < 0 ? "−" : "";
  if (size === 0) return "0";
  if (size < 1) return minus + (size >= 0.001 ? size.toFixed(size < 0.01 ? 4 : 3).slice(1) : size.toExponential(2));
  if (size >= 1000) return minus + Math.round(size).toLocaleString("en");
  return minus + String(Number(size.toPrecision(4)));
}

function signed(value) {
  return value > 0 ? `+${value.toFixed(2)}` : value < 0 ? `−${(-value).toFixed(2)}` : "0.00";
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
