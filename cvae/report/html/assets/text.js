// Show values from run folders as text, whatever they hold, and numbers with the right digits.

// Control and formatting characters, which can reverse or hide the text after them. cvae/pages/document.py has the same.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const CUT = 60;

function visible(value, keepLines = false) {
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(); // 5e-4, as users write it
  return String(value ?? "–").replace(INVISIBLE, (sign) => {
    if (sign === "\n") return keepLines ? sign : "⏎";
    if (sign === "\t") return " ";
    return `[U+${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`;
  });
}

function cut(text, length = CUT) {
  const signs = text.length > length ? Array.from(text.slice(0, 2 * length)) : [];
  return signs.length > length ? `${signs.slice(0, length - 1).join("")}…` : text;
}

// Plotly reads some HTML tags in text, and $...$ as TeX.
function plotText(value, length = CUT) {
  return escaped(cut(visible(value), length));
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("$", "&#36;");
}

// Make an element. Attribute names are constants of this program; values and children may come from run folders.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function table(heads, rows) {
  return el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
}

const byId = (id) => document.getElementById(id);

// Text from a run folder, isolated: its direction does not affect the text around it.
function said(value, length = CUT) {
  const whole = visible(value);
  const shown = cut(whole, length);
  return el("bdi", { dir: "auto", title: shown === whole ? null : cut(whole, 600) }, shown);
}

// A run's name, cut in the middle if there is no room: names of one day begin alike.
function saidName(name) {
  const whole = visible(name);
  const signs = Array.from(whole.slice(0, 600));
  const middle = signs.length > 16 ? signs.length - 10 : signs.length;
  const parts = [signs.slice(0, middle), signs.slice(middle)].map((part) => el("span", {}, part.join("")));
  return el("bdi", { dir: "auto", class: "middle", title: cut(whole, 600) }, ...parts);
}

function saidWhole(value) {
  return el("bdi", { dir: "auto", class: "whole" }, visible(value, true));
}

// A number in the form of a metric: ".2f" has two decimals, ".4g" four digits.
function number(value, form = ".4g") {
  if (value == null) return "–";
  const size = Math.abs(value);
  const [, digits, kind] = form.match(/(\d+)([a-z])$/);
  let text;
  if (value === 0) text = "0";
  else if (kind === "f" && size < 1e4) text = value.toFixed(digits);
  else if (kind === "e" || size < 1e-3) text = value.toExponential(2);
  else if (size >= Math.min(1e4, 10 ** digits)) text = Math.round(value).toLocaleString("en");
  else text = value.toPrecision(digits);
  return text.replace("-", "−");
}

// With as many decimals as its mean.
function halfWidth(half, mean, form) {
  const shown = number(mean, form);
  const decimals = shown.split(".")[1]?.length ?? 0;
  return shown.includes("e") ? half.toExponential(1).replace("-", "−") : half.toFixed(decimals);
}

function signed(value, form) {
  return (value > 0 ? "+" : "") + number(value, form);
}

// 2026-11-23 18:18 in the reader's time zone; the Swedish locale writes dates so.
function localTime(iso) {
  return new Date(iso).toLocaleString("sv", { dateStyle: "short", timeStyle: "short" });
}

// 1 run, 2 runs
function count(n, thing) {
  return `${n} ${thing}${n === 1 ? "" : "s"}`;
}

// A short name that is the same in every page: FNV-1a.
function shortHash(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(36);
}

// ``missing`` says what was left out of the command.
function commandLine(text, what, missing = "") {
  const code = el("code", {}, saidWhole(text));
  const button = el("button", { type: "button", class: "quiet copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // No permission, or no secure context: select the text for Ctrl+C.
      getSelection().selectAllChildren(code);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  const line = el("div", { class: "command" }, code, button);
  return missing ? el("div", {}, line, el("p", { class: "note" }, saidWhole(missing))) : line;
}
