"""Why PSNR falls at the end of teacher forcing, and what cures it: python scripts/forcing_end.py [--out docs/forcing_end.md]

After scripts/course_study.py, whose runs with a sudden end this takes. It trains each of them once more up to the end of
forcing and measures on both sides of it (scripts/around_the_end.py). Then it trains the cell with the larger fall with each
cure, and once more without one: what is compared is of one machine. A cure holds if the fall is below 0.2 dB in every seed and
PSNR at the end is no lower. All is kept beside the study: run the command again to continue. Further words are overrides of
every run, as for the study.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import around_the_end
import course_study
import kept_runs
import numpy as np
from around_the_end import Measured
from kept_runs import Job
from matplotlib.figure import Figure
from scipy import stats

from cvae.cli import fail
from cvae.console import command, say, short
from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval
from cvae.explain import is_users
from cvae.pages.document import Block, Code, Heading, Picture, Table, Text, signed, write_markdown
from cvae.pages.plots import COLOURS, png
from cvae.runs.run import Run
from cvae.study.course import MARGIN, WINDOW, at_end, fall, forced_iterations

FIRST = 20  # iterations after the end whose updates are compared with those before
_REWARM = 0.03  # of the run
_FEW = 9  # runs at most, of which all orders are looked at
_WORK = Path("multirun/forcing_end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("docs/study.md"), help="the study's page (docs/study.md)")
    parser.add_argument("--out", type=Path, default=Path("forcing_end.md"), help="the page to write (forcing_end.md)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds a cell (3)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--so-far", action="store_true", help="run nothing: write the page of what is kept")
    asked, overrides = parser.parse_known_args()
    try:
        _page(asked, overrides)
    except Exception as error:
        if not is_users(error):
            raise
        fail(error)


def _page(asked: argparse.Namespace, overrides: list[str]) -> None:
    seeds, kept = range(1, asked.seeds + 1), course_study.kept_beside(asked.study)
    jobs = {
        (lr, level): [course_study.job("forcing", lr, level, seed, False, None, overrides) for seed in seeds]
        for lr in course_study.LRS
        for level in ("step", "linear")
    }
    plain = {cell: kept_runs.kept_runs(own, kept) for cell, own in jobs.items()}
    if any(len(runs) < asked.seeds for runs in plain.values()):
        raise UserError(f"{short(kept)} lacks runs of the study's first part: run scripts/course_study.py first")
    lr = max(course_study.LRS, key=lambda lr: mean(map(_fall, plain[lr, "step"])))
    sudden = [job for lr in course_study.LRS for job in jobs[lr, "step"]]
    measured = _measurements(sudden, kept.parent / "measured", 0 if asked.so_far else asked.jobs)
    usual = mean(mean(_before(each, "gradient")) for name, each in measured.items() if f"lr{lr:g}_" in name)
    cures = {"none": []} | cure_words(float(f"{usual:.1g}"))
    wanted = {
        name: [
            Job(f"cures/{name}_lr{lr:g}_seed{seed}", (*job.words, *words))
            for seed, job in zip(seeds, jobs[lr, "step"], strict=True)
        ]
        for name, words in cures.items()
    }
    every = [job for own in wanted.values() for job in own]
    if not asked.so_far:
        kept_runs.finish(every, kept, _WORK, asked.jobs)
    found = {name: runs for name, own in wanted.items() if (runs := kept_runs.kept_runs(own, kept))}
    if "none" not in found:
        raise UserError(f"{short(kept)} has no run without a cure yet: leave --so-far out")
    missing = len(every) - sum(map(len, found.values()))
    study = {"none, in the study": plain[lr, "step"], "linear end, in the study": plain[lr, "linear"]}
    told = {name: " ".join(words) for name, words in cures.items()} | {"linear end, in the study": "tf_schedule=linear"}
    write_markdown(page(measured, [found, study], told, missing), asked.out)
    say(f"page       {short(asked.out)}")


def cure_words(norm: float) -> dict[str, list[str]]:
    """The cures, by name; the gradient is clipped to ``norm``, its mean before the end."""
    return {
        "beta2 0.95": ["optim.betas=[0.9,0.95]"],
        "lr_rewarm": [f"lr_rewarm={_REWARM:g}"],
        "grad_clip": [f"grad_clip={norm:g}"],
        "GroupNorm": ["model.backbone.norm=group"],
    }


def _measurements(jobs: Sequence[Job], place: Path, at_once: int) -> dict[str, Measured]:
    """What was measured of each run, by its name; measured now where it is not kept, so many ``at_once``, or refused with 0."""
    files = {job.name: place / f"{job.name.replace('/', '_')}.json" for job in jobs}
    place.mkdir(parents=True, exist_ok=True)

    def known(job: Job) -> bool:
        path = files[job.name]
        return path.is_file() and json.loads(path.read_text())["words"] == list(job.words)

    def start(job: Job) -> tuple[Any, Path]:
        log = _WORK / f"{files[job.name].stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        say(f"measures   {job.name}")
        with log.open("ab") as file:
            return kept_runs.process([sys.executable, around_the_end.__file__, str(files[job.name]), *job.words], file), log

    unknown = [job for job in jobs if not known(job)]
    if unknown and not at_once:
        raise UserError(f"{short(place)} lacks {unknown[0].name}, which is not measured yet: leave --so-far out")
    kept_runs.together(unknown, start, lambda job: None, at_once)
    return {name: json.loads(path.read_text()) for name, path in files.items()}


# --- the page ---------------------------------------------------------------------------------------------------------

# Of each run: what it is called, and its value before the end and after it.
_STEPS = {"gradient norm": "gradient", "root of Adam's second moment": "moment", "update, RMS / lr": "update"}
_LOOKS = {
    "MSE of a batch, forced": "forced_train",
    "the same, free-running": "free_train",
    "forced, running statistics": "forced_eval",
    "free-running, running statistics": "free_eval",
    "shift of the norms' means, deviations": "norm_shift",
    "exposure gap, dB": "gap",
}


def _before(measured: Measured, key: str, of: str = "steps") -> list[float]:
    return [row[key] for row in measured[of] if measured["forced"] - WINDOW < row["step"] <= measured["forced"]]


def _after(measured: Measured, key: str, of: str = "steps", most: int = FIRST) -> list[float]:
    return [row[key] for row in measured[of] if measured["forced"] < row["step"] <= measured["forced"] + most]


def _fall(run: Run) -> float:
    return fall(run, forced_iterations(run))


def fall_measured(measured: Measured) -> float:
    """The fall, from the looks: as the study has it."""
    return mean(_before(measured, "psnr", "looks")) - mean(_after(measured, "psnr", "looks", WINDOW))


def verdict(falls: Sequence[float], gains: Sequence[float]) -> str:
    """Whether a cure holds: each seed's fall is below ``MARGIN``, and PSNR at the end is no lower on the mean over seeds.

    A mean that is lower, by less than its interval tells from nothing, leaves it open.
    """
    if max(falls) >= MARGIN:
        return "no: it falls"
    gain, _, high = mean_interval(gains)
    if gain >= 0:
        return "yes"
    return "no: it ends lower" if high < 0 else "no fall; undecided whether it ends lower"


def page(
    measured: dict[str, Measured], cures: Sequence[dict[str, list[Run]]], words: dict[str, str], missing: int = 0
) -> list[Block]:
    """The page: what was measured, what goes with the fall, and which cures hold.

    Args:
        measured: of each run, by its name.
        cures: the runs of each cure, by its name; one or several such groups, the first of a group being the runs without any.
        words: of a cure, by its name.
        missing: how many runs with cures are still to be made.
    """
    names = [*_STEPS, *_LOOKS]
    rows, ratios = [], []
    for name, each in measured.items():
        pairs = [(mean(_before(each, key)), mean(_after(each, key))) for key in _STEPS.values()]
        pairs += [(mean(_before(each, key, "looks")), mean(_after(each, key, "looks"))) for key in _LOOKS.values()]
        rows.append([name.partition("/")[2], *(f"{a:.3g} to {b:.3g}" for a, b in pairs), f"{fall_measured(each):+.2f}"])
        ratios.append([*pairs, fall_measured(each)])
    return [
        Heading(1, "Why PSNR falls at the end of teacher forcing"),
        Text(
            f"{len(measured)} runs of the course study with a sudden end, trained once more, and "
            f"{sum(map(len, cures)) - len(cures)} cures."
        ),
        *([Text(f"Not complete: {missing} runs with cures are missing; the command goes on with them.")] if missing else []),
        Text("This command measures, trains what is missing, and writes every number and picture of the page:"),
        Code(command().replace(" --so-far", "")),
        Heading(2, "Before and after the end"),
        Text(
            f"Mean of the {WINDOW} iterations before the end, to mean of the {FIRST} after it. The batch is one that is not "
            "trained on, with the same noise each time. Norms take the batch's statistics, or the running ones of validation. "
            "The shift is between the means that the encoder's norms see of true frames and of the model's own."
        ),
        Table(["run", *names, "fall, dB"], rows),
        Text(f"Computed on: {' and '.join(sorted({each['computed'] for each in measured.values()}))}."),
        Picture("around_the_end.png", _curves(measured), "PSNR, gradient norm, second moment and update around the end"),
        Heading(2, "What goes with the fall"),
        Text(
            "Spearman's rank correlation over the runs, with its p-value over all orders; of so few runs only a strong one is "
            "more than chance."
        ),
        Table(["quantity", "its value before", "after / before"], _correlations(names, ratios)),
        Heading(2, "Cures"),
        Text(
            f"On the cell with the larger fall. A cure holds if the fall is below {MARGIN:g} dB in every seed and PSNR at the "
            "end is no lower, on the mean, than without it. A mean that is lower, but within its 95 % interval's reach of "
            "nothing, leaves that open. Runs of the study are compared with each other only: they may be "
            "of another machine."
        ),
        Table(
            ["cure", "words", "fall by seed, dB", "PSNR at the end, minus none", "it holds"],
            [row for group in cures for row in _cures(group, words)],
        ),
        Text(f"Computed on: {_devices(cures)}."),
    ]


def spearman(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation, and its p-value over all orders of so few values."""
    ours, theirs = ((ranks := stats.rankdata(each)) - ranks.mean() for each in (one, other))
    scale = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    found = float(ours @ theirs) / scale
    orders = np.array([*itertools.permutations(theirs)]) @ ours / scale
    return found, float(np.mean(np.abs(orders) >= abs(found) - 1e-9))


def _correlations(names: Sequence[str], ratios: Sequence[Sequence[Any]]) -> list[list[str]]:
    falls = [each[-1] for each in ratios]

    def told(values: Sequence[float]) -> str:
        if not 4 <= len(values) <= _FEW or len(set(values)) < 2 or len(set(falls)) < 2:
            return "—"
        return "{:+.2f} (p {:.2g})".format(*spearman(values, falls))

    pairs = [[each[index] for each in ratios] for index in range(len(names))]
    return [
        [name, told([a for a, _ in own]), told([b / a if a else 0.0 for a, b in own])]
        for name, own in zip(names, pairs, strict=True)
    ]


def _cures(runs: dict[str, list[Run]], words: dict[str, str]) -> list[list[str]]:
    """A row for each cure of a group, compared with the group's first, which has none."""
    (none, plain), *cures = runs.items()
    ends = {run.seed: at_end(run) for run in plain}
    forced = forced_iterations(plain[0])  # a linear end has none of its own: the same iterations
    rows = [[none, "", ", ".join(f"{fall(run, forced):+.2f}" for run in plain), "", ""]]
    for name, own in cures:
        falls, gains = [fall(run, forced) for run in own], [at_end(run) - ends[run.seed] for run in own if run.seed in ends]
        told = ", ".join(f"{each:+.2f}" for each in falls)
        rows.append([name, words[name], told, f"{signed(*mean_interval(gains))} dB", verdict(falls, gains)])
    return rows


def _devices(groups: Sequence[dict[str, list[Run]]]) -> str:
    """Where each group was computed."""
    told = [
        sorted({f"{run.record.get('device')}, {run.record.get('precision')}" for own in group.values() for run in own})
        for group in groups
    ]
    return "; ".join(f"{next(iter(group))}: {' and '.join(each)}" for group, each in zip(groups, told, strict=True))


def _curves(measured: dict[str, Measured]) -> bytes:
    figure = Figure(figsize=(11, 6.5), layout="constrained", dpi=100)
    panels = figure.subplots(2, 2).flat
    lrs = list(dict.fromkeys(name.partition("/lr")[2].partition("_")[0] for name in measured))
    for axes, (title, key, of) in zip(
        panels,
        [("validation PSNR, dB", "psnr", "looks"), *((title, key, "steps") for title, key in _STEPS.items())],
        strict=True,
    ):
        for colour, lr in zip(COLOURS, lrs, strict=False):
            curves = [
                {row["step"] - each["forced"]: row[key] for row in each[of]}
                for name, each in measured.items()
                if f"/lr{lr}_" in name
            ]
            for curve in curves:
                axes.plot(list(curve), list(curve.values()), color=colour, linewidth=0.6, alpha=0.5)
            common = sorted(set.intersection(*map(set, curves)))
            axes.plot(common, [mean(curve[x] for curve in curves) for x in common], color=colour, linewidth=2, label=f"lr {lr}")
        axes.axvline(0, color="#8b949e", linewidth=0.8, linestyle=":")
        axes.set(title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("iterations after the end of forcing", fontsize=9)
    return png(figure)


if __name__ == "__main__":
    main()
