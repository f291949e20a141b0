// The head of the page, its simple sections, the check for newer results, and the start of all parts.

function makeHead() {
  byId("title").replaceChildren(said(view.title, 120));
  const states = new Map();
  for (const run of runs) states.set(run.state, (states.get(run.state) ?? 0) + 1);
  const parts = [...states].map(([name, n]) => `${n} ${visible(name)}`);
  const unreadable = view.unreadable.length ? `, ${count(view.unreadable.length, "unreadable folder")}` : "";
  byId("counts").textContent = `${count(runs.length, "run")}${parts.length ? `: ${parts.join(", ")}` : ""}${unreadable}`;
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

const DB = ".2f"; // decibels, as protocols score them

function makeEvaluations() {
  const rows = runs.flatMap((run) => run.evals.map((each) => ({ run, ...each })));
  byId("evaluations").hidden = !rows.length;
  rows.sort((a, b) => compareValues(a.protocol, b.protocol) || -compareValues(a.psnr, b.psnr));
  const heads = ["protocol", "run", "videos", "PSNR", "95 % interval", "last frame repeated", "gain", "note"];
  const numeric = new Set([2, 3, 4, 5, 6]);
  const cell = (tag, i, child) => el(tag, { class: numeric.has(i) ? "numeric" : null, scope: tag === "th" ? "col" : null }, child);
  const body = rows.map(({ run, protocol, videos, psnr, low, high, copy, note }) => {
    const open = el("button", { type: "button", class: "link name", onclick: () => openDetails(run) }, saidName(run.name));
    const known = psnr != null && copy != null;
    const range = low == null || high == null ? "–" : `[${number(low, DB)}, ${number(high, DB)}]`;
    const gain = known ? signed(psnr - copy, DB) : "–";
    const cells = [said(protocol, 40), open, String(videos ?? "–"), number(psnr, DB), range, number(copy, DB), gain, said(note || "", 80)];
    return el("tr", {}, ...cells.map((child, i) => cell("td", i, child)));
  });
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head, i) => cell("th", i, head)))), el("tbody", {}, ...body));
  byId("evaluations").querySelector(".scroller").append(table);
}

function makeRest() {
  byId("unreadable").hidden = !view.unreadable.length;
  fillFacts(byId("unreadable").querySelector("dl"), view.unreadable.map(({ folder, reason }) => [folder, reason]));
  byId("common").hidden = !common.size;
  byId("common").querySelector("summary").textContent = count(common.size, "setting");
  fillFacts(byId("common").querySelector("dl"), [...common]);
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

const PLACE = "cvae-place";

// Store what the address does not hold until the page has reloaded.
function reload() {
  writeHash();
  const open = [...document.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
  const { frame, playing, paused } = player;
  remember("sessionStorage", PLACE, JSON.stringify({ scroll: scrollY, open, frame, playing, paused, focus: document.activeElement?.id }));
  location.reload();
}

function restore() {
  const kept = recall("sessionStorage", PLACE);
  if (!kept) return;
  remember("sessionStorage", PLACE, "");
  const { scroll, open, frame, playing, paused, focus } = JSON.parse(kept);
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
