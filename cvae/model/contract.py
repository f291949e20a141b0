"""What the model asks of parts that may be somebody else's, looked at before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cvae.errors import UserError, first_line, is_number

_SEQUENCES, _EACH = 2, 2  # k features in a row belong to each of B sequences


def check_parts(backbone: object, prior: object) -> None:
    """Raise UserError unless a backbone and a prior are modules with the members that the model uses."""
    wanted = {"encoder", "decoder", "feature_dim"}
    if not isinstance(backbone, nn.Module) or not all(hasattr(backbone, name) for name in wanted):
        raise UserError(
            f"model.backbone is a {type(backbone).__name__}: a module with encoder, decoder and feature_dim is needed, "
            "as cvae.model.backbones.dcgan64"
        )
    if not isinstance(prior, nn.Module):
        raise UserError(f"model.prior is a {type(prior).__name__}: a module is needed, as cvae.model.recurrent.StandardNormal")


def check_likelihood(likelihood: Any, dims: int) -> None:
    """Try a likelihood on one error of ``dims`` values.

    Raises:
        UserError: it fails, returns no scalar that has a gradient, or has parameters, which nobody would train.
    """
    if isinstance(likelihood, nn.Module) and any(True for _ in likelihood.parameters()):
        raise UserError("likelihood has parameters of its own, which nobody trains: put them into the model")
    try:
        loss = likelihood(torch.tensor(0.1, requires_grad=True), dims)
        sigma = likelihood.implied_sigma(1.0, dims)
    except UserError:
        raise
    except Exception as error:  # whatever a class of the user's raises
        raise UserError(f"likelihood raises {type(error).__name__}: {first_line(error)}") from error
    if not (isinstance(loss, Tensor) and loss.shape == () and loss.requires_grad):
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
        raise UserError(f"likelihood returns a {type(loss).__name__}{shape}: a scalar tensor is needed with a gradient")
    if sigma is not None and not is_number(sigma):
        raise UserError(f"likelihood.implied_sigma returns {sigma!r}: a plain number is needed, or None")


def check_prior(prior: Any, feature_dim: int, latent_dim: int) -> None:
    """Ask a prior for two stretches of steps, the second from the state that the first left. Its weights stay as they are.

    Raises:
        UserError: it fails, or returns something else than mean and log variance of each step's latent, and a state.
    """
    was_training, state = prior.training, None
    prior.eval()
    try:
        for steps in (_EACH, 1):
            h_BTG = torch.full((_SEQUENCES, steps, feature_dim), 0.5)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                found = prior(h_BTG, state)
            wanted = (_SEQUENCES, steps, latent_dim)
            several = isinstance(found, tuple) and len(found) == 3
            shapes = (
                [tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__ for each in found[:2]]
                if several
                else []
            )
            if shapes != [wanted, wanted]:
                said = " and ".join(map(str, shapes)) if several else f"a {type(found).__name__}"
                raise UserError(
                    f"model.prior returns {said} for features of shape {tuple(h_BTG.shape)}: a tuple is needed of mean and log "
                    f"variance, each of shape {wanted}, and a state, which may be None"
                )
            state = found[2]
    except UserError:
        raise
    except Exception as error:  # whatever a module of the user's raises
        raise UserError(
            f"model.prior cannot be asked with (features B x T x {feature_dim}, state) ({type(error).__name__}: "
            f"{first_line(error)}): see cvae.model.recurrent.StandardNormal"
        ) from error
    finally:
        prior.train(was_training)


def check_shapes(backbone: Any, size: int) -> None:
    """Encode and decode a few grey images of ``size`` pixels with a backbone, whose weights and statistics stay as they are.

    Raises:
        UserError: it fails, or what comes out has another shape than ``cvae.model.backbones`` asks for: a loss would broadcast.
    """
    x_NCHW = torch.full((_SEQUENCES * _EACH, 3, size, size), 0.5)
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            h_NG, skips = backbone.encoder(x_NCHW)
            context = backbone.decoder.context([skip[::_EACH] for skip in skips])
            again_NCHW = backbone.decoder(h_NG, context)
    except Exception as error:  # whatever a module of the user's raises
        raise UserError(
            f"model.backbone cannot encode and decode {len(x_NCHW)} images of {size} x {size} pixels "
            f"({type(error).__name__}: {first_line(error)}): cvae/model/backbones.py says what it is asked"
        ) from error
    finally:
        backbone.train(was_training)
    for what, found, wanted in (
        ("encoder returns features", h_NG, (len(x_NCHW), backbone.feature_dim)),
        ("decoder returns images", again_NCHW, tuple(x_NCHW.shape)),
    ):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != wanted:
            raise UserError(f"model.backbone's {what} of shape {shape} for {len(x_NCHW)} images: {wanted} is needed")
