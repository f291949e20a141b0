// The legend of all charts: a table of the groups with their results, or without groups a button for each run.

function makeLegend() {
  const chips = byId("chips");
  if (view.settings.length) {
    chips.append(el("span", { class: "muted" }, "Group by"));
    for (const key of [...view.settings, ALL]) {
      chips.append(el("button", { type: "button", class: "chip", "data-key": key, onclick: () => groupBy(key) }, said(key, 32)));
    }
  }
  listen(["by", "off", "reference"], drawLegend);
  listen(["hidden"], showHidden);
  makeLighting(byId("legend"));
}

function groupBy(key) {
  const by = toggled(new Set(state.by), key);
  const together = key === ALL ? [ALL] : view.settings; // all runs at once, or by settings
  change({ by: together.filter((each) => by.has(each)), hidden: new Set(), reference: "" });
}

function drawLegend() {
  for (const chip of byId("chips").querySelectorAll(".chip")) {
    chip.setAttribute("aria-pressed", state.by.includes(chip.dataset.key));
  }
  const drawn = lines.filter((line) => line.runs.some(ticked));
  const legend = byId("legend");
  const focused = document.activeElement?.id; // the select element of the reference is replaced
  if (!drawn.length) legend.replaceChildren(el("p", { class: "sentence" }, "No run is ticked in the table."));
  else if (state.by.length) legend.replaceChildren(...groupsTable(drawn));
  else legend.replaceChildren(el("div", { class: "entries", role: "group", "aria-label": "Runs in the charts" }, ...drawn.map(entry)));
  if (focused === "reference") byId("reference")?.focus();
  showHidden();
}

function entry(line) {
  const text = line.values.map((value) => cut(visible(value), 24)).join(" · ");
  const shown = text ? el("bdi", { dir: "auto" }, text) : saidName(line.label);
  const onclick = () => change({ hidden: toggled(state.hidden, line.id) });
  const title = cut(visible(line.label), 300);
  return el("button", { type: "button", class: "entry", "data-line": line.id, title, onclick }, swatch(line), shown);
}

function showHidden() {
  for (const button of byId("legend").querySelectorAll("[data-line]")) {
    button.setAttribute("aria-pressed", !state.hidden.has(button.dataset.line));
  }
}

function groupsTable(drawn) {
  const reference = drawn.find((line) => line.id === state.reference) ?? drawn[0];
  const several = drawn.length > 1; // a difference needs two groups
  const heads = [
    el("th", { scope: "col" }, el("bdi", { dir: "auto" }, state.by.map((key) => cut(visible(key), 24)).join(" · "))),
    numericHead("n", "finished runs"),
    numericHead(`best ${objective.label}`, objective.unit),
    ...inTables.map((metric) => numericHead(`last ${metric.label}`, metric.unit)),
    several ? numericHead(`Δ last ${objective.label}`, "paired by seed") : null,
  ];
  const rows = drawn.map((line) => {
    const members = line.runs.filter(ticked);
    const done = finished(members);
    const cells = [
      size(done, members),
      spread(done, (run) => run.best, objective.form),
      ...inTables.map((metric) => spread(done, (run) => run.last.get(metric.key), metric.form)),
      ...(several ? [difference(members, reference === line ? null : reference.runs.filter(ticked))] : []),
    ];
    return el("tr", {}, el("th", { scope: "row" }, entry(line)), ...cells.map((cell) => el("td", { class: "numeric" }, cell)));
  });
  const attributes = { class: "scroller groups", tabindex: "0", role: "region", "aria-label": "Table of groups" };
  return [el("div", attributes, table(heads, rows)), referenceBar(drawn, reference)];
}

function numericHead(label, unit) {
  return el("th", { scope: "col", class: "numeric" }, said(label, 32), unit ? el("span", { class: "unit" }, ` ${visible(unit)}`) : null);
}

// How many runs are in a group's numbers, and how many seeds if these are fewer.
function size(done, members) {
  const seeds = countSeeds(done);
  const told = seeds < done.length ? el("span", { class: "at" }, ` ${count(seeds, "seed")}`) : "";
  return el("span", {}, done.length < members.length ? `${done.length} of ${members.length}` : String(done.length), told);
}

function countSeeds(some) {
  return new Set(some.map(seedOf)).size;
}

function spread(done, value, form) {
  const { n, mean, half } = overSeeds(done.map((run) => [seedOf(run), value(run)]));
  if (mean == null) return "–";
  const range = half == null ? "" : ` ± ${halfWidth(half, mean, form)}`;
  const told = n < countSeeds(done) ? ` ${count(n, "seed")}` : "";
  return el("span", {}, number(mean, form), el("span", { class: "muted" }, range, told));
}

function difference(members, others) {
  if (others === null) return el("span", { class: "muted" }, "reference");
  const { n, mean, half, alone } = pairedDifference(members, others, objective.key);
  const told = [n ? count(n, "seed") : "–", alone ? `${count(alone, "run")} without a partner` : ""].filter(Boolean).join(", ");
  const seeds = el("span", { class: "muted" }, ` ${told}`);
  if (!n) return seeds;
  if (half == null) return el("span", {}, signed(mean, objective.form), seeds);
  const sure = Math.abs(mean) > half; // the interval does not contain zero
  const range = ` [${signed(mean - half, objective.form)}, ${signed(mean + half, objective.form)}]`;
  return el("span", {}, el(sure ? "strong" : "span", {}, signed(mean, objective.form)), range, seeds);
}

function referenceBar(drawn, reference) {
  const options = drawn.map((line) => el("option", { value: line.id, selected: line === reference }, cut(visible(line.label), 80)));
  const select = el("select", { id: "reference", onchange: () => change({ reference: select.value }) }, ...options);
  return el(
    "p",
    { class: "help" },
    drawn.length > 1 ? el("label", {}, "Differences from ", select) : null,
    " Finished runs: means over seeds with 95 % intervals; several runs with one seed are averaged first. Differences are between runs with the same seed and the same other settings; bold if the interval does not contain zero (not corrected for the number of comparisons).",
  );
}
