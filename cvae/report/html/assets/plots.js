// Light and dark colours, for the page and for Plotly, and the plots: each is drawn when it is scrolled into view.

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };
const coarse = matchMedia("(pointer: coarse)").matches; // on a touch screen a drag scrolls the page
const dark = matchMedia("(prefers-color-scheme: dark)");
const look = document.documentElement.style;
let palette; // of the lines, set with the theme
// Pixels across A4, within the margins that page.css sets; the letters of a table are smaller there than on the screen.
const PAPER = { full: 690, half: 336, table: 940 };
let printing = false;

// The present colour of a CSS variable; the browser resolves light-dark() only in a property that takes a colour.
function resolved(variable) {
  const probe = document.body.appendChild(el("span"));
  probe.style.color = `var(${variable})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

// What all plots look like. A browser lays out paper after it has asked for what to print, so there a plot is told its width.
function plotLook(node) {
  const font = { color: resolved("--muted"), family: getComputedStyle(document.body).fontFamily, size: 12 };
  const back = resolved("--raised");
  return {
    font,
    colorway: palette,
    ...(printing ? { width: node.closest(".full") ? PAPER.full : PAPER.half } : {}),
    dragmode: coarse ? false : "zoom",
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { align: "left", bgcolor: back, bordercolor: resolved("--edge"), font: { ...font, color: resolved("--ink") } },
  };
}

function axisLook() {
  const grid = resolved("--grid");
  return { gridcolor: grid, linecolor: grid, zerolinecolor: grid, zeroline: false, automargin: true, exponentformat: "e" };
}

function isDark() {
  return look.colorScheme ? look.colorScheme === "dark" : dark.matches;
}

function setTheme(name) {
  look.colorScheme = name;
  palette = Array.from({ length: COLOURS }, (_, i) => resolved(`--c${i}`));
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  redraw(plots);
}

// A browser may refuse storage, for a page from a file or by the reader's settings.
function storage() {
  try {
    return localStorage;
  } catch {
    return {};
  }
}

function makeTheme() {
  setTheme(storage()["cvae-theme"] ?? "");
  byId("theme").addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    storage()["cvae-theme"] = look.colorScheme;
  });
  dark.addEventListener("change", () => setTheme(look.colorScheme));
  let before;
  addEventListener("beforeprint", () => {
    before = look.colorScheme;
    printing = true;
    foldColumns();
    setTheme("light");
    plots.filter((plot) => !plot.figure.hidden).forEach(drawNow);
  });
  addEventListener("afterprint", () => {
    printing = false;
    foldColumns();
    setTheme(before);
  });
}

const plots = [];
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) plots.find((plot) => plot.figure === target).near = isIntersecting;
  drawSoon();
}, { rootMargin: "200px" });

// A figure with a title and a hint, which `draw(node)` fills; `about` is for those who cannot see it.
function makePlot(title, hint, about, draw) {
  const node = el("div", { class: "plot", role: "img", "aria-label": cut(visible(`Chart: ${about}`), 300) });
  const caption = el("figcaption", {}, el("h3", {}, said(title, 80)), el("span", { class: "muted" }, saidWhole(hint)));
  const plot = { figure: el("figure", { class: "chart" }, caption, node), caption, node, draw, near: false, stale: true };
  plots.push(plot);
  seen.observe(plot.figure);
  return plot;
}

function redraw(some) {
  for (const plot of some) plot.stale = true;
  drawSoon();
}

function drawNow(plot) {
  plot.stale = false;
  plot.draw(plot.node);
  if (plot.printed && !printing) Plotly.Plots.resize(plot.node); // else it keeps the size that it had on paper
  plot.printed = printing;
}

let waiting;

// One plot in each frame, so that the page stays responsive.
function drawSoon() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => {
    const next = plots.find((plot) => plot.stale && plot.near && !plot.figure.hidden);
    if (!next) return;
    drawNow(next);
    drawSoon();
  });
}
