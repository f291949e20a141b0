"""A long run that is killed twenty times, also in the middle of its first checkpoint, ends as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny
from resuming import assert_same, checkpoint, finish, start, wait_for

SLOW_DISK = """
import sys, time
from pathlib import Path
import torch
from cvae.train import main

real, slow = torch.save, {slow}

def save(state, file):
    # Half of the file, a pause of which the test is told, then all of it.
    file.write(b"half")
    file.flush()
    Path({mark!r}).touch()
    time.sleep(slow)
    file.seek(0)
    real(state, file)

torch.save = save
main()
"""


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_two_hundred_epochs_killed_twenty_times_end_the_same(drawn, tmp_path):
    """Checkpoints are written beside training: it is killed during the first write, and nineteen times at any moment."""
    often = ["validate_every=20", "validate_at=[5:200:10]", "sample_every=0"]
    words = tiny(drawn, "epochs=200", "epoch_size=1", "average=0.1", *often)
    whole, run, chance = tmp_path / "whole", tmp_path / "run", random.Random(3)
    code, out = finish(start(*words, f"hydra.run.dir={whole}"))
    assert code == 0, out

    def on_a_slow_disk(slow: float, *more: str) -> tuple[subprocess.Popen[str], Path]:
        mark = tmp_path / f"{time.monotonic()}"
        return start(*more, entry=[sys.executable, "-c", SLOW_DISK.format(slow=slow, mark=str(mark))]), mark

    def lines() -> int:
        return (run / "metrics.jsonl").read_text().count("\n")

    process, mark = on_a_slow_disk(60, *words, f"hydra.run.dir={run}")
    wait_for(mark, 0, process)
    process.kill()
    process.communicate()
    assert lines() == 1
    assert not list((run / "checkpoints").glob("*.pt"))
    for _ in range(19):
        before = lines()
        process, _ = on_a_slow_disk(0.02, f"resume={run}")
        wait_for(run / "metrics.jsonl", min(before + chance.randint(1, 9), 199), process)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        saved = checkpoint(run)["epoch"] if (run / "checkpoints" / "last.pt").exists() else 0
        assert saved <= lines() <= saved + 1
    code, out = finish(start(f"resume={run}"))
    assert code == 0, out
    assert_same(run, whole)
    assert not list(run.rglob("*.partial"))
