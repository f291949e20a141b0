// How sure a mean is, and how two groups differ over the seeds that both have.

// Mean and 95 % interval by Student's t; with one value the interval is unknown.
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

// What the seeds have in common cancels in the difference of paired runs.
function pairedDifference(runsOfOne, runsOfOther, key) {
  const one = bySeed(runsOfOne, key);
  const other = bySeed(runsOfOther, key);
  const seeds = [...one.keys()].filter((seed) => other.has(seed));
  return interval(seeds.map((seed) => one.get(seed) - other.get(seed)));
}

// A run that was pruned or goes on is no match for one at its end.
function atEnd(run, key) {
  return run.state === "finished" ? run.last.get(key) : null;
}

function bySeed(some, key) {
  const values = new Map();
  for (const run of some) {
    const seed = run.settings.get("seed") ?? common.get("seed");
    const value = atEnd(run, key);
    if (seed == null || value == null) continue;
    if (!values.has(seed)) values.set(seed, []);
    values.get(seed).push(value);
  }
  return new Map([...values].map(([seed, each]) => [seed, interval(each).mean]));
}

// A group's mean over its runs at each epoch that any of them has.
function meanCurve(some, key) {
  const values = new Map();
  for (const run of some) {
    const epochs = run.curves.get("epoch") ?? [];
    const curve = run.curves.get(key) ?? [];
    for (let i = 0; i < epochs.length; i++) {
      if (curve[i] == null) continue;
      const there = values.get(epochs[i]);
      if (there) there.push(curve[i]);
      else values.set(epochs[i], [curve[i]]);
    }
  }
  return [...values].sort((a, b) => a[0] - b[0]).map(([epoch, each]) => ({ epoch, ...interval(each) }));
}

// At most `limit` of them, the last among these.
function thinned(points, limit) {
  const step = Math.ceil(points.length / limit);
  return step <= 1 ? points : points.filter((_, i) => (points.length - 1 - i) % step === 0);
}
