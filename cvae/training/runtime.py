"""Device, precision, and stopping at a safe point when asked to."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from cvae.errors import UserError

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; otherwise a device by PyTorch's names.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device is {name!r}: choose auto, cpu, cuda, or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}, but this machine has {torch.cuda.device_count()} CUDA devices: device=auto")
    return device


def choose_precision(name: str, device: torch.device) -> tuple[str, Autocast]:
    """``auto`` is bf16 where the hardware multiplies it faster than fp32; returns the choice and its autocast context.

    Raises:
        UserError: there is no such precision, or the GPU does not have it; a CPU always has bf16, if only slowly.
    """
    if name not in ("auto", "fp32", "bf16"):
        raise UserError(f"precision is {name!r}: choose auto, fp32 or bf16")
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = _cpu_has("_is_avx512_bf16_supported") or _cpu_has("_is_amx_tile_supported")
    if name == "bf16" and device.type == "cuda" and not able:
        raise UserError("precision=bf16, but this GPU does not have it: precision=auto")
    if name == "bf16" or (name == "auto" and able):
        return "bf16", lambda: torch.autocast(device.type, torch.bfloat16)
    return "fp32", contextlib.nullcontext


def _cpu_has(probe: str) -> bool:
    # PyTorch's only probes, and private: a version without one has no bf16 by itself.
    return bool(getattr(torch.cpu, probe, lambda: False)())


def device_name(device: torch.device) -> str:
    """The hardware's name, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


class Stopped(Exception):
    """Training stopped at a safe point after a signal; the state is saved."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__("Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name)

    def exit_code(self, alone: bool) -> int:
        """75 asks a scheduler to run the command again (EX_TEMPFAIL); a multirun would not go on where it was."""
        return 75 if alone and self.signum != signal.SIGINT else 128 + self.signum


class StopRequest:
    """Turns SIGTERM, SIGUSR1 and the first Ctrl-C into a flag that the training loop reads between steps.

    A second Ctrl-C interrupts at once. Outside the main thread, where Python forbids handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
