"""PSNR and SSIM against scikit-image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from cvae.evaluation.metrics import psnr, ssim

GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape or (3, 64, 64), generator=torch.Generator().manual_seed(seed))


def ramp() -> Tensor:
    return torch.linspace(0, 1, 64).expand(3, 64, 64).clone()


def disc(x: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    inside = (rows - 30) ** 2 + (columns - x) ** 2 < 100
    return torch.stack([0.2 + 0.6 * inside, 0.5 - 0.4 * inside, 0.1 + 0.1 * inside])


def checks(size: int) -> Tensor:
    cells = torch.arange(64) // size
    return ((cells[:, None] + cells) % 2).float().expand(3, 64, 64).clone()


def flat(value: float) -> Tensor:
    return torch.full((3, 64, 64), value)


PAIRS = {
    "noise": (noise(0), noise(1)),
    "slight_noise": (disc(30), (disc(30) + 0.02 * (noise(0) - 0.5))),
    "moved_disc": (disc(30), disc(37)),
    "ramp_and_its_mirror": (ramp(), ramp().flip(-1)),
    "ramp_and_its_transpose": (ramp(), ramp().mT),
    "checks": (checks(4), checks(8)),
    "inverted_checks": (checks(2), 1 - checks(2)),
    "flat_of_two_levels": (flat(0.3), flat(0.5)),
    "bright_flat": (flat(0.98), flat(1.0)),
    "black_and_white": (flat(0.0), flat(1.0)),
    "disc_and_flat": (disc(30), flat(0.4)),
    "oblong": (noise(2, 3, 20, 48), noise(3, 3, 20, 48)),
    "smallest": (noise(4, 3, 11, 11), noise(5, 3, 11, 11)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_psnr_equals_scikit_image(name: str) -> None:
    target, predicted = PAIRS[name]
    expected = peak_signal_noise_ratio(target.double().numpy(), predicted.double().numpy(), data_range=1)
    assert psnr(predicted, target).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_equals_scikit_image(name: str) -> None:
    target, predicted = PAIRS[name]
    expected = structural_similarity(
        target.double().numpy(),
        predicted.double().numpy(),
        channel_axis=0,
        data_range=1,
        **GAUSSIAN,
    )
    assert ssim(predicted, target).item() == pytest.approx(expected, abs=1e-6)


def test_frames_of_a_data_set_score_as_scikit_image_says(drawn: Path) -> None:
    sequence = next(drawn.glob("test/*/*"))
    frames = [torch.from_numpy(np.asarray(Image.open(sequence / f"{t}.png").convert("RGB")) / 255) for t in range(6)]
    frames_THWC = torch.stack(frames)
    last_THWC = frames_THWC[:1].expand(5, -1, -1, -1)
    images = [each.permute(0, 3, 1, 2).float() for each in (last_THWC, frames_THWC[1:])]
    for metric, theirs, settings in [
        (psnr, peak_signal_noise_ratio, {}),
        (ssim, structural_similarity, {**GAUSSIAN, "channel_axis": -1}),
    ]:
        pairs = zip(frames_THWC[1:].numpy(), last_THWC.numpy(), strict=True)
        expected = [theirs(true, predicted, data_range=1, **settings) for true, predicted in pairs]
        assert metric(*images).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("image", [noise(0), disc(30), flat(0.0), flat(1.0)], ids=["noise", "disc", "black", "white"])
def test_identical_frames_count_100_db_and_similarity_1(image: Tensor) -> None:
    assert psnr(image, image.clone()).item() == pytest.approx(100, abs=1e-4)
    assert ssim(image, image.clone()).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(), (5,), (2, 5), (3, 2, 5)], ids=str)
@pytest.mark.parametrize("metric", [psnr, ssim])
def test_each_image_of_a_batch_has_its_own_value(metric, shape: tuple[int, ...]) -> None:
    predicted, target = noise(0, *shape, 3, 16, 16), noise(1, *shape, 3, 16, 16)
    values = metric(predicted, target)
    assert values.shape == shape
    singles = [metric(x, y).item() for x, y in zip(predicted.view(-1, 3, 16, 16), target.view(-1, 3, 16, 16), strict=True)]
    assert values.flatten().tolist() == pytest.approx(singles, abs=1e-5)
    assert len(set(singles)) == len(singles)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_autocast_changes_no_metric(metric) -> None:
    predicted, target = noise(0, 4, 3, 32, 32), noise(1, 4, 3, 32, 32)
    predicted = (target + 0.05 * predicted).clamp(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (predicted[0, 0] @ target[0, 0]).dtype == torch.bfloat16
        inside = metric(predicted, target)
    assert torch.equal(inside, metric(predicted, target))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_frames_in_channels_last_memory_score_the_same(metric) -> None:
    predicted, target = noise(0, 4, 3, 32, 32), noise(1, 4, 3, 32, 32)
    strided = [x.contiguous(memory_format=torch.channels_last) for x in (predicted, target)]
    assert torch.allclose(metric(*strided), metric(predicted, target), rtol=0, atol=1e-5)
