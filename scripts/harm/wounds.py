"""Ways to damage a file: by a disk, by a copy that broke off, by a hand that edits it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wound(path: Path, how: str, generator: random.Random) -> str:
    """Damage a file in a place that ``generator`` draws; return in words what was done.

    Args:
        how: ``flip`` one bit, ``cut`` it there or at a line's end, ``edit`` a line or number as a hand would, ``forge`` a
            checkpoint that is whole and cannot be true.
    """
    return {"flip": _flip, "cut": _cut, "edit": _edit, "forge": _forge}[how](path, generator)


def _flip(path: Path, generator: random.Random) -> str:
    data = bytearray(path.read_bytes())
    # Heads and tails have the most meaning for their size.
    edge = min(256, len(data))
    where = generator.choice([range(len(data)), range(edge), range(len(data) - edge, len(data)), range(len(data))])
    place, bit = generator.choice(where), generator.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} of {len(data)} flipped"


def _cut(path: Path, generator: random.Random) -> str:
    data = path.read_bytes()
    ends = [match.end() for match in re.finditer(b"\n", data)][:-1]
    place = generator.choice(ends) if ends and generator.random() < 0.5 else generator.randrange(len(data))
    path.write_bytes(data[:place])
    return f"cut from {len(data)} to {place} bytes"


def _edit(path: Path, generator: random.Random) -> str:
    lines = path.read_bytes().splitlines(keepends=True)
    number = generator.randrange(len(lines))
    name, change = generator.choice(_EDITS)
    lines[number : number + 1] = change(lines[number], generator)
    path.write_bytes(b"".join(lines))
    return f"line {number + 1} of {len(lines)}: {name}"


def _other_number(line: bytes, generator: random.Random) -> list[bytes]:
    places = [match.start() for match in re.finditer(rb"[0-9]", line)]
    if not places:
        return []
    place = generator.choice(places)
    digit = str((int(line[place : place + 1]) + generator.randrange(1, 10)) % 10).encode()
    return [line[:place] + digit + line[place + 1 :]]


_EDITS: list[tuple[str, Callable[[bytes, random.Random], list[bytes]]]] = [
    ("another digit", _other_number),
    ("another digit", _other_number),
    ("another digit", _other_number),
    ("left out", lambda line, _: []),
    ("twice", lambda line, _: [line, line]),
    ("a list before it", lambda line, _: [b"[1]\n", line]),
    ("another object before it", lambda line, _: [b'{"epocj": 1}\n', line]),
    ("not UTF-8", lambda line, _: [b"\xff\xfe" + line]),
    ("nested deeply", lambda line, _: [b"[" * 100_000 + b"\n", line]),
    ("zeros", lambda line, _: [b"\0" * len(line)]),
    ("an impossible number", lambda line, _: [re.sub(rb"[0-9][0-9.]*", b"-5", line, count=1)]),
    ("NaN", lambda line, _: [re.sub(rb"[0-9][0-9.e-]*", b"NaN", line, count=1)]),
]


def _forge(path: Path, generator: random.Random) -> str:
    import torch

    state = torch.load(path, weights_only=True)
    name, change = generator.choice(_FORGERIES)
    change(state)
    torch.save(state, path)
    return name


def _nan_weight(state: dict[str, Any]) -> None:
    next(tensor for tensor in state["model"].values() if tensor.is_floating_point()).view(-1)[0] = float("nan")


def _other_weight(state: dict[str, Any]) -> None:
    next(tensor for tensor in state["model"].values() if tensor.is_floating_point()).view(-1)[0] += 1


_FORGERIES: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("epoch -5", lambda state: state.update(epoch=-5)),
    ("iteration 99", lambda state: state.update(iteration=99)),
    ("epoch 10**9", lambda state: state.update(epoch=10**9)),
    ("epoch a text", lambda state: state.update(epoch="three")),
    ("best a text", lambda state: state.update(best="good")),
    ("a weight is NaN", _nan_weight),
    ("another weight", _other_weight),
    ("no optimizer", lambda state: state.pop("optimizer")),
    ("a weight too few", lambda state: state["model"].popitem()),
    ("elapsed a list", lambda state: state.update(elapsed=json.loads("[1]"))),
]
