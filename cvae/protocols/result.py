"""The result file of a protocol: everything that defines its numbers, the numbers, and those of the baselines."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cvae import integrity
from cvae.charts import frame_scores
from cvae.console import aligned, short
from cvae.errors import UserError, whole, write_whole, writing
from cvae.evaluation.fvd import VideoFeatures, frechet_interval
from cvae.evaluation.intervals import bootstrap
from cvae.evaluation.lpips import Lpips
from cvae.evaluation.protocol import Protocol
from cvae.evaluation.scoring import BASELINES, ROWS, Scores, Values

FORMAT = 1
_DIGITS = 6
_LISTED = 10_000  # videos whose values a file holds one by one
_HINT = "free some space, then evaluate again"


def summary(values_NK: Values, seed: int) -> dict[str, Any]:
    """Mean over frames, then over videos, with its bootstrap interval over videos; by frame, and by video."""
    by_video = values_NK.mean(axis=1)
    mean, low, high = bootstrap(by_video, seed)
    found = {"mean": mean, "ci95": [low, high], "per_frame": values_NK.mean(axis=0).tolist()}
    if len(by_video) <= _LISTED:
        found["per_video"] = by_video.tolist()
    return found


def of_scores(found: Mapping[str, Scores], seed: int) -> dict[str, Any]:
    """The metrics of the model and, below ``baselines``, those of every baseline."""
    numbers = {name: _metrics(found[name], found["true"], seed) for name in ("model", *BASELINES)}
    for name in BASELINES:
        for each in numbers[name].values():
            each.pop("per_video", None)
    return {**numbers["model"], "baselines": {name: numbers[name] for name in BASELINES}}


def _metrics(scores: Scores, true: Scores, seed: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {name: summary(values_NK, seed) for name, values_NK in scores.frames.items()}
    for name, features_ND in scores.features.items():
        if len(features_ND) > 1:
            distance, low, high = frechet_interval(features_ND, true.features[name], seed)
            metrics[name] = {"mean": distance, "ci95": [low, high]}
    return metrics


def of_protocol(protocol: Protocol, functions: Mapping[str, object], features: VideoFeatures | None) -> dict[str, Any]:
    """What defines the numbers but for run, data and seed."""
    facts: dict[str, Any] = {**dataclasses.asdict(protocol), "metrics": [*functions, *["fvd"] * (features is not None)]}
    facts |= {"rule": protocol.rule, "data_range": 1.0, "interval": "95 %, bootstrap over videos"}
    facts["averaged"] = "over frames, then over videos"
    if isinstance(found := functions.get("lpips"), Lpips):
        facts["lpips"] = {"net": found.net, "version": "0.1", "weights_sha256": found.sha256}
    if features is not None:
        facts["fvd"] = {
            "features_sha256": features.sha256,
            "context_frames_count": protocol.fvd_context,
            "sample": "the first of each video, a random one",
        }
    return facts


def write(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write RUN/eval/NAME.json, and NAME.png with PSNR by frame; nothing else of the run folder is touched.

    Raises:
        UserError: they cannot be written, or ``eval`` is a link that leads out of the run folder.
    """
    place = folder / "eval"
    if Path(os.path.realpath(place)).parent != Path(os.path.realpath(folder)):
        raise UserError(f"{place} is a link that leads elsewhere: remove it")
    with writing(place, _HINT):
        place.mkdir(exist_ok=True)
    path = place / f"{name}.json"
    for each in (path, path.with_suffix(".png")):
        if each.is_symlink() or (each.exists() and not each.is_file()):  # a pipe would block
            raise UserError(f"{each} is no file of its own: remove it")
    write_whole(path, integrity.stamped(_plain(result)), _HINT)
    with writing(place / f"{name}.png", _HINT), whole(place / f"{name}.png") as scratch:
        frame_scores(*_lines(result), scratch)
    return path


def _lines(result: Mapping[str, Any]) -> tuple[str, int, dict[str, list[float]]]:
    """Title, first predicted frame, and PSNR by frame of what is drawn."""
    n_past = result["protocol"]["n_past"]
    title = f"{result['protocol']['name']}: {result['videos']} videos of {result['split']}, {result['protocol']['rule']}"
    if "ways" in result:
        return title, n_past, {WAYS[name]: each["per_frame"] for name, each in result["ways"].items()}
    lines = {"model": result["psnr"]["per_frame"]}
    lines |= {label: result["baselines"][name]["psnr"]["per_frame"] for name, label in BASELINES.items()}
    return title, n_past, lines


WAYS = {
    "posterior_forced": "z from the posterior, fed true frames",
    "posterior": "z from the posterior",
    "best": "best sample, z from the prior",
    "prior": "one sample, z from the prior",
    "zero": "noise zero",
    "shuffled": "conditions of another video",
    "zero_conditions": "mean conditions",
}


def _plain(value: Any) -> Any:
    """Numbers rounded to six decimals, so that equal work gives equal bytes; what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), _DIGITS) if math.isfinite(value) else None
    return value


def table(result: Mapping[str, Any], run: Path) -> list[str]:
    """A result in lines for the terminal: a row for the model and for each baseline, a column a metric."""
    protocol = result["protocol"]
    lines = [
        f"{short(run)}  {protocol['name']}: {protocol['n_past']} given, {protocol['n_future']} predicted frames, "
        f"{protocol['rule']}; {result['videos']} videos of {result['split']}, {result['checkpoint']['name']}.pt"
    ]
    if result["marks"]:
        lines += [f"  note: {mark}" for mark in result["marks"]]
    if "sentences" in result:
        return lines + [f"  {sentence}" for sentence in result["sentences"]]
    metrics = [name for name in ROWS if name in result]
    rows = [["", *(ROWS[name].title for name in metrics)]]
    for label, numbers in [("model", result), *((text, result["baselines"][name]) for name, text in BASELINES.items())]:
        rows.append([label, *(interval(name, numbers.get(name)) for name in metrics)])
    return lines + aligned(rows, "  ")


def interval(metric: str, numbers: Mapping[str, Any] | None) -> str:
    """A mean with its interval, as text."""
    if numbers is None:
        return ""
    row, (low, high) = ROWS[metric], numbers["ci95"]
    ends = "" if low is None or not math.isfinite(low) else f" [{row.text(low)}, {row.text(high)}]"
    return f"{row.text(numbers['mean'])}{ends}"
