// The filter: a run must match all words; words in quotes are plain text.

// What a word can ask for, by its key in small letters; of two with one key the later.
const fields = new Map([
  ...[...common].map(([key, value]) => [key.toLowerCase(), () => value]),
  ...runs.flatMap((run) => [...run.other.keys()]).map((key) => [key.toLowerCase(), (run) => run.other.get(key)]),
  ...[...metrics.values()].flatMap(({ key, short }) => [key, short].map((name) => [name.toLowerCase(), (run) => run.last.get(key)])),
  ...["name", "state", "note", "epoch", "best"].map((key) => [key, (run) => run[key]]),
  ["sweep", (run) => run.group],
  ["trial", (run) => run.provenance.trial],
  ...view.settings.map((key) => [key.toLowerCase(), (run) => run.settings.get(key)]),
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
  if (!key) return { not, test: (run) => haystacks.get(run).includes(wanted.toLowerCase()) };
  const field = fields.get(key.toLowerCase());
  return { not, key, test: field ? (run) => holds(field(run), sign, wanted) : null };
}

function holds(value, sign, wanted) {
  const difference = compared(value, wanted);
  if (sign === "!=") return difference !== 0;
  return { "=": [0], "<": [-1], "<=": [-1, 0], ">": [1], ">=": [0, 1] }[sign].includes(Math.sign(difference));
}

// Positive if the value is greater, 0 if both are the same, NaN if they differ but have no order.
function compared(value, wanted) {
  if (value == null) return ["null", "none", "–"].includes(wanted.toLowerCase()) ? 0 : NaN;
  if (String(value).toLowerCase() === wanted.toLowerCase()) return 0;
  const [one, other] = [value, wanted.replaceAll("−", "-")].map((each) => (each === "" ? NaN : Number(each))); // the minus sign of the tables
  const whole = Number.isInteger(one) && Number.isInteger(other);
  return !whole && Math.abs(one - other) <= 1e-5 * Math.abs(one) ? 0 : one - other; // the page holds six digits of a number
}

// What a word without a key is searched in.
const haystacks = new Map(runs.map((run) => {
  const words = [run.name, run.state, run.note, run.group ?? "", ...[...run.settings].map(([key, value]) => `${key}=${value}`)];
  return [run, words.join("\n").toLowerCase()];
}));
