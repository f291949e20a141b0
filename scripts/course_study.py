"""Test the course report's four claims: python scripts/course_study.py [--pilot] [--full] [--out docs/study.md] [overrides]

Two parts, each with two learning rates and several seeds a cell: the end of teacher forcing (sudden or linear, beta 1), and KL
annealing (cyclical or monotonic, at a beta that keeps the latent in use). Runs are those of experiment=course_forcing_quick and
course_annealing_quick, for a CPU; with --full of course_forcing and course_annealing, at the report's size (VGG-64 on the
course's data: add data.root=FOLDER). Two run at a time, each on one thread.

A pilot comes first: without a fall there is no question. Each finished run is kept beside the page, in `<page>_files/runs`.
Run the command again to continue a study that was stopped, here or in a clone that has these files; a complete one only writes
its page again. Further words are overrides of every run, as cvae.train takes them.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from statistics import mean

from kept_runs import Job, finish, kept_runs

from cvae.cli import fail
from cvae.console import command, say, short
from cvae.errors import UserError
from cvae.explain import is_users
from cvae.pages.document import Block, Code, Heading, Text, write_markdown
from cvae.runs.run import Run
from cvae.study.answers import answer_blocks
from cvae.study.course import PARTS, at_end, fall, forced_iterations

LRS = (5e-4, 2e-3)
LEAST_FALL = 0.3  # dB, on the mean of the pilot: what the study is about must be there
LEAST_KL = 1.0  # nats a step at the end, in every cell of the second part
_WORK = Path("multirun/course_study")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilot", action="store_true", help="only the pilot: is there a fall, and is the latent in use")
    parser.add_argument("--anyway", action="store_true", help="go on whatever the pilot says")
    parser.add_argument("--full", action="store_true", help="the study at the report's size")
    parser.add_argument("--bair", action="store_true", help="the data are BAIR: the report's 25 dB applies to them")
    parser.add_argument("--seeds", type=int, default=3, help="seeds a cell (3)")
    parser.add_argument("--beta", type=float, help="weight of the KL in the second part, in place of the experiment's")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (2)")
    parser.add_argument("--so-far", action="store_true", help="run nothing: write the page of the runs that are kept")
    parser.add_argument("--list", action="store_true", help="only print the commands of all runs, for a cluster's queue")
    parser.add_argument("--out", type=Path, default=Path("study.md"), help="the page to write, its files beside it (study.md)")
    asked, overrides = parser.parse_known_args()
    try:
        _study(asked, overrides)
    except Exception as error:
        if not is_users(error):
            raise
        fail(error)


def _study(asked: argparse.Namespace, overrides: list[str]) -> None:
    jobs = {cell: job(*cell, asked.full, asked.beta, overrides) for cell in cells(asked.seeds)}
    kept = kept_beside(asked.out)
    if asked.list:
        for each in jobs.values():
            say(shlex.join(["python", "-m", "cvae.train", *each.words, f"hydra.run.dir={_WORK / each.name}"]))
        return
    if asked.so_far:
        _write(jobs.values(), kept, asked)
        return
    first = [jobs[cell] for cell in jobs if is_pilot(*cell)]
    finish(first, kept, _WORK, asked.jobs)
    told, good = pilot(kept_runs(first, kept))
    for line in told:
        say(line)
    if asked.pilot:
        return
    if not (good or asked.anyway):
        raise UserError("the pilot does not show what the study asks about: other settings, or --anyway")
    finish([*jobs.values()], kept, _WORK, asked.jobs)
    _write(jobs.values(), kept, asked)


def _write(jobs: Collection[Job], kept: Path, asked: argparse.Namespace) -> None:
    runs = judged(kept_runs(jobs, kept))
    if not runs:
        raise UserError(f"no part of this study has a run of each cell in {short(kept)}: leave --so-far out")
    write_markdown(page(runs, asked.bair, len(jobs)), asked.out)
    say(f"page       {short(asked.out)}")


def judged(runs: Sequence[Run]) -> list[Run]:
    """The runs of those parts of the study of which each cell has a run."""
    of_part = {part: [run for run in runs if run.folder.parent.name == part] for part in PARTS}
    cells = {part: {(run.settings["lr"], run.settings[factor]) for run in of_part[part]} for part, (factor, _) in PARTS.items()}
    return [run for part, (_, levels) in PARTS.items() if len(cells[part]) == len(LRS) * len(levels) for run in of_part[part]]


def kept_beside(page: Path) -> Path:
    """Where the runs of a page are kept."""
    return page.parent / f"{page.stem}_files" / "runs"


def cells(seeds: int) -> list[tuple[str, float, str, int]]:
    """All runs of the study: part, learning rate, level of the part's factor, seed. One seed of all cells before the next."""
    return [(part, *cell) for seed in range(1, seeds + 1) for part in PARTS for cell in product(LRS, PARTS[part][1], [seed])]


def is_pilot(part: str, lr: float, level: str, seed: int) -> bool:
    """Three seeds of the cell whose fall is known, and each cell of the second part once."""
    return seed == 1 if part == "annealing" else (lr, level) == (LRS[0], "step") and seed <= 3


def job(part: str, lr: float, level: str, seed: int, full: bool, beta: float | None, overrides: list[str]) -> Job:
    """A run of the study."""
    factor, _ = PARTS[part]
    # Forcing ends within a cycle at full weight, and a whole cycle follows: the report's 3 cycles have that at half of a run.
    cycles = 3 if full else 4
    own = {"linear": ["~tf_schedule.at"], "cyclical": [f"kl_schedule.cycles={cycles}"]}.get(level, [])
    chosen = [f"experiment=course_{part}" + "_quick" * (not full), f"lr={lr:g}", f"seed={seed}", f"{factor}={level}", *own]
    chosen += [f"beta={beta:g}"] if part == "annealing" and beta is not None else []
    return Job(f"{part}/lr{lr:g}_{level}_seed{seed}", (*chosen, *overrides))


def pilot(runs: Sequence[Run]) -> tuple[list[str], bool]:
    """What the pilot's runs say, in lines, and whether a study can be made with such runs."""
    first, second = ([run for run in runs if run.folder.parent.name == part] for part in PARTS)
    falls = [fall(run, forced_iterations(run)) for run in first]
    nats = [at_end(run, "train/kld") for run in second]
    lines = [
        f"pilot      fall with lr {LRS[0]:g} and a sudden end: {', '.join(f'{each:+.2f}' for each in falls)} dB, mean "
        f"{mean(falls):+.2f} (needed: {LEAST_FALL:g} or more)",
        f"           KL in the second part's cells: {', '.join(f'{each:.3g}' for each in nats)} nats a step (needed: "
        f"{LEAST_KL:g} or more in each; a lower --beta has more)",
    ]
    return lines, mean(falls) >= LEAST_FALL and min(nats) >= LEAST_KL


def page(runs: Sequence[Run], bair: bool, planned: int) -> list[Block]:
    """The page of a study of so many planned runs.

    Raises:
        UserError: the runs are not such a study.
    """
    opening, *answers = answer_blocks(runs, bair)
    missing = (
        f"The study is not complete: these are {len(runs)} of its {planned} runs, and the command below goes on with it. What "
        "they leave open is named undecided."
    )
    return [
        Heading(1, "The course report's questions"),
        opening,
        *([Text(missing)] if len(runs) < planned else []),
        Text(
            "It compared learning rates, KL annealing and the end of teacher forcing; this page asks the same questions. "
            "This command runs the study and writes every number and picture of the page:"
        ),
        Code(command().replace(" --so-far", "")),
        *answers,
    ]


if __name__ == "__main__":
    main()
