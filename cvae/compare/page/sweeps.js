// Light and dark, Plotly's part in it, and the figures of the sweeps.

const dark = matchMedia("(prefers-color-scheme: dark)");
let palette = null;

function colours() {
  palette ??= Array.from({ length: COLOURS }, (_, i) => resolved(`--c${i}`));
  return palette;
}

// The colour that a variable stands for now; light-dark() only comes out in a property that takes a colour.
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
    if (sweep.best) section.append(el("p", {}, el("strong", {}, "Best "), saidWhole(sweep.best)));
    if (sweep.again) section.append(commandLine(sweep.again, "the command that goes on with the sweep"));
    section.append(figures);
    for (const { title, about, figure } of sweep.figures) {
      const plot = el("div", { class: "plot", role: "img", "aria-label": cut(visible(`Chart: ${title}`), 100) });
      const caption = el("figcaption", {}, el("h3", {}, said(title, 80)), about ? el("span", { class: "muted" }, saidWhole(about)) : null);
      const panels = Object.keys(figure.layout ?? {}).filter((key) => /^xaxis\d*$/.test(key)).length;
      const node = el("figure", { class: panels > 2 ? "chart full" : "chart" }, caption, plot);
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
  const { template, width, title, ...own } = layout; // the page has a look, a width and a heading for it
  const margin = data.some((trace) => trace.type === "parcoords") ? { l: 70, r: 70, t: 50, b: 30 } : { l: 60, r: 20, t: 20, b: 50 };
  const themed = { ...own, ...plotLook(), autosize: true, height: own.height ?? 340, margin };
  for (const key of Object.keys(themed)) if (/^[xy]axis\d*$/.test(key)) Object.assign(themed[key], axisLook(), { exponentformat: "e" });
  themed.xaxis = { ...axisLook(), ...themed.xaxis };
  themed.yaxis = { ...axisLook(), ...themed.yaxis };
  Plotly.react(each.plot, data, themed, { displayModeBar: false, responsive: true });
}

// A copy of a figure whose text Plotly shows as it is; what only shapes text may stay.
const SHAPING = /&lt;(\/?(?:br|b|i|sub|sup|extra) ?\/?)&gt;/g;

function plain(value) {
  if (typeof value === "string") return escaped(visible(value)).replace(SHAPING, "<$1>");
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).filter(([key]) => key !== "__proto__").map(([key, below]) => [key, plain(below)]));
}
