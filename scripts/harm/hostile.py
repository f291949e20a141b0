"""Folders of strangers: each trap is met by every command that reads such a folder, and what it reached is counted."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from harm import corpus_code, corpus_files, judge
from harm.bench import Bench
from harm.cases import Case, Outcome
from harm.commands import Result
from harm.stranger import PRECIOUS, Stranger, Trap

# What a command may cost more than the same command on a folder without a trap: seconds of a processor, MiB.
_REPORT_COST, _COST = (1.0, 50.0), (10.0, 300.0)
# What commands may write: their own folders.
_OWN = re.compile(
    r"logs/|cache/|mark$|home/\.(cache|config)(/wandb(/|$)|$)|work/(multirun|again|sweep|predictions)(/|$)|work/page\.\w+|work/stranger/study\.journal|damaged|undamaged"
)
_OBEYED = re.compile(r"\x1b\]0;owned|\x1b\[31m(owned)?|\u202e")
_INJECTED = re.compile(r"</script><script>owned|<img src=x onerror")
_PASTED = re.compile(r'"(?:repeat|command|resume)":"[^"]*(?:allow_targets|torch\.load|payload|sh -c)')
_NEEDS = ("run", "half", "started", "reports", "loaded")


def cases(short: bool) -> Iterator[Case]:
    """Every hostile folder, and the controls."""
    for trap in [*corpus_code.traps(), *corpus_files.traps(gigabyte=not short)]:
        yield Case(f"hostile/{trap.row}/{trap.name}", partial(_met, trap=trap), _NEEDS)
    for name, key in {"executes": "fire", "connects": "connect", "writes outside": "write"}.items():
        yield Case(f"hostile/control/one that {name}", partial(_allowed, function=key), _NEEDS, control=True)
    yield Case("hostile/control/one that is read wholly", _costly, _NEEDS, control=True)


def _met(bench: Bench, generator: random.Random, trap: Trap) -> Outcome:
    bench.copy_cache()
    stranger = Stranger(bench)
    trap.make(stranger)
    return _judged(stranger, trap.commands)


def _judged(stranger: Stranger, commands: tuple[str, ...], allowed: str = "") -> Outcome:
    stranger.seal()
    before = _tree(stranger)
    broken: list[str] = []
    spoke: list[str] = []
    refused = 0
    for command in commands:
        result = _run(stranger, command, allowed)
        refused += result.code != 0
        if complaint := judge.complaint(result):
            broken.append(f"{command}: {complaint}: {judge.said(result)}")
            spoke.append(complaint.split()[0])
        elif cost := _cost(stranger.bench, command, result):
            broken.append(f"{command}: {cost}")
        if _OBEYED.search(result.text):
            broken.append(f"{command}: escapes reach the terminal")
    reached = _reached(stranger, before)
    broken += [f"{number} {name}" for name, number in reached.items() if number]
    marks = spoke + [name for name, number in reached.items() for _ in range(number)]
    harmless = "refused" if refused else "taken without harm"
    verdict = "reached" if any(reached.values()) else "badly answered" if broken else harmless
    return Outcome(verdict, "; ".join(broken), marks)


def _run(stranger: Stranger, command: str, allowed: str) -> Result:
    """One of the commands, as a user runs it who records offline and has secrets in the environment."""
    place, run = stranger.place, os.path.relpath(stranger.run, stranger.place.work)
    small = ["epochs=1", "epoch_size=1", "sample_every=0"]
    entry, *words = {
        "report": ["report", "runs=stranger", "out=page.html"],
        "resume": ["train", f"resume={run}"],
        "load": ["load", run, "best"],
        "evaluate": ["evaluate", f"run={run}", "split=validate", "protocol.course.n_future=2"],
        "predict": ["predict", f"run={run}", "split=validate", "samples=1"],
        "best": ["train", "experiment=stranger/best.yaml", *small, *_quiet(stranger), "hydra.run.dir=again"],
        "sweep": ["train", *_sweep_words(stranger.bench, "cmaes")],
        "sweep by chance": ["train", *_sweep_words(stranger.bench, "random")],
    }[command]
    address = f"http://127.0.0.1:{stranger.port}"
    environment = {"WANDB_MODE": "offline", "WANDB_BASE_URL": address, "WANDB_API_KEY": "k" * 40, "SECRET_TOKEN": PRECIOUS}
    return place.run(entry, *words, *([allowed] if allowed else []), limit=40.0, **environment)


def _quiet(stranger: Stranger) -> list[str]:
    """No logger, unless that is where the trap is: what a file says of loggers is left out, so the default would start."""
    path = stranger.folder / "best.yaml"
    trapped = (
        path.is_file() and path.stat().st_size < 1e6 and re.search(r"^logger(\.|:)|WandbMirror", path.read_text(), re.MULTILINE)
    )
    return [] if trapped else ["logger=none"]


def _sweep_words(bench: Bench, sampler: str) -> list[str]:
    """Two trials more in the stranger's study. It is cmaes that keeps pickles there."""
    unfit = ("hydra/sweeper/sampler=", "lr=", "beta=", "hydra.sweeper.n_trials=")
    words = [word for word in bench.sweep_words() if not word.startswith(unfit)]
    own = [f"hydra/sweeper/sampler={sampler}", "lr=interval(1e-4,1e-2)", "beta=interval(0.5,1.0)", "hydra.sweeper.n_trials=5"]
    return [*words, *own, "hydra.sweeper.storage=journal://stranger/study.journal"]


def _cost(bench: Bench, command: str, result: Result) -> str:
    """What a command took more than it may; empty if it did not."""
    if command not in ("report", "resume", "load"):
        return ""
    usual = {"report": bench.reports["run"][0], "resume": bench.half, "load": bench.loaded["best"]}[command]
    seconds, memory = _REPORT_COST if command == "report" else _COST
    if result.processor - usual.processor > seconds:
        return f"slow: {result.processor:.1f} s of a processor, {usual.processor:.1f} s without the trap"
    if result.memory - usual.memory > memory:
        return f"large: {result.memory:.0f} MiB, {usual.memory:.0f} without the trap"
    return ""


def _reached(stranger: Stranger, before: dict[str, str]) -> dict[str, int]:
    """What the trap reached, by its counters."""
    after = _tree(stranger)
    outside = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    connections = stranger.connections()
    page = stranger.place.work / "page.html"
    text = page.read_text(errors="replace") if page.exists() else ""
    written = (stranger.run, *(stranger.place.work / name for name in ("again", "predictions")))
    told = PRECIOUS in text or PRECIOUS.encode() in stranger.received or any(map(_told, written))
    return {
        "executions": stranger.executions(),
        "connections": connections,
        "files outside": len(outside),
        "secrets told": int(told),
        "words to paste": len(_PASTED.findall(text)) + len(_INJECTED.findall(text)),
    }


def _told(run: Path) -> bool:
    """Whether the secret stands in a file that the run folder itself holds, and not behind a link."""
    files = [path for path in run.rglob("*") if path.is_file() and not _through_link(path, run)]
    return any(PRECIOUS.encode() in path.read_bytes() for path in files if path.stat().st_size < 10e6)


def _through_link(path: Path, top: Path) -> bool:
    return any(each.is_symlink() for each in [path, *path.parents] if each != top and top in each.parents)


def _tree(stranger: Stranger) -> dict[str, str]:
    """All that commands have no business with, by path: kind, size, time, and a small file's content."""
    root, run = stranger.place.root, stranger.run.resolve()
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            below = str(path.relative_to(root))
            if _OWN.match(below) or run in path.parents or path == run:
                continue
            stat = path.lstat()
            small = path.is_file() and not path.is_symlink() and stat.st_size < 1e6
            content = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
            size = stat.st_size if not path.is_dir() else 0
            found[below] = f"{stat.st_mode:o} {size} {content}"
    return found


# --- controls --------------------------------------------------------------------------------------------------------


def _allowed(bench: Bench, generator: random.Random, function: str) -> Outcome:
    """A run of the user's own, whose command allows what it names: it reaches what a stranger's must not."""
    bench.copy_cache()
    stranger = Stranger(bench)
    payload = stranger.folder / "payload.py"
    body = payload.read_text()
    payload.write_text(body[: body.rindex("fire()")].replace('"connect"]', '"connect", "write"]'))  # importing it does nothing
    stranger.config("data", {"_target_": f"stranger.payload.{function}"})
    outcome = _judged(stranger, ("resume",), "allow_targets=[stranger]")
    counter = {"fire": "executions", "connect": "connections", "write": "files outside"}[function]
    return outcome if counter in outcome.marks else Outcome("missed", "")


def _costly(bench: Bench, generator: random.Random) -> Outcome:
    """A folder whose cost nobody bounds: what takes memory and time is seen."""
    usual = bench.reports["run"][0]
    result = bench.place.run("raise", "memory")
    seen = result.memory - usual.memory > _REPORT_COST[1] and result.processor > _REPORT_COST[0]
    return Outcome("large", "it took 300 MiB and 2 s") if seen else Outcome("cheap")
