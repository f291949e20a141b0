// The dialog with all details of a run.

function openDetails(run) {
  const dialog = byId("details");
  const close = el("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close");
  const title = el("h2", { id: "details-name" }, saidWhole(run.name));
  dialog.replaceChildren(
    el("div", { class: "line" }, title, close),
    stateLine(run),
    run.note ? el("p", { class: "note" }, saidWhole(run.note)) : "",
    ...(run.repeat ? [el("h3", {}, "Repeat it"), commandLine(run.repeat, "the command that repeats this run", run.left_out)] : []),
    ...(run.resume ? [el("h3", {}, "Resume it"), commandLine(run.resume, "the command that resumes this run")] : []),
    el("h3", {}, "Last values"),
    facts([...run.last].map(lastValue)),
    el("h3", {}, "Origin"),
    facts([["folder", run.folder], ...toMap(run.provenance)]),
    el("h3", {}, "Settings"),
    facts([...run.settings, ...run.other, ...common]),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

function lastValue([key, value]) {
  const { label, unit, form } = metrics.get(key);
  return [label, `${number(value, form)} ${unit}`];
}

function stateLine(run) {
  const score = `${number(run.best, objective.form)} ${objective.unit}`;
  const best = run.best == null ? "" : `, best ${objective.label} ${score} in epoch ${run.best_epoch ?? "–"}`;
  return el("p", {}, badge(run.state), `, epoch ${run.epoch ?? "–"} of ${run.epochs ?? "–"}${visible(best)}`);
}

function badge(name) {
  return el("span", { class: "state", "data-state": name }, visible(name));
}

function facts(pairs) {
  const shown = (value) => saidWhole(value !== null && typeof value === "object" ? JSON.stringify(value) : value);
  const rows = pairs.map(([key, value]) => el("div", {}, el("dt", {}, said(key)), el("dd", {}, shown(value))));
  return el("dl", { class: "facts" }, ...rows);
}

// A run's name, which opens its details.
function nameButton(run) {
  return el("button", { type: "button", class: "link name", onclick: () => openDetails(run) }, saidName(run.name));
}

byId("details").addEventListener("click", (event) => {
  if (event.target === byId("details")) event.target.close(); // a click outside the dialog's content
});
