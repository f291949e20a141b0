// The table of runs. Rows are made once; sorting moves them, the filter hides them.

const columns = [
  { id: "name", label: "run", value: (run) => run.name },
  { id: "state", label: "state", value: (run) => run.state, cell: stateCell },
  ...view.settings.map((key) => ({ id: `s:${key}`, label: key, value: (run) => run.settings.get(key), cell: settingCell })),
  { id: "best", label: `best ${objective.label}`, ...better(objective), value: (run) => run.best, cell: bestCell },
  ...inTables.map(metricColumn),
  { id: "epoch", label: "epoch", numeric: true, value: (run) => run.epoch, cell: epochCell },
];
const rowOf = new Map();
let shownRuns = [];

function metricColumn(metric) {
  const value = (run) => run.last.get(metric.key);
  return { id: metric.key, label: `last ${metric.label}`, ...better(metric), value, cell: (run) => number(value(run), metric.form) };
}

function better(metric) {
  return { numeric: true, unit: metric.unit, bestFirst: metric.better === "max" };
}

function stateCell(run) {
  const note = run.note ? el("span", { class: "why" }, said(run.note, 22)) : null;
  return el("span", { class: "stated" }, badge(run.state), note);
}

function settingCell(run, column) {
  return said(column.value(run), 32);
}

function bestCell(run) {
  if (run.best == null) return "–";
  return el("span", {}, number(run.best, objective.form), el("span", { class: "at", title: "its epoch" }, ` @ ${run.best_epoch ?? "–"}`));
}

function epochCell(run) {
  return `${run.epoch ?? "–"} / ${run.epochs ?? "–"}`;
}

function makeTable() {
  const all = el("input", { type: "checkbox", id: "tick-all", "aria-label": "Plot all runs shown here", title: "All runs shown here" });
  all.addEventListener("change", () => tick(shownRuns, all.checked));
  const head = el("tr", {}, ...columns.map((column) => headCell(column, column.id === "name" ? all : null)));
  const body = el("tbody", {}, ...runs.map(makeRow));
  byId("table").append(el("table", {}, el("thead", {}, head), body));
  const query = byId("query");
  query.placeholder = "Filter the runs";
  query.value = state.query;
  query.addEventListener("input", () => change({ query: query.value }));
  byId("only").addEventListener("click", () => {
    const shown = new Set(shownRuns);
    change({ off: new Set(runs.filter((run) => !shown.has(run)).map((run) => run.id)) });
  });
  byId("reset").addEventListener("click", () => change({ off: new Set() }));
  body.addEventListener("pointerover", (event) => highlight(lineUnder(event)));
  body.addEventListener("pointerleave", () => highlight(null));
  body.addEventListener("focusin", (event) => highlight(lineUnder(event)));
  body.addEventListener("focusout", () => highlight(null));
  orderRows();
  filterRows();
  showTicks();
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
  const open = el("button", { type: "button", class: "link name", onclick: () => openDetails(run) }, saidName(run.name));
  const head = el("th", { scope: "row" }, el("div", { class: "head" }, box, swatch(lineOf.get(run)), open));
  const cells = columns.slice(1).map((column) => el("td", { class: column.numeric ? "numeric" : null }, column.cell(run, column)));
  const row = el("tr", {}, head, ...cells);
  rowOf.set(run, row);
  return row;
}

function lineUnder(event) {
  const row = event.target.closest("tr");
  const run = runs.find((each) => rowOf.get(each) === row);
  return run ? lineOf.get(run) : null;
}

function tick(some, on) {
  const off = new Set(state.off);
  for (const run of some) on ? off.delete(run.id) : off.add(run.id);
  change({ off });
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
  return [...runs].sort((a, b) => {
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
