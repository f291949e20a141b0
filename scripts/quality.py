"""What equal wall time buys, the default recipe beside the report's loop: ``python scripts/benchmark.py --quality``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report_loop import Nets, report_loss
from torch import Tensor

from cvae.console import say
from cvae.data.contract import training_windows
from cvae.evaluation.metrics import psnr
from cvae.evaluation.validation import to_unit, validate
from cvae.start import compose
from cvae.training.assembly import build_trainer
from cvae.training.feed import Feed
from cvae.training.trainer import Trainer

LR, BETA, AT = 2e-3, 1e-4, 0.5  # the report's: learning rate, weight of KL, end of its ramp and of teacher forcing
_VALIDATED = 64  # sequences at a time


def quality(data: Sequence[list[str]], seeds: int, device: torch.device) -> list[dict[str, Any]]:
    """Train both on each data set, given by overrides, and print a line for each seed."""
    rows = []
    for words in data:
        for seed in range(1, seeds + 1):
            found = side_by_side([*words, f"seed={seed}"], device)
            rows.append({"data": " ".join(words) or "default", "seed": seed, **found})
            own, theirs = (f"{found[name]:.2f} dB in {found[f'{name}_steps']} steps" for name in ("default", "report"))
            gain = found["default"] - found["report"]
            say(f"{rows[-1]['data']}, seed {seed}: {found['seconds']:.0f} s each, copy {found['copy']:.2f} dB")
            say(f"  report's loop {theirs}; default {own}; {gain:+.2f} dB")
    return rows


def side_by_side(words: list[str], device: torch.device) -> dict[str, Any]:
    """One run of each, in turns: an epoch of the default recipe, then as many seconds of the report's loop.

    Both have the same net sizes, packed data, batch size and threads. The report's schedules move with the share of the time
    that is used. Validations take no part in it; the best one of each counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(compose([*words, "logger=none", f"device={device}"]), Path(folder) / "default")
        course = build_trainer(compose([*words, "logger=none", f"device={device}", "compat=course"]), Path(folder) / "report")
    report, settings = Report(course), trainer.settings
    found: dict[str, Any] = {"copy": trainer.psnr_copy, "seconds": 0.0, "report": -np.inf, "default": -np.inf}
    for epoch in range(settings.epochs):
        trainer.model.train()
        began = time.monotonic()
        for batch in trainer.batches():
            trainer.step(*batch)
            trainer.iteration += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent = time.monotonic() - began
        trainer.epoch, trainer.iteration = epoch + 1, 0
        report.train(spent, epoch / settings.epochs)
        with trainer.averaged(), trainer.autocast():
            scores = validate(trainer.model, trainer.data.validate, settings.length, 1, settings.seed, device, {"psnr": psnr})
        found["default"] = max(found["default"], scores["psnr"])
        found["report"] = max(found["report"], report.validate())
        found["seconds"] += spent
    return {**found, "report_steps": report.steps, "default_steps": settings.epochs * settings.epoch_size}


class Report:
    """The report's nets and loop on the data of ``course``, a trainer that is never trained: eager, fp32, frame by frame."""

    def __init__(self, course: Trainer) -> None:
        self.settings, self.data, self.device, model = course.settings, course.data, course.device, course.model
        torch.manual_seed(self.settings.seed)
        sizes: dict[str, int] = {"dim": 128, "latent": model.latent_dim, "hidden": 256, "cond": len(model.cond_mean_A)}
        self.nets = Nets("dcgan64", nf=16, **sizes).to(self.device)
        self.optimizer = torch.optim.Adam(self.nets.parameters(), lr=LR, betas=(0.9, 0.999))
        self.feed = Feed(self.data.train, self.settings.length, self.device)
        self.latent_dim, self.steps, self.epoch = model.latent_dim, 0, 0
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def train(self, seconds: float, progress: float) -> None:
        """Train for so long, at a place in the schedules."""
        settings, began = self.settings, time.monotonic()
        self.nets.train()
        while time.monotonic() - began < seconds:
            ((frames_BTCHW, cond_BTA),) = self.feed.batches([self._next()])
            coins = (torch.rand(settings.length) < (1.0 if progress < AT else 0.0)).tolist()
            noise = torch.randn(
                settings.length, settings.batch_size, self.nets.posterior.mu_net.out_features, device=self.device
            )
            weight = BETA * min(1.0, progress / AT)
            loss = report_loss(self.nets, frames_BTCHW.contiguous(), cond_BTA, coins, noise, settings.n_past, weight)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.steps += 1

    def _next(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.waiting:
            self.epoch += 1
            batches, size = self.settings.epoch_size, self.settings.batch_size
            how: dict[str, Any] = {"seed": self.settings.seed, "epoch": self.epoch, "batches": batches, "batch_size": size}
            windows = training_windows(self.data.train.lengths, **how, length=self.settings.length, random_start=False)
            self.waiting = list(zip(*windows, strict=True))
        return self.waiting.pop(0)

    def validate(self) -> float:
        """PSNR in dB of one free-running prediction of each validation sequence from its frame 0."""
        split, length = self.data.validate, self.settings.length
        generator = torch.Generator().manual_seed(self.settings.seed)
        noise_TNZ = torch.randn(length, len(split), self.latent_dim, generator=generator)
        self.nets.eval()
        scores = []
        for rows_B in np.array_split(np.arange(len(split)), -(-len(split) // _VALIDATED)):
            frames_BTHWC, cond_BTA = split.gather(rows_B, 0, length)
            frames_BTCHW = to_unit(torch.from_numpy(frames_BTHWC).to(self.device)).contiguous()
            with torch.no_grad():
                predicted = self._predict(frames_BTCHW, torch.from_numpy(cond_BTA).to(self.device), noise_TNZ[:, rows_B])
            scores.append(psnr(predicted, frames_BTCHW[:, self.settings.n_past :]).mean(dim=1))
        return torch.cat(scores).mean().item()

    def _predict(self, frames_BTCHW: Tensor, cond_BTA: Tensor, noise_TBZ: Tensor) -> Tensor:
        """As SVG generates: z of given frames from the posterior, z of others from the prior; given frames are not decoded."""
        nets, n_past = self.nets, self.settings.n_past
        nets.start()
        x, skip, predicted = frames_BTCHW[:, 0], [], []
        for i in range(1, frames_BTCHW.shape[1]):
            h, new_skip = nets.encoder(x)
            z = noise_TBZ[i].to(self.device)
            if i < n_past:
                skip = new_skip
                z, _, _ = nets.posterior(nets.encoder(frames_BTCHW[:, i])[0], z)
            g = nets.predictor(torch.cat([cond_BTA[:, i - 1], h, z], 1))
            x = frames_BTCHW[:, i] if i < n_past else nets.decoder(g, skip)
            predicted += [x] * (i >= n_past)
        return torch.stack(predicted, dim=1)
