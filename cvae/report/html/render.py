"""The report page: one HTML file that needs no network, made of a view of the runs."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

_PARTS = Path(__file__).with_name("assets")
# In the order of their needs: main.js starts what the others define.
_SCRIPTS = ("text", "state", "statistics", "lines", "details", "filter", "table", "groups", "curves", "films", "sweeps", "main")
_NEEDS_EVAL = ("parcoords", "gl", "splom")  # plotly draws these by regl, which compiles its drawing commands as they come


def render(view: Mapping[str, Any]) -> str:
    """The page of a view: the runs, their films and sweeps as plain data, and the text of the study's answers as HTML.

    Whatever the view's strings hold is shown as text; only ``answers["html"]`` is put in as it is.
    """
    scripts = [get_plotlyjs().replace("\r\n", "\n"), _page_script()]
    data = {key: value for key, value in view.items() if key != "answers"}
    page = (
        Environment(loader=FileSystemLoader(_PARTS), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
        .get_template("page.html")
        .render(
            title=view["title"],
            policy=_policy(scripts, live=view["live"] is not None, evaluates=_needs_eval(view["sweeps"])),
            style=Markup((_PARTS / "page.css").read_text(encoding="utf-8")),
            data=Markup(_embedded(data)),
            scripts=[Markup(script) for script in scripts],
            answers=_answers(view["answers"]),
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # file names may hold bytes that are no text


def _page_script() -> str:
    parts = [(_PARTS / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _answers(answers: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if answers is None else {"title": answers["title"], "html": Markup(answers["html"])}


def _policy(scripts: list[str], live: bool, evaluates: bool) -> str:
    """What the page may do: run its own two scripts, show images it carries; nothing comes from or goes to anywhere else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = [f"'sha256-{each}'" for each in hashes] + (["'unsafe-eval'"] if evaluates else [])
    rules = {
        "default-src": "'none'",
        "img-src": "data: blob:",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(allowed),
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _needs_eval(sweeps: list[dict[str, Any]]) -> bool:
    kinds = [trace.get("type") or "" for sweep in sweeps for each in sweep["figures"] for trace in each["figure"]["data"]]
    return any(mark in kind for kind in kinds for mark in _NEEDS_EVAL)


def _embedded(data: Any) -> str:
    """JSON that cannot end the script element it stands in; what is beyond ASCII is written as ``\\u`` escapes."""
    text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for; six digits are more than a screen shows and half the size."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(below) for below in value]
    return value
