"""``python -m cvae.data check ROOT``: read every file of a dataset, list what is wrong with it, and sum up what is there.

Each problem is a line that begins with one of three words:

    fails   training, or an evaluation of the test split, would end with an error here
    bad     it can be read, but something is wrong with it: damaged pixels, copies, values that cannot be
    note    to be known; nothing need be done

The exit code is 1 if training would fail. --fix quarantine moves the sequences that fail or are bad to ROOT/quarantine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cvae.console import progress, say, short
from cvae.data.convert.workers import Lost, each_in_processes
from cvae.data.examine import BAD, FAILS, NOTE, Job, Problem, Seen, examine, is_packed, opened, tables_of
from cvae.data.layout import SPLITS, refuse_absent
from cvae.data.listing import sequence_folders
from cvae.data.quarantine import move_aside
from cvae.data.sealed import Damaged
from cvae.data.summary import sum_up
from cvae.data.suspects import mark_copies, mark_jumps, mark_recurring
from cvae.data.tables import CHOICES, Tables, chosen
from cvae.errors import UserError, expanded, require

_TRAINED = ("train", "validate")  # the splits that training reads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.epilog = __doc__
    parser.add_argument("root", metavar="ROOT", help="the folder that holds train, validate and test")
    parser.add_argument("--fix", choices=("quarantine",), help="move bad sequences to ROOT/quarantine; nothing is deleted")
    parser.add_argument("--condition", choices=CHOICES, default="actions_positions", help="data.condition of the training")
    parser.add_argument("--n-past", type=int, default=2, help="given frames (default: 2)")
    parser.add_argument("--n-future", type=int, default=10, help="predicted frames (default: 10)")
    parser.add_argument("--sigma-scale", type=float, default=6.0, help="sigma_scale of the training (default: 6)")
    parser.add_argument("--sheet", default="contact_sheet.png", help="where the contact sheet goes; '' for none")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")


def run(asked: argparse.Namespace) -> None:
    """Check a dataset.

    Raises:
        UserError: there is no such folder, or a file cannot be written.
        SystemExit: training would fail; the code is 1.
    """
    for key in ("n_past", "n_future"):
        require(getattr(asked, key) >= 1, "--" + key.replace("_", "-"), getattr(asked, key), "give a number of at least 1")
    require(0.001 <= asked.sigma_scale <= 1000, "--sigma-scale", asked.sigma_scale, "give a number such as 6")
    require(asked.workers is None or asked.workers >= 1, "--workers", asked.workers, "give a number of at least 1")
    root = expanded(asked.root, "ROOT")
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the folder that holds {', '.join(SPLITS)}")
    tables = tables_of(root)
    columns = [name for names in tables.values() for name in names]
    seen, problems = _read(root, tables, asked.workers)
    mark_copies(seen)
    mark_recurring([each for each in seen if each.split == "train"], [each for each in seen if each.split != "train"])
    mark_jumps(seen, columns)
    _hold_against(asked, chosen(tables, asked.condition), seen, problems)
    every = [*problems, *(problem for each in seen for problem in each.problems)]
    for level in (FAILS, BAD, NOTE):
        for problem in every:
            if problem.level == level:
                say(f"{level:<6}{problem.what}".replace("\n", "\\n"))
    if asked.fix and any(is_packed(root, split) for split in SPLITS):
        raise UserError(
            f"{root} is packed: sequences cannot be moved out of arrays; convert the source again without the bad ones"
        )
    if asked.fix and (bad := [each for each in seen if not each.good]):
        say(f"{len(bad)} sequences are moved to {short(move_aside(root, bad))}")
        problems = [problem for problem in problems if problem.sequence is None]
        seen = [each for each in seen if each.good]
        problems += _empty(seen)
    good = {split: [each for each in seen if each.split == split and each.good and each.length] for split in SPLITS}
    sum_up(root, good, columns, asked)
    fails = [*problems, *(problem for each in seen for problem in each.problems if each.split in _TRAINED)]
    fatal = [problem for problem in fails if problem.level == FAILS]
    counts = {level: sum(problem.level == level for problem in every) for level in (FAILS, BAD, NOTE)}
    say(f"problems: {', '.join(f'{count} {level}' for level, count in counts.items())}; " + _verdict(fatal, bool(asked.fix)))
    if fatal:
        sys.exit(1)


def _verdict(fatal: Sequence[Problem], fixed: bool) -> str:
    if not fatal:
        return "training can read what is there"
    return "training would fail" + ("" if fixed else "; --fix quarantine moves the sequences aside, if it is theirs")


def _read(root: Path, tables: Tables, workers: int | None) -> tuple[list[Seen], list[Problem]]:
    """All that may be sequences, each file read once; and problems of what is none."""
    jobs: list[Job] = []
    problems: list[Problem] = []
    for split in SPLITS:
        try:
            refuse_absent(root, split)
            found, skipped = _sequences(root, split, tables)
            jobs += found
            problems += [
                Problem(f"{root / split / name} is not read as a sequence: {why}", NOTE) for name, why in skipped.items()
            ]
        except UserError as error:
            problems.append(Problem(str(error), FAILS if split in _TRAINED else NOTE))
    seen = []
    with progress(f"reading {root}", len(jobs)) as advance:
        for job, each in zip(jobs, each_in_processes(examine, jobs, workers), strict=True):
            if isinstance(each, Lost):
                lost, each = each, Seen(job.split, job.name)
                each.add(f"{job.folder} cannot be read: {lost.reason}", FAILS)
            seen.append(each)
            advance(1)
    return seen, problems + _empty(seen)


def _sequences(root: Path, split: str, tables: Tables) -> tuple[list[Job], dict[str, str]]:
    """What may be sequences of a split, and what is none, with the reason."""
    if is_packed(root, split):
        try:
            names = opened(root / split).meta["names"]
        except Damaged as error:
            raise UserError(f"{root / split} is damaged ({error}): convert the source again into a new folder") from error
        return [Job(split, name, root / split, tables, index) for index, name in enumerate(names)], {}
    skipped: dict[str, str] = {}
    return [Job(split, name, folder, tables) for name, folder in sequence_folders(root / split, skipped)], skipped


def _empty(seen: Sequence[Seen]) -> list[Problem]:
    there = {each.split for each in seen if each.length or any(problem.level == FAILS for problem in each.problems)}
    return [Problem(f"{split} has no sequences: training needs some", FAILS) for split in _TRAINED if split not in there]


def _hold_against(asked: argparse.Namespace, files: Sequence[str], seen: Sequence[Seen], problems: list[Problem]) -> None:
    """Say what a training with these settings would miss."""
    needed = asked.n_past + asked.n_future
    there = [each for each in seen if each.length]
    for file in files:
        lacking = [each for each in there if file in each.missing]
        if lacking and len(lacking) == len(there):
            what = f"no sequence has {file}: data.condition={asked.condition} needs it, data.condition=none needs no CSV"
            problems.append(Problem(what, FAILS))
            continue
        for each in lacking:
            each.add(f"{each.split}/{each.name} has no {file}, which data.condition={asked.condition} needs", FAILS)
    for each in there:
        if each.length < needed:
            of = f"{asked.n_past} + {asked.n_future} = {needed} are needed"
            each.add(f"{each.split}/{each.name} has {each.length} frames where {of}", FAILS)
