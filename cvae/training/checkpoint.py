"""Checkpoints: written completely or not at all; they hold only tensors and plain values."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvae import integrity
from cvae.errors import UserError, first_line, writing

FORMAT = 1
_PLAIN = (int, float, str, bytes, type(None), torch.dtype, torch.device, set)


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


class Writer:
    """Saves checkpoints in a thread, one after another, from a copy on the host: training goes on meanwhile.

    It keeps one copy at most: the next call waits for the files of the last one. As a context it waits at its end, whatever
    ends it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def write(self, paths: Sequence[Path], state: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Begin to save ``state``, as it is now, to all ``paths`` in turn.

        Raises:
            UserError: the files of an earlier call could not be written.
        """
        self.wait()
        copied, arrived = on_host(state)

        def save_all() -> None:
            arrived()
            for path in paths:
                save(path, copied, {**facts, "name": path.stem})

        self._pending = self._thread.submit(save_all)

    def wait(self) -> None:
        """Return when all that was given is on the disk.

        Raises:
            UserError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def on_host(state: Any) -> tuple[Any, Callable[[], None]]:
    """A copy of all tensors in ``state`` in the host's memory, and what waits until they have arrived from a GPU.

    The copies are queued behind the work that the GPU has, so that nothing waits here and later steps do not change them.
    Parts that share a tensor share its copy.
    """
    copies: dict[int, Tensor] = {}
    devices: set[torch.device] = set()

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in copies:
                value_there = value.detach()
                if value.is_cuda:
                    devices.add(value.device)
                    pinned = torch.empty_like(value_there, device="cpu", pin_memory=True)
                    copies[id(value)] = pinned.copy_(value_there, non_blocking=True)
                else:
                    copies[id(value)] = value_there.clone()
            return copies[id(value)]
        if isinstance(value, Mapping):
            return {key: copied(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(copied(each) for each in value)
        if isinstance(value, np.generic):  # it would not be read back
            return value.item()
        if not isinstance(value, _PLAIN):
            raise UserError(f"a checkpoint keeps tensors and plain values, and the run's state has a {type(value).__name__}")
        return value

    whole = copied(state)
    events = [torch.cuda.current_stream(device).record_event() for device in devices]

    def arrived() -> None:
        for event in events:
            event.synchronize()

    return whole, arrived


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
