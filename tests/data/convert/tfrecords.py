"""TFRecords for tests, by a writer of their own: the wire format and CRC-32C from their definitions, no library."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    _TABLE.append(_byte)


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data: bytes) -> bytes:
    """A record."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def _field(number: int, content: bytes) -> bytes:
    """A field whose content has a length."""
    size, varint = len(content), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + varint + bytes([size]) + content


def example(features: dict[str, bytes | list[float]]) -> bytes:
    """A ``tf.train.Example`` of byte strings and lists of floats."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        else:
            feature = _field(2, _field(1, struct.pack(f"<{len(value)}f", *value)))
        entries += _field(1, _field(1, key.encode()) + _field(2, feature))
    return _field(1, entries)


def features_of(k: int, frames: int, camera: str = "aux1") -> dict[str, bytes | list[float]]:
    """A record's features: pixels and numbers that no other record or frame has."""
    found: dict[str, bytes | list[float]] = {}
    for t in range(frames):
        found[f"{t}/image_{camera}/encoded"] = pixels(k, t).tobytes()
        found[f"{t}/action"] = [float(np.float32(value)) for value in (k, t, 0.1 * t, -1e-7)]
        found[f"{t}/endeffector_pos"] = [float(np.float32(value)) for value in (k / 3, t / 7, 0.5)]
    return found


def pixels(k: int, t: int) -> np.ndarray:
    """Flat patches: small as PNG, and quick to compare."""
    patch = np.random.default_rng([k, t]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.repeat(np.repeat(patch, 16, axis=0), 16, axis=1)


def draw_bair(root: Path, train: tuple[int, ...] = (4, 4), test: int = 2, frames: int = 3) -> Path:
    """A source with so many records in each file; record k of all has ``features_of(k, frames)``."""
    k = 0
    for split, counts in (("train", train), ("test", (test,))):
        for number, count in enumerate(counts):
            path = root / "softmotion30_44k" / split / f"traj_{number * 256}_to_{number * 256 + 255}.tfrecords"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(framed(example(features_of(k + i, frames))) for i in range(count)))
            k += count
    return root
