"""The table of docs/reliability.md."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from harm.cases import Outcome

_TITLES = {
    "kills": "Kills and signals",
    "damage": "Damaged files",
    "disk": "Disks that are full or read-only",
    "writers": "Two writers",
    "messages": "Places that cannot be",
    "hostile": "Folders of strangers",
}
# What must not be, named where it was not met too.
_NEVER = ("traceback", "unclear", "hang", "died", "error")
_NEVER_OF = {
    "kills": ("different", "lost"),
    "damage": ("silent", "different"),
    "disk": ("different", "lost"),
    "writers": ("mixed",),
    "hostile": ("executions", "connections", "files outside", "secrets told", "words to paste"),
}


def table(found: Sequence[Outcome]) -> str:
    """Markdown: a row for each kind of harm with what came of it, and lines with the counts that the promises are about."""
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in found:
        kind, row, _ = outcome.case.split("/", 2)
        rows.setdefault((kind, row), []).append(outcome)
    lines = ["| harm | to | cases | what came of it | broken |", "| --- | --- | ---: | --- | ---: |"]
    order = list(_TITLES)
    for (kind, row), outcomes in sorted(rows.items(), key=lambda item: (_rank(item[0][0], order), item[0][1])):
        counts = _counts(outcome.verdict for outcome in outcomes)
        broken = sum(bool(outcome.broken) for outcome in outcomes)
        lines.append(f"| {_TITLES.get(kind, kind)} | {row} | {len(outcomes)} | {counts} | {broken} |")
    return "\n".join([*lines, "", *filter(None, (_total(kind, found) for kind in _TITLES))])


def _total(kind: str, found: Sequence[Outcome]) -> str:
    """What a kind's promise is about, with the words that must be 0 named; empty if no case was of this kind."""
    of_kind = [outcome for outcome in found if outcome.case.startswith(f"{kind}/")]
    controls = [outcome for outcome in of_kind if outcome.case.startswith(f"{kind}/control")]
    harms = [outcome for outcome in of_kind if outcome not in controls]
    if not of_kind:
        return ""
    said = collections.Counter(word for outcome in harms for word in (outcome.verdict, *outcome.marks))
    named = dict.fromkeys((*_NEVER, *_NEVER_OF.get(kind, ()), *said))
    counts = ", ".join(f"{said[word]} {word}" for word in named)
    counted = sum(outcome.verdict == "counted" for outcome in controls)
    return f"- {_TITLES[kind]}: {len(harms)} cases: {counts}; {counted} of {len(controls)} controls counted"


def _rank(kind: str, order: list[str]) -> int:
    return order.index(kind) if kind in order else len(order)


def _counts(words: object) -> str:
    counted = collections.Counter(words)
    return ", ".join(f"{number} {word}" for word, number in counted.most_common())
