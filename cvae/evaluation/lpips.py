"""Learned perceptual image patch similarity (Zhang et al. 2018), version 0.1, by torchmetrics; less is better.

The net is ImageNet's, which torchvision publishes and the user fetches; the linear layers upon it come with torchmetrics.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvae.errors import UserError, first_line, require
from cvae.evaluation.weights import is_file, named_file, sha256_of_file

NETS = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
"""Nets and torchvision's files of their weights; eight digits in a name are the beginning of the file's SHA-256."""

_KEY = "lpips.weights"
_MAKERS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
_SMALLEST = 32  # pixels: below, the deepest layers of a net see nothing
_PIXELS = 1 << 18  # of images at a time, 64 of 64 x 64: VGG, the largest net, then takes less than 1 GB


class Lpips:
    """A metric of frames: images ``...CHW`` in [0, 1], of three colours and at least 32 x 32 pixels, to values ``...``.

    Frames go in as they are, not resized. Attributes name what a value was measured with: ``net`` and the weights' ``sha256``.
    """

    def __init__(self, weights: Path, net: str = "alex") -> None:
        from torchmetrics.functional.image import lpips as theirs

        self.net, self.sha256 = net, sha256_of_file(weights, _KEY)
        # Private there, but the public class takes no weights than those that it downloads itself.
        make: Any = theirs._NoTrainLpips
        self._model = make(net=net, pnet_rand=True)
        trunk = self._model.net
        # torchmetrics cuts torchvision's ``features`` into slices; an index keeps its number.
        names = {name: re.sub(r"^(slice\d+|slices\.\d+)\.", "features.", name) for name in trunk.state_dict()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of archives that are programs; what follows is an error
                state = torch.load(weights, map_location="cpu", weights_only=True)
            trunk.load_state_dict({name: state[source] for name, source in names.items()})
        except Exception as error:  # of many types: no archive, a pickle that runs code, another net
            why = f"{_KEY}={weights} does not hold torchvision's weights of {net} ({first_line(error)})"
            raise UserError(f"{why}: {how(net)}") from error

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        predicted, target = torch.broadcast_tensors(predicted, target)
        channels, height, width = predicted.shape[-3:]
        if channels != 3 or min(height, width) < _SMALLEST:
            got = f"{channels} x {height} x {width}"
            raise UserError(
                f"LPIPS needs frames of 3 colours and at least {_SMALLEST}x{_SMALLEST} pixels, not {got}: leave it out"
            )
        self._model.to(predicted.device)
        at_once = max(1, _PIXELS // (height * width))
        pairs = (images.reshape(-1, *images.shape[-3:]).float().split(at_once) for images in (predicted, target))
        with torch.inference_mode(), torch.autocast(predicted.device.type, enabled=False):
            values = [self._model(x, y, normalize=True).flatten() for x, y in zip(*pairs, strict=True)]
        return torch.cat(values).reshape(predicted.shape[:-3])


def lpips(weights: str | os.PathLike[str] | None = None, net: str = "alex") -> Lpips:
    """LPIPS with the weights of a file (``lpips.weights=FILE``), or with those in torch's cache, where torchvision puts them.

    Raises:
        UserError: no such net or file, a file of something else, or torchmetrics is missing; one line that says how to get it.
    """
    require(net in NETS, "lpips.net", net, f"choose {', '.join(NETS)}")
    try:
        import torchmetrics  # noqa: F401
    except ImportError:
        raise UserError("LPIPS needs torchmetrics, which is not installed: pip install 'cvae[evaluate]'") from None
    if weights is not None:
        return Lpips(named_file(weights, _KEY, how(net)), net)
    file = cached(net)
    if not is_file(file):
        raise UserError(f"LPIPS needs {file}, which is missing: {how(net)}")
    found = Lpips(file, net)
    if not found.sha256.startswith(NETS[net][-12:-4]):
        raise UserError(f"{file} is not what its name says (its SHA-256 begins with {found.sha256[:8]}): {how(net)}")
    return found


def cached(net: str) -> Path:
    """Where torch keeps the net's weights: ``~/.cache/torch/hub/checkpoints``, or what ``TORCH_HOME`` says."""
    return Path(torch.hub.get_dir(), "checkpoints", NETS[net])


def how(net: str) -> str:
    """How to get the weights of a net."""
    fetch = f"""python -c "import torchvision.models as m; m.{_MAKERS[net]}(weights='DEFAULT')\""""
    return f"where there is a network, `{fetch}` fetches it into {cached(net).parent}; or give {_KEY}=FILE"
