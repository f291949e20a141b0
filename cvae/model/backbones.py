"""Image encoders and decoders for 64x64 frames with skip connections (SVG, Denton & Fergus 2018).

An encoder maps ``x_NCHW`` to a feature ``h_NG`` and four skip maps, finest first; a decoder maps a feature and such skips
back to an image. ``width`` scales every channel count but the feature's; ``norm`` is ``batch`` (SVG) or ``group``.

A backbone of your own is an ``nn.Module`` of which ``CVAE`` asks four things:

- ``feature_dim``: the length G of a feature.
- ``encoder(x_NCHW)`` returns ``h_NG`` and a list of skip maps ``NCHW``, of any number and size, for images in [0, 1].
- ``decoder.context(skips)`` takes such a list for B sequences and returns what the decoder uses of it, in any form. It is
  called once for many frames, so what depends on the skips alone is best computed here.
- ``decoder(g_NG, context)`` returns images ``x_NCHW`` in [0, 1] for features in [-1, 1]. N = B * k: k features of the first
  sequence come first, then k of the second, so sequence b of the context belongs to rows b * k to b * k + k - 1.

An encoder or decoder that switches autocast off nowhere may have ``autocast_throughout = True``: on a GPU the weights of its
convolutions are then cast to bf16 together.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cvae.errors import require
from cvae.model.norms import Chain
from cvae.model.together import as_before, lent_weights

__all__ = ["Backbone", "Decoder", "Encoder", "dcgan64", "vgg64"]

Skips = list[Tensor]
_Conv = nn.Conv2d | nn.ConvTranspose2d


class Encoder(nn.Module):
    """Four stages whose outputs are the skips, then a head down to one feature vector."""

    autocast_throughout = True

    def __init__(self, stages: Sequence[nn.Module], head: nn.Module, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.stages = nn.ModuleList(stages)
        self.head = head

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Skips]:
        """Return ``h_NG`` in [-1, 1] and the four skip maps, finest first."""
        skips: Skips = []
        for stage in self.stages:
            x_NCHW = _run(stage, self.checkpointing, x_NCHW)
            skips.append(x_NCHW)
        return self.head(x_NCHW).flatten(1), skips


@dataclass(frozen=True)
class StageContext:
    """What a decoder stage takes from the past of B sequences, whatever it decodes next: computed once."""

    weight: Tensor  # of the convolution over the map
    summed: bool  # whether the weight is the 4x4 one of ``summed_taps``
    term_BCHW: Tensor  # the skip's share of the convolution, bias included


class SkipStage(nn.Module):
    """A decoder stage that begins with a convolution over a map beside a skip: ``rest(conv(cat(x, skip)))``.

    Two identities, both exact, save most of that convolution's work; weights stay those of the published layer:

    - It is linear, so conv(cat(x, skip)) = conv_x(x) + conv_skip(skip) with the two halves of one weight. The second term is
      the same for every frame decoded with these skips and is computed once for all of them.
    - With ``upsample``, x is a map doubled by nearest neighbours. A 3x3 convolution over it meets each small pixel several
      times: it is a transposed 4x4 convolution with stride 2 over the small map, whose taps are sums of the 3x3 ones (in one
      dimension w2, w1 + w2, w0 + w1, w0), with 4/9 of the multiplications.
    """

    def __init__(self, conv: _Conv, rest: nn.Module, upsample: bool = False) -> None:
        super().__init__()
        self.conv = conv
        self.rest = rest
        self.upsample = upsample

        self.taps_PQ: Tensor | None
        self.register_buffer("taps_PQ", tap_sums() if upsample else None, persistent=False)

    def in_order(self) -> list[nn.Module]:
        """The layers that a map goes through, up to the first block."""
        return [self.conv, *(self.rest if isinstance(self.rest, nn.Sequential) else [self.rest])]

    def halves(self, skip_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The weights for a map beside this skip, and for the skip."""
        of_map, of_skip = self.conv.weight.chunk(2, dim=0 if isinstance(self.conv, nn.ConvTranspose2d) else 1)
        if self.taps_PQ is not None and self._sums(skip_BCHW):
            of_map = summed_taps(of_map, self.taps_PQ)
        return of_map, of_skip

    def _sums(self, skip_BCHW: Tensor) -> bool:
        # Measured on a CPU, forward and backward (docs/results.md): on 4x4 maps, all border, the 4x4 form is the slower one.
        # On GPUs nothing is measured; they take the form with fewer multiplications.
        return self.upsample and (skip_BCHW.shape[-1] > 8 or skip_BCHW.device.type != "cpu")

    def context(self, skip_BCHW: Tensor, of_map: Tensor, of_skip: Tensor) -> StageContext:
        """Prepare the stage for frames that are decoded with this skip, given its ``halves``."""
        return StageContext(of_map, self._sums(skip_BCHW), _convolved(self.conv, skip_BCHW, of_skip, self.conv.bias))

    def forward(self, x_NCHW: Tensor, context: StageContext) -> Tensor:
        """Decode N = B * k maps, k in a row for each of the B sequences that ``context`` is of."""
        if context.summed:
            y_NCHW = nn.functional.conv_transpose2d(x_NCHW, context.weight, None, stride=2, padding=1)
        else:
            if self.upsample:
                x_NCHW = nn.functional.interpolate(x_NCHW, scale_factor=2, mode="nearest")
            y_NCHW = _convolved(self.conv, x_NCHW, context.weight)
        y_NCHW = (torch.unflatten(y_NCHW, 0, (len(context.term_BCHW), -1)) + context.term_BCHW[:, None]).flatten(0, 1)
        out_NCHW: Tensor = self.rest(y_NCHW)
        return out_NCHW


def _convolved(conv: _Conv, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What ``conv`` does, with a part of its weight."""
    function = nn.functional.conv_transpose2d if isinstance(conv, nn.ConvTranspose2d) else nn.functional.conv2d
    return function(x_NCHW, weight, bias, conv.stride, conv.padding)  # type: ignore[arg-type]  # names are for conv2d alone


def summed_taps(weight_OIHW: Tensor, taps_PQ: Tensor) -> Tensor:
    """The 4x4 stride-2 transposed weight ``IOHW`` that equals nearest x2 followed by this 3x3 one (padding 1 both)."""
    with torch.autocast(weight_OIHW.device.type, enabled=False):  # sums of rounded taps would be rounded twice
        weight_OPI = torch.bmm(taps_PQ.expand(len(weight_OIHW), -1, -1), weight_OIHW.permute(0, 2, 3, 1).flatten(1, 2))
    return torch.unflatten(weight_OPI.permute(2, 1, 0).contiguous(), 1, (4, 4)).permute(0, 3, 1, 2)


def tap_sums() -> Tensor:
    """Which of the 9 taps of a 3x3 weight each of the 16 of ``summed_taps`` adds up."""
    of_row = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    return torch.kron(of_row, of_row)


class Decoder(nn.Module):
    """A stem from the feature to a 4x4 map, then four stages, each fed the map and the skip of its size."""

    autocast_throughout = True

    def __init__(self, stem: nn.Module, stages: Sequence[SkipStage], checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def context(self, skips: Skips) -> list[StageContext]:
        """Prepare for frames that are decoded with the encoder's skips (finest first) of B sequences."""
        pairs: list[tuple[Any, Tensor]] = [*zip(self.stages, reversed(skips), strict=True)]
        weights = iter(lent_weights(self, [half for stage, skip in pairs for half in stage.halves(skip)]))
        return [stage.context(skip, next(weights), next(weights)) for stage, skip in pairs]

    def forward(self, g_NG: Tensor, context: list[StageContext]) -> Tensor:
        """Return images ``x_NCHW`` in [0, 1]; ``context`` is of B sequences with N = B * k features, k in a row for each."""
        # As a map whose memory is plainly channels last: the strides of g_NG[:, :, None, None] can be read either way, and then
        # a compiler and a library disagree on how the gradient of the stem's weight lies in memory.
        x_NCHW = self.stem(g_NG[:, None, None, :].permute(0, 3, 1, 2))
        for stage, of_stage in zip(self.stages, context, strict=True):
            x_NCHW = _run(stage, self.checkpointing, x_NCHW, of_stage)
        # bf16 near 1 has steps of 1/256: the sigmoid is taken in full precision, so that an image is not quantised twice.
        return torch.sigmoid(x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32)))


class Backbone(nn.Module):
    """An encoder, the decoder that mirrors it, and the length G of the feature between them.

    With ``checkpointing`` a training step keeps only what passes between their stages and computes the inside of each once
    more in the backward pass (Chen et al. 2016): the same gradients from less memory, for about a third more work.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, feature_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.feature_dim = feature_dim
        self.apply(_initialise)


def vgg64(feature_dim: int = 128, width: float = 1.0, norm: str = "batch", checkpointing: bool = False) -> Backbone:
    """SVG's VGG-16-like encoder and decoder; at width 1 nearly all of the model's 22.24 M parameters."""
    c64, c128, c256, c512 = _channels(width, feature_dim)

    def block(*channels: int, pool: bool = False) -> nn.Sequential:
        convs = [_conv_block(nn.Conv2d(i, o, 3, padding=1), norm) for i, o in pairwise(channels)]
        return nn.Sequential(*([nn.MaxPool2d(2)] if pool else []), *convs)

    def first(i: int, o: int, rest: nn.Module) -> SkipStage:
        return SkipStage(nn.Conv2d(i, o, 3, padding=1), nn.Sequential(*_norm_and_activation(o, norm), rest), upsample=True)

    encoder = Encoder(
        [
            block(3, c64, c64),  # 64
            block(c64, c128, c128, pool=True),  # 64 -> 32
            block(c128, c256, c256, c256, pool=True),  # 32 -> 16
            block(c256, c512, c512, c512, pool=True),  # 16 -> 8
        ],
        Chain(nn.MaxPool2d(2), *_head(c512, feature_dim, norm)),  # 8 -> 4 -> 1
        checkpointing,
    )
    decoder = Decoder(
        _conv_block(nn.ConvTranspose2d(feature_dim, c512, 4), norm),  # 1 -> 4
        [
            first(2 * c512, c512, block(c512, c512, c256)),  # 8
            first(2 * c256, c256, block(c256, c256, c128)),  # 16
            first(2 * c128, c128, block(c128, c64)),  # 32
            first(2 * c64, c64, nn.ConvTranspose2d(c64, 3, 3, padding=1)),  # 64
        ],
        checkpointing,
    )
    return Backbone(encoder, decoder, feature_dim)


def dcgan64(feature_dim: int = 128, width: float = 1.0, norm: str = "batch", checkpointing: bool = False) -> Backbone:
    """SVG's DCGAN encoder and decoder: one strided convolution a stage, several times cheaper than VGG."""
    c64, c128, c256, c512 = _channels(width, feature_dim)

    def down(i: int, o: int) -> nn.Sequential:
        return _conv_block(nn.Conv2d(i, o, 4, stride=2, padding=1), norm)

    def up(i: int, o: int) -> SkipStage:
        conv = nn.ConvTranspose2d(i, o, 4, stride=2, padding=1)
        return SkipStage(conv, nn.Identity() if o == 3 else nn.Sequential(*_norm_and_activation(o, norm)))

    encoder = Encoder(
        [down(3, c64), down(c64, c128), down(c128, c256), down(c256, c512)],  # 64 -> 32 -> 16 -> 8 -> 4
        Chain(*_head(c512, feature_dim, norm)),  # 4 -> 1
        checkpointing,
    )
    decoder = Decoder(
        _conv_block(nn.ConvTranspose2d(feature_dim, c512, 4), norm),  # 1 -> 4
        [
            up(2 * c512, c256),  # 4 -> 8
            up(2 * c256, c128),  # 8 -> 16
            up(2 * c128, c64),  # 16 -> 32
            up(2 * c64, 3),  # 32 -> 64
        ],
        checkpointing,
    )
    return Backbone(encoder, decoder, feature_dim)


def _run(stage: nn.Module, checkpointing: bool, *inputs: object) -> Tensor:
    if checkpointing and torch.is_grad_enabled():
        out: Tensor = checkpoint(
            stage,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in a stage is random
            context_fn=lambda: (
                contextlib.nullcontext(),
                as_before(stage),
            ),
        )
    else:
        out = stage(*inputs)
    return out


def _channels(width: float, feature_dim: int) -> tuple[int, int, int, int]:
    valid = isinstance(width, (int, float)) and 0 < width <= 8
    require(valid, "model.backbone.width", width, "give a factor in (0, 8], 1 for the paper's channels")
    valid = isinstance(feature_dim, int) and feature_dim >= 1
    require(valid, "model.backbone.feature_dim", feature_dim, "give a whole number of at least 1")
    c64, c128, c256, c512 = (max(1, round(width * base)) for base in (64, 128, 256, 512))
    return c64, c128, c256, c512


def _conv_block(conv: _Conv, norm: str) -> Chain:
    return Chain(conv, *_norm_and_activation(conv.out_channels, norm))


def _norm_and_activation(channels: int, norm: str) -> tuple[nn.Module, nn.Module]:
    return _norm(channels, norm, groups=math.gcd(channels, 8)), nn.LeakyReLU(0.2, inplace=True)


def _head(channels: int, feature_dim: int, norm: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    # A 1x1 map has no spatial extent to normalise over: GroupNorm with one group is LayerNorm over the feature.
    return nn.Conv2d(channels, feature_dim, 4), _norm(feature_dim, norm, groups=1), nn.Tanh()


def _norm(channels: int, norm: str, groups: int) -> nn.Module:
    require(norm in ("batch", "group"), "model.backbone.norm", norm, "choose batch or group")
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(groups, channels)


def _initialise(module: nn.Module) -> None:
    """SVG's initialisation: convolutions N(0, 0.02), norms N(1, 0.02), every bias 0."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(module.weight, float(isinstance(module, (nn.BatchNorm2d, nn.GroupNorm))), 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
