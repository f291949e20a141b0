"""Strings from run folders are shown, whatever they hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cvae.report.html
from cvae import console
from cvae.pages.document import Code, Heading, Picture, Table, Text, level, signed, to_html, to_markdown

HOSTILE = [
    "_x_ ~~y~~ $z$ &lt;b&gt; @me",
    "\udcff",
    "<script>alert(1)</script>",
    "a|b",
    "`rm`",
    "[x](javascript:alert(1))",
    "a\nb",
    "\u202egnp.exe",
    "x" * 10_000,
    "\x1b[2J",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_cells_stay_cells(text):
    table = Table(["name", "value"], [[text, "1"]])
    markdown = to_markdown([table], "")
    assert len(markdown.splitlines()) == 3
    assert markdown.splitlines()[2].replace("\\|", "").count("|") == 3
    assert "x](java" not in markdown
    for page in (markdown, to_html([table])):
        assert "<script" not in page
        assert "\u202e" not in page
        assert "\x1b" not in page


def test_the_signs_that_are_named_are_those_of_the_page_s_script():
    script = (Path(cvae.report.html.__file__).with_name("assets") / "text.js").read_text()
    (signs,) = re.findall(r"const INVISIBLE = /(\[.*\])/g;", script)
    characters = [chr(code) for code in range(0x10000)]
    assert [sign for sign in characters if console._INVISIBLE.match(sign) or sign == "\n"] == [
        sign for sign in characters if re.match(signs, sign)
    ]
    for shown in (to_markdown([Text("a\u200bb"), Code("a\u009bb")], ""), to_html([Text("a\u200bb"), Code("a\u009bb")])):
        assert not {"\u200b", "\u009b"} & set(shown)


def test_markup_is_shown_as_it_stands_and_names_stay_readable():
    markdown = to_markdown([Text("_x_ kl_schedule ~~y~~ $z$ &lt; @me")], "")
    assert markdown == "\\_x\\_ kl_schedule \\~\\~y\\~\\~ \\$z\\$ &amp;lt; &#64;me\n"
    assert "\u202e" not in to_html([Text("a\u202eb"), Heading(2, "a\u202eb")])
    assert to_markdown([Picture("a.png", b"", "a")], "my report_files/") == "![a](my%20report_files/a.png)\n"


def test_hostile_code_cannot_leave_its_block():
    assert to_markdown([Code("a\n```\nb")], "").startswith("````\n")
    assert "<b>" not in to_html([Code("<b>"), Text("<b>"), Heading(2, "<b>")])


def test_numbers_stand_to_the_right():
    table = Table(["a", "b", "c"], [["x", "1.5", "+0.31 [+0.25, +0.36]"], ["y", "—", "-1"]])
    assert to_markdown([table], "").splitlines()[1] == "| --- | ---: | ---: |"


def test_what_is_unknown_is_a_dash():
    nan = float("nan")
    assert (signed(nan, nan, nan), level(nan, nan, nan)) == ("—", "—")
    assert (signed(0.5, nan, nan), level(0.5, 0.1, 0.9)) == ("+0.50", "0.50 [0.10, 0.90]")
