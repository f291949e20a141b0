// Means with their intervals, and paired differences of two groups over the seeds that both have.

// Mean and half of the 95 % interval by Student's t; one value has no interval.
function interval(values) {
  const known = values.filter((value) => value != null);
  const n = known.length;
  if (!n) return { n, mean: null, half: null };
  const mean = known.reduce((sum, value) => sum + value, 0) / n;
  const t = view.t95[Math.min(n, view.t95.length - 1)];
  if (n < 2 || t == null) return { n, mean, half: null };
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  return { n, mean, half: t * Math.sqrt(variance / n) };
}

// Only finished runs are compared: others have had fewer epochs.
function finished(some) {
  return some.filter((run) => run.state === "finished");
}

function seedOf(run) {
  return run.settings.get("seed") ?? common.get("seed");
}

// The mean for each key of [key, value] pairs; null is left out.
function meansBy(pairs) {
  const values = new Map();
  for (const [key, value] of pairs) {
    if (value == null) continue;
    if (!values.has(key)) values.set(key, []);
    values.get(key).push(value);
  }
  return new Map([...values].map(([key, each]) => [key, interval(each).mean]));
}

// Mean and interval of [seed, value] pairs; as in by_seed in Python, several values of one seed count as one, by their mean.
function overSeeds(pairs) {
  return interval([...meansBy(pairs).values()]);
}

// The difference between runs that have the same seed and the same settings apart from the grouped ones: what they share
// cancels. `alone` counts the runs of both groups without such a partner.
function pairedDifference(one, other, key) {
  const settings = ["seed", ...settingsToMatch(one, other)];
  const cellOf = (run) => groupKey(run, settings);
  const [ours, theirs] = [one, other].map((some) => finished(some).filter((run) => run.last.get(key) != null));
  const [first, second] = [ours, theirs].map((some) => meansBy(some.map((run) => [cellOf(run), run.last.get(key)])));
  const inBoth = [...first.keys()].filter((cell) => second.has(cell));
  const differences = inBoth.map((cell) => [JSON.parse(cell)[0], first.get(cell) - second.get(cell)]);
  const alone = [...ours, ...theirs].filter((run) => !inBoth.includes(cellOf(run))).length;
  return { ...overSeeds(differences), alone };
}

// A setting that only one group has because of its choice, as a cyclical schedule has cycles, needs no match in the other.
function settingsToMatch(one, other) {
  const lacks = (some, key) => some.every((run) => run.settings.get(key) == null);
  const brought = (key) => state.by.some((choice) => key.startsWith(`${choice}.`)) && (lacks(one, key) || lacks(other, key));
  return view.settings.filter((key) => key !== "seed" && !state.by.includes(key) && !brought(key));
}

// The mean over the seeds of a group at each epoch that one of its runs has.
function meanCurve(some, key) {
  const values = new Map();
  for (const run of some) {
    const epochs = run.curves.get("epoch") ?? [];
    const curve = run.curves.get(key) ?? [];
    for (let i = 0; i < epochs.length; i++) {
      if (curve[i] == null) continue;
      if (!values.has(epochs[i])) values.set(epochs[i], []);
      values.get(epochs[i]).push([seedOf(run), curve[i]]);
    }
  }
  return [...values].sort((a, b) => a[0] - b[0]).map(([epoch, pairs]) => ({ epoch, ...overSeeds(pairs) }));
}

// At most `limit` points, always with the last one.
function thinned(points, limit) {
  const step = Math.ceil(points.length / limit);
  return step <= 1 ? points : points.filter((_, i) => (points.length - 1 - i) % step === 0);
}
