"""Damage: each file of a run, a study and a cache, cut or changed in places, and then every command that reads it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harm import judge
from harm.bench import JOURNAL, Bench
from harm.cases import Case, Outcome
from harm.commands import Result
from harm.wounds import wound

Reader = Callable[[Bench, Path], Outcome]
_WORST = ("error", "traceback", "hang", "died", "silent", "unclear", "different", "named", "harmless")


@dataclass(frozen=True)
class Target:
    """A file to damage.

    Args:
        snap: what of the bench it belongs to, and is put back before.
        files: globs below the place; one of what they find is damaged.
        readers: the commands that read it, in turn, on the same damaged file.
        hows: the ways of damage, in turn; what a text file may meet besides is a hand that edits it.
    """

    snap: str
    files: Sequence[str]
    readers: Sequence[str]
    hows: Sequence[str] = ("flip", "cut")
    needs: tuple[str, ...] = field(default=("run",))


_TEXT = ("flip", "cut", "edit")
_FORGED = ("flip", "cut", "flip", "forge")
_HALF, _REPORTED = ("run", "half"), ("run", "half", "started", "reports")


def _of_run(path: str) -> Target:
    return Target("half", [f"work/run/{path}"], ["report", "resume"], _TEXT, _REPORTED)


def _of_study(path: str, *more: str) -> Target:
    return Target("started", [path], [*more, "report_sweep", "sweep"], _TEXT, (*_REPORTED, "again"))


def _of_cache(name: str, hows: Sequence[str] = ("flip", "cut")) -> Target:
    return Target("cache", [f"cache/**/{name}"], ["train"], hows, ("run", "cached"))


TARGETS = {
    "last.pt": Target("half", ["work/run/checkpoints/last.pt"], ["resume"], _FORGED, _HALF),
    "best.pt": Target("half", ["work/run/checkpoints/best.pt"], ["load", "resume"], _FORGED, (*_HALF, "loaded")),
    "metrics.jsonl": _of_run("metrics.jsonl"),
    "run.json": _of_run("run.json"),
    "config.yaml": _of_run(".hydra/config.yaml"),
    "overrides.yaml": _of_run(".hydra/overrides.yaml"),
    "hydra.yaml": _of_run(".hydra/hydra.yaml"),
    "a trial's metrics.jsonl": _of_study("work/sweep/*/metrics.jsonl"),
    "a study's journal": _of_study(JOURNAL),
    "sweep.json": _of_study("work/sweep/sweep.json"),
    "multirun.yaml": _of_study("work/sweep/multirun.yaml"),
    "best.yaml": _of_study("work/sweep/best.yaml", "best"),
    "frames.npy": _of_cache("frames.npy"),
    "cond.npy": _of_cache("cond.npy"),
    "meta.json": _of_cache("meta.json", _TEXT),
    "other files of the cache": _of_cache("*", _TEXT),
    "a frame of the world": Target("pack", ["cache/synthetic/**/*.png"], ["train_world"], ("flip", "cut"), ("pack",)),
    "a table of the world": Target("pack", ["cache/synthetic/**/*.csv"], ["train_world"], _TEXT, ("pack",)),
}
_KNOWN_CACHE = ("frames.npy", "cond.npy", "meta.json")


def cases(count: int) -> Iterator[Case]:
    """So many places of every file, and the controls."""
    for name, target in TARGETS.items():
        for number in range(count):
            how = target.hows[number % len(target.hows)]
            act = partial(_damage, name=name, how=how)
            yield Case(f"damage/{name}/{how}-{number}", act, target.needs)
    yield Case("damage/control/a flip that nobody checks", _unchecked, ("run", "half"), control=True)
    yield Case("damage/control/a traceback", _uncaught, control=True)


def _damage(bench: Bench, generator: random.Random, name: str, how: str) -> Outcome:
    target = TARGETS[name]
    _put(bench, target.snap)
    found = sorted({path for pattern in target.files for path in bench.place.root.glob(pattern) if path.is_file()})
    if name.startswith("other"):
        found = [path for path in found if path.name not in _KNOWN_CACHE and path.stat().st_size]
    if not found:
        return Outcome("none", "", ["no such file"])
    path = generator.choice(found)
    what = wound(path, how, generator)
    outcomes = [READERS[reader](bench, path) for reader in target.readers]
    worst = min(outcomes, key=lambda outcome: _WORST.index(outcome.verdict))
    if worst.broken:
        worst.broken = f"{path.relative_to(bench.place.root)}, {what}: {worst.broken}"
    worst.marks = [mark for outcome in outcomes for mark in outcome.marks]
    return worst


def _put(bench: Bench, snap: str) -> None:
    """Put back what is damaged."""
    if snap == "cache":
        bench.copy_cache()
        return
    bench.restore(snap)
    if snap == "pack":
        bench.place.cache = bench.place.root / "cache"
        shutil.rmtree(bench.place.work / "packed")
        bench.place.train(*bench.pack_words("settled"))  # a copy has other times, which are noted now


# --- readers: each judges what its command made of the damage -----------------------------------------------------------------


def _judged(result: Result, name: str, usual: str, different: Callable[[], str], shown: str = "") -> Outcome:
    """What a command made of a damaged file, which it should ``name``; ``different`` says in what its numbers differ."""
    if complaint := judge.complaint(result):
        return Outcome(complaint.split()[0], f"{complaint}: {judge.said(result)}")
    named = judge.names(result.text + shown, usual, name)
    if result.code == 1:
        return Outcome("named") if named else Outcome("unclear", f"the file is not named: {judge.said(result)}")
    found = different()
    if named:
        return Outcome("named", "", ["went on"] * bool(found))
    return Outcome("silent", found) if found else Outcome("harmless")


def _resume(bench: Bench, file: Path) -> Outcome:
    folder, reference = bench.place.work / "run", bench.run.path("work/run")
    result = bench.place.train("resume=run")
    outcome = _judged(result, file.name, bench.half.text, lambda: judge.difference(folder, reference))
    if file.name == "best.pt" and outcome.verdict == "silent":  # it is read by others, and theirs is the judgement
        return Outcome("harmless")
    if result.code == 1 and "checkpoint=best" in result.err:
        again = bench.place.train("resume=run", "checkpoint=best")
        different = judge.complaint(again, (0,)) or judge.difference(folder, reference)
        if different:
            return Outcome("different", f"checkpoint=best does not go on as before: {different}: {judge.said(again)}")
        outcome.marks.append("went on from best.pt")
    return outcome


def _load(bench: Bench, file: Path) -> Outcome:
    usual, result = bench.loaded[file.stem], bench.place.run("load", "run", file.stem)
    return _judged(result, file.name, usual.text, lambda: "" if result.out == usual.out else f"other weights: {result.out}")


def _report(bench: Bench, file: Path, runs: str = "run") -> Outcome:
    usual, before = bench.reports[runs]
    result, after = bench.report(runs)
    told = usual.text + before["text"]
    return _judged(result, file.name, told, lambda: _changed(before, after), after.get("text", ""))


def _changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    keys = [key for key in before if key != "text" and before[key] != after.get(key)]
    return f"the page's {', '.join(keys)} differ" if keys else ""


def _sweep(bench: Bench, file: Path) -> Outcome:
    folder, usual = bench.place.work / "sweep", bench.started.result.text
    lost = _lost_folders(folder, file) if file.suffix == ".journal" else []
    result = bench.place.train(*bench.sweep_words())
    outcome = _judged(result, file.name, usual, partial(judge.study_difference, folder, bench.started.trials, runs=False))
    if lost and outcome.verdict == "harmless" and not judge.names(result.text, usual, *lost):
        return Outcome("silent", f"the journal lost {', '.join(lost)}, and nothing says so")
    return outcome


def _lost_folders(folder: Path, journal: Path) -> list[str]:
    """The run folders of a sweep that its journal does not know any more, as messages may name them."""
    text = journal.read_bytes().decode(errors="replace")
    runs = sorted(path.parent for path in folder.glob("*/run.json"))
    return [f"sweep/{run.name}" for run in runs if f'{run}"' not in text]


def _best(bench: Bench, file: Path) -> Outcome:
    result = bench.place.train(*bench.again_words())
    different = partial(judge.difference, bench.place.work / "again", bench.again.path("work/again"))
    return _judged(result, file.name, bench.again.result.text, different)


def _train(bench: Bench, file: Path) -> Outcome:
    result = bench.place.train(*bench.cached_words())
    packed = file.parent.name  # naming the folder of the packed data is enough
    different = partial(judge.difference, bench.place.work / "again", bench.cached.path("work/again"))
    named = packed if packed in result.text and packed != "packed" else file.name
    return _judged(result, named, bench.cached.result.text, different)


def _train_world(bench: Bench, file: Path) -> Outcome:
    result = bench.place.train(*bench.pack_words("again"))
    different = partial(judge.difference, bench.place.work / "again", bench.place.work / "settled")
    world, split = file.relative_to(bench.place.cache / "synthetic").parts[:2]  # to name the split is enough
    name = file.name if file.name in result.text else f"{world}/{split} is not as it was made"
    return _judged(result, name, bench.pack.result.text, different)


READERS: dict[str, Reader] = {
    "resume": _resume,
    "load": _load,
    "report": _report,
    "report_sweep": partial(_report, runs="sweep"),
    "sweep": _sweep,
    "best": _best,
    "train": _train,
    "train_world": _train_world,
}


# --- controls --------------------------------------------------------------------------------------------------------------


def _unchecked(bench: Bench, generator: random.Random) -> Outcome:
    """One bit of a file that no checksum covers, read by a reader that believes everything."""
    path = bench.place.work / "numbers.txt"
    path.write_text("".join(f"{number}\n" for number in range(1000)))
    before = sum(map(int, path.read_text().split()))
    text = path.read_bytes()
    path.write_bytes(bytes([text[0] ^ 1]) + text[1:])
    after = sum(map(int, path.read_text().split()))
    return _judged(Result(0, f"{after}\n", "", 0.0), path.name, f"{before}\n", lambda: "other" * (before != after))


def _uncaught(bench: Bench, generator: random.Random) -> Outcome:
    """A command that raises what nobody catches."""
    return _judged(bench.place.run("raise", "KeyError"), "x", "", str)
