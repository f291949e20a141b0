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
    totals = []
    for kind, title in _TITLES.items():
        of_kind = [outcome for outcome in found if outcome.case.startswith(kind + "/") and "/control" not in outcome.case]
        controls = [outcome for outcome in found if outcome.case.startswith(kind + "/control")]
        if of_kind or controls:
            marks = _counts(mark for outcome in of_kind for mark in outcome.marks)
            verdicts = _counts(outcome.verdict for outcome in of_kind)
            counted = sum(outcome.verdict == "counted" for outcome in controls)
            totals.append(
                f"- {title}: {len(of_kind)}: {verdicts}{f' ({marks})' if marks else ''}; {counted} of {len(controls)} controls counted"
            )
    return "\n".join([*lines, "", *totals])


def _rank(kind: str, order: list[str]) -> int:
    return order.index(kind) if kind in order else len(order)


def _counts(words: object) -> str:
    counted = collections.Counter(words)  # type: ignore[call-overload]
    return ", ".join(f"{number} {word}" for word, number in counted.most_common())
