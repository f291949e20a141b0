"""How a backbone's maps lie in memory; what it computes is compared in test_parity.py."""

from __future__ import annotations

import pytest
import torch

from cvae.model.backbones import dcgan64, vgg64


@pytest.mark.parametrize("make", [dcgan64, vgg64])
def test_the_stem_s_input_can_be_read_as_channels_last_alone(make) -> None:
    """Else a compiled backward pass expects the gradient of its weight in another order than cuDNN leaves it."""
    backbone, seen = make(feature_dim=6, width=1 / 32), []
    backbone.decoder.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    h_NG, skips = backbone.encoder(torch.rand(2, 3, 64, 64))
    backbone.decoder(h_NG, backbone.decoder.context(skips))
    (x_NCHW,) = seen
    assert (x_NCHW.shape, x_NCHW.stride()) == ((2, 6, 1, 1), (6, 1, 6, 6))
