// The lines of the charts: each stands for a group of runs or one run, and has one colour and dash on the whole page.

const COLOURS = 7; // --c0 ... --c6
const DASHES = [
  { plotly: "solid", svg: "" },
  { plotly: "dash", svg: "5 3" },
  { plotly: "dot", svg: "2 2" },
  { plotly: "dashdot", svg: "6 2 2 2" },
  { plotly: "longdash", svg: "9 3" },
];

let lines = [];
const lineOf = new Map(); // by run

function makeLines() {
  const single = (run) => ({ id: run.id, runs: [run], values: [], label: run.name });
  lines = state.by.length ? groupLines(state.by.filter((key) => key !== ALL)) : runs.map(single);
  lineOf.clear();
  lines.forEach((line, i) => {
    line.colour = i % COLOURS;
    line.dash = Math.floor(i / COLOURS) % DASHES.length;
    for (const run of line.runs) lineOf.set(run, line);
  });
}

function groupLines(keys) {
  const made = [...Map.groupBy(runs, (run) => groupKey(run, keys))].map(([key, members]) => {
    const values = JSON.parse(key);
    const parts = keys.length ? keys.map((name, i) => `${name} ${values[i] ?? "–"}`) : [ALL];
    return { id: shortHash(JSON.stringify(keys) + key), runs: members, values, parts, label: parts.join(", ") };
  });
  return made.sort((a, b) => {
    const i = a.values.findIndex((value, at) => value !== b.values[at]);
    return i < 0 ? 0 : compareValues(a.values[i], b.values[i]);
  });
}

// Numbers by size, then text in natural order; missing values come last.
function compareValues(a, b) {
  if (a == null || b == null) return (a == null) - (b == null);
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function settingTexts(run) {
  return view.settings.map((key) => `${key} ${visible(run.settings.get(key))}`);
}

function swatch(line) {
  const svg = byId("swatch").content.firstElementChild.cloneNode(true);
  paintSwatch(svg, line);
  return svg;
}

function paintSwatch(svg, line) {
  svg.dataset.of = line.id;
  svg.firstChild.style.stroke = `var(--c${line.colour})`;
  svg.firstChild.style.strokeDasharray = DASHES[line.dash].svg;
}

// The pointer or the focus on a table's row, or on a button of the legend, lights its line in all charts.
function makeLighting(node) {
  const light = ({ target }) => highlight(target.closest("tr, .entry")?.querySelector(".swatch")?.dataset.of ?? null);
  for (const kind of ["pointerover", "focusin"]) node.addEventListener(kind, light);
  for (const kind of ["pointerleave", "focusout"]) node.addEventListener(kind, () => highlight(null));
}

// By CSS classes: to restyle two hundred lines in Plotly is too slow for a moving pointer.
function highlight(id) {
  for (const plot of document.querySelectorAll("#charts .plot")) {
    for (const lit of plot.querySelectorAll(".lit")) lit.classList.remove("lit");
    const own = id === null ? [] : plot.querySelectorAll(`.trace${id}, [class*="trace${id}band"]`);
    for (const trace of own) trace.classList.add("lit");
    plot.classList.toggle("dim", own.length > 0);
  }
  for (const [run, row] of rowOf) row.classList.toggle("lit", lineOf.get(run).id === id);
}

listen(["by"], makeLines);
