// The sections of the sweeps, and Optuna's figures in the colours of the page.

function makeSweeps() {
  for (const sweep of view.sweeps) {
    const best = runs[sweep.best_run];
    const open = best ? el("button", { type: "button", class: "link", onclick: () => openDetails(best) }, "Open its run") : "";
    const section = el("section", { class: "sweep" }, el("h2", {}, "Sweep ", said(sweep.name, 60)));
    if (sweep.note) section.append(el("p", {}, saidWhole(sweep.note)));
    if (sweep.best) section.append(el("p", {}, el("strong", {}, "Best "), saidWhole(sweep.best), " ", open));
    if (best?.repeat) section.append(el("h3", {}, "Repeat the best trial"), commandLine(best.repeat, "the command that repeats the best trial", best.left_out));
    if (sweep.command) section.append(el("h3", {}, "Resume the sweep"), commandLine(sweep.command, "the command that resumes the sweep", sweep.left_out));
    section.append(el("div", { class: "charts wide" }, ...sweep.figures.map(sweepFigure)));
    byId("sweeps").append(section);
  }
}

function sweepFigure({ title, about, figure: { data = [], layout = {} } }) {
  const { figure, node } = makePlot(title, about, title, () => drawSweep(node, plain(data), plain(layout)));
  const panels = Object.keys(layout).filter((key) => /^xaxis\d*$/.test(key)).length;
  const axes = layout.xaxis?.ticktext?.length ?? 0; // of parallel coordinates
  const room = panels > 1 ? 11 * panels : 6 * axes; // wide enough to read; a narrow screen scrolls
  if (room) node.style.minWidth = `${room + 6}rem`;
  figure.classList.toggle("full", panels > 2 || axes > 5);
  figure.append(el("div", { class: "sideways" }, node));
  return figure;
}

function drawSweep(node, data, { template, width, title, ...own }) { // the page sets its own
  const margin = data.some((trace) => trace.type === "parcoords") ? { l: 70, r: 70, t: 50, b: 30 } : { l: 60, r: 20, t: 20, b: 50 };
  const legend = { orientation: "h", x: 0, y: 1, yanchor: "bottom" }; // beside the figure it would fill a phone's width
  const layout = { xaxis: {}, yaxis: {}, ...own, ...plotLook(node), legend, autosize: !printing, height: own.height ?? 340, margin };
  for (const key of Object.keys(layout).filter((each) => /^[xy]axis\d*$/.test(each))) {
    const [letter, name] = [key[0], key.replace("axis", "")]; // x and x2 for xaxis2
    const along = data.filter((trace) => (trace[`${letter}axis`] ?? letter) === name);
    layout[key] = sweepAxis(layout[key], along.flatMap((trace) => trace[letter] ?? []));
  }
  for (const note of layout.annotations ?? []) Object.assign(note, { bgcolor: resolved("--raised"), font: { ...note.font, color: resolved("--ink") } });
  recolourTraces(data);
  Plotly.react(node, data, layout, CONFIG);
}

function sweepAxis(axis, values) {
  const themed = { ...axis, ...axisLook(), title: { ...axis.title, standoff: 10 } };
  const [low, high] = extent(values);
  if (axis.type === "log") return { ...themed, dtick: high > 100 * low ? 1 : "D2", tickformat: "~e" }; // decades, or 1, 2 and 5
  return values.length && values.every(Number.isInteger) && high - low <= 10 ? { ...themed, dtick: 1 } : themed; // no fractions of a trial
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
