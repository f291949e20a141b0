"""Fréchet distance against closed forms and scipy's square root; feature nets that the test makes, and what is none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor, nn

from cvae.errors import UserError
from cvae.evaluation.fvd import SIZE, features, frechet_distance, frechet_interval

Array = np.ndarray


def exact(mean: Array, covariance: Array, count: int, seed: int = 0) -> Array:
    """Features whose own mean and covariance are these, to rounding."""
    rows = np.random.default_rng(seed).normal(size=(count, len(mean)))
    white = np.linalg.qr(rows - rows.mean(axis=0))[0] * np.sqrt(count - 1)
    return white @ np.linalg.cholesky(covariance).T + mean


def by_scipy(a_ND: Array, b_ND: Array) -> float:
    """The definition, word for word."""
    cov_a, cov_b = np.cov(a_ND, rowvar=False), np.cov(b_ND, rowvar=False)
    root = np.real(sqrtm(cov_a @ cov_b))
    return float(((a_ND.mean(axis=0) - b_ND.mean(axis=0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def mixed(seed: int, count: int, dims: int) -> Array:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, dims)) @ generator.normal(size=(dims, dims)) + generator.normal(size=dims)


@pytest.mark.parametrize("count", [4, 50], ids=["as few videos as can be", "many videos"])
def test_where_covariances_commute_it_is_the_distance_of_means_and_deviations(count: int) -> None:
    mean_a, mean_b = np.array([0.0, 1, 2]), np.array([1.0, 1, -2])
    variance_a, variance_b = np.array([1.0, 4, 9]), np.array([4.0, 0.25, 9])
    distance = frechet_distance(exact(mean_a, np.diag(variance_a), count), exact(mean_b, np.diag(variance_b), count, seed=1))
    assert distance == pytest.approx((1 + 16) + (1 + 2.25 + 0), rel=1e-9)


def test_where_they_do_not_commute_two_by_two_has_a_closed_form() -> None:
    """The trace of the root of a 2 x 2 matrix M is sqrt(tr M + 2 sqrt(det M))."""
    cov_a, cov_b = np.array([[2.0, 0.9], [0.9, 0.5]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    product = cov_a @ cov_b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(cov_a + cov_b) - 2 * root
    assert frechet_distance(exact(np.zeros(2), cov_a, 9), exact(np.zeros(2), cov_b, 7)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("counts", [(200, 200), (300, 90), (41, 41)], ids=str)
def test_it_is_what_scipy_s_square_root_gives(counts: tuple[int, int]) -> None:
    a, b = mixed(0, counts[0], 40), mixed(1, counts[1], 40)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-6)


def test_fewer_videos_than_features() -> None:
    """Singular covariances, of which scipy's root of the product may be complex: here through the symmetric root."""
    a, b = mixed(0, 12, 40), mixed(1, 9, 40)
    values, vectors = np.linalg.eigh(np.cov(a, rowvar=False))
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    root = np.sqrt(np.linalg.eigvalsh(half @ np.cov(b, rowvar=False) @ half).clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [10, 100])
def test_what_every_distance_does(count: int) -> None:
    a, b = mixed(0, count, 30), mixed(1, count, 30)
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance)
    assert frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9 * np.square(a).sum())
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance)
    assert frechet_distance(a + 2.0, a) == pytest.approx(30 * 4)
    assert frechet_distance(a + 1e5, b + 1e5) == pytest.approx(distance, rel=1e-6)  # far from 0: nothing is lost
    assert frechet_distance(np.c_[a, np.zeros(count)], np.c_[b, np.zeros(count)]) == pytest.approx(distance)


def test_a_model_that_diverged_has_no_distance_and_one_video_neither() -> None:
    a = mixed(0, 5, 3)
    for unknown in (np.nan, np.inf):
        assert np.isnan(frechet_distance(np.where(a > 0, unknown, a), a))
        assert np.isnan(frechet_interval(np.where(a > 0, unknown, a), a, seed=0)).all()
    with pytest.raises(UserError, match="at least 2 videos and got 1"):
        frechet_distance(a[:1], a)


def test_the_interval_is_as_wide_as_the_distance_varies() -> None:
    mix = mixed(3, 10, 10)

    def drawn(seed: int) -> tuple[Array, Array]:
        generator = np.random.default_rng(seed)
        true = generator.normal(size=(60, 10)) @ mix
        return 0.8 * true + 0.5 + 0.3 * generator.normal(size=(60, 10)), true

    distances = [frechet_distance(*drawn(seed)) for seed in range(200)]
    intervals = [frechet_interval(*drawn(seed), seed=seed, resamples=50) for seed in range(40)]
    assert np.mean([low <= np.mean(distances) <= high for _, low, high in intervals]) >= 0.85
    widths = [(high - low) / 2 / 1.96 for _, low, high in intervals]
    assert np.mean(widths) == pytest.approx(np.std(distances), rel=0.35)
    assert intervals[0][0] == distances[0]
    assert frechet_interval(*drawn(0), seed=0, resamples=50) == intervals[0]


def test_samples_of_a_video_are_drawn_together() -> None:
    """So more samples of the same videos do not make the number surer than the videos do."""
    true, noise = mixed(0, 40, 4), np.random.default_rng(1).normal(0, 0.01, (5, 40, 4))
    one, five = (frechet_interval(1.3 * true + noise[:count], true, seed=2) for count in (1, 5))
    assert five[0] == pytest.approx(frechet_distance((1.3 * true + noise).reshape(200, 4), true))
    assert five[2] - five[1] == pytest.approx(one[2] - one[1], rel=0.05)
    assert one == frechet_interval((1.3 * true + noise[0]), true, seed=2)


# --- feature nets -----------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """Says what it is given: how many videos at a time, channels, frames, height, width, the least and the largest value."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, h, w = x.shape
        facts = torch.tensor([n, c, t, h, w])
        return torch.cat([facts.to(x.dtype).expand(n, 5), x.flatten(1).amin(1)[:, None], x.flatten(1).amax(1)[:, None]], dim=1)


class Pixels(nn.Module):
    """The third colour of the second frame, as it comes."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 2, 1].flatten(1)


class Pooled(nn.Module):
    """A small net of space and time, with BatchNorm, of which eval mode matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv3d(3, 6, (2, 7, 7), stride=(1, 16, 16)), nn.BatchNorm3d(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.conv(x))).mean(dim=(3, 4)).flatten(1)


class Switched(nn.Module):
    """With the switches of i3d_torchscript.pt, and their defaults."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        return torch.tensor([rescale, resize, return_features]).to(x.dtype).expand(x.shape[0], 3)


class Picky(nn.Module):
    """Needs ten frames."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 10:
            raise RuntimeError("too short")
        return x.flatten(1)[:, :4]


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean()


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] / 0.0


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[nn.Module], Path]:
    def save(net: nn.Module) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            torch.jit.save(torch.jit.script(net), path := tmp_path / "net.pt")
        return path

    return save


def videos(*shape: int) -> Tensor:
    return torch.rand(shape or (5, 4, 3, 16, 16), generator=torch.Generator().manual_seed(1))


def test_a_net_is_given_channels_then_time_in_224_pixels_from_minus_1_to_1(saved) -> None:
    black_and_white = torch.stack([torch.zeros(4, 3, 16, 16), torch.ones(4, 3, 16, 16)])
    rows = features(saved(Given()))(black_and_white)
    assert rows == pytest.approx(np.array([[2, 3, 4, SIZE, SIZE, -1, -1], [2, 3, 4, SIZE, SIZE, 1, 1]]), abs=1e-5)
    assert rows.dtype == np.float32


def test_frames_are_stretched_as_pillow_does_it(saved) -> None:
    given = videos(2, 3, 3, 64, 48)
    rows = features(saved(Pixels()))(given).reshape(2, SIZE, SIZE)
    for video, row in zip(given, rows, strict=True):
        picture = Image.fromarray(video[1, 2].numpy()).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        assert np.abs(2 * np.asarray(picture) - 1 - row).max() < 1e-4


def test_memory_is_bounded_and_a_video_s_features_are_its_own(saved) -> None:
    given = videos(7, 4, 3, 16, 16)
    assert features(saved(Given()), frames=8)(given)[:, 0].tolist() == [2, 2, 2, 2, 2, 2, 1]
    assert features(saved(Given()), frames=1)(given)[:, 0].tolist() == [1] * 7
    net = features(saved(Pooled()))
    singles = np.concatenate([net(video[None]) for video in given])
    assert np.abs(net(given) - singles).max() < 1e-5
    assert np.abs(singles - singles.mean(axis=0)).max() > 1e-3


def test_i3d_s_switches_are_set_where_a_net_has_them(saved) -> None:
    assert features(saved(Switched()))(videos()).tolist() == [[0, 0, 1]] * 5


def test_given_videos_stay_as_they_are_also_at_the_net_s_own_size(saved) -> None:
    given = videos(1, 2, 3, SIZE, SIZE)
    kept = given.clone()
    rows = features(saved(Pixels()))(given)
    assert torch.equal(given, kept)
    assert np.abs(rows - (2 * kept[:, 1, 2].flatten(1).numpy() - 1)).max() < 1e-6
    with torch.inference_mode():
        assert np.array_equal(features(saved(Pixels()))(given.clone()), rows)


def test_autocast_changes_no_features(saved) -> None:
    net = features(saved(Pooled()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net(videos())
    assert np.array_equal(inside, net(videos()))


def test_fvd_of_drawn_frames_is_that_of_another_implementation(saved, drawn: Path) -> None:
    """Features by torch from frames stretched with Pillow; then the definition with scipy's root."""
    folders = sorted(path.parent for path in drawn.glob("*/*/*/actions.csv"))
    pictures = np.stack([[np.asarray(Image.open(f / f"{t}.png").convert("RGB")) for t in range(20)] for f in folders])
    clips = pictures.reshape(-1, 4, *pictures.shape[2:])  # of 4 frames
    true = torch.from_numpy(clips.copy()).permute(0, 1, 4, 2, 3) / 255
    predicted = (true + 0.2 * torch.rand(true.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    net, own = features(saved(Pooled())), Pooled().eval()

    def stretched(colour: Array) -> Array:
        return np.asarray(Image.fromarray(colour).resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    def other(clips_NTCHW: Tensor) -> Array:
        rows = []
        for clip in clips_NTCHW.numpy():
            large = [
                [Image.fromarray(colour).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for colour in frame] for frame in clip
            ]
            x_CTHW = torch.from_numpy(np.array([[np.asarray(c) for c in frame] for frame in large])).transpose(0, 1) * 2 - 1
            rows.append(own(x_CTHW[None]).detach().numpy()[0])
        return np.array(rows, np.float64)

    expected = by_scipy(other(predicted), other(true))
    assert expected > 1e-3
    assert frechet_distance(net(predicted), net(true)) == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_what_is_no_feature_net_is_named_in_one_line(saved, tmp_path: Path) -> None:
    text, state = tmp_path / "text.pt", tmp_path / "state.pt"
    text.write_text("no net")
    torch.save({"weight": torch.zeros(2)}, state)
    for weights, said in [
        (None, "none is named"),
        (tmp_path / "nowhere.pt", "is missing"),
        (tmp_path, "no file that can be read"),
        (text, "no TorchScript file"),
        (state, "no TorchScript file"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            features(weights)
        assert "\n" not in str(caught.value)
        assert "fvd.weights=FILE" in str(caught.value)
        assert weights is None or str(weights) in str(caught.value)


@pytest.mark.parametrize(
    ("net", "said"),
    [(Picky(), r"4 frames .*too short"), (Whole(), r"returned shape \(\)"), (Infinite(), "NaN or infinity")],
    ids=["picky", "whole", "infinite"],
)
def test_a_net_that_is_no_good_for_these_videos_is_named_in_one_line(saved, net: nn.Module, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        features(saved(net))(videos())
    assert "\n" not in str(caught.value)


def test_videos_of_a_model_that_diverged_give_what_the_net_gives(saved) -> None:
    assert np.isnan(features(saved(Pooled()))(videos() * torch.nan)).all()
