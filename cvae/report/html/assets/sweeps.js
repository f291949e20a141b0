// Light and dark colours, for the page and for Plotly, and the sections of the sweeps.

const dark = matchMedia("(prefers-color-scheme: dark)");
let palette = null;

function colours() {
  palette ??= Array.from({ length: COLOURS }, (_, i) => resolved(`--c${i}`));
  return palette;
}

// The present colour of a CSS variable; the browser resolves light-dark() only in a property that takes a colour.
function resolved(variable) {
  const probe = document.body.appendChild(el("span"));
  probe.style.color = `var(${variable})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function plotLook() {
  const font = { color: resolved("--muted"), family: getComputedStyle(document.body).fontFamily, size: 12 };
  const back = resolved("--raised");
  return {
    font,
    colorway: colours(),
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { align: "left", bgcolor: back, bordercolor: resolved("--edge"), font: { ...font, color: resolved("--ink") } },
  };
}

function axisLook() {
  const grid = resolved("--grid");
  return { gridcolor: grid, linecolor: grid, zerolinecolor: grid, zeroline: false, automargin: true };
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : dark.matches;
}

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  recolour();
}

function recolour() {
  palette = null;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  redrawCharts();
  for (const each of sweepPlots) each.stale = true;
  drawSweeps();
}

function makeTheme() {
  const kept = recall("localStorage", "cvae-theme");
  setTheme(["light", "dark"].includes(kept) ? kept : "");
  byId("theme").addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    remember("localStorage", "cvae-theme", document.documentElement.dataset.theme);
  });
  dark.addEventListener("change", recolour);
  let before;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    setTheme("light");
    charts.filter((chart) => !chart.figure.hidden).forEach(draw);
    sweepPlots.forEach(drawSweep);
  });
  addEventListener("afterprint", () => setTheme(before));
}

const sweepPlots = [];

function makeSweeps() {
  for (const sweep of view.sweeps) {
    const figures = el("div", { class: "charts wide" });
    const section = el("section", { class: "sweep" }, el("h2", {}, "Sweep ", said(sweep.name, 60)));
    if (sweep.note) section.append(el("p", {}, saidWhole(sweep.note)));
    const best = runs[sweep.best_run];
    const open = best ? el("button", { type: "button", class: "link", onclick: () => openDetails(best) }, "Open its run") : null;
    if (sweep.best) section.append(el("p", {}, el("strong", {}, "Best "), saidWhole(sweep.best), " ", open ?? ""));
    if (best) section.append(el("h3", {}, "Repeat the best trial"), commandLine(best.repeat, "the command that repeats the best trial"));
    if (sweep.command) section.append(el("h3", {}, "Resume the sweep"), commandLine(sweep.command, "the command that resumes the sweep"));
    section.append(figures);
    for (const { title, about, figure } of sweep.figures) {
      const plot = el("div", { class: "plot", role: "img", "aria-label": cut(visible(`Chart: ${title}`), 100) });
      const caption = el("figcaption", {}, el("h3", {}, said(title, 80)), about ? el("span", { class: "muted" }, saidWhole(about)) : null);
      const { layout = {} } = figure;
      const panels = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key)).length;
      const axes = layout.xaxis?.ticktext?.length ?? 0; // of parallel coordinates
      const room = panels > 1 ? 11 * panels : 6 * axes; // wide enough to read; a narrow screen scrolls
      if (room) plot.style.minWidth = `${room + 6}rem`;
      const node = el("figure", { class: panels > 2 || axes > 5 ? "chart full" : "chart" }, caption, el("div", { class: "sideways" }, plot));
      figures.append(node);
      sweepPlots.push({ node, plot, figure, near: false, stale: true });
    }
    byId("sweeps").append(section);
  }
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) sweepPlots.find((each) => each.node === target).near = isIntersecting;
    drawSweeps();
  }, { rootMargin: "200px" });
  for (const { node } of sweepPlots) seen.observe(node);
}

function drawSweeps() {
  sweepPlots.filter((each) => each.near && each.stale).forEach(drawSweep);
}

function drawSweep(each) {
  each.stale = false;
  const { data = [], layout = {} } = plain(each.figure);
  const { template, width, title, ...own } = layout; // the page sets its own
  const margin = data.some((trace) => trace.type === "parcoords") ? { l: 70, r: 70, t: 50, b: 30 } : { l: 60, r: 20, t: 20, b: 50 };
  const legend = { orientation: "h", x: 0, y: 1, yanchor: "bottom" }; // beside the figure it would fill a phone's width
  const themed = { ...own, ...plotLook(), legend, dragmode: coarse ? false : "zoom", autosize: true, height: own.height ?? 340, margin };
  themed.xaxis ??= {};
  themed.yaxis ??= {};
  for (const key of Object.keys(themed).filter((each) => /^[xy]axis\d*$/.test(each))) {
    const [letter, name] = [key[0], key.replace("axis", "")]; // x and x2 for xaxis2
    const along = data.filter((trace) => (trace[`${letter}axis`] ?? letter) === name);
    themed[key] = sweepAxis(themed[key], along.flatMap((trace) => trace[letter] ?? []));
  }
  for (const note of themed.annotations ?? []) Object.assign(note, { bgcolor: resolved("--raised"), font: { ...note.font, color: resolved("--ink") } });
  recolourTraces(data);
  Plotly.react(each.plot, data, themed, { displayModeBar: false, responsive: true });
}

function sweepAxis(axis, values) {
  const themed = { ...axis, ...axisLook(), title: { ...axis.title, standoff: 10 }, exponentformat: "e" };
  const [low, high] = [Math.min, Math.max].map((end) => values.reduce((one, other) => end(one, other), values[0])); // spread arguments are limited in number
  if (axis.type === "log") return { ...themed, dtick: high > 100 * low ? 1 : "D2", tickformat: "~e" }; // decades, or 1, 2 and 5
  return values.every(Number.isInteger) && high - low <= 10 ? { ...themed, dtick: 1 } : themed; // no fractions of a trial
}

// Optuna's colours are made for a white background, and its scales begin with white.
function recolourTraces(data) {
  const [low, high, hotLow, hotHigh, muted, ink] = ["--low", "--high", "--hot-low", "--hot-high", "--muted", "--ink"].map(resolved);
  const downwards = data.some(({ marker }) => marker?.reversescale);
  for (const trace of data) {
    const { marker, line, y } = trace;
    if (Array.isArray(marker?.colorscale)) {
      const [red, , blue] = channels(marker.colorscale.at(-1)[1]);
      marker.colorscale = red > blue ? [[0, hotLow], [1, hotHigh]] : [[0, low], [1, high]];
    }
    if (marker?.color === "#cccccc") marker.color = muted; // a trial that violates a constraint
    if (line?.color === "#2F3B52") line.color = ink; // in the legend
    if (line?.color?.startsWith?.("rgb(")) { // parallel coordinates: colour by the value, which is the first coordinate, from 0 to 1
      line.color = between(low, high, downwards ? 1 - y[0] : y[0]);
      trace.opacity = 0.85;
    }
  }
}

function channels(colour) {
  return colour.match(/[\d.]+/g).map(Number);
}

function between(one, other, share) {
  const last = channels(other);
  return `rgb(${channels(one).map((value, i) => Math.round(value + share * (last[i] - value))).join(", ")})`;
}

// A copy of a figure in which text is escaped, except tags that only format it.
const SHAPING = /&lt;(\/?(?:br|b|i|sub|sup|extra) ?\/?)&gt;/g;

function plain(value) {
  if (typeof value === "string") return escaped(visible(value)).replace(SHAPING, "<$1>");
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).filter(([key]) => key !== "__proto__").map(([key, below]) => [key, plain(below)]));
}
