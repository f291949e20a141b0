"""``compile=graphs``: from its third use on a pattern of forcing is one launch; only what changes is copied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.cuda

FREE, FORCED = ["tf_schedule=constant", "tfr=0"], ["tf_schedule=constant", "tfr=1"]
TINY = ["model=tiny", "compile=graphs", *FREE]
KINDS = {
    "forced": ["model=tiny", "compile=graphs", *FORCED],
    "free": TINY,
    "vgg, free": ["model=vgg64", "batch_size=2", "compile=graphs", *FREE],
    "a coin a sample": [*TINY, "tfr=0.5", "coin=per_sample"],
    "the report's loop": [*TINY, "compat=course", "kl_schedule=monotonic"],
    "learned prior": [*TINY, "prior=learned", "kl_balance=0.8"],
    "no target for KL": [*TINY, "kl_schedule=cyclical"],
    "no averaged weights": [*TINY, "average=0"],
    "sigma_optimal": [*TINY, "likelihood=sigma_optimal"],
    "free bits": [*TINY, "free_bits=0.01"],
    "clipped gradients": [*TINY, "grad_clip=1"],
    "GroupNorm": [*TINY, "model.backbone.norm=group"],
    "checkpointing": [*TINY, "model.backbone.checkpointing=true"],
    "fp32": [*TINY, "precision=fp32"],
    "adamw": [*TINY, "optim=adamw"],
    "rmsprop": [*TINY, "optim=rmsprop"],
    "frames on the host": [*TINY, "data.resident=host"],
}


@pytest.fixture(scope="module")
def found(measured):
    return measured(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_one_launch_and_a_few_copies(found, name):
    kind = found[name]
    assert "error" not in kind, kind["where"]
    assert (kind["waits"], kind["pageable"], kind["allocations"]) == (0, 0, 0)
    assert 5 <= kind["launches"] <= (12 if name == "a coin a sample" else 11)  # its coins are copied too


@pytest.mark.parametrize(("model", "fewer"), [("vgg64", 190), ("small", 100)])
def test_deferred_gradients_are_fewer_launches_in_about_the_same_memory(process, model, fewer):
    words = [f"model={model}", "kl_schedule=monotonic", *FREE]
    said = process(str(Path(__file__).with_name("memory.py")), *words)
    found = json.loads(said.partition("FOUND")[2])
    (least, _), (_, at_once), (most, deferred) = (found[name] for name in ("alone", "at once", "deferred"))
    assert most <= 1.2 * least
    assert deferred <= at_once - fewer
