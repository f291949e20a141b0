"""Conditional VAEs for action-conditioned video prediction.

Shape legend, used as name suffixes throughout:

    B batch      T time (frames of a window)      K time (scored steps)      N any number of images
    C H W image channels, height, width           A condition (action and gripper position)
    G frame feature                               Z latent

so that ``frames_BTCHW`` is a batch of windows and ``mu_BKZ`` the posterior means of its scored steps.
Images are float in [0, 1], or uint8 with channels last (``frames_BTHWC``) before they reach the device.

``cvae.load(RUN)`` is a trained model that predicts: see ``cvae.prediction.predictor``.
"""

__version__ = "0.2.0"

TYPE_CHECKING = False  # as in typing, which is not imported: importing the package imports nothing
if TYPE_CHECKING:
    from cvae.prediction.predictor import load as load


def __getattr__(name: str) -> object:
    """``cvae.load``, found when it is first used."""
    if name == "load":
        from importlib import import_module

        return import_module("cvae.prediction.predictor").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
