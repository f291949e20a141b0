// The table of runs. Rows are made once; sorting moves them, the filter hides them.

const lastMetrics = inTables.map((metric) => metricColumn(metric, "last", (run) => run.last.get(metric.key)));
const ofObjective = (column) => column.id === objective.key;

// What a reader compares stands at the left; `fold` columns give way where there is no room, the last one first.
const columns = [
  { id: "name", label: "run", value: (run) => run.name },
  metricColumn(objective, "best", (run) => run.best, bestCell),
  ...lastMetrics.filter(ofObjective),
  { id: "state", label: "state", value: (run) => run.state, cell: stateCell },
  ...view.settings.map((key) => {
    const value = (run) => run.settings.get(key);
    return { id: `s:${key}`, label: key, value, fold: true, cell: (run) => said(rounded(value(run)), 18) };
  }),
  ...lastMetrics.filter((column) => !ofObjective(column)).map((column) => ({ ...column, fold: true })),
  { id: "epoch", label: "epoch", numeric: true, fold: true, value: (run) => run.epoch, cell: (run) => `${run.epoch ?? "–"} / ${run.epochs ?? "–"}` },
];
let unfolded = false;
const rowOf = new Map();
let shownRuns = [];

function metricColumn({ key, label, unit, better, form }, which, value, cell = (run) => number(value(run), form)) {
  const id = which === "best" ? which : key;
  return { id, label: `${which} ${label}`, numeric: true, unit, bestFirst: better === "max", value, cell };
}

// Four digits tell settings apart; the dialog of a run has all.
function rounded(value) {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}

function stateCell(run) {
  const note = run.note ? el("span", { class: "why" }, said(run.note, 16)) : null;
  return el("span", { class: "stated" }, badge(run.state), note);
}

function bestCell(run) {
  if (run.best == null) return "–";
  return el("span", {}, number(run.best, objective.form), el("span", { class: "at", title: "its epoch" }, ` @ ${run.best_epoch ?? "–"}`));
}

function makeTable() {
  const all = el("input", { type: "checkbox", id: "tick-all", "aria-label": "Plot all runs shown here", title: "All runs shown here" });
  all.addEventListener("change", () => tick(shownRuns, all.checked));
  const heads = columns.map((column) => headCell(column, column.id === "name" ? all : null));
  byId("table").append(table(heads, runs.map(makeRow)));
  const query = byId("query");
  query.addEventListener("input", () => change({ query: query.value }));
  byId("only").addEventListener("click", () => {
    const shown = new Set(shownRuns);
    change({ off: new Set(runs.filter((run) => !shown.has(run)).map((run) => run.id)) });
  });
  byId("reset").addEventListener("click", () => change({ off: new Set() }));
  makeLighting(byId("table").querySelector("tbody"));
  byId("fold").addEventListener("click", () => {
    unfolded = !unfolded;
    foldColumns();
  });
  new ResizeObserver(foldColumns).observe(byId("table"));
  listen(["sort"], orderRows);
  listen(["query", "sort"], filterRows);
  listen(["off", "query"], showTicks);
  listen(["by"], () => rowOf.forEach((row, run) => paintSwatch(row.querySelector(".swatch"), lineOf.get(run))));
}

function headCell(column, before) {
  const button = el("button", { type: "button", class: "sort", onclick: () => sortBy(column) }, said(column.label, 24));
  if (column.unit) button.append(el("span", { class: "unit" }, ` ${visible(column.unit)}`));
  return el("th", { scope: "col", class: column.numeric ? "numeric" : null, "data-column": column.id }, el("div", { class: "head" }, before, button));
}

function makeRow(run) {
  const box = el("input", { type: "checkbox", "aria-label": cut(`Plot ${visible(run.name)}`, 100), onchange: () => tick([run], box.checked) });
  const head = el("th", { scope: "row" }, el("div", { class: "head" }, box, swatch(lineOf.get(run)), nameButton(run)));
  const cells = columns.slice(1).map((column) => el("td", { class: column.numeric ? "numeric" : null }, column.cell(run)));
  const row = el("tr", {}, head, ...cells);
  rowOf.set(run, row);
  return row;
}

function tick(some, on) {
  const off = new Set(state.off);
  for (const run of some) on ? off.delete(run.id) : off.add(run.id);
  change({ off });
}

// Hide columns until the others have room, unless the reader wants to see all.
function foldColumns() {
  const scroller = byId("table");
  if (!scroller.clientWidth) return; // the filter has left no run
  scroller.style.maxWidth = printing ? `${PAPER.table}px` : "";
  const rows = [...scroller.querySelectorAll("tr")];
  const hide = (i, hidden) => rows.forEach((row) => (row.children[i].hidden = hidden));
  const foldable = columns.flatMap((column, i) => (column.fold ? [i] : []));
  for (const i of foldable) hide(i, false);
  const folded = [];
  while ((!unfolded || printing) && foldable.length && scroller.scrollWidth > scroller.clientWidth) {
    folded.push(foldable.pop());
    hide(folded.at(-1), true);
  }
  const button = byId("fold");
  button.hidden = !folded.length && !unfolded;
  button.textContent = unfolded ? "Fewer columns" : count(folded.length, "more column");
  button.setAttribute("aria-expanded", unfolded);
}

// The first click sorts the best first, the second reverses, the third restores the original order.
function sortBy(column) {
  const first = column.bestFirst ? `-${column.id}` : column.id;
  const second = column.bestFirst ? column.id : `-${column.id}`;
  change({ sort: state.sort === first ? second : state.sort === second ? "" : first });
}

function ordered() {
  const down = state.sort.startsWith("-");
  const column = columns.find((each) => each.id === state.sort.slice(down ? 1 : 0));
  if (!column) return runs;
  return runs.toSorted((a, b) => {
    const [one, other] = [column.value(a), column.value(b)];
    const turn = down && one != null && other != null ? -1 : 1; // missing values come last both ways
    return turn * compareValues(one, other) || a.index - b.index;
  });
}

function orderRows() {
  byId("table").querySelector("tbody").replaceChildren(...ordered().map((run) => rowOf.get(run)));
  for (const cell of byId("table").querySelectorAll("th[data-column]")) {
    const way = { [cell.dataset.column]: "ascending", [`-${cell.dataset.column}`]: "descending" }[state.sort];
    if (way) cell.setAttribute("aria-sort", way);
    else cell.removeAttribute("aria-sort");
  }
}

function filterRows() {
  if (byId("query").value !== state.query) byId("query").value = state.query;
  const { matches, unknown } = matcher(state.query);
  shownRuns = ordered().filter(matches);
  const shown = new Set(shownRuns);
  for (const [run, row] of rowOf) row.hidden = !shown.has(run);
  byId("matches").textContent = shown.size === runs.length ? count(runs.length, "run") : `${shown.size} of ${count(runs.length, "run")}`;
  byId("table").hidden = !shown.size;
  byId("only").hidden = shown.size === runs.length || !shown.size;
  byId("none").hidden = shown.size > 0;
  byId("none").textContent = "No run matches this filter.";
  byId("unknown").textContent = unknown.length ? `No such setting: ${visible(unknown.join(", "))}. ` : "";
}

function showTicks() {
  for (const [run, row] of rowOf) {
    row.querySelector("input").checked = ticked(run);
    row.classList.toggle("off", !ticked(run));
  }
  const on = shownRuns.filter(ticked).length;
  byId("tick-all").checked = on > 0 && on === shownRuns.length;
  byId("tick-all").indeterminate = on > 0 && on < shownRuns.length;
  byId("reset").hidden = runs.every(ticked);
}
