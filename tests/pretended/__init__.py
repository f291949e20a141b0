"""Build the pretended CUDA runtime: ``build(FOLDER)`` returns the environment in which a process has pretended GPUs.

Needs g++, nm and a PyTorch that is built for CUDA, whose wheels bring the headers.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
# Of the functions that PyTorch links to: those of CUDA's libraries, and those of them that only manage something.
_CUDA = re.compile(r"(?:__)?cuda[A-Z]\w+|cublas\w+|cudnn[A-Z]\w+|nccl[A-Z]\w+")
_MANAGES = re.compile(r"Set|Get|Create|Destroy|Query|Record|WaitEvent|Exchange|Group(?:Start|End)|Register|Finalize|Abort")
_DRIVER = re.compile(r"cu[A-Z]\w+")
_LAUNCHES = re.compile(r"cuLaunchKernel\w*")


def lacking() -> str:
    """What is needed and not here; empty if it can be built."""
    import torch

    if not torch.version.cuda:
        return "a PyTorch that is built for CUDA"
    return next((program for program in ("g++", "nm") if shutil.which(program) is None), "")


def build(folder: Path) -> dict[str, str]:
    """Compile into ``folder``; return the variables that make a Python process see pretended GPUs."""
    torch = Path(str(importlib.util.find_spec("torch").origin)).parent  # type: ignore[union-attr]  # lacking() has imported it
    site = torch.parent
    triton = site / "triton/backends/nvidia"
    wanted = _undefined(torch)
    runtime, workspaces, driver = HERE / "runtime.cpp", HERE / "workspaces.c", HERE / "driver.c"
    others = wanted - _defined(runtime) - _defined(workspaces)
    stubs = "".join(_stub(name) for name in sorted(others) if _CUDA.fullmatch(name))
    (folder / "stubs.c").write_text(f"long pretended_library_call(void);\n{stubs}")
    named = wanted | set(_DRIVER.findall((triton / "driver.c").read_text()))
    rest = (name for name in sorted(named - _defined(driver)) if _DRIVER.fullmatch(name) and not name.endswith("_t"))
    bodies = (f"long {name}(void) {{ return {_result(_LAUNCHES.fullmatch(name) is not None)}; }}\n" for name in rest)
    (folder / "driver_stubs.c").write_text("long pretended_library_call(void);\n" + "".join(bodies))

    includes = [f"-I{path}" for path in (*sorted(site.glob("nvidia/*/include")), triton / "include")]
    objects = [folder / f"{name}.o" for name in ("runtime", "stubs", "workspaces")]
    _run("g++", "-std=c++17", "-O1", "-w", "-fPIC", *includes, "-c", runtime, "-o", objects[0])
    _run("gcc", "-w", "-fPIC", "-c", folder / "stubs.c", "-o", objects[1])
    _run("gcc", "-w", "-fPIC", "-c", workspaces, "-o", objects[2])
    _run("g++", "-shared", *objects, "-o", folder / "libpretended.so")
    library = folder / "lib" / "libcuda.so.1"
    library.parent.mkdir()
    _run("gcc", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", driver, folder / "driver_stubs.c", "-o", library)
    (library.parent / "libcuda.so").symlink_to(library.name)  # by this name Triton's code links to it
    paths = [str(library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        "LD_PRELOAD": str(folder / "libpretended.so"),
        "LD_LIBRARY_PATH": os.pathsep.join(paths),
        "TRITON_LIBCUDA_PATH": str(library.parent),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "CUDA_VISIBLE_DEVICES": "0,1",
    }


def _undefined(torch: Path) -> set[str]:
    """The functions that PyTorch's libraries take from others."""
    command = ["nm", "-D", "--undefined-only", *(torch / "lib").glob("*.so")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines() if line.split()}


def _defined(source: Path) -> set[str]:
    """The functions that a source file defines, by macros too."""
    text = source.read_text()
    return {*re.findall(r"\b(\w+)\(", text), *re.findall(r"^(?:MADE|NO_WORKSPACE)\((\w+)", text, re.M)}


def _stub(name: str) -> str:
    return f'__attribute__((visibility("default"))) long {name}(void) {{ return {_result(not _MANAGES.search(name))}; }}\n'


def _result(computes: bool) -> str:
    return "pretended_library_call()" if computes else "0"


def _run(*words: str | Path) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{done.stderr[-2000:]}")
