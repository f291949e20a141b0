"""What is found of somebody else's backbone before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cvae.errors import UserError
from cvae.model.backbones import Backbone, dcgan64
from cvae.model.contract import check_shapes


def own(change: Callable[[Backbone], object]) -> Backbone:
    backbone = dcgan64(feature_dim=6, width=1 / 32)
    change(backbone)
    return backbone


def one_channel(backbone: Backbone) -> None:
    backbone.decoder.register_forward_hook(lambda module, inputs, x_NCHW: x_NCHW[:, :1])


def wide_features(backbone: Backbone) -> None:
    backbone.feature_dim = 8


def no_skips(backbone: Backbone) -> None:
    backbone.encoder.register_forward_hook(lambda module, inputs, found: found[0])


def a_row_a_sequence(backbone: Backbone) -> None:
    backbone.decoder.register_forward_hook(lambda module, inputs, x_NCHW: x_NCHW[::2])


def a_bug(backbone: Backbone) -> None:
    def fail(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise KeyError("boom")

    backbone.encoder.register_forward_pre_hook(fail)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_channel, r"decoder returns images of shape \(4, 1, 64, 64\) for 4 images: \(4, 3, 64, 64\) is needed"),
        (a_row_a_sequence, r"decoder returns images of shape \(2, 3, 64, 64\) for 4 images"),
        (wide_features, r"encoder returns features of shape \(4, 6\) for 4 images: \(4, 8\) is needed"),
        (no_skips, r"model\.backbone cannot encode and decode 4 images of 64 x 64 pixels"),
        (a_bug, r"\(KeyError: 'boom'\)"),
    ],
)
def test_a_backbone_that_cannot_be_rolled_out_is_named(change, said) -> None:
    with pytest.raises(UserError, match=said):
        check_shapes(own(change), 64)


def test_a_look_at_a_backbone_changes_nothing() -> None:
    backbone = own(lambda _: None)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    chance = torch.random.get_rng_state()
    check_shapes(backbone, 64)
    assert backbone.training
    assert torch.equal(torch.random.get_rng_state(), chance)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
