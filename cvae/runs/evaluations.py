"""Read the evaluations of a run: eval/<protocol>.json in its folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from cvae.runs.run import Run, brief, read_text


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run under one protocol: PSNR in dB with its 95 % interval [low, high].

    ``copy`` is the PSNR of repeating the last past frame. A file that cannot be read leaves NaN, and ``note`` says why.
    """

    protocol: str
    videos: int | None = None
    psnr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    copy: float = math.nan
    note: str = ""


def evaluations_of(run: Run) -> list[Evaluation]:
    """All evaluations of a run, sorted by protocol."""
    return [_evaluation(path) for path in sorted(run.folder.glob("eval/*.json"))]


def _evaluation(path: Path) -> Evaluation:
    try:
        found = json.loads(read_text(path))
        low, high = found["psnr"]["ci95"]
        mean, copy = found["psnr"]["mean"], found["baselines"]["copy_last"]["psnr"]["mean"]
        return Evaluation(path.stem, int(found["videos"]), float(mean), float(low), float(high), float(copy))
    except KeyError as error:
        return Evaluation(path.stem, note=f"eval/{path.name} has no {error}")
    except (OSError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return Evaluation(path.stem, note=f"eval/{path.name} cannot be read ({brief(error)})")
