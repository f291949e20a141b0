// Films of the ticked runs beside the truth, all driven by one clock.

const CARDS = 12;
const RATE = 6; // frames a second
const REST = 4; // ticks on the last frame, before it begins again

const film = { playing: false, paused: false, frame: 0, shown: CARDS, stages: [], last: 0, visible: false };
const cardOf = new Map(); // by run
const sequenceOf = new Map(); // by truth

function makeFilms() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("play").addEventListener("click", () => {
    film.paused = film.playing; // by the reader
    play(!film.playing);
  });
  byId("frame").addEventListener("input", () => {
    film.paused = true;
    play(false);
    showFrame(Number(byId("frame").value));
  });
  byId("more-films").addEventListener("click", () => {
    film.shown += CARDS;
    drawStages();
  });
  new IntersectionObserver(([entry]) => (film.visible = entry.isIntersecting)).observe(byId("films"));
  drawStages();
  listen(["off", "sort"], drawStages);
  play(!still);
}

function play(on) {
  const pausing = film.playing && !on;
  film.playing = on;
  byId("play").textContent = on ? "Pause" : "Play";
  byId("moment").setAttribute("aria-live", on ? "off" : "polite"); // four announcements a second are too many
  film.last = performance.now();
  if (on) requestAnimationFrame(advance);
  if (!pausing) return;
  byId("moment").value = ""; // a screen reader speaks of changes alone
  setTimeout(() => showFrame(film.frame));
}

function advance(now) {
  if (!film.playing) return;
  const pace = 1000 / (RATE * Number(byId("speed").value));
  if (now - film.last >= pace) {
    film.last = now;
    if (film.visible) showFrame((film.frame + 1) % (frameCount() + REST));
  }
  requestAnimationFrame(advance);
}

function frameCount() {
  return Math.max(1, ...film.stages.map((stage) => stage.truth.frames));
}

function showFrame(frame) {
  film.frame = frame;
  const last = frameCount() - 1;
  const shown = Math.min(frame, last);
  byId("frame").max = last;
  byId("frame").value = shown;
  const given = film.stages.every((stage) => shown < stage.truth.n_past);
  byId("moment").value = `frame ${shown + 1} of ${last + 1}, ${given ? "given" : "predicted"}`;
  for (const stage of film.stages) {
    const at = Math.min(shown, stage.truth.frames - 1);
    for (const card of stage.cards) paint(card, stage.truth, at);
  }
}

// One stage for each set of sequences that the runs were filmed on.
function drawStages() {
  const filmed = ordered().filter((run) => ticked(run) && run.film && view.films[run.film.truth]);
  if (!state.sort) filmed.sort((a, b) => a.film.place - b.film.place); // the best of each group of settings first
  const chosen = filmed.slice(0, film.shown);
  const truths = [...new Set(chosen.map((run) => run.film.truth))];
  film.stages = truths.map((index) => {
    const truth = view.films[index];
    const cards = [truthCard(index), ...chosen.filter((run) => run.film.truth === index).map(runCard)];
    const grid = el("div", { class: "cards" }, ...cards.map((card) => card.node));
    return { truth, cards, node: el("div", { class: "stage" }, sequenceChoice(index), grid) };
  });
  const nothing = el("p", { class: "sentence" }, "None of the ticked runs has a film.");
  byId("stages").replaceChildren(...(film.stages.length ? film.stages.map((stage) => stage.node) : [nothing]));
  byId("more-films").hidden = filmed.length <= chosen.length;
  byId("more-films").textContent = `Show more: ${chosen.length} of ${filmed.length} films shown`;
  showFrame(film.frame);
}

function truthCard(index) {
  if (!cardOf.has(index)) {
    const title = el("div", { class: "title" }, el("strong", {}, "Truth"));
    cardOf.set(index, makeCard(view.films[index].image, index, title, [el("span", {}, "what the camera saw")], "truth"));
  }
  return cardOf.get(index);
}

function runCard(run) {
  if (!cardOf.has(run)) {
    const name = el("button", { type: "button", class: "link name", onclick: () => openDetails(run) }, saidName(run.name));
    const { epoch } = run.film;
    const then = (key) => run.curves.get(key)?.[run.curves.get("epoch")?.indexOf(epoch)];
    const shown = [...new Set([objective, ...inTables])].filter(({ key }) => then(key) != null);
    const scores = [`epoch ${epoch}`, ...shown.map(({ key, short, form, unit }) => `${short} ${number(then(key), form)} ${unit}`.trim())];
    const about = [el("span", {}, visible(scores.join(", "))), el("span", { class: "muted" }, said(settingsText(run), 120))];
    cardOf.set(run, makeCard(run.film.image, run.film.truth, el("div", { class: "title" }, name), about));
  }
  return cardOf.get(run);
}

function makeCard(source, truthIndex, title, about, kind = "") {
  const { size } = view.films[truthIndex];
  const canvas = el("canvas", { width: size, height: size, role: "img", "aria-label": cut(`Film: ${title.textContent}`, 100) });
  const node = el("div", { class: `card ${kind}` }, canvas, el("div", { class: "about" }, title, ...about));
  const card = { node, canvas, truthIndex, sheet: new Image(), ready: false };
  card.sheet.src = source;
  card.sheet.decode().then(
    () => {
      card.ready = true;
      showFrame(film.frame);
    },
    () => canvas.replaceWith(el("p", { class: "sentence" }, "This film cannot be shown.")),
  );
  return card;
}

function paint(card, truth, frame) {
  card.canvas.className = frame < truth.n_past ? "given" : "predicted";
  if (!card.ready) return;
  const row = sequenceOf.get(card.truthIndex) ?? 0;
  const { size } = truth;
  card.canvas.getContext("2d").drawImage(card.sheet, frame * size, row * size, size, size, 0, 0, size, size);
}

function sequenceChoice(index) {
  const truth = view.films[index];
  const options = Array.from({ length: truth.sequences }, (_, i) =>
    el("option", { value: i, selected: i === (sequenceOf.get(index) ?? 0) }, cut(visible(truth.names[i] ?? `sequence ${i + 1}`), 60)));
  const select = el("select", { onchange: () => {
    sequenceOf.set(index, Number(select.value));
    showFrame(film.frame);
  } }, ...options);
  const keys = ["given", "predicted"].map((kind) => el("span", { class: `key ${kind}` }, kind));
  return el("p", { class: "sequence" }, el("label", {}, "Sequence ", select), ...keys);
}
