"""LPIPS against the paper's formula over torchvision's nets, with small random weights; weights that are missing or wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
import torchvision
from PIL import Image
from torch import Tensor

from cvae.errors import UserError
from cvae.evaluation.lpips import NETS, how, lpips

MODELS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
LAYERS = {"alex": [1, 4, 7, 9, 11], "vgg": [3, 8, 15, 22, 29], "squeeze": [1, 4, 7, 9, 10, 11, 12]}
SMALL_NETS = [pytest.param("alex", marks=pytest.mark.slow), "squeeze", pytest.param("vgg", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory):
    """Random weights of a net's convolutions, in torchvision's form."""
    folder = tmp_path_factory.mktemp("weights")

    def make(net: str) -> Path:
        file = folder / f"{net}.pth"
        if not file.exists():
            torch.manual_seed(0)
            trunk = getattr(torchvision.models, MODELS[net])(weights=None).features
            torch.save({f"features.{name}": value for name, value in trunk.state_dict().items()}, file)
        return file

    return make


def by_the_paper(net: str, file: Path, x_NCHW: Tensor, y_NCHW: Tensor) -> np.ndarray:
    """Equation 1 of Zhang et al. 2018: unit features, squared differences weighed, mean over places, sum over layers."""
    model = getattr(torchvision.models, MODELS[net])(weights=None)
    model.load_state_dict(torch.load(file), strict=False)
    folder = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"
    linear = torch.load(folder / f"{net}.pth", map_location="cpu")
    shift, scale = (torch.tensor(row)[:, None, None] for row in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    seen = [(2 * image - 1 - shift) / scale for image in (x_NCHW, y_NCHW)]
    total = np.zeros(len(x_NCHW))
    for index, layer in enumerate(model.features[: LAYERS[net][-1] + 1]):
        seen = [layer(each).detach() for each in seen]
        if index in LAYERS[net]:
            units = [each.double().numpy() for each in seen]
            units = [each / np.sqrt((each**2).sum(axis=1, keepdims=True) + 1e-8) for each in units]
            share = linear[f"lin{LAYERS[net].index(index)}.model.1.weight"].double().numpy()
            total += ((units[0] - units[1]) ** 2 * share).sum(axis=1).mean(axis=(1, 2))
    return total


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net", SMALL_NETS)
def test_it_is_the_formula_of_the_paper(net: str, weights, drawn: Path) -> None:
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(drawn.glob("*/*/*/7.png"))[:4]]
    frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    metric = lpips(weights(net), net)
    for x, y in [
        (noise(0, 4, 3, 64, 64), noise(1, 4, 3, 64, 64)),
        (frames, frames.roll(1, 0)),
        (frames, (frames + 0.1 * noise(2, 4, 3, 64, 64)).clamp(0, 1)),
        (noise(0, 1, 3, 32, 48), noise(1, 1, 3, 32, 48)),
    ]:
        expected = by_the_paper(net, weights(net), x, y)
        assert (expected > 1e-4).all()
        assert np.abs(metric(x, y).numpy() - expected).max() < 1e-5 + 1e-4 * expected.max()


@pytest.mark.parametrize("net", NETS)
def test_the_files_are_torchvision_s_own(net: str) -> None:
    listed = torchvision.models.get_model_weights(MODELS[net]).DEFAULT.url
    assert listed.rpartition("/")[2] == NETS[net]
    assert f"m.{MODELS[net]}(weights='DEFAULT')" in how(net)


def test_batched_is_one_by_one_and_a_sample_more_is_a_dimension_more(weights, monkeypatch) -> None:
    metric = lpips(weights("squeeze"), "squeeze")
    predicted_SBKCHW, true_BKCHW = noise(0, 3, 2, 4, 3, 32, 32), noise(1, 2, 4, 3, 32, 32)
    singles = [[[metric(x, y).item() for x, y in zip(*bs)] for bs in zip(s, true_BKCHW)] for s in predicted_SBKCHW]  # noqa: B905
    assert np.ptp(singles) > 1e-3
    for pixels in (1 << 18, 5 * 32 * 32, 1):
        monkeypatch.setattr("cvae.evaluation.lpips._PIXELS", pixels)
        values = metric(predicted_SBKCHW, true_BKCHW[None])
        assert values.shape == (3, 2, 4)
        assert np.abs(values.numpy() - np.array(singles)).max() < 1e-5


def test_the_same_image_is_0_and_autocast_and_memory_s_order_change_nothing(weights) -> None:
    metric, x, y = lpips(weights("squeeze"), "squeeze"), noise(0, 2, 3, 64, 64), noise(1, 2, 3, 64, 64)
    assert metric(x, x.clone()).tolist() == [0, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = metric(x, y)
    assert torch.equal(inside, metric(x, y))
    strided = metric(*(each.contiguous(memory_format=torch.channels_last) for each in (x, y)))
    assert torch.allclose(strided, metric(x, y), rtol=0, atol=1e-5)


def test_it_says_with_what_it_measured(weights) -> None:
    metric = lpips(weights("squeeze"), "squeeze")
    assert (metric.net, metric.sha256) == ("squeeze", hashlib.sha256(weights("squeeze").read_bytes()).hexdigest())


def test_the_usual_cache_is_looked_in_and_its_file_checked(weights, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79.pth, which is missing: .*alexnet.*lpips.weights=FILE") as caught:
        lpips()
    assert "\n" not in str(caught.value)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    content = weights("squeeze").read_bytes()
    (cache / NETS["squeeze"]).write_bytes(content)
    with pytest.raises(UserError, match="is not what its name says"):
        lpips(net="squeeze")
    monkeypatch.setitem(NETS, "squeeze", f"other-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    (cache / NETS["squeeze"]).write_bytes(content)
    assert lpips(net="squeeze")(noise(0, 3, 64, 64), noise(1, 3, 64, 64)).shape == ()


class _Code:
    def __reduce__(self):
        return print, ("a checkpoint ran code",)


def test_what_is_no_such_weights_is_named_in_one_line(weights, tmp_path: Path, capfd) -> None:
    text, code, other = tmp_path / "text.pth", tmp_path / "code.pth", tmp_path / "other.pth"
    text.write_text("no weights")
    torch.save(_Code(), code)
    torch.save(torch.zeros(3), other)
    for file, said in [
        (tmp_path / "nowhere.pth", "is missing"),
        (tmp_path, "no file that can be read"),
        (text, "does not hold"),
        (code, "does not hold"),
        (other, "does not hold"),
        (weights("alex"), "does not hold torchvision's weights of squeeze"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            lpips(file, "squeeze")
        assert str(caught.value).startswith(f"lpips.weights={file} ")
        assert "\n" not in str(caught.value)
    assert "ran code" not in capfd.readouterr().out
    with pytest.raises(UserError, match=r"lpips.net is 'resnet': choose alex, vgg, squeeze"):
        lpips(weights("alex"), "resnet")


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 16, 64)], ids=str)
def test_frames_that_a_net_cannot_take(shape: tuple[int, ...], weights) -> None:
    with pytest.raises(UserError, match="3 colours and at least 32x32 pixels"):
        lpips(weights("squeeze"), "squeeze")(noise(0, *shape), noise(1, *shape))
