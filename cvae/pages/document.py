"""The blocks of a page, and how they become Markdown or HTML; their strings are shown as text and never run as markup."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cvae.console import printable
from cvae.errors import write_whole, writing


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title of the page."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command or other text, shown unchanged in a fixed-width font."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells of text; columns of numbers are aligned to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG with the name of its file and a text for those who cannot see it."""

    name: str
    png: bytes
    alt: str


Block = Heading | Text | Code | Table | Picture

_NUMBER = re.compile(r"^[-+]?\d[\d.,e+-]*( \[.*\])?( .{0,6})?$|^$|^—( .{0,6})?$")
_MAX_LENGTH = 200
_HINT = "choose another file with out="


def one_line(text: object, length: int = _MAX_LENGTH) -> str:
    """A value as one line of visible text: control characters become ``\\u`` codes, a line longer than ``length`` is cut."""
    line = _visible(text)
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _visible(text: object) -> str:
    text = str(text).encode("utf-8", "backslashreplace").decode()  # a file name may not be valid text
    return printable(" ".join(text.split()))


def _lines(code: Code) -> str:
    return "\n".join(map(_visible, code.text.splitlines()))


def to_markdown(blocks: Sequence[Block], pictures: str) -> str:
    """Some blocks as Markdown; ``pictures`` is the folder of their pictures, relative to the page."""
    return "\n\n".join(_markdown(block, pictures) for block in blocks) + "\n"


def _markdown(block: Block, pictures: str) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_escaped(block.text)}"
    if isinstance(block, Text):
        return _escaped(block.text)
    if isinstance(block, Code):
        text = _lines(block)
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
        return f"{fence}\n{text}\n{fence}"
    if isinstance(block, Picture):
        return f"![{_escaped(block.alt)}]({quote(pictures + block.name)})"
    sides = ["---:" if right else "---" for right in _right(block)]
    lines = [block.header, sides, *block.rows]
    return "\n".join("| " + " | ".join(_escaped(cell) if cell not in sides else cell for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows unchanged: no markup, no HTML, no formulas, no @mentions."""
    text = _visible(text).replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
    return re.sub(r"([\\`*|~$]|\](?=\()|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def to_html(blocks: Sequence[Block]) -> str:
    """Some blocks as HTML, headings one level below those of the page's sections."""
    return "\n".join(_html(block) for block in blocks)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level + 1}>{html.escape(_visible(block.text))}</h{block.level + 1}>"
    if isinstance(block, Text):
        return f"<p>{html.escape(_visible(block.text))}</p>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(_lines(block))}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode()
        return f'<img class="picture" alt="{html.escape(block.alt)}" src="data:image/png;base64,{data}">'
    right = _right(block)

    def row(cells: Sequence[str], tag: str) -> str:
        marks = (' class="numeric"' if side else "" for side in right)
        marked = zip(cells, marks, strict=True)
        return "<tr>" + "".join(f"<{tag}{mark}>{html.escape(one_line(cell))}</{tag}>" for cell, mark in marked) + "</tr>"

    body = "".join(row(cells, "td") for cells in block.rows)
    return f'<div class="scroll"><table><thead>{row(block.header, "th")}</thead><tbody>{body}</tbody></table></div>'


def _right(table: Table) -> list[bool]:
    columns = zip(*table.rows, strict=True) if table.rows else [[] for _ in table.header]
    return [any(column) and all(_NUMBER.match(cell) for cell in column) for column in columns]


def signed(mean: float, low: float, high: float, form: str = ".2f") -> str:
    """A difference with its interval; NaN is left out."""
    return level(mean, low, high, f"+{form}")


def level(mean: float, low: float, high: float, form: str = ".2f") -> str:
    """A level with its interval; NaN is left out."""
    if math.isnan(mean):
        return "—"
    return f"{mean:{form}}" + ("" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def write_markdown(blocks: Sequence[Block], out: Path) -> None:
    """Write blocks as a Markdown file, and their pictures into ``<its name>_files`` beside it.

    Raises:
        UserError: a file cannot be written.
    """
    pictures = f"{out.stem}_files"
    with writing(out, _HINT):
        out.parent.mkdir(parents=True, exist_ok=True)
        for picture in (block for block in blocks if isinstance(block, Picture)):
            (out.parent / pictures).mkdir(exist_ok=True)
            (out.parent / pictures / picture.name).write_bytes(picture.png)
    write_whole(out, to_markdown(blocks, f"{pictures}/"), _HINT)
