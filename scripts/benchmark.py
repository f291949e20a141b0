"""What this machine makes of cvae, beside the course report's loop: python scripts/benchmark.py [--quick] [--json FILE]

With --quality: what equal wall time buys, PSNR of the default recipe beside the report's loop, on each --data (overrides in
quotes, as --data "data=course data.root=FOLDER"; else the simulated world), --seeds times.

Training steps of cvae (planned rollout) and of the report's loop written out plainly (scripts/report_loop.py: eager fp32, one
frame after the other), on the same in-memory batches, in turns A B A B. They do not do quite the same: the report's loop
encodes every frame twice and also decodes and scores the given frame, 11 frames where cvae decodes 10; both take one
optimizer step. Then the data path, the limit of the hardware, memory, and the time to the first step.

--quick leaves out tfr 0.5, torch.compile and, on a CPU, VGG's peak memory. --profile DIR leaves a torch profiler trace of each
planned step, for Perfetto or chrome://tracing. --gpu-check runs what touches CUDA (capture, train, resume, bf16, compile, DDP,
this table; or those named) and says what passed; where nothing can be installed, PYTHONPATH=. and the dependencies' wheels on
it are enough.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own remarks
import torch
from device_limit import Step, best_rate, decoder_forms, flops, shares, side_by_side, timed
from gpu_check import NAMES, chosen, gpu_check
from PIL import Image
from quality import quality
from report_loop import Nets, report_loss
from torch import Tensor

from cvae import resolvers
from cvae.cli import fail
from cvae.data.synthetic import synthetic_push
from cvae.errors import UserError, writing
from cvae.evaluation.validation import to_unit
from cvae.start import compose
from cvae.training.assembly import build_trainer
from cvae.training.runtime import choose_device, device_name
from cvae.training.trainer import Trainer

LENGTH, N_PAST, COND = 12, 2, 7
BATCHES = 4  # in memory, taken in turns
SECONDS = 2.0  # a round of one loop, in quick; five times that otherwise
SEQUENCES = 96  # to train on


@dataclass(frozen=True)
class Case:
    """A model and a batch size, for cvae and for the report's nets (``nf`` stands for the paper's 64 channels)."""

    name: str
    model: str
    backbone: str
    nf: int
    batch: int


def cases(device: torch.device) -> list[Case]:
    default = Case("default", "small", "dcgan64", 16, 12)
    if device.type == "cpu":
        return [Case("vgg64", "vgg64", "vgg64", 64, 4), default]
    return [Case("vgg64", "vgg64", "vgg64", 64, 12), Case("vgg64_batch100", "vgg64", "vgg64", 64, 100), default]


# --- the two loops ----------------------------------------------------------------------------------------------------


def batches_of(case: Case, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    data = synthetic_push(train=SEQUENCES, validate=2, test=0)
    generator = np.random.default_rng(0)
    made = []
    for _ in range(BATCHES):
        indices = generator.integers(0, len(data.train), case.batch)
        frames, cond = data.train.gather(indices, generator.integers(0, 18, case.batch), LENGTH)
        made.append((torch.from_numpy(frames).to(device), torch.from_numpy(cond).to(device)))
    return made


def literal(case: Case, tfr: float, device: torch.device) -> Step:
    """A step of the report's loop, as a competent student writes it: eager, fp32, NCHW, Adam."""
    torch.manual_seed(0)
    nets = Nets(case.backbone, dim=128, nf=case.nf, latent=64, hidden=256, cond=COND).to(device)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-3, betas=(0.9, 0.999))
    data = [(x.permute(0, 1, 4, 2, 3).float().div(255).contiguous(), cond) for x, cond in batches_of(case, device)]
    turn = 0

    def step() -> None:
        nonlocal turn
        frames, cond = data[turn % BATCHES]
        turn += 1
        coins = (torch.rand(LENGTH) < tfr).tolist()
        noise = torch.randn(LENGTH, case.batch, 64, device=device)
        loss = report_loss(nets, frames, cond, coins, noise, N_PAST, 1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def data_words() -> list[str]:
    return ["data.world=1", f"data.train={SEQUENCES}", "data.validate=2", "data.test=0"]


def trainer_of(case: Case, tfr: float, device: torch.device, *words: str) -> Trainer:
    """cvae's own trainer with its defaults, on a small data set."""
    overrides = [
        f"model={case.model}",
        f"batch_size={case.batch}",
        f"tfr={tfr}",
        "tf_schedule=constant",
        "logger=none",
        *data_words(),
        f"device={device}",
        *words,
    ]
    return build_trainer(compose(overrides), Path(tempfile.gettempdir()) / "unused")


def planned(case: Case, tfr: float, device: torch.device) -> tuple[Trainer, Step]:
    trainer = trainer_of(case, tfr, device)
    data = [(to_unit(x), cond) for x, cond in batches_of(case, device)]
    turn = 0

    def step() -> None:
        nonlocal turn
        trainer.step(*data[turn % BATCHES])
        turn += 1

    trainer.model.train()
    return trainer, step


# --- training ---------------------------------------------------------------------------------------------------------


def measure_training(device: torch.device, tfrs: list[float], seconds: float, traces: Path | None) -> dict[str, Any]:
    results: dict[str, Any] = {}
    rate: dict[str, float] = {}
    for case in cases(device):
        results[case.name] = {"batch": case.batch}
        for tfr in tfrs:
            say(f"{case.name}, batch {case.batch}, tfr {tfr:g} ...")
            trainer, ours = planned(case, tfr, device)
            dtype = torch.bfloat16 if trainer.precision == "bf16" else torch.float32
            if trainer.precision not in rate:
                rate[trainer.precision] = best_rate(device, dtype)
            theirs = literal(case, tfr, device)
            work, literal_work = flops(ours), flops(theirs)  # the first steps, which allocate
            literal_s, planned_s = side_by_side([theirs, ours], seconds, device)
            trace = traces / f"{case.name}_tfr{tfr:g}.json" if traces else None
            row = {
                "ratio": statistics.mean(literal_s) / statistics.mean(planned_s),
                "ratio_rounds": [a / b for a, b in zip(literal_s, planned_s, strict=True)],
                "literal_s": statistics.mean(literal_s),
                "planned_s": statistics.mean(planned_s),
                "precision": trainer.precision,
                "gflop": work / 1e9,
                "literal_gflop": literal_work / 1e9,
                "utilisation": work / statistics.mean(planned_s) / rate[trainer.precision],
                "time_shares": shares(ours, device, trace),
            }
            results[case.name][f"tfr={tfr:g}"] = row
    return {"train": results, "best_gflops": {name: value / 1e9 for name, value in rate.items()}}


def peak_memory(device: torch.device, quick: bool) -> dict[str, dict[str, float]]:
    """Peak GiB of a process that does two steps, by case and loop: resident on a CPU, allocated on a GPU."""
    found: dict[str, dict[str, float]] = {}
    for case in cases(device)[1 if quick and device.type == "cpu" else 0 :]:
        loops = ("literal", "planned")
        found[case.name] = {loop: float(in_child("--memory", case.name, loop, str(device))) for loop in loops}
    return found


def in_child(*words: str) -> str:
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(words)} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()[-1]


def print_memory(name: str, loop: str, device: torch.device) -> None:
    case = next(case for case in cases(device) if case.name == name)
    step = literal(case, 0.0, device) if loop == "literal" else planned(case, 0.0, device)[1]
    timed(step, 2, device)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device) / 2**30)
        return
    # Not getrusage: its peak is inherited from the process that started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 2**20)


def print_first_step(began: float, device: str) -> None:
    """Run the training command in this process until its first step is done."""
    from cvae import train

    whole_step = Trainer.step

    def first_step(self: Trainer, *batch: Tensor) -> None:
        whole_step(self, *batch).total.item()
        print(time.time() - began, flush=True)
        shutil.rmtree(self.recorder.folder, ignore_errors=True)
        os._exit(0)  # nothing more is to be said

    Trainer.step = first_step  # type: ignore[method-assign, assignment]
    folder = Path(tempfile.gettempdir()) / f"cvae-first-step-{os.getpid()}"
    sys.argv = ["cvae/train.py", "logger=none", f"device={device}", f"hydra.run.dir={folder}", *data_words()]
    train.main()


# --- data -------------------------------------------------------------------------------------------------------------


def measure_data(device: torch.device) -> dict[str, float]:
    """Sequences (windows of 12 frames) a second in one process, and the trainer's wait for data."""
    data = synthetic_push(train=SEQUENCES, validate=2, test=0)
    split = data.train
    generator = np.random.default_rng(0)

    def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
        return generator.integers(0, len(split), count), generator.integers(0, 18, count)

    def packed() -> None:
        for _ in range(100):
            split.gather(*windows(12), LENGTH)

    def decoded() -> None:
        for index, start in zip(*windows(12), strict=True):
            folder = data.root / "train" / split.name(index)
            np.stack([np.asarray(Image.open(folder / f"{t}.png").convert("RGB")) for t in range(start, start + LENGTH)])
            for table in ("actions.csv", "endeffector_positions.csv"):
                np.loadtxt(folder / table, delimiter=",", dtype=np.float32)[start : start + LENGTH]

    cpu = torch.device("cpu")
    packed_s, decoded_s = (min(rounds) for rounds in side_by_side([packed, decoded], SECONDS / 2, cpu))
    rates = {"packed_per_s": 1200 / packed_s, "png_per_s": 12 / decoded_s}
    return {"ratio": rates["packed_per_s"] / rates["png_per_s"], **rates, "trainer_waits": waiting_share(device)}


def waiting_share(device: torch.device) -> float:
    """Share of a training loop's time that passes before a batch is there, the default model, frames in host memory."""
    case = cases(device)[-1]
    trainer = trainer_of(case, 1.0, device, "data.resident=host")
    generator = np.random.default_rng(0)
    draws = [(generator.integers(0, SEQUENCES, case.batch), generator.integers(0, 18, case.batch)) for _ in range(30)]
    trainer.model.train()
    waited, began = 0.0, 0.0
    batches = trainer.feed.batches(draws)
    for number in range(len(draws)):
        if number == 5:  # the first steps allocate
            waited, began = 0.0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        trainer.step(*batch).total.item()
    return waited / (time.perf_counter() - began)


# --- torch.compile ----------------------------------------------------------------------------------------------------


def measure_compile(device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds of a step, tfr 0, with one block compiled or none, and what compiling costs; the default model."""
    case = cases(device)[-1]
    found: dict[str, dict[str, float]] = {}
    _, eager = planned(case, 0.0, device)
    for block in ("backbone.encoder", "backbone.decoder", "predictor"):
        say(f"torch.compile of {block} ...")
        trainer, step = planned(case, 0.0, device)
        trainer.model.get_submodule(block).compile()
        began = time.perf_counter()
        timed(step, 2, device)
        cost = time.perf_counter() - began
        eager_s, compiled_s = (statistics.mean(rounds) for rounds in side_by_side([eager, step], SECONDS, device))
        found[block] = {"eager_s": eager_s, "compiled_s": compiled_s, "gain": eager_s / compiled_s, "cost_s": cost}
    return found


# --- saying it --------------------------------------------------------------------------------------------------------


def say(text: str = "") -> None:
    print(text, flush=True)


def print_table(results: dict[str, Any]) -> None:
    say()
    say(f"device   {results['device']}, torch {results['torch']}")
    rates = ", ".join(f"{rate:.0f} GFLOP/s {name}" for name, rate in results["best_gflops"].items())
    say(f"limit    {rates}: the best convolution or matrix product, measured here")
    say()
    say("training step      literal   planned    ratio (rounds)     work: literal -> planned    utilisation")
    for name, rows in results["train"].items():
        for tfr, row in ((key, row) for key, row in rows.items() if key.startswith("tfr=")):
            low, high = min(row["ratio_rounds"]), max(row["ratio_rounds"])
            say(
                f"{name + ' ' + tfr:17} {row['literal_s']:7.3f} s {row['planned_s']:7.3f} s  {row['ratio']:5.2f} "
                f"({low:.2f}-{high:.2f})   {row['literal_gflop']:6.0f} -> {row['gflop']:.0f} GFLOP   {row['utilisation']:8.0%}"
            )
    say("  (batch " + ", ".join(f"{rows['batch']} {name}" for name, rows in results["train"].items()) + ";")
    say("   the literal loop is eager fp32, encodes each frame twice, and decodes the given frame too: 11 frames, not 10)")
    say()
    say("where the planned step's time goes (the rest: copies, sums, casts, Python). Missing to the limit is what convolutions")
    say("do not take, and what convolutions of few channels, or of few frames at a time, stay below the best rate")
    for name, rows in results["train"].items():
        for tfr, row in ((key, row) for key, row in rows.items() if key.startswith("tfr=")):
            say(f"  {name + ' ' + tfr:15} " + ", ".join(f"{kind} {share:.0%}" for kind, share in row["time_shares"].items()))
    say()
    say("decoder, first convolution of a stage, forward + backward, ms: nearest x2 + conv | summed taps")
    say("  " + "; ".join(f"{k}: {v['upsample_conv_ms']:.1f} | {v['summed_taps_ms']:.1f}" for k, v in results["forms"].items()))
    data = results["data"]
    say(
        f"data     packed {data['packed_per_s']:.0f} windows/s, PNG {data['png_per_s']:.0f}: ratio {data['ratio']:.0f}; "
        f"the trainer waits {data['trainer_waits']:.2%} of its time"
    )
    for name, loops in results["memory_gib"].items():
        say(f"memory   {name}, tfr 0: peak {loops['literal']:.2f} GiB literal, {loops['planned']:.2f} GiB planned")
    say(f"start    {results['first_step_s']:.1f} s from command to the end of the first step, data already made")
    for block, row in results.get("compile", {}).items():
        say(f"compile  {block}: step {row['eager_s']:.3f} -> {row['compiled_s']:.3f} s; compiling costs {row['cost_s']:.0f} s")


def benchmark(device: torch.device, quick: bool, traces: Path | None) -> dict[str, Any]:
    results: dict[str, Any] = {"device": device_name(device), "torch": torch.__version__, "python": platform.python_version()}
    results |= measure_training(device, [1.0, 0.0] if quick else [1.0, 0.5, 0.0], SECONDS if quick else 5 * SECONDS, traces)
    dtype = torch.bfloat16 if "bf16" in results["best_gflops"] else torch.float32
    say("decoder forms, data path, memory, start ...")
    results["forms"] = decoder_forms(10 * cases(device)[0].batch, device, dtype)
    results["data"] = measure_data(device)
    results["memory_gib"] = peak_memory(device, quick)
    results["first_step_s"] = float(in_child("--first-step", repr(time.time()), str(device)))
    if not quick:
        results["compile"] = measure_compile(device)
    return results


def run(device: torch.device, words: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    def table() -> dict[str, Any]:
        results = benchmark(device, words.quick or bool(words.gpu_check), words.profile)
        print_table(results)
        return results

    if words.quality:
        rows = quality([each.split() for each in words.data or [""]], words.seeds, device)
        return {"device": device_name(device), "quality": rows}, True
    if not words.gpu_check:
        return table(), True
    if device.type != "cuda" and words.device == "auto":
        raise UserError("--gpu-check found no CUDA device: run it where there is one (--device cpu tries the list itself)")
    checks = gpu_check(device, table, names=chosen(words.gpu_check, device))
    measured = checks.pop("table", {"passed": True})
    passed = measured["passed"] and all(check["passed"] for check in checks.values() if isinstance(check, dict))
    return {**measured, "checks": checks}, passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tfr 1 and 0 only, fewer steps, no torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="leave a profiler trace of each planned step there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument(
        "--gpu-check",
        nargs="?",
        const="all",
        metavar="NAMES",
        help=f"check and measure what touches CUDA, all in under 9 minutes; or some, with commas: {', '.join(NAMES)}",
    )
    parser.add_argument("--quality", action="store_true", help="PSNR of both in equal wall time; 7 minutes a data set and seed")
    parser.add_argument("--data", action="append", metavar="WORDS", help="of --quality: the overrides of a data set")
    parser.add_argument("--seeds", type=int, default=1, help="of --quality (1)")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--first-step", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    resolvers.register()
    try:
        if words.memory:
            return print_memory(*words.memory[:2], torch.device(words.memory[2]))
        if words.first_step:
            return print_first_step(float(words.first_step[0]), words.first_step[1])
        device = choose_device(words.device)
        for path in (words.json.parent if words.json else None, words.profile):
            if path is not None:
                with writing(path, "name another place"):
                    path.mkdir(parents=True, exist_ok=True)
        results, passed = run(device, words)
        if words.json:
            with writing(words.json, "name another place"):
                words.json.write_text(json.dumps(results, indent=2) + "\n")
        raise SystemExit(0 if passed else 1)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
