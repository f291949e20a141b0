"""What one more change to the default recipe is worth: python scripts/default_dials.py [--out docs/default_dials.md]

Trains the default run with one dial changed, on three data sets of the search (docs/default.md), and the default itself beside
it. A change that makes a step dearer or cheaper has so many steps that a run takes about as long. Two runs go at a time, each
on one thread. Each finished run is kept beside the page, in `<page>_files/runs`: run the command again to continue, here or in
a clone that has these files. Further words are overrides of every run, as cvae.train takes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from course_study import kept_beside
from kept_runs import Job, finish, kept_runs

from cvae.cli import fail
from cvae.console import command, say, short
from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval
from cvae.explain import is_users
from cvae.pages.document import Block, Code, Heading, Table, Text, signed, write_markdown
from cvae.runs.run import Run

DATA = {
    "sawyer": ("data=course", "data.root=data/sawyer_push"),
    "world_2": ("data.world=2", "data.world_seed=2"),
    "drawn": ("data=course", "data.root=data/drawn"),
}
# A step of each was timed beside the default's, in turns: so many steps take as long.
DIALS: dict[str, tuple[str, ...]] = {
    "default": (),
    "learned prior": ("prior=learned", "epoch_size=56"),
    "short windows first": ("window_growth=0.5", "epoch_size=75"),
    "warm-up of lr": ("lr_warmup=0.05",),
    "AdamW": ("optim=adamw",),
    "shorter memory of Adam": ("optim.betas=[0.9,0.99]",),
    "forcing ended linearly": ("tf_schedule=linear",),
    "half the batch": ("batch_size=6", "epoch_size=87"),
    "twice the batch": ("batch_size=24", "epoch_size=37"),
    "wider nets": ("model.backbone.width=0.375", "epoch_size=43"),
    "GroupNorm": ("model.backbone.norm=group", "epoch_size=46"),
    "no averaged weights": ("average=0",),
}
_ALWAYS = ("n_samples=10", "validate_every=2", "sample_every=0", "logger=none")
_LEVELS = ("val/psnr", "val/psnr_best", "val/psnr_copy", "train/kld")
_WORK = Path("multirun/default_dials")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("default_dials.md"), help="the page to write (default_dials.md)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each dial on each data set (1)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--so-far", action="store_true", help="run nothing: write the page of the runs that are kept")
    asked, overrides = parser.parse_known_args()
    try:
        jobs, kept = plan(asked.seeds, overrides), kept_beside(asked.out)
        if not asked.so_far:
            finish([job for round in zip(*jobs.values(), strict=True) for job in round], kept, _WORK, asked.jobs)
        runs = {name: kept_runs(own, kept) for name, own in jobs.items()}
        missing = sum(map(len, jobs.values())) - sum(map(len, runs.values()))
        if not runs["default"]:
            raise UserError(f"{short(kept)} has no run of the default yet: leave --so-far out")
        write_markdown(page(runs, missing), asked.out)
        say(f"page       {short(asked.out)}")
    except Exception as error:
        if not is_users(error):
            raise
        fail(error)


def plan(seeds: int, overrides: Sequence[str] = ()) -> dict[str, list[Job]]:
    """The runs of each dial, a round for each seed and data set; all dials have as many."""
    return {
        dial: [
            Job(f"{dial.replace(' ', '_')}/{case}_seed{seed}", (*_ALWAYS, *data, f"seed={seed}", *words, *overrides))
            for seed in range(1, seeds + 1)
            for case, data in DATA.items()
        ]
        for dial, words in DIALS.items()
    }


def page(runs: Mapping[str, Sequence[Run]], missing: int = 0) -> list[Block]:
    """The page: each dial against the default on the same data and seed.

    Args:
        runs: of each dial, by its name; the default's first.
        missing: how many are still to be made.
    """
    plain = {run.folder.name: run for run in runs["default"]}
    rows = []
    for dial, own in runs.items():
        pairs = [(run, plain[run.folder.name]) for run in own if run.folder.name in plain]
        changed = pairs if dial != "default" else []
        gains = [_difference(changed, key) for key in ("val/psnr", "val/psnr_best")]
        time = f"{median(_seconds(run) / _seconds(other) for run, other in changed):.2f}" if changed else ""
        nats = ", ".join(f"{run.rows[-1]['train/kld']:.2g}" for run in own)
        rows.append([dial, " ".join(DIALS[dial]), str(len(own)), time, *gains, nats])
    levels = [[name, *(f"{run.rows[-1][key]:.2f}" for key in _LEVELS)] for name, run in sorted(plain.items())]
    devices = {f"{run.record.get('device')}, {run.record.get('precision')}" for own in runs.values() for run in own}
    unfinished = f"Not complete: {missing} runs are missing; the command goes on with them."
    return [
        Heading(1, "One dial changed from the default"),
        Text(
            "The default run with one change, beside the default on the same data with the same seed. A change that makes a "
            "step dearer or cheaper has so many steps that a run takes about as long."
        ),
        *([Text(unfinished)] if missing else []),
        Text("This command trains what is missing, and writes every number of the page:"),
        Code(command().replace(" --so-far", "")),
        Text(
            "Differences in dB at the last epoch: mean over data sets and seeds with its 95 % interval (Student's t), and in "
            "brackets the least and the largest. One whose interval holds 0 is not told from none by so few runs. Time is the "
            "median ratio of a run's seconds to the default's, two runs at a time."
        ),
        Table(
            ["dial", "words", "runs", "time", "one sample, minus default", "best of 10, minus default", "KL, nats a step"], rows
        ),
        Text("The default itself, at its last epoch:"),
        Table(["data", *_LEVELS], levels),
        Text(f"Computed on: {' and '.join(sorted(devices))}."),
    ]


def _difference(pairs: Sequence[tuple[Run, Run]], key: str) -> str:
    values = [run.rows[-1][key] - other.rows[-1][key] for run, other in pairs]
    if len(values) < 2:
        return "".join(f"{value:+.2f}" for value in values)
    return f"{signed(*mean_interval(values))} ({min(values):+.2f} to {max(values):+.2f})"


def _seconds(run: Run) -> float:
    return sum(row["seconds"] for row in run.rows)


if __name__ == "__main__":
    main()
