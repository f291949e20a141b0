"""Device, precision, and stopping at a safe point when asked to."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from cvae import gpus
from cvae.console import warn
from cvae.errors import UserError, require
from cvae.trial import NoTrial, Trial

_PREEMPTIONS = (signal.SIGUSR1, signal.SIGUSR2)

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; otherwise a device by PyTorch's names.

    A GPU that is there and cannot be used is warned of: the run takes the CPU.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a driver that is too old; it is told below
            able = torch.cuda.is_available()
        if not able and (why := gpus.why_unused()):
            warn(f"this machine's GPU is not used: {why}; or device=cpu, to train on the CPU without this line")
        return torch.device("cuda" if able else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    require(device.type in ("cpu", "cuda"), "device", name, "choose auto, cpu, cuda, or cuda:N")
    # PyTorch keeps a device's number in 8 bits: of 256 it makes 0.
    if device.type == "cuda" and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        why = f" ({said})" if (said := gpus.why_unused()) else ""
        raise UserError(f"device={name}, but this machine has {torch.cuda.device_count()} CUDA devices{why}: device=auto")
    return device


def choose_precision(name: str, device: torch.device) -> tuple[str, Autocast]:
    """``auto`` is bf16 where the hardware multiplies it faster than fp32; returns the choice and its autocast context.

    ``fp32`` is single precision throughout: on a GPU no product is rounded to TF32's 10 bits of mantissa, which PyTorch does in
    convolutions by default. ``tf32`` allows it in all. This is set for the whole process.

    Raises:
        UserError: there is no such precision, or the device does not have it; a CPU always has bf16, if only slowly.
    """
    require(name in ("auto", "fp32", "tf32", "bf16"), "precision", name, "choose auto, fp32, tf32 or bf16")
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        _allow_tf32(name != "fp32", name == "tf32")
    else:
        # PyTorch's only probes, and private: a version without one has no bf16 by itself.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        able = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    if name == "bf16" and device.type == "cuda" and not able:
        raise UserError("precision=bf16, but this GPU does not have it: precision=auto")
    if name == "tf32":
        if device.type != "cuda" or not able:  # the first GPUs with either have both
            what = "GPU" if device.type == "cuda" else "CPU"
            raise UserError(f"precision=tf32, but this {what} does not have it: precision=auto")
        return "tf32", contextlib.nullcontext
    if name == "bf16" or (name == "auto" and able):
        return "bf16", lambda: torch.autocast(device.type, torch.bfloat16)
    return "fp32", contextlib.nullcontext


def _allow_tf32(convolutions: bool, matrices: bool) -> None:
    """Whether products of fp32 numbers may be rounded to TF32. PyTorch's own choice is convolutions alone."""
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision("high" if matrices else "highest")


def prepare_gpu(device: torch.device) -> None:
    """Make a GPU this process's own, keep to its part of the memory, and let cuDNN try its algorithms on the few shapes here.

    Raises:
        UserError: the environment says of the part what is none.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.cuda.set_device(device.index or 0)  # graphs are captured there, whatever the device of their tensors
        torch.cuda.set_per_process_memory_fraction(gpus.share())


def gpu_memory_left(device: torch.device) -> int:
    """Bytes of a GPU's memory that are free and this process's to take: other jobs may not have taken theirs yet."""
    free, total = torch.cuda.mem_get_info(device)
    return min(free, int(gpus.share() * total) - torch.cuda.memory_allocated(device))


def device_name(device: torch.device) -> str:
    """The hardware's name, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def busy() -> str:
    """That fewer threads would be faster, if this machine has more to do than it has cores; else nothing.

    Threads wait for each other at every operation: beside five busy processes on two cores the same work took 26 s with two
    threads and 8 s with one.
    """
    load, cores, threads = os.getloadavg()[0], os.cpu_count() or 1, torch.get_num_threads()
    if load <= cores or threads == 1:
        return ""
    return f"{threads}, on {cores} cores with a load of {load:.1f}: OMP_NUM_THREADS=1 before the command is likely faster"


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of ``peak_memory``, where the system can: a process may train several models in turn."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in GiB: a GPU's by tensors, or this process's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Stopped(Exception):
    """Training stopped at a safe point after a signal; the state is saved."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__("Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name)

    def exit_code(self, alone: bool) -> int:
        """75 asks a scheduler to run the command again (EX_TEMPFAIL); a multirun would not go on where it was."""
        return 75 if alone and self.signum != signal.SIGINT else 128 + self.signum

    def leave(self, exit_code: int) -> NoReturn:
        """End this process: by the signal's handler, if what started this process has set one, else by an exit.

        submitit's handler for a preemption puts the job back into the scheduler's queue.
        """
        if self.signum in _PREEMPTIONS and callable(signal.getsignal(self.signum)):
            # Slurm follows with a SIGTERM, which would end the command that puts the job back.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.raise_signal(self.signum)
        raise SystemExit(exit_code)


class StopRequest:
    """Turns SIGTERM, SIGUSR1, the first Ctrl-C, and a sweep's end, into a flag that the training loop reads between steps.

    SIGUSR2 too, if it has a handler already, as under submitit. A second Ctrl-C interrupts at once. Outside the main thread
    Python allows no handlers, so there no signal is handled.
    """

    def __init__(self, trial: Trial | None = None) -> None:
        self.trial = trial or NoTrial()
        self._signum: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def signum(self) -> int | None:
        """The signal to stop for, if any."""
        return self._signum or (signal.SIGTERM if self.trial.stopping else None)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            signals = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
            if callable(signal.getsignal(signal.SIGUSR2)):
                signals.append(signal.SIGUSR2)
            for signum in signals:
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
