"""Conditional VAEs for action-conditioned video prediction.

Shape legend, used as name suffixes throughout:

    B batch      T time (frames of a window)      K time (scored steps)      N any number of images
    C H W image channels, height, width           A condition (action and gripper position)
    G frame feature                               Z latent

so that ``frames_BTCHW`` is a batch of windows and ``mu_BKZ`` the posterior means of its scored steps.
Images are float in [0, 1], or uint8 with channels last (``frames_BTHWC``) before they reach the device.

``cvae.load(RUN)`` is a trained model that predicts: see ``cvae.prediction.predictor``.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """``cvae.load``, found when it is first used: importing the package imports no torch."""
    if name == "load":
        return importlib.import_module("cvae.prediction.predictor").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
