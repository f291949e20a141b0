// The dialog with all details of a run.

function openDetails(run) {
  const dialog = byId("details");
  const close = el("button", { type: "button", class: "quiet close", onclick: () => dialog.close() }, "Close");
  const title = el("h2", { id: "details-name" }, saidWhole(run.name));
  dialog.replaceChildren(el("div", { class: "line" }, title, close), stateLine(run));
  if (run.note) dialog.append(el("p", { class: "note" }, saidWhole(run.note)));
  dialog.append(
    el("h3", {}, "Repeat it"),
    commandLine(run.repeat, "the command that repeats this run"),
  );
  if (run.resume) dialog.append(el("h3", {}, "Resume it"), commandLine(run.resume, "the command that resumes this run"));
  dialog.append(
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

const STATES = ["finished", "running", "stopped", "pruned", "failed", "diverged"]; // each has a mark in page.css

function badge(name) {
  return el("span", { class: STATES.includes(name) ? `state ${name}` : "state" }, visible(name));
}

function facts(pairs) {
  return fillFacts(el("dl", { class: "facts" }), pairs);
}

function fillFacts(list, pairs) {
  for (const [key, value] of pairs) {
    const shown = value !== null && typeof value === "object" ? JSON.stringify(value) : value;
    list.append(el("div", {}, el("dt", {}, said(key)), el("dd", {}, saidWhole(shown))));
  }
  return list;
}

byId("details").addEventListener("click", (event) => {
  if (event.target === byId("details")) event.target.close(); // a click outside the dialog's content
});
