"""The page as text: what is in it, and that nothing in it can get out of its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time

import pytest
import views

from cvae.report.html.render import render

_DATA = re.compile(r'<script type="application/json" id="view">(.*?)</script>', re.S)
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.S)


def policy(html: str) -> str:
    (found,) = re.findall(r'Content-Security-Policy" content="(.*?)"', html)
    return found.replace("&#39;", "'")


def embedded(html: str) -> dict:
    (found,) = _DATA.findall(html)
    return json.loads(found)


@pytest.fixture(scope="module")
def page() -> str:
    return render(views.study())


def test_the_data_come_back_as_they_went_in():
    view = views.study()
    found = embedded(render(view))
    assert [run["settings"] for run in found["runs"]] == [run["settings"] for run in view["runs"]]
    assert found["runs"][0]["curves"]["val/psnr"] == pytest.approx(view["runs"][0]["curves"]["val/psnr"], rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_in_json_becomes_null(value):
    view = views.study()
    view["runs"][0].update(best=value)
    view["runs"][0]["curves"]["val/psnr"][3] = value
    run = embedded(render(view))["runs"][0]
    assert run["best"] is None
    assert run["curves"]["val/psnr"][3] is None


def test_no_string_leaves_the_data():
    html = render(views.hostile())
    (data,) = _DATA.findall(html)
    assert not set("<>&\u2028\u2029\u202e") & set(data)
    assert len(_SCRIPT.findall(html)) == 2
    assert "<img src=x" not in html
    assert embedded(html)["unreadable"][6]["folder"] == views.HOSTILE[6]


def test_a_name_that_is_no_text_can_be_written():
    view = views.study(title="run\udcff")
    view["runs"][0]["name"] = "run\udcff"
    assert "run?" in render(view).encode("utf-8").decode()


def test_the_policy_knows_the_scripts_and_nothing_else(page):
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in _SCRIPT.findall(page)]
    scripts = " ".join(f"'sha256-{each}'" for each in hashes)
    assert len(hashes) == 2
    assert "default-src 'none'" in policy(page)
    assert f"script-src {scripts};" in policy(page)


@pytest.mark.parametrize(("live", "source"), [(None, "'none'"), ("1", "'self'")])
def test_only_a_live_page_asks_its_server(live, source):
    assert f"connect-src {source}" in policy(render(views.study(live=live)))


def test_the_page_names_no_other_place(page):
    plain = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)|url\(|@import|https?://", plain)


def test_answers_stand_as_they_are(page):
    assert "<strong>+0.31 dB</strong>" in page
    assert 'id="answers"' not in render(views.study(answers=None))


@pytest.mark.slow
def test_two_hundred_runs_make_a_page_of_some_megabytes_in_seconds():
    view = views.large()
    began = time.process_time()
    html = render(view)
    assert time.process_time() - began < 20
    assert len(html.encode()) < 25e6
