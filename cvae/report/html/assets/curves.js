// A small chart for each metric, drawn when it is scrolled into view.

const CROWD = 60; // with more lines each is thinned
const POINTS = 150;

const charts = [];
const levels = baselineLevels();
const lastEpoch = runs.reduce((last, run) => Math.max(last, run.epoch), 0);
const coarse = matchMedia("(pointer: coarse)").matches; // on a touch screen a drag scrolls the page

function makeCharts() {
  const first = (metric) => metric === objective || ["table", "curve"].includes(metric.shown);
  const ordered = [...new Set([objective, ...[...metrics.values()].filter(first), ...metrics.values()])];
  for (const metric of ordered) {
    const marked = levels.has(metric.beside) && metric.shown === "baseline"; // it is a mark in another chart
    if (hasCurve(metric.key) && !marked) charts.push(makeChart(metric, first(metric)));
  }
  byId("charts").append(...charts.map((chart) => chart.figure));
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const chart = charts.find((each) => each.figure === target);
      chart.near = isIntersecting;
      if (isIntersecting) drawSoon();
    }
  }, { rootMargin: "200px" });
  for (const chart of charts) seen.observe(chart.figure);
  const more = byId("more");
  const extra = charts.filter((chart) => !chart.first).length;
  more.hidden = !extra;
  more.addEventListener("click", () => change({ more: !state.more }));
  const showMore = () => {
    for (const chart of charts) chart.figure.hidden = !chart.first && !state.more;
    more.textContent = state.more ? "Fewer curves" : `${extra} more ${extra === 1 ? "curve" : "curves"}`;
    more.setAttribute("aria-expanded", state.more);
  };
  showMore();
  listen(["more"], showMore);
  listen(["by", "off", "hidden", "log"], redrawCharts);
}

function hasCurve(key) {
  return runs.some((run) => run.curves.get(key)?.some((value) => value != null));
}

function makeChart(metric, first) {
  const unit = metric.unit ? `, ${metric.unit}` : "";
  const about = `Chart: ${visible(`${metric.label}${unit}`)} over the epochs; the table of runs, or the dialog behind a run's name, has its last value`;
  const plot = el("div", { class: "plot", role: "img", "aria-label": cut(about, 300) });
  const caption = el("figcaption", {}, el("h3", {}, said(metric.label, 40)));
  const hint = [metric.unit, { max: "higher is better", min: "lower is better" }[metric.better]].filter(Boolean).join(", ");
  caption.append(el("span", { class: "muted" }, visible(hint)));
  if (metric.log) caption.append(logToggle());
  const figure = el("figure", { class: "chart", "data-metric": metric.key }, caption, plot);
  return { metric, first, figure, plot, near: false, stale: true };
}

function logToggle() {
  const button = el("button", { type: "button", class: "chip small", onclick: () => change({ log: !state.log }) }, "log");
  const show = () => button.setAttribute("aria-pressed", state.log);
  show();
  listen(["log"], show);
  return button;
}

// The baseline of each metric, for example repeating the last frame, if the runs agree on it: it depends on the data alone.
function baselineLevels() {
  const found = new Map();
  for (const { key, label, beside } of [...metrics.values()].filter((metric) => metric.shown === "baseline")) {
    const scores = runs.map((run) => run.last.get(key)).filter((value) => value != null);
    const [low, high] = [Math.min(...scores), Math.max(...scores)];
    if (scores.length && high - low <= 3e-3 * Math.abs(high)) found.set(beside, { level: scores[0], label });
  }
  return found;
}

function redrawCharts() {
  for (const chart of charts) chart.stale = true;
  drawSoon();
}

let waiting = false;

// One chart in each frame, so that the page stays responsive.
function drawSoon() {
  if (waiting) return;
  const next = charts.find((chart) => chart.stale && chart.near && !chart.figure.hidden);
  if (!next) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw(next);
    drawSoon();
  });
}

function draw(chart) {
  chart.stale = false;
  const drawn = lines.filter((line) => !state.hidden.has(line.id) && line.runs.some(ticked));
  const points = drawn.length > CROWD ? POINTS : Infinity;
  const traces = drawn.map((line) => (state.by.length ? groupTraces : runTraces)(line, chart.metric, points)).flat();
  traces.sort((a, b) => a.meta.layer - b.meta.layer); // intervals below all means
  const layout = layoutOf(chart.metric);
  const mark = traces.length ? levels.get(chart.metric.key) : undefined;
  if (mark) markLevel(layout, mark);
  if (layout.yaxis.type === "linear") layout.yaxis.range = rangeOf(traces, mark ? [mark.level] : []);
  const config = { displayModeBar: false, responsive: true, doubleClick: "reset" };
  const before = chart.plot.classList.contains("js-plotly-plot");
  Plotly.react(chart.plot, traces, layout, config);
  if (!before) {
    chart.plot.on("plotly_hover", ({ points: [point] }) => highlight(lines.find((line) => line.id === point.data.meta.line)));
    chart.plot.on("plotly_unhover", () => highlight(null));
  }
}

function runTraces(line, metric, points) {
  const [run] = line.runs;
  const epochs = run.curves.get("epoch") ?? [];
  const curve = run.curves.get(metric.key) ?? [];
  const kept = thinned(epochs.map((epoch, i) => ({ epoch, value: curve[i] ?? null })), points);
  if (!kept.some((point) => point.value !== null)) return [];
  const about = [run.name, ...view.settings.map((key) => `${key} ${visible(run.settings.get(key))}`)].map((text) => plotText(text)).join("<br>");
  return [{
    ...traceOf(line, 1),
    x: kept.map((point) => point.epoch),
    y: kept.map((point) => point.value),
    line: { color: colours()[line.colour], width: lines.length > CROWD ? 1 : 1.5, dash: DASHES[line.dash].plotly },
    meta: { line: line.id, layer: 1, about }, // one text for each line: one for each point of two hundred lines would be slow
    hovertemplate: `%{meta.about}<br>epoch %{x}: <b>%{y:${metric.form}}</b><extra></extra>`,
  }];
}

function groupTraces(line, metric, points) {
  const curve = thinned(meanCurve(line.runs.filter(ticked), metric.key), points);
  if (!curve.length) return [];
  const about = line.parts.map((part) => plotText(part)).join("<br>");
  const mean = {
    ...traceOf(line, 1),
    x: curve.map((point) => point.epoch),
    y: curve.map((point) => point.mean),
    line: { color: colours()[line.colour], width: 2, dash: DASHES[line.dash].plotly },
    text: curve.map((point) => `${about}<br>epoch ${point.epoch}: ${meanText(point, metric.form)}`),
  };
  const logarithmic = metric.log && state.log; // a log axis needs positive values
  const low = ({ mean, half }) => (logarithmic ? Math.max(mean - half, 0.01 * mean) : mean - half);
  const bands = stretches(curve).map((part, i) => ({
    ...traceOf(line, 0),
    uid: `${line.id}band${i}`,
    x: [...part.map((point) => point.epoch), ...part.map((point) => point.epoch).reverse()],
    y: [...part.map((point) => point.mean + point.half), ...part.map(low).reverse()],
    fill: "toself",
    fillcolor: colours()[line.colour],
    opacity: 0.14,
    line: { width: 0, simplify: false },
    hoverinfo: "skip",
  }));
  return [...bands, mean];
}

function meanText({ mean, half, n }, form) {
  const range = half == null ? "" : ` [${number(mean - half, form)}, ${number(mean + half, form)}]`;
  return `<b>${number(mean, form)}</b>${range}, ${count(n, "seed")}`;
}

// The parts of a curve where two seeds or more give an interval.
function stretches(curve) {
  const parts = [[]];
  for (const point of curve) {
    if (point.half != null) parts.at(-1).push(point);
    else if (parts.at(-1).length) parts.push([]);
  }
  return parts.filter((part) => part.length);
}

function traceOf(line, layer) {
  return { type: "scatter", mode: "lines", uid: line.id, meta: { line: line.id, layer }, hoverinfo: "text", showlegend: false };
}

function layoutOf(metric) {
  const axis = axisLook();
  return {
    ...plotLook(),
    height: 230,
    margin: { l: 54, r: 12, t: 6, b: 38 },
    hovermode: "closest",
    dragmode: coarse ? false : "zoom",
    uirevision: `${metric.key} ${state.log}`,
    xaxis: { ...axis, title: { text: "epoch", standoff: 6 }, dtick: lastEpoch <= 10 ? 1 : null }, // no fractions of an epoch
    yaxis: { ...axis, type: metric.log && state.log ? "log" : "linear", nticks: 6, exponentformat: "e" },
  };
}

// The range of the lines and a part of their intervals, which may be much wider for two runs. Undefined: Plotly chooses.
function rangeOf(traces, marks) {
  const extent = (values) => values.reduce(([low, high], y) => (y == null ? [low, high] : [Math.min(low, y), Math.max(high, y)]), [Infinity, -Infinity]);
  const reach = (layer) => extent(traces.filter((trace) => trace.meta.layer === layer).flatMap((trace) => trace.y));
  const [low, high] = extent([...reach(1), ...marks]);
  const span = high - low;
  if (span === 0 && low !== 0) return [low - 0.5 * Math.abs(low), high + 0.5 * Math.abs(low)]; // Plotly would show a range around 0
  if (!(span > 0 && span < Infinity)) return undefined;
  const [bandLow, bandHigh] = reach(0);
  return [Math.max(Math.min(low, bandLow), low - 0.3 * span) - 0.05 * span, Math.min(Math.max(high, bandHigh), high + 0.3 * span) + 0.05 * span];
}

function markLevel(layout, { level, label }) {
  const mark = { xref: "paper", yref: "y" };
  const line = { color: layout.font.color, width: 1, dash: "dash" };
  const words = { text: plotText(label), showarrow: false, font: { size: 11 } };
  layout.shapes = [{ ...mark, type: "line", x0: 0, x1: 1, y0: level, y1: level, line }];
  layout.annotations = [{ ...mark, ...words, x: 1, y: level, xanchor: "right", yanchor: "bottom" }];
}

// By CSS classes: to restyle two hundred lines in Plotly is too slow for a moving pointer.
function highlight(line) {
  for (const { plot } of charts) {
    for (const lit of plot.querySelectorAll(".lit")) lit.classList.remove("lit");
    const own = line ? plot.querySelectorAll(`.trace${line.id}, [class*="trace${line.id}band"]`) : [];
    for (const trace of own) trace.classList.add("lit");
    plot.classList.toggle("dim", own.length > 0);
  }
  for (const [run, row] of rowOf) row.classList.toggle("lit", line != null && lineOf.get(run) === line);
}
