"""Timing steps in turns, and what the hardware could do at best: the tools of ``benchmark.py``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from cvae.model.backbones import summed_taps, tap_sums

Step = Callable[[], object]


def timed(step: Step, count: int, device: torch.device) -> list[float]:
    """Seconds of each step; on a GPU their mean, as steps overlap."""
    seconds = []
    began = time.perf_counter()
    for _ in range(count):
        step()
        if device.type == "cpu":
            seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        seconds = [(time.perf_counter() - began) / count] * count
    return seconds


def side_by_side(steps: list[Step], seconds: float, device: torch.device) -> list[list[float]]:
    """Median seconds of a step in each of two rounds, in turns: ``[step][round]``; each is warmed up first."""
    counts = []
    for step in steps:
        counts.append(max(1, min(50, round(seconds / timed(step, 1, device)[0]))))
    rounds: list[list[float]] = [[] for _ in steps]
    for _ in range(2):
        for step, count, medians in zip(steps, counts, rounds, strict=True):
            medians.append(statistics.median(timed(step, count, device)))
    return rounds


def best_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s: the best of some convolutions, forward and backward, and a matrix product, one right after the other."""
    rates = []
    batch, matrix = (48, 2048) if device.type == "cpu" else (480, 8192)
    for channels, side in [(64, 64), (128, 32), (256, 16), (512, 8)]:
        x = torch.randn(batch, channels, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        conv = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        grad = torch.ones_like(x)
        x.requires_grad_()

        def run(conv: nn.Conv2d = conv, x: Tensor = x, grad: Tensor = grad) -> None:
            conv(x).backward(grad)

        rates.append(3 * 2 * batch * side**2 * channels**2 * 9 / fastest(run, device))
    a = torch.randn(matrix, matrix, device=device, dtype=dtype)
    rates.append(2 * matrix**3 / fastest(lambda: a @ a, device))
    return max(rates)


def fastest(run: Step, device: torch.device) -> float:
    """Seconds of a run at best; on a GPU many at once, so that launches do not count."""
    together = 1 if device.type == "cpu" else 30
    timed(run, together, device)
    return min(timed(run, together, device)[0] for _ in range(5))


def flops(step: Step) -> int:
    """FLOPs of a step by torch's counter, which leaves out fused recurrent layers, norms and activations."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


KINDS = {
    "convolutions": ("conv",),
    "norms and activations": ("batch_norm", "leaky_relu", "tanh", "sigmoid", "max_pool"),
    "recurrent nets": ("rnn", "lstm", "addmm", "aten::mm", "thnn"),
    "optimizer": ("adam", "optimizer"),
}


def shares(step: Step, device: torch.device, trace: Path | None) -> dict[str, float]:
    """Share of a step's time by kind of work."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        timed(step, 1, device)
    if trace is not None:
        profile.export_chrome_trace(str(trace))
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profile.key_averages():
        # An operator's row already holds its kernels' time; their own rows, and ranges, would count it again.
        if event.device_type != DeviceType.CPU or event.is_user_annotation:
            continue
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), list(spent)[-1])
        spent[kind] += event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    total = sum(spent.values()) or 1.0
    return {kind: value / total for kind, value in spent.items()}


def decoder_forms(frames: int, device: torch.device, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Milliseconds, forward and backward, of nearest x2 + convolution and of the one transposed convolution it equals."""
    forms: dict[str, dict[str, float]] = {}
    channels, sums = 512, tap_sums().to(device, dtype)
    for side in (4, 8, 16, 32):
        x = torch.randn(frames, channels, side, side, device=device, dtype=dtype)
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype, requires_grad=True)
        grad = torch.ones(len(x), channels, 2 * side, 2 * side, device=device, dtype=dtype)
        grad = grad.to(memory_format=torch.channels_last)

        def upsampled(x: Tensor = x, weight: Tensor = weight, grad: Tensor = grad) -> None:
            nn.functional.conv2d(nn.functional.interpolate(x, scale_factor=2), weight, padding=1).backward(grad)

        def summed(x: Tensor = x, weight: Tensor = weight, grad: Tensor = grad) -> None:
            nn.functional.conv_transpose2d(x, summed_taps(weight, sums), stride=2, padding=1).backward(grad)

        rounds = side_by_side([upsampled, summed], 0.3, device)
        forms[f"{side}x{side}"] = {
            "upsample_conv_ms": 1e3 * min(rounds[0]),
            "summed_taps_ms": 1e3 * min(rounds[1]),
        }
        channels //= 2
    return forms
