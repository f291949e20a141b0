"""Read the evaluations of a run: eval/<protocol>.json in its folder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cvae import files

_MOST = 100  # files in a folder of evaluations
_LATER = 60.0  # seconds by which a checkpoint that is copied with its evaluation may seem newer


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run under one protocol: PSNR in dB with its 95 % interval [low, high].

    ``copy`` is the PSNR of repeating the last past frame. What a file lacks is NaN, and ``note`` says what is wrong with it.
    """

    protocol: str
    videos: int | None = None
    psnr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    copy: float = math.nan
    note: str = ""


def read_evaluations(folder: Path) -> list[Evaluation]:
    """All evaluations in a run folder, sorted by protocol."""
    if not (folder / "eval").is_dir():
        return []
    try:
        names = sorted(entry.name for entry in files.entries(folder / "eval", _MOST))
    except files.Unreadable as error:
        return [Evaluation("eval", note=f"eval: {error}")]
    return [_evaluation(folder, f"eval/{name}") for name in names if name.endswith(".json")]


def _evaluation(folder: Path, name: str) -> Evaluation:
    protocol = Path(name).stem
    try:
        found = files.read_json(folder, name)
        low, high = found["psnr"].get("ci95") or (math.nan, math.nan)
        last_frame = found.get("baselines", {}).get("copy_last", {}).get("psnr", {}).get("mean", math.nan)
        scores = [float(number) for number in (found["psnr"]["mean"], low, high, last_frame)]
        videos = int(found["videos"])
    except KeyError as error:
        return Evaluation(protocol, note=f"{name} has no {error}")
    except files.Unreadable as error:
        return Evaluation(protocol, note=str(error))
    except (OSError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        return Evaluation(protocol, note=f"{name} cannot be read ({files.brief(error)})")
    mean, low, high, copy = scores
    if not 0 <= videos < 1 << 53 or mean < low or mean > high:
        return Evaluation(protocol, note=f"{name} is damaged: its PSNR is not in its interval, or its videos cannot be counted")
    return Evaluation(protocol, videos, mean, low, high, copy, _outdated(folder, name))


def _outdated(folder: Path, name: str) -> str:
    checkpoint = "last.pt" if name.endswith("-last.json") else "best.pt"
    try:
        later = (folder / "checkpoints" / checkpoint).stat().st_mtime - (folder / name).stat().st_mtime
    except OSError:
        return ""
    return f"of an earlier {checkpoint}: evaluate again" if later > _LATER else ""
