// The head of the page, its simple sections, the check for newer results, and the start of all parts.

function makeHead() {
  byId("title").replaceChildren(said(view.title, 120));
  const states = Object.entries(Object.groupBy(runs, (run) => run.state));
  const parts = states.map(([name, some]) => `${some.length} ${visible(name)}`);
  const failed = view.failed.length ? `, ${count(view.failed.length, "failed start")}` : "";
  const unreadable = view.unreadable.length ? `, ${view.unreadable.length} unreadable` : "";
  byId("counts").textContent = `${count(runs.length, "run")}${runs.length ? `: ${parts.join(", ")}` : ""}${failed}${unreadable}`;
  byId("made").append(el("span", {}, "Made ", el("time", { datetime: view.made, title: view.made }, localTime(view.made)), " by"));
  byId("made").append(commandLine(view.command, "the command that makes this page again"));
  byId("footer").textContent = `cvae ${visible(view.version)}`;
}

// The links scroll without changing the address, which holds the reader's choices.
function makeLinks() {
  for (const heading of document.querySelectorAll("main > section:not([hidden]) > h2, #sweeps > section > h2")) {
    const go = () => heading.scrollIntoView({ block: "start" });
    byId("nav").append(el("button", { type: "button", class: "link", onclick: go }, cut(heading.textContent, 32)));
  }
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("main").focus();
  });
}

// A row a protocol, run and metric; of each metric the best run first. What a file could not say is a row of its own.
function makeEvaluations() {
  const section = byId("evaluations");
  const evals = runs.flatMap((run) => run.evals.map((each) => ({ run, ...each })));
  const rows = evals.flatMap((each) => (each.scores.length ? each.scores : [null]).map((score, place) => ({ ...each, score, place })));
  section.hidden = !rows.length;
  const rank = ({ score }) => (score == null || score.mean == null ? Infinity : score.metric.better === "min" ? score.mean : -score.mean);
  rows.sort((a, b) => compareValues(a.protocol, b.protocol) || a.place - b.place || rank(a) - rank(b) || 0);
  const heads = ["protocol", "metric", "run", "videos", "mean", "95 % interval", "last frame repeated", "difference", "note"];
  const side = (i) => (i >= 3 && i <= 7 ? "numeric" : null);
  const body = rows.map(({ run, protocol, videos, score, note }) => {
    const { mean, low, high, copy, metric } = score || { metric: { label: "–", unit: "", form: ".2f" } };
    const range = low == null || high == null ? "–" : `[${number(low, metric.form)}, ${number(high, metric.form)}]`;
    const gain = mean == null || copy == null ? "–" : signed(mean - copy, metric.form);
    const numbers = [String(videos ?? "–"), number(mean, metric.form), range, number(copy, metric.form), gain];
    const title = metric.unit ? `${metric.label}, ${metric.unit}` : metric.label;
    const cells = [said(protocol, 40), said(title, 40), nameButton(run), ...numbers, said(note || "", 80)];
    return el("tr", {}, ...cells.map((child, i) => el("td", { class: side(i) }, child)));
  });
  const head = heads.map((text, i) => el("th", { scope: "col", class: side(i) }, text));
  section.querySelector(".scroller").append(table(head, body));
  for (const { run, protocol, sentences } of evals.filter((each) => each.sentences.length)) {
    section.append(el("p", {}, el("b", {}, `${cut(run.name, 60)}, ${protocol}: `), sentences.join(" ")));
  }
}

function makeRest() {
  for (const id of ["failed", "unreadable"]) {
    byId(id).hidden = !view[id].length;
    byId(id).append(facts(view[id].map(({ folder, reason }) => [folder, reason])));
  }
  byId("common").hidden = !common.size;
  byId("common").querySelector("summary").textContent = count(common.size, "setting");
  byId("common").querySelector("details").append(facts([...common]));
}

// Ask the server for newer results. A reader who is busy is not interrupted, but gets a button that shows them.
function watch() {
  const PAUSE = 2000;
  const PAUSE_WITHOUT_SERVER = 10000;
  const IDLE = 15000;
  const sign = byId("live");
  const button = byId("newer");
  sign.hidden = false;
  button.addEventListener("click", reload);
  button.addEventListener("mousedown", (event) => event.preventDefault()); // the focus stays where the reader is
  let touched = -Infinity;
  for (const kind of ["pointerdown", "pointermove", "keydown", "scroll"]) {
    addEventListener(kind, () => (touched = performance.now()), { capture: true, passive: true });
  }
  const busy = () =>
    byId("details").open ||
    ![null, document.body].includes(document.activeElement) ||
    document.querySelector("#answers details[open]") !== null ||
    player.paused ||
    performance.now() - touched < IDLE;
  const say = (text, gone) => {
    if (sign.textContent !== text) sign.textContent = text;
    sign.classList.toggle("gone", gone);
  };
  const check = async () => {
    let pause = PAUSE;
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const newer = (await answer.text()) !== view.live;
      say("live", false);
      if (newer && !busy()) return reload();
      button.hidden = !newer;
    } catch {
      say("no connection to the server: this page may be out of date", true);
      button.hidden = true;
      pause = PAUSE_WITHOUT_SERVER;
    }
    setTimeout(check, pause);
  };
  check();
}

// Keep what the address does not hold until the page has reloaded.
function reload() {
  writeHash();
  const open = [...document.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  const { frame, playing, paused } = player;
  history.replaceState({ scroll: scrollY, open, frame, playing, paused, focus: document.activeElement?.id }, "");
  location.reload();
}

function restore() {
  if (!history.state) return;
  const { scroll, open, frame, playing, paused, focus } = history.state;
  history.replaceState(null, "");
  for (const summary of document.querySelectorAll("details > summary")) summary.parentNode.open = open.includes(summary.textContent);
  player.paused = paused;
  play(playing);
  showFrame(frame);
  byId(focus)?.focus({ preventScroll: true });
  scrollTo(0, scroll);
}

makeHead();
byId("runs").hidden = false;
if (runs.length) {
  makeTable();
  byId("curves").hidden = false;
  makeLegend();
  makeCharts();
} else {
  byId("none").hidden = false;
  byId("none").textContent = "There are no runs yet.";
  for (const node of document.querySelectorAll("#runs .bar, #query-help, #table")) node.hidden = true;
}
if (runs.some((run) => run.video)) {
  byId("videos").hidden = false;
  makeVideos();
}
makeSweeps();
makeEvaluations();
makeRest();
makeTheme();
makeLinks();
if (view.live !== null) {
  restore();
  watch();
}
