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
  const grouped = () => groupLines(state.by.filter((key) => key !== ALL));
  lines = state.by.length ? grouped() : runs.map((run) => ({ id: run.id, runs: [run], values: null, label: run.name }));
  lineOf.clear();
  lines.forEach((line, i) => {
    line.colour = i % COLOURS;
    line.dash = Math.floor(i / COLOURS) % DASHES.length;
    for (const run of line.runs) lineOf.set(run, line);
  });
}

function groupLines(keys) {
  const groups = new Map();
  for (const run of runs) {
    const key = groupKey(run, keys);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(run);
  }
  const made = [...groups].map(([key, members]) => {
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

function settingsText(run) {
  return view.settings.map((key) => `${key} ${visible(run.settings.get(key))}`).join(", ");
}

function swatch(line) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("viewBox", "0 0 20 8");
  svg.setAttribute("aria-hidden", "true");
  const stroke = document.createElementNS(svg.namespaceURI, "path");
  stroke.setAttribute("d", "M1 4H19");
  svg.append(stroke);
  paintSwatch(svg, line);
  return svg;
}

function paintSwatch(svg, line) {
  svg.firstChild.style.stroke = `var(--c${line.colour})`;
  svg.firstChild.style.strokeDasharray = DASHES[line.dash].svg;
}

makeLines();
listen(["by"], makeLines);
