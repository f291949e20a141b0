"""Which GPUs this process may use, told without PyTorch, and why PyTorch may not be able to use them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cvae.errors import UserError, require

SHARE = "CVAE_GPU_SHARE"  # set by hydra/launcher=local for jobs that have a GPU together
_VARIABLE = "CUDA_VISIBLE_DEVICES"
_LIMIT = 10.0  # seconds that the driver's program may take to list the GPUs


def visible() -> list[str]:
    """The GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES.

    CUDA reads that list up to the first name that is none, as -1, and sees nothing after it.
    """
    given = os.environ.get(_VARIABLE)
    if given is None:
        return [str(number) for number in range(_count())]
    names: list[str] = []
    for name in map(str.strip, given.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", name) or (name := _plain(name)) in names:
            break
        names.append(name)
    return names


def allotted(wanted: Sequence[int | str] | None, key: str) -> list[str]:
    """The GPUs of ``wanted``, which counts the visible ones from 0 as CUDA does, or names them; all visible ones for None.

    Raises:
        UserError: one is not among those that this process may use; ``key`` is named.
    """
    seen = visible()
    if wanted is None:
        return seen
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise UserError(f"{key} is {wanted!r}: give a list, as [0,1], or null")
    found = []
    for each in wanted:
        counted = re.fullmatch(r"\d+", str(each)) is not None
        name = str(each) if not counted else seen[int(each)] if int(each) < len(seen) else ""
        if name not in seen:
            said = f" ({_VARIABLE}={os.environ[_VARIABLE]})" if _VARIABLE in os.environ else ""
            there = f"{len(seen)} GPUs{said}, counted from 0" if seen else f"no GPU{said}"
            raise UserError(f"{key}={[*wanted]} names GPU {each}, and this process may use {there}: give others, or null")
        if name in found:
            raise UserError(
                f"{key}={[*wanted]} names GPU {each} twice: once is enough; jobs_per_gpu says how many jobs share it"
            )
        found.append(name)
    return found


def _plain(name: str) -> str:
    """A number without zeros before it: 01 is GPU 1."""
    return str(int(name)) if name.isdigit() else name


def share() -> float:
    """The part of its GPU's memory that this process may take, as its launcher says; 1 where none says so.

    Raises:
        UserError: what the environment says is no such part.
    """
    given = os.environ.get(SHARE, "1")
    try:
        part = float(given)
    except ValueError:
        part = 0.0
    require(0 < part <= 1, SHARE, given, "give a part of a GPU's memory, above 0 and at most 1, or unset it")
    return part


def _count() -> int:
    """How many GPUs this machine has: as the driver lists them, else as device files, else as its own program tells."""
    listed = len([*Path("/proc/driver/nvidia/gpus").glob("*")])
    files = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if listed or files:
        return listed or len(files)
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        done = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def why_unused() -> str:
    """Why PyTorch cannot use a GPU that this process may use, and what to do; empty if there is none, or if it can."""
    import torch

    if not visible() or not _count() or torch.cuda.is_available():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch is built for the CPU alone: install one that is built for CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = str(error).split(". ")[0].split("\n")[0]
        return f"{said[:160]}: update the driver, or install a PyTorch that is built for an older CUDA"
    return "CUDA finds no device: see what nvidia-smi says"
