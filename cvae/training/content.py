"""Which data a run has: known by their content, never by their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cvae.config import build
from cvae.console import short
from cvae.data.contract import Dataset, Split, condition_names
from cvae.errors import UserError


def open_data(cfg: DictConfig) -> Dataset:
    """The data of a run. A sweep's job takes what its sweeper found in them, where they can."""
    data: Dataset = build(cfg.data, cfg.allow_targets, Dataset)
    expect, expected = getattr(data, "expect", None), _told(cfg)
    if expect is not None and expected is not None:
        expect(expected)
    return data


def note_data(cfg: DictConfig, fingerprint: str) -> None:
    """Put the fingerprint into a config that asks for it, so that resolving it does not open the data again."""
    if isinstance(cfg.trial, DictConfig) and "data" in cfg.trial:
        OmegaConf.update(cfg, "trial.data", fingerprint)


def _told(cfg: DictConfig) -> str | None:
    """``trial.data`` as a sweeper passed it; None where it would have to be computed."""
    trial = OmegaConf.to_container(cfg, resolve=False)["trial"]  # type: ignore[call-overload,index]  # it is a dict
    told = trial.get("data") if isinstance(trial, Mapping) else None
    return told if isinstance(told, str) and "${" not in told else None


def describe(data: Dataset) -> dict[str, Any]:
    """What run.json holds of the data: ``dataset``, their fingerprint, what each split has, and the conditions' names."""
    splits = {}
    for name, split in (("train", data.train), ("validate", data.validate)):
        splits[name] = {
            "sequences": len(split),
            "frames": int(split.lengths.sum()),
            "fingerprint": split_fingerprint(split),
        }
    return {"dataset": data.fingerprint, "splits": splits, "conditions": condition_names(data.train)}


def split_fingerprint(split: Split) -> str | None:
    """A hash of a split's content; a split of the user's own may have none."""
    found: str | None = getattr(split, "fingerprint", None)
    return found


def refuse_changed(recorded: Mapping[str, Any], data: Dataset, folder: Path) -> None:
    """Compare the data with those that a run began with; a record of a version before says less, or nothing.

    Raises:
        UserError: they differ, with what changed.
    """
    known = recorded.get("dataset")
    if known is None or known == data.fingerprint:
        return
    now, then = describe(data)["splits"], recorded.get("splits") or {}
    changes = [change for name in now if (change := _change(name, then.get(name), now[name]))]
    changed = "; ".join(changes) or f"fingerprint {known}, now {data.fingerprint}"
    raise UserError(
        f"the data of {short(folder)} changed since it began ({changed}): bring them back, or name the place where they are "
        "unchanged with data.root=FOLDER; other data are another run"
    )


def _change(name: str, then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """How a split differs, in a few words."""
    if then is None:
        return ""
    counts = [f"{then[key]} {key}, now {now[key]}" for key in ("sequences", "frames") if then.get(key) != now[key]]
    if counts:
        return f"{name} had {counts[0]}"
    return f"{name} has other content" if then.get("fingerprint") != now["fingerprint"] else ""
