"""A run under protocols: its model is opened once, every protocol leaves its result file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cvae import files, integrity
from cvae.console import progress, say, short
from cvae.data.contract import Split
from cvae.errors import UserError
from cvae.evaluation.diagnosis import Diagnosis, sentences
from cvae.evaluation.protocol import Protocol
from cvae.evaluation.scoring import ROWS, score
from cvae.evaluation.validation import score_copy
from cvae.evaluation.weights import sha256_of_file
from cvae.model.cvae import CVAE
from cvae.protocols.result import file_name, of_protocol, of_scores, summary, table, write
from cvae.protocols.tools import Tools
from cvae.run_record import read_record
from cvae.training.assembly import load_model
from cvae.training.content import split_fingerprint


def evaluate(folder: Path, protocols: Sequence[Protocol], tools: Tools) -> Iterator[dict[str, Any] | UserError]:
    """Evaluate a run: the result of each protocol that the model can follow, which is written, else why it cannot.

    Raises:
        UserError: there is no such run, checkpoint or split, or one is damaged.
    """
    settings = tools.settings
    model, data, cfg = load_model(folder, settings.checkpoint, settings.allow_targets, settings.places)
    model.to(tools.device)
    split: Split = getattr(data, settings.split)
    if (width := split.cond_NA.shape[1]) != (wanted := len(model.cond_mean_A)):
        raise UserError(f"{settings.split} of {data} has {width} values a condition and the model takes {wanted}")
    facts = _facts(folder, model, split, cfg, tools)
    for protocol in protocols:
        began = time.monotonic()
        protocol = protocol.settled(cfg.n_past, cfg.n_future)
        try:
            protocol.check(split, settings.split)
            made = _diagnosed if protocol.kind == "diagnosis" else _scored
            result = {"format": 1, **made(model, split, protocol, tools, facts, cfg)}
            seconds = round(time.monotonic() - began, 1)
            result["times"] = {"made": datetime.now(timezone.utc).isoformat(timespec="seconds"), "seconds": seconds}
            path = write(folder, file_name(protocol.name, settings.split, settings.checkpoint), result)
        except UserError as error:
            yield error
            continue
        for line in table(result, folder):
            say(line)
        say(f"  written {short(path)} and .png beside it, in {seconds:.0f} s")
        yield result


def _own_data(folder: Path, split: str) -> str | None:
    """The fingerprint that a run knows of a split; the test split was not opened in training."""
    with contextlib.suppress(UserError, AttributeError):
        found = (read_record(folder) or {}).get("splits", {}).get(split, {}).get("fingerprint")
        return found if isinstance(found, str) else None
    return None


def _facts(folder: Path, model: CVAE, split: Split, cfg: DictConfig, tools: Tools) -> dict[str, Any]:
    settings = tools.settings
    path = folder / "checkpoints" / f"{settings.checkpoint}.pt"
    found, own = split_fingerprint(split), _own_data(folder, settings.split)
    return {
        "split": settings.split,
        "videos": len(split),
        "data": found,
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
        "marks": [f"other data than the run's own {settings.split} split"] if own not in (None, found) else [],
    }


def _scored(
    model: CVAE, split: Split, protocol: Protocol, tools: Tools, facts: Mapping[str, Any], cfg: DictConfig
) -> dict[str, Any]:
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
    marks = [*facts["marks"], *_marks(protocol, cfg, tools)]
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


def _diagnosed(
    model: CVAE, split: Split, protocol: Protocol, tools: Tools, facts: Mapping[str, Any], cfg: DictConfig
) -> dict[str, Any]:
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
        "marks": [*facts["marks"], *_marks(protocol, cfg, tools)],
        "missing": {},
        "psnr": found["ways"]["prior"],
        **found,
        "sentences": sentences(found),
    }


def _marks(protocol: Protocol, cfg: DictConfig, tools: Tools) -> list[str]:
    """What a reader of the number must know."""
    prefix = f"protocol.{protocol.name}."
    changed = [word.removeprefix(prefix) for word in tools.settings.changed if word.startswith(prefix)]
    marks = [f"another protocol than {protocol.name}: {', '.join(changed)}"] if changed else []
    if protocol.n_past != cfg.n_past:
        marks.append(f"given frames: {protocol.n_past}, where the model was trained with {cfg.n_past}")
    return marks


def known_results(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The results that a run has of these protocols; one that is damaged is none."""
    known: dict[str, dict[str, Any]] = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError, files.Unreadable, integrity.Damaged, KeyError, TypeError):
            result = files.read_json(folder, f"eval/{name}.json")
            integrity.check_record(result)
            means(result)
            known[name] = result
    return known


def means(result: Mapping[str, Any]) -> dict[str, float]:
    """The mean of each metric of a result, as ``eval/PROTOCOL/METRIC``."""
    name = result["protocol"]["name"]
    return {f"eval/{name}/{metric}": result[metric]["mean"] for metric in ROWS if metric in result}
