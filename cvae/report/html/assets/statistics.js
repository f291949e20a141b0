// Means with their intervals, and paired differences of two groups over the seeds that both have.

// Mean and half of the 95 % interval by Student's t; one value has no interval.
function interval(values) {
  const n = values.length;
  if (!n) return { n, mean: null, half: null };
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const t = view.t95[Math.min(n, view.t95.length - 1)];
  if (n < 2 || t == null) return { n, mean, half: null };
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
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
  const groups = Map.groupBy(pairs.filter(([, value]) => value != null), ([key]) => key);
  return new Map([...groups].map(([key, each]) => [key, interval(each.map(([, value]) => value)).mean]));
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

// A metric's values where it was taken: validations may be rarer than epochs, or lie within them.
function curveOf(run, key) {
  const points = (run.curves.get("epoch") ?? []).map((epoch, i) => ({ epoch, value: run.curves.get(key)?.[i] ?? null }));
  return points.filter(({ value }) => value !== null);
}

// The mean over the seeds of a group at each epoch that one of its runs has.
function meanCurve(some, key) {
  const points = some.flatMap((run) => curveOf(run, key).map((point) => ({ ...point, seed: seedOf(run) })));
  const groups = Map.groupBy(points, ({ epoch }) => epoch);
  const means = [...groups].map(([epoch, each]) => ({ epoch, ...overSeeds(each.map(({ seed, value }) => [seed, value])) }));
  return means.sort((a, b) => a.epoch - b.epoch);
}

// The lowest and the highest value; Math.min(...values) is limited in the number of values.
function extent(values) {
  return values.reduce(([low, high], y) => (y == null ? [low, high] : [Math.min(low, y), Math.max(high, y)]), [Infinity, -Infinity]);
}

// At most `limit` points, always with the last one.
function thinned(points, limit) {
  const step = Math.ceil(points.length / limit);
  return step <= 1 ? points : points.filter((_, i) => (points.length - 1 - i) % step === 0);
}
