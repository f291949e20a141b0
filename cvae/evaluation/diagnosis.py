"""What a model makes of its latent and of its conditions, and what free running costs: numbers, and sentences about them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvae.data.contract import Split
from cvae.evaluation.futures import Conditions, futures, given, noise, pieces
from cvae.evaluation.metrics import psnr
from cvae.evaluation.protocol import Protocol
from cvae.evaluation.scoring import Values
from cvae.evaluation.validation import images
from cvae.model.cvae import CVAE
from cvae.model.objective import kl_divergence

ACTIVE = 0.01  # variance of a dimension's posterior mean over the data, above which it is active (Burda et al. 2016)
NATS = 0.1  # a step: with less KL the posterior carries hardly any information
GREY = 1.0  # of 255 levels: samples that deviate less look alike
PLAIN = 0.1  # dB: a smaller change is called none

Autocast = Callable[[], AbstractContextManager[object]]


class Diagnosis:
    """Measures a model on a split. Every number is a mean over its first ``videos`` videos, or all, each taken once."""

    def __init__(
        self,
        model: CVAE,
        split: Split,
        protocol: Protocol,
        seed: int,
        device: torch.device,
        frames: int,
        autocast: Autocast,
        videos: int | None = None,
    ) -> None:
        self.model, self.split, self.protocol = model, split, protocol
        self.seed, self.device, self.frames, self.autocast = seed, device, frames, autocast
        self.videos = len(split) if videos is None else min(videos, len(split))

    def measure(self) -> tuple[dict[str, Any], dict[str, Values]]:
        """The numbers, and PSNR in dB by video and frame ``NK`` of each way to predict."""
        n_past, _ = self.protocol.frames
        mean_A = self.model.cond_mean_A
        ways: dict[str, Values] = {}
        with given(self.model, n_past):
            latent, ways["posterior_forced"], ways["posterior"] = self._posterior()
            ways["prior"], ways["best"], spread, error_K = self._prior(self.protocol.samples)
            ways["zero"] = self._one(silent=True)
            if len(mean_A):
                ways["shuffled"] = self._one(self._of_the_next)
                ways["zero_conditions"] = self._one(lambda cond_BTA, rows_B: mean_A.expand_as(cond_BTA))
        total = float(error_K.sum())
        first = float(error_K[0]) / total if total else 0.0
        numbers = {**latent, "spread": spread, "first_frame_error": first, "mse_per_frame": error_K.tolist()}
        return numbers, ways

    def latent_and_conditions(self) -> tuple[float, float]:
        """What a free-running sample loses in dB with z from the prior, not the posterior, and then with other conditions."""
        with given(self.model, self.protocol.frames[0]):
            _, _, posterior_NK = self._posterior()
            prior_NK, shuffled_NK = self._one(), self._one(self._of_the_next)
        return float(posterior_NK.mean() - prior_NK.mean()), float(prior_NK.mean() - shuffled_NK.mean())

    def exposure_gap(self) -> float:
        """What a prediction loses in dB if it is fed its own frames and not the true ones, z from the posterior in both."""
        with given(self.model, self.protocol.frames[0]):
            _, forced_NK, free_NK = self._posterior()
        return float(forced_NK.mean() - free_NK.mean())

    def _of_the_next(self, cond_BTA: Tensor, rows_B: Any) -> Tensor:
        """The conditions of the next sequence for each."""
        _, cond = self.split.gather((rows_B + 1) % len(self.split), 0, cond_BTA.shape[1])
        return torch.from_numpy(cond).to(cond_BTA)

    def _one(self, conditions: Conditions | None = None, silent: bool = False) -> Values:
        """PSNR of one free-running sample with z from the prior, under other conditions or with noise 0."""
        found: list[Values] = []
        how = (self.protocol.frames[1], 1, self.seed, self.device, self.frames, conditions, silent, self.videos)
        running = futures(self.model, self.split, *how)
        while True:
            with self.autocast():
                if (piece := next(running, None)) is None:
                    return np.concatenate(found)
            found.append(psnr(piece.predicted_SBKCHW[0].float(), piece.true_BKCHW).double().cpu().numpy())

    def _prior(self, samples: int) -> tuple[Values, Values, float, Values]:
        """PSNR of sample 0 and of the best; the samples' standard deviation, 0 to 255; sample 0's squared error by frame."""
        first, best, deviations, errors = [], [], [], []
        # All samples of a video at once: their deviation needs them together.
        frames = max(self.frames, samples * self.protocol.frames[1])
        how = (self.protocol.frames[1], samples, self.seed, self.device, frames)
        running = futures(self.model, self.split, *how, videos=self.videos)
        while True:
            with self.autocast():
                if (piece := next(running, None)) is None:
                    break
            predicted, true = piece.predicted_SBKCHW.float(), piece.true_BKCHW
            scored_SBK = psnr(predicted, true[None].expand_as(predicted)).double().cpu().numpy()
            first.append(scored_SBK[0])
            best.append(scored_SBK[scored_SBK.mean(axis=2).argmax(axis=0), np.arange(len(piece.rows_B))])
            if samples > 1:
                deviations.append(255 * predicted.std(dim=0).mean(dim=(1, 2, 3, 4)).double().cpu().numpy())
            errors.append((predicted[0] - true).square().mean(dim=(2, 3, 4)).double().cpu().numpy())
        spread = float(np.concatenate(deviations).mean()) if deviations else 0.0
        return np.concatenate(first), np.concatenate(best), spread, np.concatenate(errors).mean(axis=0)

    def _posterior(self) -> tuple[dict[str, Any], Values, Values]:
        """KL of the latent's dimensions, and PSNR with z from the posterior: fed true frames, and running free."""
        (n_past, n_future), model = self.protocol.frames, self.model
        kl_NZ: list[Values] = []
        mu_NKZ: list[Values] = []
        forced_NK: list[Values] = []
        free_NK: list[Values] = []
        for rows_B, _ in pieces(self.videos, 1, n_past + n_future, self.frames):
            frames_BTHWC, cond = self.split.gather(rows_B, 0, n_past + n_future)
            frames_BTCHW, cond_BTA = images(frames_BTHWC, self.device), torch.from_numpy(cond).to(self.device)
            noise_TBZ = noise(self.seed, rows_B, slice(0, 1), n_past + n_future, model.latent_dim)[0].to(self.device)
            free_T = torch.arange(n_past + n_future) <= n_past
            for forced_T, found in ((torch.ones_like(free_T), forced_NK), (free_T, free_NK)):
                with torch.inference_mode(), self.autocast():
                    rollout = model(frames_BTCHW, cond_BTA, forced_T, noise_TBZ)
                late = slice(n_past - rollout.first, None)  # of compat=course earlier steps are there too
                predicted = rollout.predictions_BKCHW[:, late].float()
                found.append(psnr(predicted, frames_BTCHW[:, n_past:]).double().cpu().numpy())
                if found is forced_NK:
                    q, p = (rollout.mu_BKZ, rollout.logvar_BKZ), (rollout.prior_mu_BKZ, rollout.prior_logvar_BKZ)
                    four = [part[:, late].double() for part in (*q, *p)]
                    kl_NZ.append(kl_divergence(*four).mean(dim=1).cpu().numpy())
                    mu_NKZ.append(four[0].cpu().numpy())
        kl_Z = np.concatenate(kl_NZ).mean(axis=0)
        active = int((np.concatenate(mu_NKZ).reshape(-1, len(kl_Z)).var(axis=0) > ACTIVE).sum())
        latent = {"kl": float(kl_Z.sum()), "kl_per_dimension": kl_Z.tolist(), "active_units": active, "dimensions": len(kl_Z)}
        return latent, np.concatenate(forced_NK), np.concatenate(free_NK)


def sentences(found: dict[str, Any]) -> list[str]:
    """The diagnosis in plain words, from the numbers of a result: ``psnr`` of each way, and what ``measure`` counted."""
    ways: dict[str, float] = {name: each["mean"] for name, each in found["ways"].items()}
    gain = ways["prior"] - (copy := found["baselines"]["copy_last"]["psnr"]["mean"])
    lines = [f"One sample has {ways['prior']:.2f} dB, {gain:+.2f} against repeating the last given frame ({copy:.2f})."]
    lines += [_of_latent(found, ways), _of_samples(found, ways)]
    lines += [_of_conditions(ways)] if "shuffled" in ways else ["The model takes no conditions."]
    gap = ways["posterior_forced"] - ways["posterior"]
    lines.append(
        f"Exposure gap: fed its own predictions instead of true frames, it {_loses(gap)} "
        f"({ways['posterior_forced']:.2f} to {ways['posterior']:.2f} dB, z from the posterior in both)."
    )
    return [*lines, _of_first_frame(found)]


def _of_latent(found: dict[str, Any], ways: dict[str, float]) -> str:
    gain = ways["posterior"] - ways["prior"]
    numbers = (
        f"KL {found['kl']:.3g} nats a step, {found['active_units']} of {found['dimensions']} dimensions active, z from the "
        f"posterior {ways['posterior']:.2f} dB, from the prior {ways['prior']:.2f}, zero {ways['zero']:.2f}"
    )
    if found["kl"] < NATS and gain < PLAIN:
        return f"The latent is not used (posterior collapse): {numbers}."
    if gain < PLAIN:
        return f"The latent carries information that does not help the prediction: {numbers}."
    return f"The latent is used, what it knows of the next frame is worth {gain:.2f} dB: {numbers}."


def _of_samples(found: dict[str, Any], ways: dict[str, float]) -> str:
    gain = ways["best"] - ways["prior"]
    same = "Samples hardly differ" if found["spread"] < GREY else "Samples differ"
    return (
        f"{same}: their standard deviation is {found['spread']:.2g} of 255 grey levels, and the best of {found['samples']} "
        f"is {gain:.2f} dB above one sample."
    )


def _of_conditions(ways: dict[str, float]) -> str:
    losses = [ways["prior"] - ways[name] for name in ("shuffled", "zero_conditions")]
    numbers = f"those of another video {_signed(-losses[0])} dB, their mean at every step {_signed(-losses[1])} dB"
    if max(losses) < PLAIN:
        return f"The conditions (actions, positions) are not used: {numbers}."
    return f"The conditions (actions, positions) are used: {numbers}."


def _of_first_frame(found: dict[str, Any]) -> str:
    count, share = len(found["mse_per_frame"]), found["first_frame_error"]
    of = f"{100 * share:.0f} % of the squared error of {count} frames, of which an even share is {100 / count:.0f} %"
    if share * count > 0.8:
        return f"The first predicted frame has {of}: most is lost in the first step, not by errors that add up."
    return f"The first predicted frame has {of}: errors add up over the frames."


def _signed(number: float) -> str:
    return f"{round(number, 2) + 0.0:+.2f}"  # no -0.00


def _loses(gap: float) -> str:
    return "loses nothing" if gap < PLAIN else f"loses {gap:.2f} dB"
