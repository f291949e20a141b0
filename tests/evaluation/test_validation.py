"""Validation counts every sequence once, on data and a model so simple that the scores can be computed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from cvae.evaluation import validation
from cvae.evaluation.validation import error_of, free_run, images, score_copy, validate

LENGTH, N_PAST, SIZE, LATENT = 5, 2, 12, 3
CPU = torch.device("cpu")
Array = NDArray[Any]


class Frames:
    """A split of random frames, longer than the windows; the condition of sequence i is i. It notes what is asked for."""

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(count)
        self.frames_NTHWC = generator.integers(0, 256, (count, LENGTH + 2, SIZE, SIZE, 3), dtype=np.uint8)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.frames_NTHWC)

    def gather(self, indices: Array, starts: Array | int, length: int) -> tuple[Array, Array]:
        self.asked += indices.tolist()
        starts_B = np.broadcast_to(starts, len(indices))
        frames = np.stack([self.frames_NTHWC[i, s : s + length] for i, s in zip(indices, starts_B, strict=True)])
        return frames, np.tile(np.float32(indices)[:, None, None], (1, length, 1))


class Answer(nn.Module):
    """Continues with the last given frame, mixed with grey: how much says the noise, which grey says the condition."""

    n_past, latent_dim = N_PAST, LATENT

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []
        self.batches: list[int] = []

    def generate(self, past_BTCHW: Tensor, cond_BTA: Tensor, noise_STBZ: Tensor) -> Tensor:
        self.modes.append(self.training)
        self.batches.append(len(past_BTCHW) * len(noise_STBZ))
        assert past_BTCHW.shape[1] == N_PAST
        assert noise_STBZ.shape[1:] == (LENGTH, len(past_BTCHW), LATENT)
        grey_B111 = (torch.sin(cond_BTA[:, 0, 0]) / 2 + 0.5)[:, None, None, None]
        share_KSB111 = torch.sigmoid(noise_STBZ[:, N_PAST:].mean(-1)).transpose(0, 1)[..., None, None, None]
        return torch.stack([s * past_BTCHW[:, -1] + (1 - s) * grey_B111 for s in share_KSB111], dim=2)


def predictions(split: Frames, samples: int, **settings: Any) -> Array:
    """All of ``free_run``, as ``SNKCHW``."""
    return torch.cat([p for p, _ in free_run(Answer(), split, LENGTH, samples, 7, CPU, **settings)], dim=1).numpy()


def by_hand(split: Frames, samples: int) -> dict[str, float]:
    """MSE, PSNR and SSIM of the first sample and PSNR of the best, one frame at a time."""
    predicted_SNKCHW = predictions(split, samples).astype(np.float64)
    psnrs, ssims, bests, squares = [], [], [], []
    for n in range(len(split)):
        true_KCHW = split.frames_NTHWC[n, N_PAST:LENGTH].transpose(0, 3, 1, 2) / 255
        of_samples = []
        for s in range(samples):
            mses = [((predicted_SNKCHW[s, n, k] - true_KCHW[k]) ** 2).mean() for k in range(LENGTH - N_PAST)]
            squares += [mses] if s == 0 else []
            of_samples.append(np.mean([-10 * np.log10(max(mse, 1e-10)) for mse in mses]))
        similar = [
            structural_similarity(
                true_KCHW[k],
                predicted_SNKCHW[0, n, k],
                channel_axis=0,
                data_range=1,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for k in range(LENGTH - N_PAST)
        ]
        psnrs.append(of_samples[0]), bests.append(max(of_samples)), ssims.append(np.mean(similar))
    mids = np.add(psnrs, bests) / 2
    named = {"mse": squares, "psnr": psnrs, "ssim": ssims, "psnr_best": bests, "psnr_mid": mids}
    return {name: np.mean(each) for name, each in named.items()}


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 70])
def test_scores_are_means_over_every_sequence_counted_once(count: int) -> None:
    split, samples, model = Frames(count), 3, Answer()
    scores = validate(model, split, LENGTH, samples, 7, CPU)
    assert sorted(split.asked) == list(range(count))
    assert sum(model.batches) == samples * count
    assert max(model.batches) <= 64
    assert scores == pytest.approx(by_hand(split, samples), abs=1e-4)
    assert scores["psnr_best"] > scores["psnr"]


def test_one_sample_has_no_best() -> None:
    assert validate(Answer(), Frames(5), LENGTH, 1, 7, CPU).keys() == {"mse", "psnr", "ssim"}


def test_a_function_of_another_package_is_averaged_over_frames_then_sequences() -> None:
    split, functions = Frames(33), {"mae": lambda predicted, true: (predicted - true).abs().mean(dim=(-3, -2, -1))}
    true_NKCHW = split.frames_NTHWC[:, N_PAST:LENGTH].transpose(0, 1, 4, 2, 3) / 255
    expected = np.abs(predictions(split, 2)[0].astype(np.float64) - true_NKCHW).mean()
    with torch.autocast("cpu", torch.bfloat16):  # scores are taken in full precision
        scores = validate(Answer(), split, LENGTH, 2, 7, CPU, functions=functions)
    assert scores["mae"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_scores_do_not_depend_on_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Frames(33)
    before = [validate(Answer(), split, LENGTH, 2, 7, CPU), score_copy(split, N_PAST, LENGTH), predictions(split, 2)]
    monkeypatch.setattr(validation, "_FUTURES", chunk)
    after = [validate(Answer(), split, LENGTH, 2, 7, CPU), score_copy(split, N_PAST, LENGTH), predictions(split, 2)]
    assert after[0] == pytest.approx(before[0], rel=1e-6)
    assert after[1] == pytest.approx(before[1], rel=1e-6)
    assert np.allclose(after[2], before[2], rtol=0, atol=1e-6)


def test_noise_depends_on_the_seed_the_sequence_and_the_sample_alone() -> None:
    split = Frames(40)
    before = predictions(split, 2)
    assert np.allclose(before, predictions(split, 2), rtol=0, atol=1e-6)
    rows = np.array([38, 3])
    assert np.allclose(before[:, rows], predictions(split, 2, rows=rows), rtol=0, atol=1e-6)
    assert not np.allclose(before[0], before[1], rtol=0, atol=1e-2)
    other = torch.cat([p for p, _ in free_run(Answer(), split, LENGTH, 2, 8, CPU)], dim=1).numpy()
    assert not np.allclose(before, other, rtol=0, atol=1e-2)


def test_sequences_are_predicted_from_frame_0_and_scored_after_the_given_frames() -> None:
    split = Frames(3)
    ((predicted_SBKCHW, true_BKCHW),) = free_run(Answer(), split, LENGTH, 2, 7, CPU)
    assert predicted_SBKCHW.shape == (2, 3, LENGTH - N_PAST, 3, SIZE, SIZE)
    expected = split.frames_NTHWC[:, N_PAST:LENGTH].transpose(0, 1, 4, 2, 3) / 255
    assert np.allclose(true_BKCHW.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [2, 33])
def test_shuffled_gives_each_sequence_the_conditions_of_the_next(count: int) -> None:
    class Conditions(Answer):
        def generate(self, past_BTCHW: Tensor, cond_BTA: Tensor, noise_STBZ: Tensor) -> Tensor:
            return cond_BTA[None, :, N_PAST:LENGTH, :, None, None].expand(-1, -1, -1, 3, SIZE, SIZE)

    for shuffled in (False, True):
        run = free_run(Conditions(), Frames(count), LENGTH, 1, 7, CPU, shuffled=shuffled)
        given = torch.cat([p for p, _ in run], dim=1)[0, :, 0, 0, 0, 0].tolist()
        assert given == [(i + shuffled) % count for i in range(count)]


@pytest.mark.parametrize("training", [True, False])
def test_model_predicts_in_eval_mode_and_is_left_as_it_was(training: bool) -> None:
    model = Answer().train(training)
    validate(model, Frames(33), LENGTH, 2, 7, CPU)
    assert model.modes
    assert not any(model.modes)
    assert model.training is training


def test_model_is_left_as_it_was_when_prediction_fails() -> None:
    class Broken(Answer):
        def generate(self, past_BTCHW: Tensor, cond_BTA: Tensor, noise_TBZ: Tensor) -> Tensor:
            raise ValueError("broken")

    model = Broken().train()
    with pytest.raises(ValueError, match="broken"):
        validate(model, Frames(2), LENGTH, 1, 7, CPU)
    assert model.training


@pytest.mark.parametrize("count", [1, 32, 45])
def test_copy_baseline_equals_a_loop_over_frames(count: int) -> None:
    split = Frames(count)
    psnrs, squares = [], []
    for sequence in split.frames_NTHWC:
        last = sequence[N_PAST - 1] / 255
        of_sequence = []
        for t in range(N_PAST, LENGTH):
            mse = np.mean((sequence[t] / 255 - last) ** 2)
            squares.append(mse)
            of_sequence.append(-10 * np.log10(max(mse, 1e-10)))
        psnrs.append(np.mean(of_sequence))
    psnr, rmse = score_copy(split, N_PAST, LENGTH)
    assert psnr == pytest.approx(np.mean(psnrs), abs=1e-4)
    assert rmse == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)


def test_copy_baseline_of_a_still_video_is_100_db() -> None:
    split = Frames(3)
    split.frames_NTHWC[:] = split.frames_NTHWC[:, :1]
    assert score_copy(split, N_PAST, LENGTH) == (pytest.approx(100, abs=1e-4), 0)


def test_the_error_of_the_data_is_that_of_256_windows_as_training_takes_them() -> None:
    split = Frames(5)
    split.lengths = np.full(5, LENGTH + 2, np.int64)

    def error(random_start: bool) -> float:
        return error_of(SimpleNamespace(train=split, random_start=random_start), N_PAST, LENGTH)

    squares = [np.mean((each[N_PAST:LENGTH] / 255 - each[N_PAST - 1] / 255) ** 2) for each in split.frames_NTHWC]
    assert error(False) == pytest.approx(np.sqrt(np.mean(squares)), rel=5e-3)  # 51 passes, and one window more
    assert {index: split.asked.count(index) // 51 for index in split.asked} == dict.fromkeys(range(5), 1)
    assert error(True) != error(False)
    assert error(True) == error(True) == pytest.approx(error(False), rel=0.05)


def test_images_are_scaled_bytes_with_channels_first() -> None:
    frames_BTHWC = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    frames_BTCHW = images(frames_BTHWC, CPU)
    assert frames_BTCHW.dtype == torch.float32
    assert np.allclose(frames_BTCHW.numpy(), frames_BTHWC.transpose(0, 1, 4, 2, 3) / 255, rtol=0, atol=1e-6)
