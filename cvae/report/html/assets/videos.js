// Sample videos of the ticked runs beside the true video, all played in step.

const CARDS = 12; // shown at first, and added by each click on "Show more"
const RATE = 6; // frames a second
const REST = 4; // ticks on the last frame before the video starts again

const player = { playing: false, paused: false, frame: 0, shown: CARDS, stages: [], last: 0, visible: false };
const cardOf = new Map(); // by run
const sequenceOf = new Map(); // by truth

function makeVideos() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  byId("play").addEventListener("click", () => {
    player.paused = player.playing; // paused by the reader
    play(!player.playing);
  });
  byId("frame").addEventListener("input", () => {
    player.paused = true;
    play(false);
    showFrame(Number(byId("frame").value));
  });
  byId("more-videos").addEventListener("click", () => {
    player.shown += CARDS;
    drawStages();
  });
  new IntersectionObserver(([entry]) => (player.visible = entry.isIntersecting)).observe(byId("videos"));
  drawStages();
  listen(["off", "sort"], drawStages);
  play(!still);
}

function play(on) {
  const pausing = player.playing && !on;
  player.playing = on;
  byId("play").textContent = on ? "Pause" : "Play";
  byId("moment").setAttribute("aria-live", on ? "off" : "polite"); // a screen reader would read every frame
  player.last = performance.now();
  if (on) requestAnimationFrame(advance);
  if (!pausing) return;
  byId("moment").value = ""; // a screen reader reads only changes
  setTimeout(() => showFrame(player.frame));
}

function advance(now) {
  if (!player.playing) return;
  const pace = 1000 / (RATE * Number(byId("speed").value));
  if (now - player.last >= pace) {
    player.last = now;
    if (player.visible) showFrame((player.frame + 1) % (frameCount() + REST));
  }
  requestAnimationFrame(advance);
}

function frameCount() {
  return Math.max(1, ...player.stages.map((stage) => stage.truth.frames));
}

function showFrame(frame) {
  player.frame = frame;
  const last = frameCount() - 1;
  const shown = Math.min(frame, last);
  byId("frame").max = last;
  byId("frame").value = shown;
  const given = player.stages.every((stage) => shown < stage.truth.n_past);
  byId("moment").value = `frame ${shown + 1} of ${last + 1}, ${given ? "given" : "predicted"}`;
  for (const stage of player.stages) {
    const at = Math.min(shown, stage.truth.frames - 1);
    for (const card of stage.cards) paint(card, stage.truth, at);
  }
}

// One stage for each set of sequences that the runs predict.
function drawStages() {
  const withVideo = ordered().filter((run) => ticked(run) && run.video && view.videos[run.video.truth]);
  if (!state.sort) withVideo.sort((a, b) => a.video.rank - b.video.rank); // the best of each group of settings first
  const chosen = withVideo.slice(0, player.shown);
  const truths = [...new Set(chosen.map((run) => run.video.truth))];
  player.stages = truths.map((index) => {
    const truth = view.videos[index];
    const cards = [truthCard(index), ...chosen.filter((run) => run.video.truth === index).map(runCard)];
    const grid = el("div", { class: "cards" }, ...cards.map((card) => card.node));
    return { truth, cards, node: el("div", { class: "stage" }, sequenceChoice(index), grid) };
  });
  const nothing = el("p", { class: "sentence" }, "None of the ticked runs has a sample video.");
  byId("stages").replaceChildren(...(player.stages.length ? player.stages.map((stage) => stage.node) : [nothing]));
  byId("more-videos").hidden = withVideo.length <= chosen.length;
  byId("more-videos").textContent = `Show more: ${chosen.length} of ${withVideo.length} videos shown`;
  showFrame(player.frame);
}

function truthCard(index) {
  if (!cardOf.has(index)) {
    const title = el("div", { class: "title" }, el("strong", {}, "Truth"));
    cardOf.set(index, makeCard(view.videos[index].image, index, title, [el("span", {}, "the recorded frames")], "truth"));
  }
  return cardOf.get(index);
}

function runCard(run) {
  if (!cardOf.has(run)) {
    const name = el("button", { type: "button", class: "link name", onclick: () => openDetails(run) }, saidName(run.name));
    const { epoch } = run.video;
    const then = (key) => run.curves.get(key)?.[run.curves.get("epoch")?.indexOf(epoch)];
    const shown = [...new Set([objective, ...inTables])].filter(({ key }) => then(key) != null);
    const scores = [`epoch ${epoch}`, ...shown.map(({ key, short, form, unit }) => `${short} ${number(then(key), form)} ${unit}`.trim())];
    const about = [el("span", {}, visible(scores.join(", "))), el("span", { class: "muted" }, said(settingsText(run), 120))];
    cardOf.set(run, makeCard(run.video.image, run.video.truth, el("div", { class: "title" }, name), about));
  }
  return cardOf.get(run);
}

function makeCard(source, truthIndex, title, about, kind = "") {
  const { size } = view.videos[truthIndex];
  const canvas = el("canvas", { width: size, height: size, role: "img", "aria-label": cut(`Video: ${title.textContent}`, 100) });
  const node = el("div", { class: `card ${kind}` }, canvas, el("div", { class: "about" }, title, ...about));
  const card = { node, canvas, truthIndex, sheet: new Image(), ready: false };
  card.sheet.src = source;
  card.sheet.decode().then(
    () => {
      card.ready = true;
      showFrame(player.frame);
    },
    () => canvas.replaceWith(el("p", { class: "sentence" }, "This video cannot be shown.")),
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
  const truth = view.videos[index];
  const options = Array.from({ length: truth.sequences }, (_, i) =>
    el("option", { value: i, selected: i === (sequenceOf.get(index) ?? 0) }, `sequence ${i + 1}`));
  const select = el("select", { onchange: () => {
    sequenceOf.set(index, Number(select.value));
    showFrame(player.frame);
  } }, ...options);
  const keys = ["given", "predicted"].map((kind) => el("span", { class: `key ${kind}` }, kind));
  return el("p", { class: "sequence" }, el("label", {}, "Sequence ", select), ...keys);
}
