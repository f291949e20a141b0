// The filter: a run must match all words; words in quotes are plain text.

const FIELDS = new Map([
  ["name", (run) => run.name],
  ["state", (run) => run.state],
  ["note", (run) => run.note],
  ["sweep", (run) => run.group],
  ["trial", (run) => run.provenance.trial],
  ["epoch", (run) => run.epoch],
  ["best", (run) => run.best],
]);

// A function that tests a run, and the unknown keys of the query: words with these match no run.
function matcher(query) {
  const joined = query.replace(/"[^"]*"?|\s*(!=|<=|>=|=|<|>)\s*/g, (all, sign) => sign ?? all); // lr > 1e-3
  const words = (joined.match(/(?:"[^"]*"?|[^\s"])+/g) ?? []).map(parsed);
  const matches = (run) => words.every(({ test, not }) => test !== null && test(run) !== not);
  return { matches, unknown: words.filter(({ test }) => test === null).map(({ key }) => key) };
}

function parsed(word) {
  const not = word.startsWith("!") && word.length > 1;
  const bare = not ? word.slice(1) : word;
  const [, key, sign, value = ""] = bare.match(/^([^"=<>!]+)(!=|<=|>=|=|<|>)(.*)$/s) ?? [];
  const wanted = (key ? value : bare).replaceAll('"', "");
  if (!key) return { not, test: (run) => searched(run).includes(wanted.toLowerCase()) };
  const field = fields.get(key.toLowerCase());
  return { not, key, test: field ? (run) => holds(field(run), sign, wanted) : null };
}

const fields = new Map([...common.keys()].map((key) => [key.toLowerCase(), () => common.get(key)]));
for (const run of runs) for (const key of run.other.keys()) fields.set(key.toLowerCase(), (each) => each.other.get(key));
for (const { key, short } of metrics.values()) {
  for (const name of [key, short]) fields.set(name.toLowerCase(), (run) => run.last.get(key));
}
for (const [key, field] of FIELDS) fields.set(key, field);
for (const key of view.settings) fields.set(key.toLowerCase(), (run) => run.settings.get(key));

function holds(value, sign, wanted) {
  const difference = compared(value, wanted);
  if (sign === "=") return difference === 0;
  if (sign === "!=") return difference !== 0;
  if (sign === "<") return difference < 0;
  if (sign === "<=") return difference <= 0;
  return sign === ">" ? difference > 0 : difference >= 0;
}

// Positive if the value is greater, 0 if both are the same, NaN if they differ but have no order.
function compared(value, wanted) {
  if (value == null) return ["null", "none", "–"].includes(wanted.toLowerCase()) ? 0 : NaN;
  if (String(value).toLowerCase() === wanted.toLowerCase()) return 0;
  const [one, other] = [value, wanted.replaceAll("−", "-")].map((each) => (each === "" ? NaN : Number(each))); // the minus sign of the tables
  const whole = Number.isInteger(one) && Number.isInteger(other);
  return !whole && Math.abs(one - other) <= 1e-5 * Math.abs(one) ? 0 : one - other; // the page holds six digits of a number
}

const haystacks = new Map();

function searched(run) {
  if (!haystacks.has(run)) {
    const words = [run.name, run.state, run.note, run.group ?? "", ...[...run.settings].map(([key, value]) => `${key}=${value}`)];
    haystacks.set(run, words.join("\n").toLowerCase());
  }
  return haystacks.get(run);
}
