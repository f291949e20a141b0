"""run.json, a run's record, and the config that it was started with: written, read and compared with what was written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cvae import integrity
from cvae.config import flat
from cvae.console import warn
from cvae.damage import Damage, beside, checkpoint_of
from cvae.errors import brief, write_whole
from cvae.integrity import Damaged
from cvae.strangers import calls_resolver


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json; None if the run has none.

    Raises:
        Damage: it is not what was written.
    """
    path = folder / "run.json"
    try:
        with integrity.opened(path) as file:
            record = json.loads(file.read(integrity.RECORD))
        record["id"], record["signature"], record["group"]
        integrity.check_record(record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damage(
            f"{path} is damaged ({brief(error)}): restore it from a copy, or remove it and go on without it"
        ) from error
    return dict(record)


def write_record(folder: Path, record: Mapping[str, Any], hint: str) -> None:
    """Write run.json as a whole.

    Raises:
        UserError: it could not be written.
    """
    write_whole(folder / "run.json", integrity.stamped(dict(record)), hint)


def config_hash(folder: Path, name: str = "config") -> str | None:
    """The hash of .hydra/config.yaml, or of another file beside it, as it lies; None if there is none."""
    try:
        return integrity.sha256_of(folder / ".hydra" / f"{name}.yaml")
    except (Damaged, OSError):
        return None


def settings_hashes(folder: Path) -> dict[str, str | None]:
    """What run.json keeps of the files in which Hydra wrote a run's settings."""
    return {f"{name}_sha256": config_hash(folder, name) for name in ("config", "overrides")}


def check_config(folder: Path) -> None:
    """Compare .hydra/config.yaml with what the run was started with. A run of a version before says nothing of it.

    Raises:
        Damage: it was edited or damaged, or run.json was.
    """
    known = (read_record(folder) or {}).get("config_sha256")
    if known is None:
        with contextlib.suppress(OSError, Damaged):
            known = (integrity.facts(folder / "checkpoints" / "last.pt") or {}).get("config_sha256")
    if known is not None and config_hash(folder) != known:
        raise Damage(
            f"{folder / '.hydra' / 'config.yaml'} is not what the run was started with, it was edited or damaged: restore it "
            "from a copy; other settings are another run"
        )


def write_values(folder: Path, cfg: DictConfig) -> None:
    """Put values in the place of what calls a resolver in .hydra/config.yaml, as ``seed: ${oc.env:SEED}``, before a run begins.

    So the settings are those that it was started with, and reopening it reads no environment. What a reopened run does not take
    from its folder stays as it is: a view's settings may be secrets, ``data.root`` says where data lie, caches are the user's.

    Raises:
        UserError: it could not be written.
    """
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        return
    written = OmegaConf.load(path)
    calling = [key for key, value in flat(OmegaConf.to_container(written)).items() if calls_resolver(value)]  # type: ignore[arg-type]
    kept = [key for key in calling if key.split(".")[0] not in ("trial", "logger") and key.rpartition(".")[2] != "cache_dir"]
    for key in (key for key in kept if key != "data.root"):
        value = OmegaConf.select(cfg, key)
        OmegaConf.update(written, key, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)
    if kept:
        write_whole(path, OmegaConf.to_yaml(written), "free some space, then start again")


def note_config(folder: Path) -> None:
    """For a trial that goes on: keep the hash of the config, which Hydra has written anew. A damaged run.json goes aside."""
    try:
        record = read_record(folder)
    except Damage as damage:
        warn(f"{damage}; this trial goes on without it")
        path = folder / "run.json"
        path.replace(beside(path))
        return
    if record is not None and record != (now := {**record, **settings_hashes(folder)}):
        write_record(folder, now, "free some space, then start again")


def known_nonce(folder: Path) -> str | None:
    """The nonce by which a run's checkpoints know it, where its run.json was lost; else None."""
    for name in ("last", "best"):
        with contextlib.suppress(OSError, Damaged):
            if isinstance(nonce := (integrity.facts(checkpoint_of(folder, name)) or {}).get("run"), str):
                return nonce
    return None


def recorded_data(folder: Path) -> dict[str, Any]:
    """What a run says of its data: ``dataset`` and ``splits`` of run.json, or what last.pt knows; empty if neither says it.

    Raises:
        Damage: run.json is not what was written.
    """
    record = read_record(folder)
    if record is None:
        with contextlib.suppress(OSError, Damaged):
            record = integrity.facts(checkpoint_of(folder, "last"))
        if record is not None:
            warn(f"{folder / 'run.json'} is missing: the run goes on with a new one")
    return record or {}


def result_name(protocol: str, split: str, checkpoint: str) -> str:
    """Of a file in RUN/eval, no suffix: ``<protocol>``, with ``-<split>`` unless it is test, ``-<checkpoint>`` unless best."""
    return protocol + f"-{split}" * (split != "test") + f"-{checkpoint}" * (checkpoint != "best")
