// The data, and the reader's choices. The address holds the choices after #, so a link or a reload keeps them.

const view = JSON.parse(byId("view").textContent);

// Maps, because a setting may have the name __proto__.
const toMap = (object) => new Map(Object.entries(object ?? {}));
const common = toMap(view.common);
const metrics = new Map(view.metrics.map((metric) => [metric.key, metric]));
const objective = metrics.get(view.objective);
const inTables = [...metrics.values()].filter((metric) => metric.shown === "table");
const runs = view.runs.map((run, index) => ({
  ...run,
  index,
  settings: toMap(run.settings),
  other: toMap(run.other), // settings of this run that others lack: a cyclical run's cycles
  last: toMap(run.last),
  curves: toMap(run.curves),
  id: shortHash(`${run.folder}\n${run.name}`),
}));

const ALL = "all runs"; // the grouping of all runs together; no setting has this name
const state = {};
let address = "";
readHash();

function readHash() {
  address = location.hash;
  const params = new URLSearchParams(location.hash.slice(1));
  const set = (key) => new Set((params.get(key) ?? "").split(".").filter(Boolean));
  const on = set("on");
  Object.assign(state, {
    query: params.get("q") ?? "",
    sort: params.get("sort") ?? "",
    by: params.has("by") ? params.getAll("by").filter((key) => key === ALL || view.settings.includes(key)) : usualGrouping(),
    off: params.has("on") ? new Set(runs.map((run) => run.id).filter((id) => !on.has(id))) : set("off"),
    hidden: set("hide"),
    more: params.has("more"),
    log: params.has("log"),
    reference: params.get("ref") ?? "",
  });
}

function writeHash() {
  if (location.hash !== address) return; // the reader changed it, and it is read next
  const params = new URLSearchParams();
  const usual = usualGrouping();
  if (state.query) params.set("q", state.query);
  if (state.sort) params.set("sort", state.sort);
  if (state.by.length !== usual.length || state.by.some((key, i) => key !== usual[i])) {
    for (const key of state.by.length ? state.by : [""]) params.append("by", key);
  }
  const on = runs.filter(ticked).map((run) => run.id);
  if (on.length < runs.length / 2) params.set("on", on.join("."));
  else if (state.off.size) params.set("off", [...state.off].join("."));
  if (state.hidden.size) params.set("hide", [...state.hidden].join("."));
  if (state.more) params.set("more", "1");
  if (state.log) params.set("log", "1");
  if (state.reference) params.set("ref", state.reference);
  history.replaceState(null, "", `#${params}`);
  address = location.hash;
}

// All settings but the seed, if this groups any runs; all runs together if only the seed differs. Runs that differ in many
// settings are grouped by the first, most important ones.
function usualGrouping() {
  const MOST = 5;
  const keys = view.settings.filter((key) => key !== "seed").slice(0, MOST);
  if (!keys.length) return view.settings.length ? [ALL] : [];
  const groups = new Set(runs.map((run) => groupKey(run, keys)));
  return groups.size < runs.length ? keys : [];
}

function groupKey(run, keys) {
  return JSON.stringify(keys.map((key) => run.settings.get(key) ?? null));
}

function ticked(run) {
  return !state.off.has(run.id);
}

const listeners = [];
const changed = new Set();
let writing = 0;

// Call `react` now, and after one of these choices has changed, once for several changes at the same time.
function listen(keys, react) {
  listeners.push({ keys, react });
  react();
}

function change(choices) {
  Object.assign(state, choices);
  if (!changed.size) queueMicrotask(tell);
  for (const key of Object.keys(choices)) changed.add(key);
  clearTimeout(writing);
  writing = setTimeout(writeHash, 100); // browsers limit how often an address may change
}

function tell() {
  const keys = new Set(changed);
  changed.clear();
  for (const { keys: wanted, react } of listeners) if (wanted.some((key) => keys.has(key))) react();
}

addEventListener("hashchange", () => {
  readHash();
  change({ ...state });
  clearTimeout(writing); // the address has it already
});

function toggled(set, item) {
  const next = new Set(set);
  if (!next.delete(item)) next.add(item);
  return next;
}
