"""The pretended runtime refuses what it should: a stub that accepts everything proves nothing."""

from __future__ import annotations

import textwrap

import pytest

pytestmark = pytest.mark.cuda

SEEDED = """
import json, sys, runpy
import torch
from cvae.training.trainer import Trainer
real = Trainer.step
def step(self, *batch):
    losses = real(self, *batch)
    {seed}
    return losses
Trainer.step = step
sys.argv = ["steps.py", json.dumps({{"seeded": ["model=tiny", "tf_schedule=constant"]}})]
runpy.run_path({path!r}, run_name="__main__")
"""

CAPTURING = """
import concurrent.futures, ctypes, os, sys, torch
runtime, place = ctypes.CDLL(None), ctypes.c_void_p()
runtime.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(64))
spare = place.value
def refused():
    raise RuntimeError("cudaFree")
x, kept = torch.ones(8, device="cuda"), torch.ones(8).pin_memory()
before, another = torch.cuda.Event(), concurrent.futures.ThreadPoolExecutor()
before.record()
graph = torch.cuda.CUDAGraph()
def captured():
    with torch.cuda.graph(graph, capture_error_mode="{mode}"):
        y = x + 1
        {body}
try:
    captured()
except RuntimeError as error:
    print("REFUSED", str(error).splitlines()[0])
else:
    graph.replay()
    print("TAKEN")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        ("losses.total.item()", "called a synchronizing CUDA operation"),
        ("torch.ones(3).to(self.device, non_blocking=True)", "not pinned"),
        ("torch.cuda.synchronize()", ""),
    ],
)
def test_a_step_that_waits_is_found(process, tmp_path, seed, said):
    script = tmp_path / "seeded.py"
    script.write_text(SEEDED.format(seed=seed, path=str(__file__).replace("test_pretended.py", "steps.py")))
    (found,) = [line for line in process(str(script)).splitlines() if line.startswith("FOUND ")]
    assert said in found
    assert '"error"' in found if said else '"waits": 1.0' in found


BODIES = {  # what a graph is to hold, and whether it can
    "nothing": ("pass", True),
    "a pinned copy": ("y.copy_(kept, non_blocking=True)", True),
    "a value read back": ("y.sum().item()", False),
    "a wait for the device": ("torch.cuda.synchronize()", False),
    "a wait for a stream": ("torch.cuda.current_stream().synchronize()", False),
    "a pageable copy": ("y.copy_(torch.ones(8))", False),
    "a pageable copy that nothing waits for": ("y.copy_(torch.ones(8), non_blocking=True)", False),
    "a copy to the host": ("y.cpu()", False),
    "work on the legacy stream": ("with torch.cuda.stream(torch.cuda.default_stream()): x.add_(1)", False),
    "freed memory": ("runtime.cudaFree(ctypes.c_void_p(spare)) and refused()", False),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_no_graph_can_hold_is_refused_while_capturing(process, tmp_path, name):
    body, taken = BODIES[name]
    script = tmp_path / "capture.py"
    script.write_text(textwrap.dedent(CAPTURING.format(body=body, mode="global")))
    said = process(str(script))
    assert said.startswith("TAKEN" if taken else "REFUSED"), said


@pytest.mark.parametrize(("mode", "said"), [("thread_local", "TAKEN"), ("global", "REFUSED")])
def test_another_thread_may_wait_for_what_came_before_a_capture_of_one_thread(process, tmp_path, mode, said):
    """So a checkpoint is copied while a step is captured."""
    script = tmp_path / "capture.py"
    script.write_text(CAPTURING.format(body="another.submit(before.synchronize).result()", mode=mode))
    assert process(str(script)).startswith(said)
