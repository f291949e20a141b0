"""Every kind of training step runs on a GPU without waiting for it, within a budget of launches.

Launches are kernels, copies, memsets and calls of cuBLAS, cuDNN and NCCL. PyTorch's own check of synchronisation and the
pretended runtime both refuse what makes the host wait.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.cuda

FREE, FORCED = ["tf_schedule=constant", "tfr=0"], ["tf_schedule=constant", "tfr=1"]
TINY = ["model=tiny", *FREE]
KINDS = {  # the most launches a step, and the overrides
    "vgg, forced": (505, ["model=vgg64", *FORCED]),
    "vgg, free": (3450, ["model=vgg64", *FREE]),
    "forced": (325, ["model=tiny", *FORCED]),
    "free": (1815, TINY),
    "half forced": (1190, ["model=tiny", "tf_schedule=constant", "tfr=0.5"]),
    "a coin a sequence": (705, ["model=tiny", "tf_schedule=constant", "tfr=0.5", "coin=per_sequence"]),
    "a coin a sample": (1875, ["model=tiny", "tf_schedule=constant", "tfr=0.5", "coin=per_sample"]),
    "the report's loop": (2890, ["model=tiny", "compat=course", *FREE]),
    "learned prior": (2185, [*TINY, "prior=learned", "kl_balance=0.8"]),
    "mse": (1815, [*TINY, "likelihood=mse"]),
    "sigma_optimal": (1840, [*TINY, "likelihood=sigma_optimal"]),
    "free bits": (1820, [*TINY, "free_bits=0.01"]),
    "a target for KL": (1815, [*TINY, "kl_schedule=target"]),
    "averaged weights": (1815, [*TINY, "average=0.1"]),
    "short windows": (305, [*TINY, "window_growth=1"]),
    "clipped gradients": (1830, [*TINY, "grad_clip=1"]),
    "GroupNorm": (2915, [*TINY, "model.backbone.norm=group"]),
    "checkpointing": (2540, [*TINY, "model.backbone.checkpointing=true"]),
    "fp32": (1420, [*TINY, "precision=fp32"]),
    "tf32": (1420, [*TINY, "precision=tf32"]),
    "bf16": (1815, [*TINY, "precision=bf16"]),
    "adamw": (1815, [*TINY, "optim=adamw"]),
    "sgd": (1815, [*TINY, "optim=sgd"]),
    "rmsprop": (1820, [*TINY, "optim=rmsprop"]),
    "frames on the host": (1815, [*TINY, "data.resident=host"]),
}


@pytest.fixture(scope="module")
def found(measured):
    return measured({name: words for name, (_, words) in KINDS.items()})


@pytest.mark.parametrize("name", KINDS)
def test_a_step_waits_for_nothing_and_keeps_its_budget_of_launches(found, name):
    kind = found[name]
    assert "error" not in kind, kind["where"]
    assert (kind["waits"], kind["pageable"], kind["allocations"]) == (0, 0, 0)
    most = KINDS[name][0]
    assert 0.9 * most <= kind["launches"] <= most  # a budget that is far too wide guards nothing


@pytest.mark.parametrize("name", [name for name, (_, words) in KINDS.items() if "model=vgg64" not in words])
def test_the_rest_of_a_run_has_a_budget_of_waits(found, name):
    """Validation and samples read values back; a checkpoint's values are read by its own thread, or to go on from them."""
    kind = found[name]
    assert 0 < kind["validation"] <= 5
    assert 0 < kind["samples"] <= 3
    assert 0 < kind["run"] <= 130
    assert 0 < kind["resume"] <= (375 if name == "learned prior" else 325)  # which has more weights
