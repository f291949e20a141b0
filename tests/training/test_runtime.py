"""Which device and precision a run takes, and how a signal reaches it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from cvae import gpus
from cvae.console import console
from cvae.errors import UserError
from cvae.training.runtime import Stopped, StopRequest, choose_device, choose_precision, device_name

# ------------------------------------------------------------------------------------------------------- device


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with so many GPUs of a compute capability, and a CPU with or without bf16 instructions.

    Old GPUs take bf16 too: PyTorch emulates it, slower than fp32, and says that it is supported.
    """

    def build(gpus: int = 0, capability: tuple[int, int] = (9, 0), avx512: bool = False, amx: bool = False) -> None:
        native = capability >= (8, 0)
        for name, value in {
            "is_available": lambda: gpus > 0,
            "device_count": lambda: gpus,
            "current_device": lambda: 0,
            "get_device_capability": lambda device=None: capability,
            "get_device_properties": lambda device=None: SimpleNamespace(major=capability[0], minor=capability[1]),
            "get_device_name": lambda device=None: "GeForce",
            "is_bf16_supported": lambda including_emulation=True: native or including_emulation,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)

    return build


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_that_is_there_is_taken(machine, name, gpus, expected):
    machine(gpus)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "gpus", "word"),
    [
        ("cuda", 0, "0 CUDA devices"),
        ("cuda:0", 0, "0 CUDA devices"),
        ("cuda:2", 2, "2 CUDA devices"),
        ("cuda:128", 2, "2 CUDA devices"),
        ("cuda:256", 2, "2 CUDA devices"),  # PyTorch makes 0 of it
        ("cuda:-1", 2, "cuda:N"),
        ("cuda:one", 2, "cuda:N"),
        ("tpu", 2, "cuda:N"),
        ("meta", 2, "cuda:N"),
        ("mps", 2, "cuda:N"),
        ("CPU", 0, "cpu"),
        ("", 0, "cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named(machine, name, gpus, word):
    machine(gpus)
    with pytest.raises(UserError) as caught:
        choose_device(name)
    for part in ("device", name, word, "auto"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_cannot_be_used_is_told_with_the_reason(machine, monkeypatch, capfd):
    """And none is told of where there is none, or where the variable hides it."""

    def told(name: str = "auto") -> str:
        console.cache_clear()
        assert choose_device(name) == torch.device("cpu")
        return capfd.readouterr().out

    machine(0)
    monkeypatch.setattr(gpus, "_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert told() == ""
    monkeypatch.setattr(gpus, "_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "warning: this machine's GPU is not used: this PyTorch is built for the CPU alone: install one" in told()
    with pytest.raises(UserError, match=r"0 CUDA devices \(this PyTorch is built for the CPU alone.*device=auto"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update.\nMore")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert told().replace("\n", " ").count("is too old (found version 11040): update the driver") == 1
    assert told("cpu") == ""
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert told() == ""


def test_the_hardware_has_a_name(machine):
    machine(1)
    assert device_name(torch.device("cuda")) == "GeForce"
    assert device_name(torch.device("cpu")).startswith("cpu, ")


# ---------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("name", "device", "hardware", "expected"),
    [
        ("auto", "cpu", {}, "fp32"),
        ("auto", "cpu", {"avx512": True}, "bf16"),
        ("auto", "cpu", {"amx": True}, "bf16"),
        ("auto", "cpu", {"gpus": 1}, "fp32"),  # what the GPU can do does not help the CPU
        ("auto", "cuda", {"gpus": 1, "capability": (9, 0)}, "bf16"),
        ("auto", "cuda", {"gpus": 1, "capability": (8, 0)}, "bf16"),
        ("auto", "cuda", {"gpus": 1, "capability": (7, 5)}, "fp32"),
        ("auto", "cuda", {"gpus": 1, "capability": (7, 0), "amx": True}, "fp32"),
        ("fp32", "cpu", {"amx": True}, "fp32"),
        ("fp32", "cuda", {"gpus": 1}, "fp32"),
        ("tf32", "cuda", {"gpus": 1}, "tf32"),
        ("bf16", "cpu", {"avx512": True}, "bf16"),
        ("bf16", "cuda", {"gpus": 1, "capability": (8, 6)}, "bf16"),
    ],
)
def test_precision_follows_the_hardware(machine, name, device, hardware, expected):
    machine(**hardware)
    assert choose_precision(name, torch.device(device))[0] == expected


def test_a_pytorch_that_cannot_tell_what_the_cpu_has_computes_in_fp32(machine, monkeypatch):
    machine(avx512=True, amx=True)
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, probe)
    assert choose_precision("auto", torch.device("cpu"))[0] == "fp32"


@pytest.mark.parametrize(("device", "capability"), [("cuda", (7, 5)), ("cpu", (8, 0))])
def test_tf32_where_it_is_not_is_named(machine, device, capability):
    machine(1, capability)
    with pytest.raises(UserError, match=rf"precision=tf32, but this {'GPU' if device == 'cuda' else 'CPU'}.*precision=auto"):
        choose_precision("tf32", torch.device(device))


@pytest.mark.parametrize(
    ("name", "convolutions", "matrices"), [("fp32", False, False), ("tf32", True, True), ("auto", True, False)]
)
def test_what_is_rounded_to_tf32_is_as_the_precision_says(machine, monkeypatch, name, convolutions, matrices):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not convolutions)
    machine(1)
    usual = torch.get_float32_matmul_precision()
    try:
        choose_precision(name, torch.device("cuda"))
        assert torch.backends.cudnn.allow_tf32 == convolutions
        assert torch.backends.cuda.matmul.allow_tf32 == matrices
    finally:
        torch.set_float32_matmul_precision(usual)


def test_bf16_on_a_gpu_that_does_not_have_it_is_named(machine):
    machine(1, (7, 5))
    with pytest.raises(UserError, match=r"precision=bf16.*precision=auto"):
        choose_precision("bf16", torch.device("cuda"))


@pytest.mark.parametrize("name", ["fp16", "", "BF16", "32"])
def test_a_precision_that_does_not_exist_is_named(name):
    with pytest.raises(UserError, match=f"precision is '{name}': choose auto, fp32, tf32 or bf16"):
        choose_precision(name, torch.device("cpu"))


@pytest.mark.parametrize(("name", "expected"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_context_computes_in_the_precision_and_can_be_entered_again(machine, name, expected):
    machine()
    _, autocast = choose_precision(name, torch.device("cpu"))
    layer = torch.nn.Linear(3, 2)
    for _ in range(2):
        with autocast():
            assert layer(torch.ones(1, 3)).dtype == expected
        assert layer(torch.ones(1, 3)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ signals

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


@pytest.fixture
def mine() -> Iterator[list[int]]:
    """Handlers of the test's own, which a stop request must bring back; the signals that they were given."""
    given: list[int] = []
    before = {signum: signal.signal(signum, lambda signum, frame: given.append(signum)) for signum in SIGNALS}
    yield given
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_becomes_a_flag(mine, signum):
    with StopRequest() as stop:
        assert stop.signum is None
        signal.raise_signal(signum)
        assert stop.signum == signum
    assert stop.signum == signum
    assert mine == []


def test_a_signal_from_another_process_becomes_a_flag(mine):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM


@pytest.mark.parametrize("sent", [[], [signal.SIGINT], [signal.SIGTERM, signal.SIGUSR1]], ids=len)
@pytest.mark.parametrize("how", ["return", "error"])
def test_the_handlers_come_back(mine, sent, how):
    def body() -> None:
        with StopRequest():
            for signum in sent:
                signal.raise_signal(signum)
            if how == "error":
                raise KeyError

    before = [signal.getsignal(signum) for signum in SIGNALS]
    if how == "error":
        with pytest.raises(KeyError):
            body()
    else:
        body()
    assert [signal.getsignal(signum) for signum in SIGNALS] == before
    for signum in SIGNALS:
        signal.raise_signal(signum)
    assert mine == SIGNALS


def test_a_second_ctrl_c_interrupts_at_once(mine):
    stop = StopRequest()

    def body() -> None:
        with stop:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)  # still a flag
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        body()
    assert stop.signum is not None
    assert mine == []
    signal.raise_signal(signal.SIGINT)
    assert mine == [signal.SIGINT]


def test_a_request_can_follow_another(mine):
    for _ in range(2):
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signum == signal.SIGINT


def test_it_does_nothing_outside_the_main_thread(mine):
    before = [signal.getsignal(signum) for signum in SIGNALS]
    seen: list[object] = []

    def body() -> None:
        try:
            with StopRequest() as stop:
                seen.append([signal.getsignal(signum) for signum in SIGNALS] == before)
                seen.append(stop.signum)
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [True, None]
    assert [signal.getsignal(signum) for signum in SIGNALS] == before


@pytest.mark.parametrize(
    ("signum", "text", "alone", "in_a_multirun"),
    [(signal.SIGINT, "Ctrl-C", 130, 130), (signal.SIGTERM, "SIGTERM", 75, 143), (signal.SIGUSR1, "SIGUSR1", 75, 138)],
)
def test_a_stop_says_what_asked_for_it_and_whether_to_run_the_command_again(signum, text, alone, in_a_multirun):
    stopped = Stopped(signum)
    assert str(stopped) == text
    assert (stopped.exit_code(alone=True), stopped.exit_code(alone=False)) == (alone, in_a_multirun)
