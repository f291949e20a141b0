"""Render the page: one HTML file that needs no network, made of the data, ``assets/`` and Plotly."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

_PARTS = Path(__file__).with_name("assets")
# Each may use what the ones before it define; main.js starts the page and comes last.
_SCRIPTS = "text state statistics lines plots details filter table groups curves videos sweeps main"
_NEEDS_EVAL = ("parcoords", "gl", "splom")  # Plotly draws these by regl, which compiles code at run time


def render(view: Mapping[str, Any]) -> str:
    """The page that shows the values of ``page_data``.

    All strings are shown as text, whatever they hold, except ``answers["html"]``, which becomes part of the page.
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
            data=htmlsafe_json_dumps(_finite(data), separators=(",", ":"), allow_nan=False),  # cannot end its element
            scripts=[Markup(script) for script in scripts],
            answers=view["answers"],
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # file names may not be valid text


def _page_script() -> str:
    parts = [(_PARTS / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS.split()]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _policy(scripts: list[str], live: bool, evaluates: bool) -> str:
    """The Content-Security-Policy: the page runs its own two scripts, shows images inside it, and contacts no other place."""
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


def _finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks, and floats cut to six digits, which halves the page."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child) for child in value]
    return value
