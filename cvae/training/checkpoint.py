"""Checkpoints: written completely or not at all; they hold only tensors and plain values."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from cvae import integrity
from cvae.errors import UserError, first_line, writing

FORMAT = 1


def save(path: Path, state: dict[str, Any], facts: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write ``state`` to ``path`` atomically: a crash or a full disk leaves the previous file as it was.

    Args:
        facts: of the run, to be read without PyTorch (``cvae.integrity.facts``).

    Raises:
        UserError: the file could not be written.
    """
    scratch = path.with_name(path.name + ".partial")
    kept = "the previous one is kept" if path.exists() else "there is no earlier one"
    with writing(path, f"{kept}; free some space, then go on with resume="):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("w+b") as file:
                torch.save({"format": FORMAT, **state}, file)
                integrity.seal(file, dict(facts))
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except RuntimeError as error:
            # torch's writer raises its own error for a failed write, with the file's as its cause, or without.
            cause = error.__cause__ or error.__context__
            raise (cause if isinstance(cause, OSError) else OSError(str(error))) from None
        finally:
            scratch.unlink(missing_ok=True)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running code from it (``weights_only``), after a check of every byte.

    Raises:
        UserError: there is none, it is damaged, or another version wrote it.
    """
    try:
        integrity.verify(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of archives that are programs; what follows is an error
            state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: the run stopped before its first checkpoint; start a new run") from error
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"{path} is damaged ({first_line(error)}): restore it from a copy, or start a new run") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version (format {FORMAT}): use the version that wrote it")
    return state
