"""The benchmark runs through and measures what it says; how fast anything is, is no test."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark
import device_limit
import gpu_check
import pytest
import torch
from torch import nn

from cvae.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_whole_benchmark_of_a_small_model(tmp_path, monkeypatch, capsys):
    cases = [benchmark.Case(name, "tiny", "dcgan64", 4, 2) for name in ("default",)]
    monkeypatch.setattr(benchmark, "cases", lambda device: cases)
    monkeypatch.setattr(benchmark, "best_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr(benchmark, "SEQUENCES", 4)
    monkeypatch.setattr(benchmark, "decoder_forms", lambda *_: {"4x4": {"upsample_conv_ms": 1.0, "summed_taps_ms": 2.0}})
    monkeypatch.setattr(benchmark, "in_child", lambda *words: "1.5")
    monkeypatch.setattr(benchmark, "SECONDS", 0.02)
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--quick", "--device=cpu", "--json=a/b.json", "--profile=traces"])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 0
    found = json.loads((tmp_path / "a" / "b.json").read_text())
    assert found["device"].startswith("cpu")
    for case in cases:
        assert set(found["train"][case.name]) == {"batch", "tfr=1", "tfr=0"}
        for row in (found["train"][case.name][key] for key in ("tfr=1", "tfr=0")):
            assert row["ratio"] == pytest.approx(row["literal_s"] / row["planned_s"])
            assert row["utilisation"] == pytest.approx(row["gflop"] * 1e9 / row["planned_s"] / 1e12)
            assert row["gflop"] < row["literal_gflop"]
            assert sum(row["time_shares"].values()) == pytest.approx(1)
    assert found["data"]["ratio"] == pytest.approx(found["data"]["packed_per_s"] / found["data"]["png_per_s"])
    assert 0 < found["data"]["trainer_waits"] < 1
    assert "ratio" in capsys.readouterr().out
    assert sorted(path.name for path in Path("traces").iterdir()) == ["default_tfr0.json", "default_tfr1.json"]
    assert json.loads(Path("traces/default_tfr1.json").read_text())["traceEvents"]


def test_flops_are_those_of_the_layers():
    conv = nn.Conv2d(3, 8, 3, padding=1)
    x = torch.randn(2, 3, 16, 16)
    forward = 2 * 2 * 16 * 16 * 8 * 3 * 9
    assert device_limit.flops(lambda: conv(x)) == forward
    assert device_limit.flops(lambda: conv(x.requires_grad_()).sum().backward()) == 3 * forward


def test_steps_are_timed_in_turns():
    order: list[str] = []
    device_limit.side_by_side([lambda: order.append("a"), lambda: order.append("b")], 0.0, CPU)
    assert "".join(order) == "ab" + "abab"


def test_no_gpu_no_gpu_check(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--gpu-check"])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --gpu-check found no CUDA device")
    assert error.count("\n") == 1


def test_checks_are_chosen_by_name():
    assert gpu_check.chosen("train,", CPU) == ["train"]
    assert gpu_check.chosen("graphs,train", torch.device("cuda")) == ["graphs", "train"]
    assert set(gpu_check.NAMES) - set(gpu_check.chosen("all", CPU)) == {"capture", "graphs", "no_wait"}


@pytest.mark.parametrize("names", ["trian", "graphs", ","])
def test_a_check_that_is_not_there_is_named(names):
    with pytest.raises(UserError, match=r"--gpu-check: there is no .* on this device: choose of train, resume"):
        gpu_check.chosen(names, CPU)


def test_a_place_that_cannot_be_written_is_named_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "benchmark", None)
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--device=cpu", "--json=/proc/nowhere/a.json"])
    with pytest.raises(SystemExit) as stop:
        benchmark.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "/proc/nowhere" in error
    assert error.count("\n") == 1


def test_the_gpu_check_goes_on_after_a_failure_and_reports_it(monkeypatch, capsys):
    """Every check stands alone: one that fails, in whichever way, does not hide the others."""
    passed = {name: lambda self: {"gain": 1.25} for name in ("train", "bf16", "compile", "checkpointing")}

    def fail(self):
        raise gpu_check.Failed("exit 1: error: lost")

    def crash(self):
        raise RuntimeError("CUDA out of memory")

    def stumble(self):
        return [][0]

    for name, check in {**passed, "resume": fail, "resident": stumble, "ddp": crash}.items():
        monkeypatch.setattr(gpu_check.Checks, name, check)
    steps = {"tfr=1": {"planned_s": 0.01}, "tfr=0": {"planned_s": 0.03}}
    table = {"train": {"vgg64": steps}}
    found = gpu_check.gpu_check(CPU, lambda: table)
    assert list(gpu_check.gpu_check(CPU, lambda: table, names=["train"])) == ["train"]
    assert [name for name, each in found.items() if isinstance(each, dict) and not each["passed"]] == [
        "resume",
        "ddp",
        "resident",
    ]
    assert found["resume"]["error"] == "Failed: exit 1: error: lost"
    # 90,000 steps of each kind: 15 and 45 minutes.
    assert found["projected_course_minutes"] == pytest.approx(60)
    out = capsys.readouterr().out
    assert "FAILED  resume" in out
    assert "gain 1.25" in out
