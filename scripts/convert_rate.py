"""Convert made-up BAIR records: how many a minute, how much memory, and the same result after kills.

python scripts/convert_rate.py                      # 2,000 records, 1.5 GB of TFRecords and 0.8 GB of arrays
python scripts/convert_rate.py --kills 5            # then once more, killed five times and resumed
"""

from __future__ import annotations

import argparse
import filecmp
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import psutil

from cvae.data.convert.records import example_class

FRAMES, PER_FILE, PIXELS = 30, 256, 64 * 64 * 3
SAMPLE = 0.05  # seconds between two looks at memory


def write_records(root: Path, count: int) -> None:
    """Files as BAIR has them, of pixels and numbers that no two records share."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, 4 * PIXELS * FRAMES, dtype=np.uint8)
    for split, records in (("train", count), ("test", max(1, count // 100))):
        for first in range(0, records, PER_FILE):
            path = root / split / f"traj_{first}_to_{first + PER_FILE - 1}.tfrecords"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for _ in range(first, min(first + PER_FILE, records)):
                    data = _example(noise, generator)
                    length = struct.pack("<Q", len(data))
                    file.write(length + _masked(length) + data + _masked(data))


def _example(noise: np.ndarray, generator: np.random.Generator) -> bytes:
    example = example_class()()
    feature = example.features.feature
    for t in range(FRAMES):
        for camera in ("main", "aux1"):
            start = int(generator.integers(len(noise) - PIXELS))
            feature[f"{t}/image_{camera}/encoded"].bytes_list.value.append(noise[start : start + PIXELS].tobytes())
        feature[f"{t}/action"].float_list.value.extend(generator.normal(size=4).tolist())
        feature[f"{t}/endeffector_pos"].float_list.value.extend(generator.normal(size=3).tolist())
    return bytes(example.SerializeToString())


def _masked(data: bytes) -> bytes:
    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def start(source: Path, target: Path, to: str, workers: int | None) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "cvae.data", "convert", str(source), str(target), "--to", to]
    words += [] if workers is None else ["--workers", str(workers)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def private_memory(pid: int) -> int:
    """Bytes of memory of its own (RssAnon) that a process and all its children have; 0 where the system does not tell."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def measure(source: Path, target: Path, to: str, workers: int | None) -> tuple[float, float, int]:
    """Seconds by the clock, seconds of CPU and peak memory of a conversion."""
    began, peak = time.perf_counter(), 0
    process = start(source, target, to, workers)
    while process.poll() is None:
        peak = max(peak, private_memory(process.pid))
        time.sleep(SAMPLE)
    if process.returncode:
        sys.exit(f"the conversion ended with code {process.returncode}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, peak


def killed(source: Path, target: Path, to: str, workers: int | None, kills: int, records: int) -> int:
    """Convert, killed so many times all over the work and resumed each time; returns how many kills there were."""
    done = 0
    for kill in range(1, kills + 1):
        process = start(source, target, to, workers)
        while process.poll() is None and _lines(target) < records * kill // (kills + 1):
            time.sleep(0.005)
        done += process.poll() is None
        process.kill()
        process.wait()
    if start(source, target, to, workers).wait():
        sys.exit("the last conversion failed")
    return done


def _lines(target: Path) -> int:
    try:
        return (target / ".convert" / "journal.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def differences(one: Path, other: Path) -> Iterator[str]:
    """Files that are not the same byte for byte in both folders."""
    names = {path.relative_to(root) for root in (one, other) for path in root.rglob("*") if path.is_file()}
    for name in sorted(names):
        if not all((root / name).is_file() for root in (one, other)) or not filecmp.cmp(
            one / name, other / name, shallow=False
        ):
            yield str(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--to", choices=("packed", "png"), default="packed")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--folder", help="where to work (default: a temporary folder)")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="convert_rate", dir=asked.folder))
    try:
        source, whole, resumed = (folder / name for name in ("source", "whole", "resumed"))
        write_records(source, asked.records)
        seconds, used, peak = measure(source, whole, asked.to, asked.workers)
        rate = 60 * asked.records / seconds
        print(f"{asked.records} records in {seconds:.0f} s, {used:.1f} s of CPU: {rate:.0f} a minute")
        print(f"at most {peak / 1e6:.0f} MB of private memory, all processes together")
        if asked.kills:
            kills = killed(source, resumed, asked.to, asked.workers, asked.kills, asked.records)
            changed = list(differences(whole, resumed))
            print(f"killed {kills} times and resumed: {'the same files' if not changed else f'other files: {changed}'}")
            sys.exit(bool(changed))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
