"""What samplers and pruners are worth where the answer is known: python scripts/sweep_landscape.py [--out docs]

Nothing is trained: a formula says how good a configuration is and how its value rises over 40 epochs (``final``, ``curve``).
A sweep of one slot searches lr, tfr and beta. Each trial reports its noisy value each epoch and, if it is not pruned, is
judged by its best one, as a run by its best validation value. The noise depends on repetition, trial number and epoch only.

    best     the largest value among the complete trials of a sweep: what Optuna calls the best value. A pruned trial's values
             do not count. As a maximum of noisy values it flatters, and the more so the more trials are complete.
    true     the winner's ``final``, without noise: the value of the configuration that the sweep chose.
    full     an unpruned sweep of 40 trials: 1,600 epochs. Its median best over the repetitions is the goal.
    budget   640 epochs, 40 % of that, for as many trials as fit: a trial that the end of the budget cuts off does not count.

Pruning is worth its name if the median best of pruned sweeps within the budget is no less than the goal. Beside that: in how
many repetitions a sweep reaches the goal within the budget, and the epochs spent when the first trial that does is complete;
what the first 40 trials of the pruned sweep come to; and the differences to the full sweep of the same repetition.

In the second landscape the same configurations learn at other rates: the lower lr the slower, so that early values mislead.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import OmegaConf
from optuna.trial import TrialState
from scipy import stats

from cvae.cli import fail
from cvae.config import build
from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval

EPOCHS, SHARE = 40, 0.4
NOISE = 0.15
MARKS = ("<!-- sweep_landscape.py writes from here -->\n", "<!-- to here -->\n")
LEGEND = (
    "Several numbers in a cell are the least, the quartiles and the largest over the repetitions; trials are medians; "
    "differences are paired means with 95 % intervals. full: all trials, no pruning."
)

# As hydra.sweeper.sampler and hydra.sweeper.pruner take them.
# What suits this landscape (halving) is not what suits one where curves cross (halving_late,
# patient). patient waits until a curve has stopped rising, so it needs each epoch's own value. wilcoxon tests pairs of equal
# steps against the best trial: it is meant for steps that are folds, seeds or data sets, and takes epochs for such.
SAMPLERS: dict[str, dict[str, Any]] = {
    "random": {"_target_": "optuna.samplers.RandomSampler"},
    "tpe": {"_target_": "optuna.samplers.TPESampler"},
}
_PERCENTILE = {
    "_target_": "optuna.pruners.PercentilePruner",
    "percentile": 25.0,
    "n_startup_trials": 5,
    "n_warmup_steps": 5,
}
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"_target_": "optuna.pruners.NopPruner"},
    "halving": {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 1, "reduction_factor": 3},
    "halving_late": {"_target_": "optuna.pruners.SuccessiveHalvingPruner", "min_resource": 8, "reduction_factor": 2},
    "median": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 5, "n_warmup_steps": 10},
    "percentile": _PERCENTILE,
    "hyperband": {"_target_": "optuna.pruners.HyperbandPruner", "max_resource": "${epochs}"},
    "patient": {"_target_": "optuna.pruners.PatientPruner", "wrapped_pruner": _PERCENTILE, "patience": 1},
    "wilcoxon": {"_target_": "optuna.pruners.WilcoxonPruner", "p_threshold": 0.1},
}

Array = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30, help="sweeps of a kind (30)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first; settings were chosen on 1000 to 4999 (0)")
    parser.add_argument("--trials", type=int, default=40, help="trials of a full sweep (40)")
    parser.add_argument("--report", choices=("value", "best"), default="value", help="the epoch's value, or the best so far")
    parser.add_argument("--pruners", nargs="+", choices=list(PRUNERS)[1:], default=list(PRUNERS)[1:], metavar="NAME")
    parser.add_argument(
        "--out", type=Path, help="folder for sweep_landscape.png, with a results.md to put the tables into (docs)"
    )
    words = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        text, picture = study(range(words.first, words.first + words.repetitions), words.trials, words.pruners, words.report)
        print(text)
        if words.out is not None:
            put(text, words.out / "results.md")
            picture.savefig(words.out / "sweep_landscape.png")
    except UserError as error:
        fail(error)


# --- the landscape ----------------------------------------------------------------------------------------------------


def final(lr: float, tfr: float, beta: float) -> float:
    """A configuration's value after endless training: 25 at most, at lr 5e-4, tfr 0.6 and beta 1e-5."""
    x, b = math.log10(lr), math.log10(beta)
    return 25 - 4 * (x + 3.3) ** 2 - 1.5 * (tfr - 0.6) ** 2 - 0.4 * (b + 5) ** 2 - 2 * max(0.0, x + 2.7) * tfr


def aligned(lr: float) -> float:
    """Epochs a value needs: the best lr is also the fastest, so that curves hardly cross."""
    return 4 + 6 * abs(math.log10(lr) + 3.3)


def crossing(lr: float) -> float:
    """Epochs a value needs: the lower lr the more, so that lr above the best one lead at first."""
    return 4 + 8 * max(0.0, -2.7 - math.log10(lr))


def curve(value: float, pace: float, noise: Array) -> Array:
    """The value of each epoch on its way from 14 to ``value``."""
    epochs = np.arange(1, len(noise) + 1)
    return 14 + (value - 14) * (1 - np.exp(-epochs / pace)) + noise


# --- sweeps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A trial: its value in each epoch, and its value without noise."""

    values: Array
    true: float

    @property
    def complete(self) -> bool:
        return len(self.values) == EPOCHS


@dataclass(frozen=True)
class Outcome:
    """What a sweep, or the first part of one, comes to."""

    best: float
    true: float
    epochs: int
    trials: int


def sweep(
    pace: Callable[[float], float],
    sampler: str,
    pruner: str,
    repetition: int,
    trials: int,
    epochs: int = 0,
    report: str = "value",
) -> list[Run]:
    """A sweep of at least ``trials`` trials and ``epochs`` epochs; its first part is what a shorter sweep would have been."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        specs = OmegaConf.create({"epochs": EPOCHS, "sampler": SAMPLERS[sampler], "pruner": PRUNERS[pruner]})
        # Hyperband deals its brackets by the study's name.
        study = optuna.create_study(
            study_name=f"landscape {repetition}",
            direction="maximize",
            sampler=build(specs.sampler, seed=repetition),
            pruner=build(specs.pruner),
        )
    runs: list[Run] = []
    while len(runs) < trials or sum(len(run.values) for run in runs) < epochs:
        trial = study.ask()
        lr = trial.suggest_float("lr", 10**-4.5, 1e-2, log=True)
        tfr = trial.suggest_float("tfr", 0, 1)
        beta = trial.suggest_float("beta", 1e-7, 1e-2, log=True)
        true = final(lr, tfr, beta)
        noise = np.random.default_rng((repetition, trial.number)).normal(0, NOISE, EPOCHS)
        values = curve(true, pace(lr), noise)
        reported = np.maximum.accumulate(values) if report == "best" else values
        end = next((epoch for epoch, value in enumerate(reported, start=1) if _stops(trial, float(value), epoch)), None)
        if end is None:
            study.tell(trial, float(values.max()))
        else:
            study.tell(trial, state=TrialState.PRUNED)
        runs.append(Run(values[:end], true))
    return runs


def _stops(trial: optuna.Trial, value: float, epoch: int) -> bool:
    trial.report(value, epoch)
    return epoch < EPOCHS and trial.should_prune()  # after the last epoch nothing is left to save


def outcome(runs: Sequence[Run], trials: float = math.inf, epochs: float = math.inf) -> Outcome:
    """Best and true value of the sweep that ends after so many trials or epochs."""
    best, true, spent, count = -math.inf, math.nan, 0, 0
    for run in runs:
        if count == trials or spent + len(run.values) > epochs:
            break
        spent, count = spent + len(run.values), count + 1
        if run.complete and run.values.max() > best:
            best, true = float(run.values.max()), run.true
    return Outcome(best, true, spent, count)


def progress(runs: Sequence[Run], epochs: int) -> Array:
    """The best value of complete trials after each epoch from 1 to ``epochs``; before the first of them NaN."""
    best = np.full(epochs + 1, np.nan)
    spent = 0
    for run in runs:
        spent += len(run.values)
        if run.complete and spent <= epochs:
            best[spent:] = np.fmax(best[spent:], run.values.max())
    return best[1:]


# --- tables -----------------------------------------------------------------------------------------------------------


def study(repetitions: Sequence[int], trials: int, pruners: Sequence[str], report: str = "value") -> tuple[str, Figure]:
    """Run all sweeps; the tables as Markdown, and the picture.

    Raises:
        UserError: the budget does not hold a single trial, or there are too few repetitions for an interval.
    """
    budget = round(SHARE * trials * EPOCHS)
    if budget < EPOCHS or len(repetitions) < 2:
        raise UserError("this needs --trials 3 and --repetitions 2 at least")
    figure = Figure(figsize=(13, 9.5), layout="constrained", dpi=90)
    axes = figure.subplots(2, 2)
    parts = []
    for pace, row in zip((aligned, crossing), axes, strict=True):
        full = {
            name: [sweep(pace, name, "none", repetition, trials) for repetition in repetitions] for name in ("random", "tpe")
        }
        pruned = {
            name: [sweep(pace, "tpe", name, repetition, trials, budget, report) for repetition in repetitions]
            for name in pruners
        }
        parts.append(_tables(pace.__name__, full, pruned, trials, budget))
        _draw(row, pace.__name__, full, pruned, trials, budget)
    return "\n\n".join([*parts, LEGEND]), figure


def _tables(title: str, full: dict[str, list[list[Run]]], pruned: dict[str, list[list[Run]]], trials: int, budget: int) -> str:
    reference = [outcome(runs, trials=trials) for runs in full["tpe"]]
    goal = float(np.median([each.best for each in reference]))
    agreement = ", ".join(f"{_agreement(full['random'], epoch):.2f} at epoch {epoch}" for epoch in (1, 4, 8, 16))
    lines = [
        f"**Curves {title}**; goal {goal:.3f}. Rank correlation of value and best value, random configurations: {agreement}.",
        "",
        "| sweep | trials | epochs | best | true | best - full | true - full |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]

    def line(name: str, ends: list[Outcome]) -> None:
        cells = [name, f"{np.median([each.trials for each in ends]):.0f}", _quantiles([each.epochs for each in ends], 0)]
        cells += [_quantiles([each.best for each in ends]), _quantiles([each.true for each in ends])]
        cells.append(_difference([end.best - other.best for end, other in zip(ends, reference, strict=True)]))
        cells.append(_difference([end.true - other.true for end, other in zip(ends, reference, strict=True)]))
        lines.append(f"| {' | '.join(cells)} |")

    line("random, full", [outcome(runs, trials=trials) for runs in full["random"]])
    line("**tpe, full**", reference)
    line(f"tpe, {budget} epochs", [outcome(runs, epochs=budget) for runs in full["tpe"]])
    for name, sweeps in pruned.items():
        line(f"tpe, {name}, {budget} epochs", [outcome(runs, epochs=budget) for runs in sweeps])
    for name, sweeps in pruned.items():
        line(f"tpe, {name}, {trials} trials", [outcome(runs, trials=trials) for runs in sweeps])
    lines += [
        "",
        f"| within {budget} epochs | median best reaches the goal | repetitions that reach it | epochs spent then |",
        "| --- | --- | --- | --- |",
    ]
    for name, sweeps in {"none": full["tpe"], **pruned}.items():
        median = float(np.median([outcome(runs, epochs=budget).best for runs in sweeps]))
        spent = [_spent(runs, goal, budget) for runs in sweeps]
        reached = sum(math.isfinite(each) for each in spent)
        verdict = f"{'yes' if median >= goal else 'no'}, {median - goal:+.3f}"
        times = ", ".join(f"{each:.0f}" if math.isfinite(each) else "never" for each in _quarters(spent))
        lines.append(f"| tpe, {name} | {verdict} | {reached} of {len(sweeps)} | {times} |")
    return "\n".join(lines)


def _spent(runs: Sequence[Run], goal: float, budget: int) -> float:
    reached = np.flatnonzero(progress(runs, budget) >= goal)
    return float(reached[0] + 1) if len(reached) else math.inf


def _agreement(sweeps: Iterable[Sequence[Run]], epoch: int) -> float:
    runs = [run for each in sweeps for run in each]
    return float(stats.spearmanr([run.values[epoch - 1] for run in runs], [run.values.max() for run in runs]).statistic)


def _quarters(values: Sequence[float]) -> list[float]:
    # Of values that occur: between a number and infinity there is no other.
    return [float(np.quantile(values, q, method="higher")) for q in (0, 0.25, 0.5, 0.75, 1)]


def _quantiles(values: Sequence[float], digits: int = 2) -> str:
    least, low, middle, high, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    if least == most:
        return f"{least:.{digits}f}"
    # The median is what claims are made of: one digit more, unless these are whole numbers.
    shown = (f"{least:.{digits}f}", f"{low:.{digits}f}", f"{middle:.{digits + (digits > 0)}f}", f"{high:.{digits}f}")
    return " ".join([*shown, f"{most:.{digits}f}"])


def _difference(values: Sequence[float]) -> str:
    if not any(values):
        return ""
    mean, low, high = mean_interval(values)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def put(text: str, path: Path) -> None:
    """Replace what stands between the marks of a file.

    Raises:
        UserError: it is not there or has no marks.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(MARKS[0]) if path.is_file() else ("", "", "")
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise UserError(f"{path} has no place for the tables: give it the lines {MARKS[0].strip()} and {MARKS[1].strip()}")
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")


# --- picture ----------------------------------------------------------------------------------------------------------


def _draw(
    row: Iterable[Axes],
    title: str,
    full: dict[str, list[list[Run]]],
    pruned: dict[str, list[list[Run]]],
    trials: int,
    budget: int,
) -> None:
    """Left the best value over the epochs spent, median and quartiles; right true values, one point a repetition."""
    left, right = row
    total = trials * EPOCHS
    ends = {
        "random, full": [outcome(runs, trials=trials) for runs in full["random"]],
        "tpe, full": [outcome(runs, trials=trials) for runs in full["tpe"]],
        f"tpe, {budget} epochs": [outcome(runs, epochs=budget) for runs in full["tpe"]],
        **{f"{name}, {budget} epochs": [outcome(runs, epochs=budget) for runs in sweeps] for name, sweeps in pruned.items()},
    }
    goal = float(np.median([each.best for each in ends["tpe, full"]]))
    shown = {"random": full["random"], "tpe": full["tpe"], **{f"tpe, {name}": pruned[name] for name in list(pruned)[:2]}}
    for index, (name, sweeps) in enumerate(shown.items()):
        spent = np.arange(1, (total if name in full else budget) + 1)
        values = np.array([progress(runs, len(spent)) for runs in sweeps])
        # Where some sweep has no complete trial yet there is no quartile.
        known = ~np.isnan(values).any(axis=0)
        low, middle, high = np.quantile(values[:, known], (0.25, 0.5, 0.75), axis=0)
        left.plot(spent[known], middle, color=f"C{index}", label=name)
        left.fill_between(spent[known], low, high, color=f"C{index}", alpha=0.15, linewidth=0)
    left.axhline(goal, color="grey", linestyle=":", label="goal")
    left.axvline(budget, color="grey", linestyle="--", label="budget")
    left.set(title=f"curves {title}: best value, median and quartiles", xlabel="epochs spent", xlim=(0, total), ylim=(23, 25.5))
    left.legend(loc="lower right")
    left.grid(alpha=0.3)
    names = list(ends)[::-1]
    places = np.arange(len(names))
    values = [[each.true for each in ends[name]] for name in names]
    right.boxplot(values, positions=places, orientation="horizontal", widths=0.6, showfliers=False)
    for place, points in zip(places, values, strict=True):
        right.scatter(points, place + np.linspace(-0.2, 0.2, len(points)), s=9, color="C0", alpha=0.6, linewidth=0)
    right.axvline(float(np.median([each.true for each in ends["tpe, full"]])), color="grey", linestyle=":")
    right.set_yticks(places, names)
    right.set(title=f"curves {title}: true value of the chosen configuration", xlim=(22.9, 25.05))
    right.grid(alpha=0.3, axis="x")


if __name__ == "__main__":
    main()
