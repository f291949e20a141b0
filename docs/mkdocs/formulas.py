"""A hook of MkDocs: formulas become MathML while the site is built, so that a page needs no script and no network."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(text: str, **_: Any) -> str:
    """Replace what ``pymdownx.arithmatex`` marked as LaTeX."""
    return _FORMULA.sub(_mathml, text)


def _mathml(found: re.Match[str]) -> str:
    tag, _, latex = found.groups()
    display = "block" if tag == "div" else "inline"
    long = " long" if len(latex) > 60 else ""
    formula = convert(html.unescape(latex), display=display).replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em"/>')
    return f'<{tag} class="formula{long}">{formula}</{tag}>'
