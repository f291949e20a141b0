"""A model from its config and its weights alone: no data are needed, since the weights hold the conditions' statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from cvae.config import build
from cvae.errors import UserError
from cvae.model.cvae import CVAE
from cvae.training.state import check_weights


def restored(cfg: DictConfig, weights: object, path: Path) -> CVAE:
    """The model that ``cfg`` describes with ``weights``, in eval mode on the CPU; the width A is that of the weights.

    Args:
        cfg: its ``allow_targets`` are the user's own.
        weights: the state dict of a checkpoint or of an exported file.
        path: where they come from, for messages.

    Raises:
        UserError: they are no weights, not finite, or those of another model.
    """
    mean_A = weights.get("cond_mean_A") if isinstance(weights, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(mean_A, Tensor) or mean_A.dim() != 1:
        raise UserError(
            f"{path} holds no weights of a model of this package; scripts/import_course_checkpoint.py reads those of SVG"
        )
    weights = {str(name): value for name, value in weights.items()}

    def built() -> CVAE:
        model: CVAE = build(cfg.model, cfg.allow_targets, CVAE, cond_dim=len(mean_A))
        return model

    with torch.random.fork_rng(devices=[]):  # initial values are drawn and thrown away: the caller's numbers stay the same
        outline = _outline(built)
        try:
            if outline is not None:
                check_weights(weights, outline)
            model = built()
            if outline is None:
                check_weights(weights, model)
        except ValueError as error:
            raise UserError(f"{path} is damaged or of another config ({error}): restore both from a copy") from error
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval()


def _outline(built: Callable[[], CVAE]) -> CVAE | None:
    """The model without memory for its weights: a stranger's config may ask for more than there is.

    None if it cannot be had: a part of the user's own may need the values of its weights when it is built.
    """
    with contextlib.suppress(UserError), torch.device("meta"):
        return built()
    return None
