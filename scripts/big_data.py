"""How long a data set of BAIR's size takes to list, to pack and to open: python scripts/big_data.py [--sequences N]

It makes a root of N sequences of 30 frames (43,264 by default, BAIR's train split) in a temporary folder: hard links to a few
sequences of the simulated world, so that every file has a name and a stat of its own. Then, each in a process of its own, it

  lists    what every start does: names, sizes and times of all files, compared with what was packed
  packs    once, with all cores; it needs 370 KB of disk a sequence
  opens    what a sweep's trial does: it takes its sweeper's word and looks at no source file

Packing 43,264 sequences takes minutes and 16 GB; --no-pack leaves it and opening out. --check times the doctor instead: what
``python -m cvae.data check`` takes on that root, with all cores. It finds copies, as the links are such.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cvae.data.store import VideoData
from cvae.data.synthetic import write_world

PATTERNS = 200  # sequences that are drawn; a file takes at most 65,000 links on common file systems
PER_FOLDER = 256
ROUNDS = 3


def make(root: Path, sequences: int) -> None:
    """ROOT/train with so many sequences, and a small ROOT/validate."""
    drawn = root.with_name("drawn")
    write_world(drawn, {"train": min(PATTERNS, sequences), "validate": 4, "test": 0}, seed=0)
    shutil.move(drawn / "validate", root / "validate")
    patterns = sorted(drawn.glob("train/*/*"))
    for number in range(sequences):
        folder = root / "train" / f"traj_{number // PER_FOLDER}" / str(number % PER_FOLDER)
        folder.mkdir(parents=True)
        source = patterns[number % len(patterns)]
        for name in os.listdir(source):  # noqa: PTH208  # a million of them: strings are faster
            os.link(f"{source}/{name}", f"{folder}/{name}")


def timed(what: str, root: Path, fingerprint: str = "") -> float:
    """Seconds that a step takes in a new process, the process's own start left out."""
    done = subprocess.run([sys.executable, __file__, "--step", what, str(root), fingerprint], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.splitlines()[-1])


def check(root: Path) -> None:
    """Time the doctor, and the processor time of all its processes."""
    began, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "cvae.data", "check", str(root), "--sheet", ""]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout.splitlines()[-1:] or not done.stdout.splitlines()[-1].startswith("problems: "):
        sys.exit(done.stderr)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"check  {time.perf_counter() - began:7.2f} s, {used:.2f} s of processor time")


def step(what: str, root: Path, fingerprint: str) -> None:
    from cvae.data.listing import list_split

    data, began = VideoData(str(root), cache_dir=str(root.parent / "cache")), time.perf_counter()
    if what == "list":
        list_split(root, "train")
    elif what == "open":
        data.expect(fingerprint)
    found = f"{len(data.train)} {data.fingerprint}" if what != "list" else ""
    seconds = time.perf_counter() - began
    print(found)
    print(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=43264)
    parser.add_argument("--no-pack", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.step:
        return step(words.step[0], Path(words.step[1]), words.step[2])
    with tempfile.TemporaryDirectory(prefix="big-data-") as folder:
        root = Path(folder) / "root"
        root.mkdir()
        make(root, words.sequences)
        print(f"{words.sequences:,} sequences, {32 * words.sequences:,} files, {os.cpu_count()} cores")
        if words.check:
            return check(root)
        rounds = sorted(timed("list", root) for _ in range(ROUNDS))
        print(f"list   {rounds[0]:7.2f} s at best, {rounds[-1]:.2f} s at worst of {ROUNDS}")
        if words.no_pack:
            return None
        print(f"pack   {timed('pack', root):7.2f} s, listing included")
        fingerprint = VideoData(str(root), cache_dir=str(root.parent / "cache")).fingerprint
        shutil.rmtree(root)  # opening needs none of it
        rounds = sorted(timed("open", root, fingerprint) for _ in range(ROUNDS))
        print(f"open   {rounds[0]:7.2f} s at best, {rounds[-1]:.2f} s at worst of {ROUNDS}, the source being gone")


if __name__ == "__main__":
    main()
