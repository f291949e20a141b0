// Sample videos of the ticked runs beside the true video, all played in step.

const CARDS = 12; // shown at first, and added by each click on "Show more"
const RATE = 6; // frames a second
const REST = 4; // ticks on the last frame before the video starts again

const player = { playing: false, paused: false, frame: 0, shown: CARDS, stages: [], last: 0, visible: false };
const cards = new Map(); // by run or truth

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
    for (const card of stage.cards) paint(card, at);
  }
}

// One stage for each set of sequences that the runs predict.
function drawStages() {
  const truthOf = (run) => view.videos[run.video?.truth];
  const withVideo = ordered().filter((run) => ticked(run) && truthOf(run));
  if (!state.sort) withVideo.sort((a, b) => a.video.rank - b.video.rank); // the best of each group of settings first
  const chosen = withVideo.slice(0, player.shown);
  player.stages = [...Map.groupBy(chosen, truthOf)].map(([truth, some]) => {
    const shown = [cardOf(truth, truthCard), ...some.map((run) => cardOf(run, () => runCard(run, truth)))];
    const grid = el("div", { class: "cards" }, ...shown.map((card) => card.node));
    return { truth, cards: shown, node: el("div", {}, sequenceChoice(truth), grid) };
  });
  const nothing = el("p", { class: "sentence" }, "None of the ticked runs has a sample video.");
  byId("stages").replaceChildren(...(player.stages.length ? player.stages.map((stage) => stage.node) : [nothing]));
  byId("more-videos").hidden = withVideo.length <= chosen.length;
  byId("more-videos").textContent = `Show more: ${chosen.length} of ${withVideo.length} videos shown`;
  showFrame(player.frame);
}

function cardOf(item, make) {
  if (!cards.has(item)) cards.set(item, make(item));
  return cards.get(item);
}

function truthCard(truth) {
  return makeCard(truth.image, truth, "truth", el("strong", {}, "Truth"), el("span", {}, "the recorded frames"));
}

function runCard(run, truth) {
  const { epoch, image } = run.video;
  const then = ({ key }) => curveOf(run, key).find((point) => point.epoch === epoch)?.value;
  const shown = [...new Set([objective, ...inTables])].filter((metric) => then(metric) != null);
  const scores = shown.map((metric) => `${metric.short} ${number(then(metric), metric.form)} ${metric.unit}`.trim());
  const told = el("span", {}, visible([`epoch ${epoch}`, ...scores].join(", ")));
  return makeCard(image, truth, "", nameButton(run), told, el("span", { class: "muted" }, said(settingTexts(run).join(", "), 120)));
}

function makeCard(source, truth, kind, title, ...about) {
  const { size } = truth;
  const canvas = el("canvas", { width: size, height: size, role: "img", "aria-label": cut(`Video: ${title.textContent}`, 100) });
  const node = el("div", { class: `card ${kind}` }, canvas, el("div", { class: "about" }, el("div", {}, title), ...about));
  const card = { node, canvas, truth, sheet: new Image(), ready: false };
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

function paint({ canvas, sheet, ready, truth }, frame) {
  canvas.className = frame < truth.n_past ? "given" : "predicted";
  if (!ready) return;
  const { size, sequence = 0 } = truth;
  canvas.getContext("2d").drawImage(sheet, frame * size, sequence * size, size, size, 0, 0, size, size);
}

function sequenceChoice(truth) {
  const { sequences, sequence = 0 } = truth; // the one that the reader has chosen
  const options = Array.from({ length: sequences }, (_, i) => el("option", { value: i, selected: i === sequence }, `sequence ${i + 1}`));
  const onchange = ({ target }) => {
    truth.sequence = Number(target.value);
    showFrame(player.frame);
  };
  const keys = ["given", "predicted"].map((kind) => el("span", { class: `key ${kind}` }, kind));
  return el("p", { class: "sequence" }, el("label", {}, "Sequence ", el("select", { onchange }, ...options)), ...keys);
}
