"""The files of a run that W&B keeps as an artifact, laid out as in the run folder: downloaded, they are one that opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cvae.training.recorder import RunInfo

_BEST = ("run.json", "metrics.jsonl", "validations.jsonl", ".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoints/best.pt")
FILES = {"best": _BEST, "all": (*_BEST, "checkpoints/last.pt", "curves.png", "samples/*", "eval/*")}


def size(folder: Path, which: str) -> int:
    """Bytes of the files that are kept."""
    return sum(path.stat().st_size for path in _files(folder, which))


def keep_files(run: Any, info: RunInfo, which: str, patience: float) -> None:
    """Log a run's files as an artifact, and wait until they are sent, if they are, for ``patience`` seconds.

    W&B sends files when it likes, offline ones perhaps weeks later: links to them are laid beside its record. A checkpoint is
    never written to, only replaced, so a link keeps what it was, and takes no space.
    """
    import wandb

    about = {"epochs": info.config.get("epochs"), "options": info.record.get("options"), "git_sha": info.record.get("git_sha")}
    artifact = wandb.Artifact(f"run-{info.id}", type="run", description=info.name, metadata=about)
    beside = Path(run.settings.sync_dir) / "artifact"
    for path in _files(info.folder, which):
        name = path.relative_to(info.folder)
        kept = beside / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        if path.suffix == ".pt":
            _link(path, kept)
        else:
            shutil.copyfile(path, kept)
        artifact.add_file(str(kept), name=str(name), policy="immutable", skip_cache=True)
    logged = run.log_artifact(artifact, aliases=["latest", which])
    if run.settings.mode in ("online", "shared"):
        logged.wait(timeout=round(patience))


def _files(folder: Path, which: str) -> Iterator[Path]:
    for pattern in FILES[which]:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())


def _link(path: Path, kept: Path) -> None:
    try:
        os.link(path, kept)
    except OSError:  # a file system without links
        shutil.copyfile(path, kept)
