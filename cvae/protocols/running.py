"""A run under protocols: its model is opened once, every protocol leaves its result file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cvae import files, integrity
from cvae.console import progress, say, short
from cvae.data.contract import Dataset, Split, check_split
from cvae.errors import UserError
from cvae.evaluation.diagnosis import Diagnosis, sentences
from cvae.evaluation.protocol import Protocol
from cvae.evaluation.scoring import ROWS, score
from cvae.evaluation.validation import score_copy
from cvae.evaluation.weights import sha256_of_file
from cvae.model.cvae import CVAE
from cvae.protocols.result import of_protocol, of_scores, summary, table, write
from cvae.protocols.tools import Tools
from cvae.run_record import read_record, result_name
from cvae.training.assembly import load_model
from cvae.training.content import split_fingerprint

_OTHER = "other data than"
_OTHER_TEST = f"{_OTHER} an earlier evaluation of the run's test split"


def evaluate(folder: Path, protocols: Sequence[Protocol], tools: Tools) -> Iterator[dict[str, Any] | UserError]:
    """Evaluate a run: the result of each protocol that the model can follow, which is written, else why it cannot.

    Raises:
        UserError: there is no such run, checkpoint or split, or one is damaged.
    """
    settings = tools.settings
    model, data, cfg = load_model(folder, settings.checkpoint, settings.allow_targets, settings.places)
    model.to(tools.device)
    split: Split = getattr(data, settings.split)
    check_split(f"{settings.split} of {data}", split)
    if (width := split.cond_NA.shape[1]) != (wanted := len(model.cond_mean_A)):
        raise UserError(f"{settings.split} of {data} has {width} values a condition and the model takes {wanted}")
    facts = _facts(folder, model, data, split, cfg, tools)
    for protocol in protocols:
        began = time.monotonic()
        marks = [*facts["marks"], *_marks(protocol, cfg, tools)]
        protocol = protocol.settled(cfg.n_past, cfg.n_future)
        try:
            protocol.check(split, settings.split)
            made = _diagnosed if protocol.kind == "diagnosis" else _scored
            result = {"format": 1, **made(model, split, protocol, tools, {**facts, "marks": marks})}
            seconds = round(time.monotonic() - began, 1)
            result["times"] = {"made": datetime.now(timezone.utc).isoformat(timespec="seconds"), "seconds": seconds}
            path = write(folder, result_name(protocol.name, settings.split, settings.checkpoint), result)
        except UserError as error:
            yield error
            continue
        for line in table(result, folder):
            say(line)
        say(f"  written {short(path)} and .png beside it, in {seconds:.0f} s")
        yield result


def _other_data(folder: Path, data: Dataset, split: str) -> list[str]:
    """Which splits are not those that the run had; the test split, which it never opened, is compared with earlier results."""
    own: dict[str, Any] = {}
    with contextlib.suppress(UserError, AttributeError):
        own = {name: each.get("fingerprint") for name, each in ((read_record(folder) or {}).get("splits") or {}).items()}
    marks = []
    for name in (name for name in ("train", "validate") if own.get(name) is not None):
        found = None
        with contextlib.suppress(UserError):  # where the test split alone was brought
            found = split_fingerprint(getattr(data, name))
        marks += [f"{_OTHER} the run's own {name} split"] * (found != own[name])
    if split == "test":
        found, earlier = split_fingerprint(data.test), [each for each in _results(folder) if each.get("split") == "test"]
        if any(each.get("data") not in (None, found) or _OTHER_TEST in (each.get("marks") or ()) for each in earlier):
            marks.append(_OTHER_TEST)
    return marks


def _results(folder: Path) -> Iterator[dict[str, Any]]:
    """The results that a run has; one that is damaged is none."""
    for path in sorted((folder / "eval").glob("*.json")):
        with contextlib.suppress(FileNotFoundError, files.Unreadable, integrity.Damaged):
            result = files.read_json(folder, f"eval/{path.name}")
            integrity.check_record(result)
            yield result


def _facts(folder: Path, model: CVAE, data: Dataset, split: Split, cfg: DictConfig, tools: Tools) -> dict[str, Any]:
    settings = tools.settings
    path = folder / "checkpoints" / f"{settings.checkpoint}.pt"
    return {
        "split": settings.split,
        "videos": len(split),
        "data": split_fingerprint(split),
        "conditions": {"values": len(model.cond_mean_A), "condition": str(cfg.data.get("condition", ""))},
        "norm": "eval mode: running statistics",
        "checkpoint": {
            "name": settings.checkpoint,
            "sha256": sha256_of_file(path, "checkpoint"),
            "crc32": (integrity.facts(path) or {}).get("crc32"),  # from its seal: a report compares it without reading all
        },
        "trained": {"n_past": cfg.n_past, "n_future": cfg.n_future},
        "seed": settings.seed,
        "precision": tools.precision,
        "marks": _other_data(folder, data, settings.split),
    }


def _scored(model: CVAE, split: Split, protocol: Protocol, tools: Tools, facts: Mapping[str, Any]) -> dict[str, Any]:
    functions, features, missing = tools.of(protocol.metrics)
    settings = tools.settings
    with progress(protocol.name, len(split)) as advance:
        found = score(
            model,
            split,
            protocol,
            functions,
            features,
            settings.seed,
            tools.device,
            settings.frames,
            tools.autocast,
            advance,
        )
    numbers = of_scores(found, settings.seed)
    missing |= {name: "it compares at least two videos" for name in found["model"].features if name not in numbers}
    marks = [*facts["marks"]]
    if protocol.bar is not None and settings.bair:
        reached = numbers["psnr"]["mean"] >= protocol.bar
        marks.append(
            f"PSNR {numbers['psnr']['mean']:.2f} dB {'reaches' if reached else 'misses'} the {protocol.bar:g} dB of BAIR"
        )
    return {
        "protocol": of_protocol(protocol, functions, features),
        **facts,
        "marks": marks,
        "missing": missing,
        **numbers,
    }


def _diagnosed(model: CVAE, split: Split, protocol: Protocol, tools: Tools, facts: Mapping[str, Any]) -> dict[str, Any]:
    settings = tools.settings
    say(f"{protocol.name}: {len(split)} sequences")
    measured = Diagnosis(model, split, protocol, settings.seed, tools.device, settings.frames, tools.autocast).measure()
    numbers, ways = measured
    n_past, n_future = protocol.frames
    copy, _ = score_copy(split, n_past, n_past + n_future)
    found: dict[str, Any] = {
        **numbers,
        "baselines": {"copy_last": {"psnr": {"mean": copy}}},
        "samples": protocol.samples,
        "ways": {name: summary(values_NK, settings.seed) for name, values_NK in ways.items()},
    }
    for name, each in found["ways"].items():
        if name != "prior":
            each.pop("per_video", None)
    return {
        "protocol": of_protocol(protocol, {"psnr": None}, None),
        **facts,
        "missing": {},
        "psnr": found["ways"]["prior"],
        **found,
        "sentences": sentences(found),
    }


def _marks(protocol: Protocol, cfg: DictConfig, tools: Tools) -> list[str]:
    """What a reader of the number must know of the protocol, which is not settled yet."""
    changed = protocol.changes()
    if changed is None:  # the user's own: only the command can say that it differs from its file
        prefix = f"protocol.{protocol.name}."
        changed = [word.removeprefix(prefix) for word in tools.settings.changed if word.startswith(prefix)]
    marks = [f"another protocol than {protocol.name}: {', '.join(changed)}"] if changed else []
    if protocol.n_past not in (None, cfg.n_past):
        marks.append(f"given frames: {protocol.n_past}, where the model was trained with {cfg.n_past}")
    return marks


def known_results(folder: Path, protocols: Sequence[Protocol]) -> dict[str, dict[str, Any]]:
    """The results that a run has of its best checkpoint under just these protocols, on its test split, by their names."""
    known: dict[str, dict[str, Any]] = {}
    best = None
    with contextlib.suppress(OSError, integrity.Damaged):
        best = (integrity.facts(folder / "checkpoints" / "best.pt") or {}).get("crc32")
    results = {result_name(*_of(result)): result for result in _results(folder)}
    for protocol in protocols:
        with contextlib.suppress(KeyError, TypeError):
            result = results[protocol.name]
            asked = protocol.settled(result["trained"]["n_past"], result["trained"]["n_future"])
            same = all(result["protocol"][name] == value for name, value in asdict(asked).items() if name != "metrics")
            other = any(str(mark).startswith(_OTHER) for mark in result["marks"])
            if same and result["checkpoint"].get("crc32") == best and not other:
                means(result)
                known[protocol.name] = result
    return known


def _of(result: Mapping[str, Any]) -> tuple[str, str, str]:
    try:
        return str(result["protocol"]["name"]), str(result["split"]), str(result["checkpoint"]["name"])
    except (KeyError, TypeError):
        return "", "", ""


def means(result: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each metric of a result, as ``eval/PROTOCOL/METRIC``."""
    name = result["protocol"]["name"]
    return {f"eval/{name}/{metric}": result[metric]["mean"] for metric in ROWS if metric in result}
