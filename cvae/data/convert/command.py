"""The command: find what a source holds, have workers read it, keep a journal, and say what became of it."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cvae.console import progress, say, short, warn
from cvae.data.convert import bair, lerobot, npz, video
from cvae.data.convert.episodes import Cut, Episode, Found, split_episodes
from cvae.data.convert.sinks import HINT, Bad, Convert
from cvae.data.convert.work import PackedWriter, Work
from cvae.data.convert.workers import Lost, each_in_processes
from cvae.data.converted import UNFINISHED
from cvae.data.layout import SPLITS
from cvae.data.tables import declared, write_tables
from cvae.errors import UserError, expanded, require, writing

# How a source is known, and the options that only this format has. The first that fits is taken.
FORMATS = {
    "lerobot": (lerobot.is_lerobot, ("camera", "action", "state")),
    "npz": (npz.is_npz, ()),
    "bair": (bair.is_bair, ("camera",)),
    "video": (video.is_video, ()),
}
_RULES = 1  # a later version that makes other data of the same source counts on
_NAMED = 20  # problems that are printed one by one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the command."""
    parser.add_argument("source", metavar="SRC", help="the data: a folder or a file")
    parser.add_argument("target", metavar="DST", help="a new folder; after a kill, the same one")
    parser.add_argument("--format", choices=list(FORMATS), help="what SRC holds (default: seen from its files)")
    parser.add_argument("--to", choices=("packed", "png"), default="packed", help="arrays (default) or PNG files")
    which = "a number of episodes, or a share below 1 (default: 256, but at most a tenth), where SRC has no such split"
    parser.add_argument("--validate", type=share, metavar="N", help=which)
    parser.add_argument("--test", type=share, metavar="N", help="the same for test; 0: none")
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="take every N-th frame (default 1)")
    parser.add_argument("--clip", type=int, default=30, metavar="N", help="frames of a sequence at most (default 30)")
    parser.add_argument("--shortest", type=int, default=12, metavar="N", help="frames of a sequence at least (default 12)")
    cameras = f"BAIR: {' or '.join(bair.CAMERAS)} (default {bair.CAMERAS[0]}); LeRobot: a video or image column"
    parser.add_argument("--camera", metavar="NAME", help=cameras)
    parser.add_argument("--action", metavar="NAME", help="LeRobot: the column of actions, or none (default action)")
    parser.add_argument("--state", metavar="NAME", help="LeRobot: the column of states, or none (default observation.state)")
    skip = "stop at what cannot be read (default), or skip it"
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help=skip)
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read (default: one a core)")


def share(text: str) -> float:
    """An option's value: a number of episodes, or a share of them below 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (value > 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of episodes nor a share of them below 1")
    return value


def run(asked: argparse.Namespace) -> None:
    """Convert, or go on with what a killed command left.

    Raises:
        UserError: the source or an option is bad, DST holds something else, or with ``--on-error stop`` a file cannot be read.
    """
    source, target = expanded(asked.source, "SRC"), expanded(asked.target, "DST")
    for name, least in (("stride", 1), ("clip", 2), ("shortest", 2), ("workers", 1)):
        value = getattr(asked, name)
        require(value is None or value >= least, f"--{name}", value, f"give a whole number of at least {least}")
    if not source.exists():
        raise UserError(f"{source} does not exist: SRC is the folder or file to convert")
    if source.resolve() in target.resolve().parents:
        raise UserError(f"DST={target} lies in SRC={source}, which would then hold both: give a folder outside of it")
    cut = Cut(asked.stride, asked.clip, min(asked.shortest, asked.clip))
    found = _find(asked, source)
    for number, line in enumerate(found.lost):
        _tell_or_stop(line, asked.on_error, number)
    episodes = split_episodes(found.episodes, {"validate": asked.validate, "test": asked.test})
    plan = {
        "source": str(source),
        "files": _fingerprint(found.files),
        "format": asked.format,
        "to": asked.to,
        "options": {**found.options, **asdict(cut), "validate": asked.validate, "test": asked.test},
        "rules": _RULES,
    }
    with writing(target, HINT):
        if _is_done(target, plan):
            say(f"{short(target)} holds this conversion already")
            return
        with Work(target, plan).open() as work:
            _convert(work, found, cut, episodes, asked)
            record = _record(work, plan, found, cut)
            if asked.to == "png":
                write_tables(target, found.tables)
            work.finish(list(record["splits"]), record)
    _say_what_came_out(target, record, asked.to)


def _find(asked: argparse.Namespace, source: Path) -> Found:
    if asked.format is None:
        asked.format = next((name for name, (fits, _) in FORMATS.items() if fits(source)), None)
    if asked.format is None:
        raise UserError(f"{source} is of no format that is known: choose --format {', '.join(FORMATS)}")
    for name in ("camera", "action", "state"):
        if getattr(asked, name) is not None and name not in FORMATS[asked.format][1]:
            raise UserError(f"--{name} has no meaning for {source}, which is of the format {asked.format}: leave it out")
    if asked.format == "bair":
        return bair.find(source, asked.camera)
    if asked.format == "lerobot":
        return lerobot.find(source, asked.camera, asked.action, asked.state)
    return npz.find(source) if asked.format == "npz" else video.find(source)


def _fingerprint(files: Sequence[Path]) -> str:
    """A hash of names, sizes and times."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _is_done(target: Path, plan: dict[str, Any]) -> bool:
    """Whether DST holds this conversion; UserError if it holds something else."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads((target / "dataset.json").read_text())["plan"] == plan:
            shutil.rmtree(target / UNFINISHED, ignore_errors=True)  # killed while it was removed
            return True
    if not (target / UNFINISHED).exists() and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} holds something else already: give a new folder as DST")
    return False


def _convert(work: Work, found: Found, cut: Cut, episodes: list[Episode], asked: argparse.Namespace) -> None:
    """Have all episodes read that the journal does not have, and put them in place, in order."""
    png, done = asked.to == "png", len(work.entries)
    task = Convert(found.reader, cut, work.folder if png else work.parts, found.tables, png)
    writers = {} if png else _writers(work, found, episodes)
    bad = sum("error" in entry for entry in work.entries)
    if done:
        say(f"{done} of {len(episodes)} episodes are converted already")
    jobs = list(enumerate(episodes))[done:]
    title = f"converting {short(Path(asked.source))}"
    with (
        progress(title, len(jobs), "episodes") as advance,
        contextlib.closing(each_in_processes(task, jobs, asked.workers)) as outcomes,
    ):
        for (number, episode), outcome in zip(jobs, outcomes, strict=True):
            entry: dict[str, Any] = {"split": episode.split}
            if isinstance(outcome, (Bad, Lost)):
                task.drop((number, episode))
                entry["error"] = f"{episode.origin}: {outcome.reason}"
                _tell_or_stop(entry["error"], asked.on_error, bad)
                bad += 1
            else:
                names = [episode.sequence(clip) for clip in range(len(outcome.lengths))]
                entry |= {"names": names, "lengths": outcome.lengths, "left_out": outcome.left_out}
                if names and not png:
                    entry |= writers[str(episode.split)].add(names, outcome.lengths, task.parts(number))
            work.note(entry)
            advance(1)
    for name, writer in writers.items():
        if _sequences(work, name):
            writer.close()


def _writers(work: Work, found: Found, episodes: list[Episode]) -> dict[str, PackedWriter]:
    """A writer for each split that is not in its place yet."""
    names = sorted({str(episode.split) for episode in episodes})
    entries = {name: [each for each in work.entries if each["split"] == name and each.get("names")] for name in names}
    return {
        name: PackedWriter(work.folder / name, found.tables, entries[name])
        for name in names
        if not (work.target / name).exists()
    }


def _tell_or_stop(line: str, on_error: str, before: int) -> None:
    if on_error == "stop":
        raise UserError(f"{line}: get the file again, or leave out what cannot be read with --on-error skip")
    if before < _NAMED:
        warn(f"left out: {line}")
    elif before == _NAMED:
        warn("more is left out: dataset.json will name all")


def _sequences(work: Work, split: str) -> int:
    return sum(len(entry.get("names", ())) for entry in work.entries if entry["split"] == split)


def _record(work: Work, plan: dict[str, Any], found: Found, cut: Cut) -> dict[str, Any]:
    """What dataset.json says.

    Raises:
        UserError: nothing is left for train or validate.
    """
    splits = {}
    for name in SPLITS:
        entries = [entry for entry in work.entries if entry["split"] == name and "error" not in entry]
        lengths = [length for entry in entries for length in entry["lengths"]]
        if lengths:
            left_out = sum(entry["left_out"] for entry in entries)
            counts = {"episodes": len(entries), "sequences": len(lengths), "frames": sum(lengths)}
            splits[name] = {**counts, "frames_left_out": left_out}
    for name in ("train", "validate"):
        if name not in splits:
            raise UserError(
                f"{plan['source']}: no sequence of at least {cut.shortest} frames is left for {name}: remove "
                f"{work.folder}, then give more data or a larger --validate, or lower --shortest"
            )
    chosen = "Splits that the source lacks are whole episodes, chosen by a hash of their names."
    return {
        "plan": plan,
        "rules": [*found.rules, *cut.rules(), chosen],
        "conditions": declared(found.tables),
        "splits": splits,
        "left_out": [*found.lost, *(entry["error"] for entry in work.entries if "error" in entry)],
    }


def _say_what_came_out(target: Path, record: dict[str, Any], to: str) -> None:
    for name, counts in record["splits"].items():
        left_out = f", {counts['frames_left_out']} frames left out" * bool(counts["frames_left_out"])
        say(f"{name}: {counts['sequences']} sequences, {counts['frames']} frames{left_out}")
    if record["left_out"]:
        warn(f"{len(record['left_out'])} parts of the source could not be read: {short(target / 'dataset.json')} names them")
    place = short(target)
    plain = re.fullmatch(r"[\w./~-]+", place, re.ASCII)  # else in quotes for Hydra, and the whole in quotes for the shell
    root = f"data.root={place}" if plain else shlex.quote("data.root='{}'".format(place.replace("'", "\\'")))
    say(f"train on it: python -m cvae.train data={'packed' if to == 'packed' else 'course'} {root}")
