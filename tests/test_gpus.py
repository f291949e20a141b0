"""Which GPUs a process may use, and which of them a launcher's slots get."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from cvae import gpus
from cvae.errors import UserError
from cvae.sweep.local import Pool
from cvae.training.runtime import gpu_memory_left

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
        ("01,1", ["1"]),
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
    with pytest.raises(UserError, match=r"names GPU 1 twice: once is enough; jobs_per_gpu says how many jobs share it"):
        gpus.allotted([0, 1, "1"], KEY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    with pytest.raises(UserError, match="names GPU 0 twice"):
        gpus.allotted(["GPU-a", 0], KEY)
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


def slots(monkeypatch, tmp_path, sweeper_jobs: int = 2, **settings) -> list[dict[str, str]]:
    """The environments of the slots that hydra/launcher=local has."""
    monkeypatch.chdir(tmp_path)
    config = OmegaConf.create({"hydra": {"sweeper": {"n_jobs": sweeper_jobs}}})
    unset = {"n_jobs": None, "gpus": None, "jobs_per_gpu": None, "threads": 1, "timeout_min": None}
    pool = Pool(None, None, config, **{**unset, **settings})  # type: ignore[arg-type]  # it launches nothing
    found = [pool._free.get() for _ in range(pool._free.qsize())]
    return [{name: value for name, value in each.items() if name.startswith("C")} for each in found]


def test_each_gpu_has_so_many_slots_and_each_slot_its_part_of_the_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    half = {number: {"CUDA_VISIBLE_DEVICES": number, "CVAE_GPU_SHARE": "0.5"} for number in ("2", "3")}
    alone = {number: {"CUDA_VISIBLE_DEVICES": number} for number in ("2", "3")}
    assert slots(monkeypatch, tmp_path, sweeper_jobs=8) == [alone["2"], alone["3"]]
    assert slots(monkeypatch, tmp_path, jobs_per_gpu=2) == [half["2"], half["3"], half["2"], half["3"]]
    assert slots(monkeypatch, tmp_path, n_jobs=3) == [half["2"], alone["3"], half["2"]]
    assert slots(monkeypatch, tmp_path, n_jobs=2, jobs_per_gpu=2, gpus=[1]) == [half["3"]] * 2
    with pytest.raises(UserError, match=r"n_jobs=5 is more than hydra\.launcher\.jobs_per_gpu=2 on 2 GPUs: n_jobs=4 or less"):
        slots(monkeypatch, tmp_path, n_jobs=5, jobs_per_gpu=2)
    monkeypatch.setenv("CVAE_GPU_SHARE", "0.5")  # of a job that launches jobs
    assert slots(monkeypatch, tmp_path, jobs_per_gpu=2, gpus=[0])[0]["CVAE_GPU_SHARE"] == "0.25"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots(monkeypatch, tmp_path, sweeper_jobs=3, jobs_per_gpu=2) == [{}, {}, {}]
    with pytest.raises(UserError, match=r"hydra\.launcher\.jobs_per_gpu is 0: give a whole number above 0"):
        slots(monkeypatch, tmp_path, jobs_per_gpu=0)


@pytest.mark.parametrize("given", ["0", "2", "half", "nan"])
def test_a_part_of_the_memory_that_is_none_is_named(monkeypatch, given):
    monkeypatch.setenv("CVAE_GPU_SHARE", given)
    with pytest.raises(UserError, match=f"CVAE_GPU_SHARE is .{given}.: give a part"):
        gpus.share()


def test_what_is_left_of_a_gpu_is_what_is_free_and_this_jobs(monkeypatch):
    gib, device = 2**30, torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 * gib)
    assert gpu_memory_left(device) == 70 * gib
    monkeypatch.setenv("CVAE_GPU_SHARE", "0.5")
    assert gpu_memory_left(device) == 39 * gib
