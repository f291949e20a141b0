"""What runs scored under named protocols: eval/<protocol>.json in a run's folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from cvae.runs.run import Run, brief, whole_text


@dataclass(frozen=True)
class Result:
    """What a run scored under a named protocol: eval/<protocol>.json. Unknown numbers are NaN, and ``note`` says why."""

    protocol: str
    videos: int | None = None
    psnr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    copy: float = math.nan
    note: str = ""


def results_of(run: Run) -> list[Result]:
    """A run's results, by protocol."""
    return [_result(path) for path in sorted(run.folder.glob("eval/*.json"))]


def _result(path: Path) -> Result:
    try:
        found = json.loads(whole_text(path))
        low, high = found["psnr"]["ci95"]
        mean, copy = found["psnr"]["mean"], found["baselines"]["copy_last"]["psnr"]["mean"]
        return Result(path.stem, int(found["videos"]), float(mean), float(low), float(high), float(copy))
    except KeyError as error:
        return Result(path.stem, note=f"eval/{path.name} has no {error}")
    except (OSError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return Result(path.stem, note=f"eval/{path.name} cannot be read ({brief(error)})")
