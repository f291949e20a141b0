"""Differences between runs over the same videos, with interval and p-value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvae.console import aligned, short
from cvae.evaluation.intervals import paired
from cvae.evaluation.scoring import ROWS

Results = Sequence[tuple[Path, Mapping[str, Any]]]

_SAME = ("protocol", "split", "videos", "data", "seed")  # of two results whose videos can be paired


def compare(results: Results) -> list[str]:
    """Lines for the results of one protocol: what each run but the first has more than the first, video by video.

    Means and intervals are of the differences over videos; p is that of the Wilcoxon signed-rank test.
    """
    (first, base), *others = results
    lines = [f"{base['protocol']['name']}: differences to {short(first)} over the same videos, with 95 % interval and p"]
    metrics = [name for name in ROWS if "per_video" in base.get(name, {})]
    rows = [["", *(ROWS[name].title for name in metrics)]]
    for folder, result in others:
        if why := _unlike(base, result):
            lines.append(f"  {short(folder)}: not comparable, {why}")
            continue
        rows.append([short(folder), *(_difference(name, base, result) for name in metrics)])
    return lines + (aligned(rows, "  ") if len(rows) > 1 else [])


def _unlike(base: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Why two results cannot be paired; empty if they can."""
    different = [key for key in _SAME if base[key] != result[key]]
    if not different and base["data"] is None:
        return "their data have no fingerprint"
    names = {"data": "the data of the split", "protocol": "the protocol (frames, samples or weights)"}
    return f"{names.get(different[0], different[0])} differs" if different else ""


def _difference(metric: str, base: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    found = paired(result[metric]["per_video"], base[metric]["per_video"], result["seed"])
    form = ROWS[metric].form
    ends = f" [{found.low:+{form}}, {found.high:+{form}}]" if found.low == found.low else ""
    return f"{found.mean:+{form}}{ends}, p {found.p:.2g}"
