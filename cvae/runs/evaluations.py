"""Read the evaluations of a run: eval/<protocol>.json in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cvae import files, integrity
from cvae.console import printable
from cvae.errors import brief
from cvae.metrics import KEY, OF_PROTOCOLS, Metric
from cvae.run_record import result_name

_MOST = 100  # files in a folder of evaluations
_METRICS, _SENTENCES, _LETTERS = 20, 20, 400  # that are taken of a file
_LATER = 60.0  # seconds by which a checkpoint that is copied with its evaluation may seem newer
_ROWS = {metric.key: metric for metric in OF_PROTOCOLS}


@dataclass(frozen=True)
class Score:
    """A metric of a run under a protocol, with its 95 % interval [low, high]; what a file lacks is NaN.

    ``copy`` is what repeating the last given frame scores.
    """

    metric: Metric
    mean: float
    low: float = math.nan
    high: float = math.nan
    copy: float = math.nan


@dataclass(frozen=True)
class Evaluation:
    """What a run scored under one protocol, on so many videos; ``sentences`` are a diagnosis.

    ``note`` says what a reader must know, or what is wrong with the file, which then has no videos.
    """

    protocol: str
    videos: int | None = None
    scores: tuple[Score, ...] = ()
    sentences: tuple[str, ...] = ()
    note: str = ""
    problem: str = ""


def read_evaluations(folder: Path) -> list[Evaluation]:
    """All evaluations in a run folder, sorted by protocol."""
    if not (folder / "eval").is_dir():
        return []
    try:
        names = sorted(entry.name for entry in files.entries(folder / "eval", _MOST))
    except files.Unreadable as error:
        return [_unreadable("eval", f"eval: {error}")]
    return [_evaluation(folder, f"eval/{name}") for name in names if name.endswith(".json")]


def _evaluation(folder: Path, name: str) -> Evaluation:
    protocol = Path(name).stem
    try:
        found = files.read_json(folder, name)
        integrity.check_record(found)
        scores = _scores(found)
        videos = int(found["videos"])
        own = _own_name(found, protocol)
        sentences, marks = (_texts(found.get(key)) for key in ("sentences", "marks"))
    except KeyError as error:
        return _unreadable(protocol, f"{name} has no {error}")
    except integrity.Damaged as error:
        return _unreadable(protocol, f"{name} is damaged ({error}): evaluate again")
    except files.Unreadable as error:
        return _unreadable(protocol, str(error))
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        return _unreadable(protocol, f"{name} cannot be read ({brief(error)})")
    if own != protocol:
        return _unreadable(protocol, f"{name} holds what {own}.json should: it was renamed or copied, so evaluate again")
    outside = [score.metric.label for score in scores if score.mean < score.low or score.mean > score.high]
    if outside or not 0 <= videos < 1 << 53:
        what = f"its {outside[0]} is not in its interval" if outside else "its videos cannot be counted"
        return _unreadable(protocol, f"{name} is damaged: {what}")
    outdated = _outdated(folder, name, found)
    return Evaluation(protocol, videos, scores, sentences, "; ".join(filter(None, [outdated, *marks])), outdated)


def _own_name(found: Mapping[str, Any], usual: str) -> str:
    """The name that a result's file should have by what it says of itself; one of a version before may say less."""
    protocol, checkpoint = found.get("protocol"), found.get("checkpoint")
    if not (isinstance(protocol, Mapping) and isinstance(checkpoint, Mapping) and "split" in found):
        return usual
    return printable(result_name(str(protocol.get("name"))[:KEY], str(found["split"])[:KEY], str(checkpoint.get("name"))[:KEY]))


def _unreadable(protocol: str, reason: str) -> Evaluation:
    return Evaluation(protocol, note=reason, problem=reason)


def _scores(found: Mapping[str, Any]) -> tuple[Score, ...]:
    """Every metric of a result, PSNR first, which none may lack; the usual ones before those that are not known."""
    baseline = found.get("baselines", {}).get("copy_last", {})
    known = sorted((key for key in found if key in _ROWS), key=list(_ROWS).index)
    others = [
        key
        for key in found
        if key not in _ROWS and isinstance(found[key], Mapping) and isinstance(found[key].get("mean"), float)
    ]
    scores = []
    for key in ["psnr", *(key for key in [*known, *others] if key != "psnr")][:_METRICS]:
        row = _ROWS.get(key) or Metric(key[:KEY], key[:KEY])
        low, high = found[key].get("ci95") or (None, None)
        numbers = (found[key]["mean"], low, high, baseline.get(key, {}).get("mean"))
        scores.append(Score(row, *(math.nan if number is None else float(number) for number in numbers)))
    return tuple(scores)


def _texts(found: Any) -> tuple[str, ...]:
    texts = found if isinstance(found, list) else []
    return tuple(text[:_LETTERS] for text in texts[:_SENTENCES] if isinstance(text, str))


def _outdated(folder: Path, name: str, found: Mapping[str, Any]) -> str:
    """Of which other checkpoint than the run's an evaluation is; empty if it is the run's. A removed one tells nothing."""
    checkpoint = "last.pt" if name.endswith("-last.json") else "best.pt"
    try:
        of, here = found.get("checkpoint"), integrity.facts(folder / "checkpoints" / checkpoint)
        if isinstance(of, Mapping) and here and of.get("crc32"):
            return "" if of["crc32"] == here["crc32"] else f"of another {checkpoint} than the run has: evaluate again"
        # Of a version before: only their times can tell.
        later = (folder / "checkpoints" / checkpoint).stat().st_mtime - (folder / name).stat().st_mtime
    except (OSError, integrity.Damaged):
        return ""
    return f"of an earlier {checkpoint}: evaluate again" if later > _LATER else ""
