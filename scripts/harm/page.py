"""What a report's page says: its numbers and ranking, apart from where and when it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_OF_RUN = ("name", "epoch", "epochs", "settings", "other", "best", "best_epoch", "last", "curves", "repeat", "evals")
_TIMES = ("seconds", "frames_per_second")


def view_of(page: Path) -> dict[str, Any]:
    """The page's ``runs``, ``settings``, ``sweeps`` and so on; ``text`` has all of its strings, a line each."""
    text = page.read_text(errors="replace")
    found = re.search(r'<script type="application/json" id="view">(.*?)</script>', text, re.DOTALL)
    assert found is not None, "the page has no data"
    view = json.loads(found[1])
    runs = [{key: run.get(key) for key in _OF_RUN} for run in view["runs"]]
    for run in runs:
        for name in ("last", "curves"):
            run[name] = {key: value for key, value in (run[name] or {}).items() if key not in _TIMES}
    sweeps = [{key: sweep.get(key) for key in ("name", "note", "best", "best_run", "figures")} for sweep in view["sweeps"]]
    return {
        "runs": runs,
        "objective": view["objective"],
        "settings": view["settings"],
        "common settings": view["common"],
        "sweeps": sweeps,
        "answers": view.get("answers"),
        "text": "\n".join(_strings(view)),
    }


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, child in value.items() for text in [str(key), *_strings(child)]]
    if isinstance(value, list):
        return [text for child in value for text in _strings(child)]
    return [value.replace("\n", " ")] if isinstance(value, str) else []
