"""Harm runs, studies, caches and commands in many ways, and count what breaks: the table of docs/reliability.md.

    python scripts/torture.py --minutes 40                   all cases, or as many as fit: every kind has its share
    python scripts/torture.py --short                        what CI runs: few cases of every kind
    python scripts/torture.py --only kills,damage            some kinds
    python scripts/torture.py --case 'damage/last.pt/flip-3' one case again, with the same --seed; its folder is kept

It exits with 1 if a promise of docs/reliability.md was broken, or if a control was not counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path

from harm import commands, damage, disk, hostile, kills, messages, writers
from harm.bench import Bench
from harm.cases import Case, Outcome, run_cases
from harm.table import table

KINDS = {
    "kills": lambda short: kills.cases(10 if short else 200),
    "damage": lambda short: damage.cases(3 if short else 30),
    "disk": lambda short: disk.cases(short),
    "writers": lambda short: writers.cases(1 if short else 5),
    "messages": lambda short: messages.cases(short),
    "hostile": lambda short: hostile.cases(short),
}


def main() -> None:
    arguments = _arguments()
    cases = _chosen(arguments)
    folder = Path(tempfile.mkdtemp(prefix="torture-")).resolve()
    commands.preload()
    lanes = 1 if arguments.case else arguments.processes
    benches = [partial(Bench, folder / f"lane{number}") for number in range(lanes)]
    for number in range(lanes):
        (folder / f"lane{number}").mkdir()
    began = time.monotonic()
    deadline = began + 60 * arguments.minutes
    found = []
    for outcome in run_cases(cases, benches, arguments.seed, deadline, folder / "kept"):
        found.append(outcome)
        _say(outcome, len(found), len(cases), time.monotonic() - began, arguments)
    _finish(found, cases, folder, arguments, time.monotonic() - began)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="no case is begun after so long")
    parser.add_argument("--short", action="store_true", help="few cases of every kind")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas between them")
    parser.add_argument("--case", help="the id of one case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="cases at a time")
    parser.add_argument("--verbose", action="store_true", help="a line for every case, not only for broken ones")
    arguments = parser.parse_args()
    if unknown := set(arguments.only.split(",")) - set(KINDS):
        parser.error(f"--only: there is no {', '.join(unknown)}; choose of {', '.join(KINDS)}")
    return arguments


def _chosen(arguments: argparse.Namespace) -> list[Case]:
    """The cases in a fair order: one of every kind in turn, so that a run that is cut short has met them all."""
    kinds = [arguments.case.split("/")[0]] if arguments.case else arguments.only.split(",")
    drawn = zip_longest(*(_spread(list(KINDS[kind](arguments.short))) for kind in kinds))
    cases = [case for case in chain.from_iterable(drawn) if case is not None]
    if arguments.case:
        cases = [case for case in cases if case.id == arguments.case] or sys.exit(f"there is no case {arguments.case}")
    return cases


def _spread(cases: list[Case]) -> list[Case]:
    """Cases with those of every row in turn, controls first."""
    rows: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: not case.control):
        rows.setdefault(case.row, []).append(case)
    return [case for turn in zip_longest(*rows.values()) for case in turn if case is not None]


def _say(outcome: Outcome, number: int, count: int, seconds: float, arguments: argparse.Namespace) -> None:
    if outcome.broken:
        repeat = f"python scripts/torture.py --seed {arguments.seed}{' --short' * arguments.short} --case '{outcome.case}'"
        print(f"BROKEN {outcome.case}: {outcome.verdict}: {outcome.broken}\n       again: {repeat}", flush=True)
    elif arguments.verbose:
        print(f"{outcome.case}: {outcome.verdict} {' '.join(outcome.marks)} ({outcome.seconds:.1f} s)", flush=True)
    if number % 25 == 0 or number == count:
        print(f"{number} of {count} cases, {seconds:.0f} s", flush=True)


def _finish(found: list[Outcome], cases: list[Case], folder: Path, arguments: argparse.Namespace, seconds: float) -> None:
    broken = [outcome for outcome in found if outcome.broken]
    print(f"\n{len(found)} of {len(cases)} cases in {seconds / 60:.1f} minutes, seed {arguments.seed}, {platform.platform()}\n")
    print(table(found))
    if broken or arguments.case:
        for lane in folder.glob("lane*"):
            if not arguments.case:
                shutil.rmtree(lane, ignore_errors=True)
        print(f"\n{len(broken)} broken; their folders are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(broken) or not found)


if __name__ == "__main__":
    main()
