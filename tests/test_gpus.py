"""Which GPUs a process may use, and which of them a launcher's slots get."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cvae import gpus
from cvae.errors import UserError

KEY = "hydra.launcher.gpus"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("0,1", ["0", "1"]),
        (" 2 , 3", ["2", "3"]),
        ("0,-1,1", ["0"]),
        ("-1", []),
        ("", []),
        ("0,x,1", ["0"]),
        ("1,1", ["1"]),
        ("GPU-8932f937-d72c,MIG-GPU-8932/1/0", ["GPU-8932f937-d72c", "MIG-GPU-8932/1/0"]),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(monkeypatch, given, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus.visible() == seen


def test_slots_get_gpus_counted_among_those_that_are_allotted(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus.allotted(None, KEY) == ["2", "3"]
    assert gpus.allotted([0, 1], KEY) == ["2", "3"]
    assert gpus.allotted([1], KEY) == ["3"]
    for wanted in ([2], [0, 7], ["GPU-a"]):
        with pytest.raises(UserError, match=r"this process may use 2 GPUs \(CUDA_VISIBLE_DEVICES=2,3\), counted from 0"):
            gpus.allotted(wanted, KEY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert gpus.allotted(["GPU-b"], KEY) == ["GPU-b"]
    assert gpus.allotted([0], KEY) == ["GPU-a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(UserError, match="may use no GPU"):
        gpus.allotted([0], KEY)
    assert gpus.allotted([], KEY) == []


@pytest.mark.parametrize("where", ["driver", "files", "program", "nowhere"])
def test_gpus_are_counted_where_the_driver_tells_of_them(monkeypatch, tmp_path, where):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    names = {
        "driver": ["proc/driver/nvidia/gpus/0000:01", "proc/driver/nvidia/gpus/0000:02"],
        "files": ["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"],
    }
    for name in names.get(where, []):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(gpus, "Path", lambda place: tmp_path / place.lstrip("/"))
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\necho 'GPU 1: H100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent if where == 'program' else tmp_path}{os.pathsep}{Path('/usr/bin')}")
    assert gpus.visible() == ([] if where == "nowhere" else ["0", "1"])
