// The filter box: words that a run must match, all of them.

const FIELDS = new Map([
  ["name", (run) => run.name],
  ["state", (run) => run.state],
  ["note", (run) => run.note],
  ["sweep", (run) => run.group],
  ["epoch", (run) => run.epoch],
  ["best", (run) => run.best],
  ["psnr", (run) => run.last.get("val/psnr")],
  ["mse", (run) => run.last.get("train/mse")],
  ["kl", (run) => run.last.get("train/kld")],
]);

function matcher(query) {
  const tests = (query.match(/(?:"[^"]*"?|[^\s"])+/g) ?? []).map((word) => wordTest(word.replaceAll('"', "")));
  return (run) => tests.every((test) => test(run));
}

function wordTest(word) {
  if (word.startsWith("!") && word.length > 1) {
    const test = wordTest(word.slice(1));
    return (run) => !test(run);
  }
  const [, key, sign, wanted] = word.match(/^([^=<>!]+)(!=|<=|>=|=|<|>)(.*)$/s) ?? [];
  const field = key && fieldOf(key);
  if (field) return (run) => holds(field(run), sign, wanted);
  const sought = word.toLowerCase();
  return (run) => searched(run).includes(sought);
}

function fieldOf(key) {
  if (view.settings.includes(key)) return (run) => run.settings.get(key);
  if (FIELDS.has(key)) return FIELDS.get(key);
  if (metrics.has(key)) return (run) => run.last.get(key);
  if (runs.some((run) => run.other.has(key))) return (run) => run.other.get(key);
  return common.has(key) ? () => common.get(key) : null;
}

function holds(value, sign, wanted) {
  if (sign === "=") return equal(value, wanted);
  if (sign === "!=") return !equal(value, wanted);
  if (value == null || wanted === "" || Number.isNaN(Number(wanted)) || Number.isNaN(Number(value))) return false;
  const difference = Number(value) - Number(wanted);
  if (sign === "<") return difference < 0;
  if (sign === "<=") return difference <= 0;
  return sign === ">" ? difference > 0 : difference >= 0;
}

function equal(value, wanted) {
  if (value == null) return ["null", "none", "–"].includes(wanted.toLowerCase());
  if (typeof value === "number") return wanted !== "" && value === Number(wanted);
  return String(value).toLowerCase() === wanted.toLowerCase();
}

const haystacks = new Map();

function searched(run) {
  if (!haystacks.has(run)) {
    const words = [run.name, run.state, run.note, run.group ?? "", ...[...run.settings].map(([key, value]) => `${key}=${value}`)];
    haystacks.set(run, words.join("\n").toLowerCase());
  }
  return haystacks.get(run);
}
