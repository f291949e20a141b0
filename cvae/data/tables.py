"""Which tables of conditions a data set has: those of the course layout, or what ROOT/conditions.json declares.

    {"tables": [{"file": "actions.csv", "columns": 2, "names": ["motor x", "motor y"]},
                {"file": "states.csv",  "columns": 6, "names": [...]}]}

Each sequence has these files, a row a frame. No tables at all: the data have no conditions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cvae.data.layout import TABLES
from cvae.errors import UserError
from cvae.files import Unreadable, read_json

FILE = "conditions.json"
MOST = 4096  # columns of all tables
CHOICES = ("actions_positions", "actions", "none")

Tables = Mapping[str, tuple[str, ...]]
"""The names of the columns of each file, in the order in which they stand beside each other."""


def chosen(tables: Tables, condition: str) -> list[str]:
    """The files that a choice of ``data.condition`` needs: the first ones, so that their columns are the first ones."""
    return list(tables)[: {"actions_positions": len(tables), "actions": 1, "none": 0}[condition]]


def width(tables: Tables) -> int:
    """How many values all tables have for a frame."""
    return sum(map(len, tables.values()))


def declared(tables: Tables) -> list[dict[str, Any]]:
    """The tables as JSON."""
    return [{"file": file, "columns": len(names), "names": list(names)} for file, names in tables.items()]


def write_tables(root: Path, tables: Tables) -> None:
    """Write ROOT/conditions.json where the tables are not those of the course layout."""
    if dict(tables) != TABLES:
        (root / FILE).write_text(json.dumps({"tables": declared(tables)}, indent=1) + "\n")


def read_tables(root: Path) -> Tables:
    """The tables of a data set.

    Raises:
        UserError: conditions.json cannot be read or does not say what is needed.
    """
    try:
        said = read_json(root, FILE)
    except FileNotFoundError:
        return TABLES
    except Unreadable as error:
        raise UserError(f"{root / FILE}: {error}: restore it") from error
    entries = said.get("tables") if isinstance(said, dict) else None
    try:
        return tables_in(entries)
    except ValueError as error:
        raise UserError(
            f'{root / FILE} {error}: {{"tables": [{{"file": "actions.csv", "columns": 4, "names": [...]}}]}} is needed'
        ) from error


def tables_in(entries: Any) -> dict[str, tuple[str, ...]]:
    """What ``declared`` was given; ValueError says what is wrong with other values."""
    if not isinstance(entries, list):
        raise ValueError("holds no list of tables")
    tables: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        file, columns, names = (entry.get(key) if isinstance(entry, dict) else None for key in ("file", "columns", "names"))
        if not isinstance(file, str) or not re.fullmatch(r"\w[\w -]{0,100}\.csv", file) or file in tables:
            raise ValueError(f"names the file {file!r}, where each table needs one of its own, such as actions.csv")
        if type(columns) is not int or not 1 <= columns <= MOST:
            raise ValueError(f"gives {file} {columns!r} columns, where a number from 1 to {MOST} is needed")
        names = [f"{file.removesuffix('.csv')} {column}" for column in range(1, columns + 1)] if names is None else names
        if not isinstance(names, list) or len(names) != columns or not all(isinstance(name, str) for name in names):
            raise ValueError(f"gives {file} no list of {columns} names")
        tables[file] = tuple(names)
    if width(tables) > MOST:
        raise ValueError(f"declares {width(tables)} columns, where {MOST} in all are the most")
    return tables
