// A small chart of each metric.

const CROWD = 60; // with more lines each is thinned
const POINTS = 150;

const levels = baselineLevels();
const lastEpoch = runs.reduce((last, run) => Math.max(last, run.epoch), 0);

function makeCharts() {
  byId("other-data").hidden = !view.other_data;
  byId("other-data").append(saidWhole(view.other_data));
  const first = (metric) => metric === objective || ["table", "curve"].includes(metric.shown);
  const sorted = [...new Set([objective, ...[...metrics.values()].filter(first), ...metrics.values()])];
  const marked = ({ shown, beside }) => shown === "baseline" && levels.has(beside); // it is a mark in another chart
  const drawn = sorted.filter((metric) => runs.some((run) => run.curves.has(metric.key)) && !marked(metric));
  const charts = drawn.map(makeChart);
  byId("charts").append(...charts.map((chart) => chart.figure));
  const extra = charts.filter((_, i) => !first(drawn[i]));
  const more = byId("more");
  more.hidden = !extra.length;
  more.addEventListener("click", () => change({ more: !state.more }));
  listen(["more"], () => {
    for (const { figure } of extra) figure.hidden = !state.more;
    more.textContent = state.more ? "Fewer curves" : count(extra.length, "more curve");
    more.setAttribute("aria-expanded", state.more);
  });
  listen(["by", "off", "hidden", "log"], () => redraw(charts));
}

function makeChart(metric) {
  const name = metric.unit ? `${metric.label}, ${metric.unit}` : metric.label;
  const about = `${name} over the epochs; the table of runs, or the dialog behind a run's name, has its last value`;
  const hint = [metric.unit, { max: "higher is better", min: "lower is better" }[metric.better]].filter(Boolean).join(", ");
  const chart = makePlot(metric.label, hint, about, (node) => drawChart(node, metric));
  chart.figure.dataset.metric = metric.key;
  if (metric.log) {
    const button = el("button", { type: "button", class: "chip small", onclick: () => change({ log: !state.log }) }, "log");
    listen(["log"], () => button.setAttribute("aria-pressed", state.log));
    chart.caption.append(button);
  }
  return chart;
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

function drawChart(node, metric) {
  const drawn = lines.filter((line) => !state.hidden.has(line.id) && line.runs.some(ticked));
  const points = drawn.length > CROWD ? POINTS : Infinity;
  const traces = drawn.flatMap((line) => (state.by.length ? groupTraces : runTraces)(line, metric, points));
  traces.sort((a, b) => a.meta.layer - b.meta.layer); // intervals below all means
  const layout = layoutOf(node, metric);
  const mark = traces.length ? levels.get(metric.key) : undefined;
  if (mark) markLevel(layout, mark);
  if (layout.yaxis.type === "linear") layout.yaxis.range = rangeOf(traces, mark ? [mark.level] : []);
  const first = !node.on;
  Plotly.react(node, traces, layout, CONFIG);
  if (!first) return;
  node.on("plotly_hover", ({ points: [point] }) => highlight(point.data.meta.line));
  node.on("plotly_unhover", () => highlight(null));
}

function runTraces(line, metric, points) {
  const [run] = line.runs;
  if (!run.curves.has(metric.key)) return [];
  const curve = thinned(curveOf(run, metric.key), points);
  const about = [run.name, ...settingTexts(run)].map((text) => plotText(text)).join("<br>");
  return [{
    ...lineTrace(line, curve, lines.length > CROWD ? 1 : 1.5),
    meta: { line: line.id, layer: 1, about }, // one text for each line: one for each point of two hundred lines would be slow
    hovertemplate: `%{meta.about}<br>epoch %{x}: <b>%{y:${metric.form}}</b><extra></extra>`,
  }];
}

function groupTraces(line, metric, points) {
  const curve = thinned(meanCurve(line.runs.filter(ticked), metric.key), points);
  if (!curve.length) return [];
  const about = line.parts.map((part) => plotText(part)).join("<br>");
  const text = curve.map((point) => `${about}<br>epoch ${point.epoch}: ${meanText(point, metric.form)}`);
  const logarithmic = metric.log && state.log; // a log axis needs positive values
  const low = ({ mean, half }) => (logarithmic ? Math.max(mean - half, 0.01 * mean) : mean - half);
  const bands = stretches(curve).map((part, i) => ({
    ...traceOf(line, 0),
    uid: `${line.id}band${i}`,
    x: [...part, ...part.toReversed()].map((point) => point.epoch),
    y: [...part.map((point) => point.mean + point.half), ...part.map(low).reverse()],
    fill: "toself",
    fillcolor: palette[line.colour],
    opacity: 0.14,
    line: { width: 0, simplify: false },
    hoverinfo: "skip",
  }));
  return [...bands, { ...lineTrace(line, curve, 2), text }];
}

function traceOf(line, layer) {
  return { type: "scatter", mode: "lines", uid: line.id, meta: { line: line.id, layer }, hoverinfo: "text", showlegend: false };
}

function lineTrace(line, curve, width) {
  return {
    ...traceOf(line, 1),
    x: curve.map((point) => point.epoch),
    y: curve.map((point) => point.mean ?? point.value),
    line: { color: palette[line.colour], width, dash: DASHES[line.dash].plotly },
  };
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

function layoutOf(node, metric) {
  const axis = axisLook();
  return {
    ...plotLook(node),
    height: 230,
    margin: { l: 54, r: 12, t: 6, b: 38 },
    hovermode: "closest",
    uirevision: `${metric.key} ${state.log}`,
    xaxis: { ...axis, title: { text: "epoch", standoff: 6 }, dtick: lastEpoch <= 10 ? 1 : null }, // no fractions of an epoch
    yaxis: { ...axis, type: metric.log && state.log ? "log" : "linear", nticks: 6 },
  };
}

// The range of the lines and a part of their intervals, which may be much wider for two runs. Undefined: Plotly chooses.
function rangeOf(traces, marks) {
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
