"""The page in a real browser; ``show`` adds that it neither complains nor asks for anything outside itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import views
from fakes import fake_run

import cvae.report.html
from cvae.evaluation.intervals import mean_interval, seed_differences
from cvae.report.html.data import page_data
from cvae.report.html.render import render
from cvae.runs.collection import Collection, by_seed, collect
from cvae.runs.run import Run

pytestmark = pytest.mark.servers

_ROWS = "#table tbody tr:visible"
MISSING, MINUS = "\u2013", "\u2212"
_PSNR = "[data-metric='val/psnr'] .plot"


class Pages:
    """Opens pages from files, offline, and collects their console messages and requests."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self._browser, self._folder = browser, folder
        self._contexts: list[Any] = []
        self._complaints: list[str] = []

    def __call__(self, view: dict[str, Any], choices: str = "", width: int = 1280, **options: Any) -> Any:
        file = self._folder / f"{len(self._contexts)}.html"
        file.write_text(render(view), encoding="utf-8")
        context = self._browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_offline(True)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: self._complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("request", lambda request: self._complaints.extend(_leaving(request.url)))
        page.goto(f"{file.as_uri()}#{choices}")
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert self._complaints == []


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Pages]:
    """Open the page of a view; no such page may complain, or ask for anything outside itself."""
    pages = Pages(browser, tmp_path)
    yield pages
    pages.close()


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pages = Pages(browser, tmp_path_factory.mktemp("opened"))
    yield pages(views.study(), color_scheme="light")
    pages.close()


@pytest.fixture
def study(opened: Any) -> Any:
    """The study's page with no choice made: a new address after # is all that this takes."""
    opened.evaluate("details.close(); document.activeElement.blur(); scrollTo(0, 0); location.hash = `none${Math.random()}`")
    opened.get_by_text("24 runs", exact=True).wait_for()
    opened.wait_for_timeout(50)  # for what else is drawn anew
    return opened


def _leaving(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:", "blob:")) else [f"request: {url}"]


def until(page, script: str, arg: object = None) -> None:
    """Wait for the page; Playwright's own way evaluates text within it, which the page's policy forbids."""
    end = time.monotonic() + 400
    while not page.evaluate(script, arg):
        assert time.monotonic() < end, script
        page.wait_for_timeout(20)


def names(page) -> list[str]:
    return page.locator(f"{_ROWS} .name").all_text_contents()


def column(page, number: int) -> list[str]:
    return page.locator(f"{_ROWS} > :nth-child({number})").all_inner_texts()


def charted(page, chart: str = _PSNR) -> None:
    """Bring a chart into sight, and wait until it has lines."""
    page.locator(chart).scroll_into_view_if_needed()
    page.locator(f"{chart} .scatterlayer .trace").first.wait_for(state="attached")


def lines(page, chart: str = _PSNR) -> int:
    return page.locator(chart).evaluate("plot => plot.data.filter(trace => trace.meta.layer === 1).length")


def wait_for_lines(page, number: int, chart: str = _PSNR) -> None:
    script = "([chart, n]) => document.querySelector(chart).data.filter(trace => trace.meta.layer === 1).length === n"
    until(page, script, arg=[chart, number])


def wide(page) -> bool:
    return page.evaluate("document.scrollingElement.scrollWidth > innerWidth")


# --- table --------------------------------------------------------------------------------------------------------------


def test_head_counts_the_runs(study):
    assert study.title() == "course_study"
    assert study.locator("#counts").inner_text() == (
        "24 runs: 19 finished, 1 running, 1 stopped, 1 pruned, 1 failed, 1 diverged, 1 failed start, 1 unreadable"
    )


def test_each_state_has_a_mark_of_its_own(study):
    marks = study.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#table .state')].map((badge) => {"
        " const look = getComputedStyle(badge, '::before');"
        " return [badge.textContent, [look.clipPath, look.backgroundColor, look.borderStyle].join()]; }))"
    )
    assert list(marks) == ["finished", "running", "stopped", "pruned", "failed", "diverged"]
    assert len(set(marks.values())) == 6


def test_a_header_sorts_by_number_best_first_and_back(study):
    header = study.locator("th[data-column=best]")
    first = names(study)
    header.get_by_role("button").click()
    best = [float(text.split("@")[0]) for text in column(study, 2) if text != MISSING]
    assert best == sorted(best, reverse=True)
    assert column(study, 2)[-2:] == [MISSING, MISSING]
    assert header.get_attribute("aria-sort") == "descending"
    header.get_by_role("button").click()
    assert [float(text.split("@")[0]) for text in column(study, 2) if text != MISSING] == best[::-1]
    assert column(study, 2)[-2:] == [MISSING, MISSING]
    header.get_by_role("button").click()
    assert names(study) == first
    assert header.get_attribute("aria-sort") is None


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("", 24),
        ("cyclical", 12),
        ("CYCLICAL step", 6),
        ("lr=2e-3", 12),
        ("lr>1e-3 kl_schedule=cyclical", 6),
        ("lr<=0.0005", 12),
        ("state=running", 1),
        ("!finished", 5),
        ("!kl_schedule=cyclical seed!=1", 8),
        ("below-the-median", 0),
        ('"below the median"', 1),
        ("best>0", 22),
        ("best=null", 2),
        ("model=small seed=3", 8),
        ("nothing=1", 0),
    ],
)
def test_filter(study, query, number):
    study.locator("#query").fill(query)
    until(study, "n => document.querySelectorAll('#table tbody tr:not([hidden])').length === n", arg=number)
    told = study.locator("#matches").inner_text()
    assert told == ("24 runs" if number == 24 else f"{number} of 24 runs")
    assert study.locator("#none").is_visible() == (number == 0)


def test_keys_alone_filter_sort_tick_and_open(show):
    page = show(views.study())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    page.keyboard.type("seed=1")
    until(page, "document.querySelectorAll('#table tbody tr:not([hidden])').length === 8")
    for _ in range(5):  # the buttons beside the box, the table, its box for all, its first header
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "sort":
            break
    page.keyboard.press("Enter")
    assert page.locator("th[data-column=name]").get_attribute("aria-sort") == "ascending"
    page.locator("#table tbody tr:visible input").first.focus()
    page.keyboard.press("Space")
    assert page.locator("#table tbody tr:visible input").first.is_checked() is False
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_visible() is False
    assert page.evaluate("document.activeElement.className") == "link name"


def test_the_dialog_tells_all_of_a_run(study):
    study.locator("#query").fill("state=stopped")
    study.locator("#table .name:visible").click()
    told = study.locator("dialog").inner_text()
    for text in (
        "course_study/20",
        "Ctrl-C in epoch 10",
        "282dfec",
        "python -m cvae.train lr=0.002",
        "grad_clip",
        "epoch 10 of 20",
    ):
        assert text in told
    study.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = study.get_by_role("button", name="Copy the command that repeats")
    button.click()
    button.get_by_text("Copied", exact=True).wait_for()
    assert study.evaluate("navigator.clipboard.readText()") == views.study()["runs"][20]["repeat"]


# --- curves -------------------------------------------------------------------------------------------------------------


def test_groups_have_a_line_and_an_interval_each(study):
    charted(study)
    wait_for_lines(study, 8)
    bands = study.locator(_PSNR).evaluate("plot => plot.data.filter(trace => trace.fill === 'toself').length")
    assert bands == 7  # of the last group a single run has curves
    assert study.locator("#legend tbody tr").count() == 8
    first = study.locator("#legend tbody tr").first.inner_text()
    runs = views.study()["runs"][:3]
    mean = sum(run["best"] for run in runs) / 3
    assert f"\t3\t{mean:.2f} ± " in first


def test_chips_change_the_grouping(study):
    charted(study)
    study.locator(".chip[data-key=tf_schedule]").click()
    wait_for_lines(study, 4)
    study.locator(".chip[data-key=seed]").click()
    wait_for_lines(study, 12)
    for key in ("lr", "kl_schedule", "seed"):
        study.locator(f".chip[data-key={key}]").click()
    wait_for_lines(study, 22)  # ungrouped, one a run that has curves
    assert study.locator(".chip[aria-pressed=true]").count() == 0


def test_runs_that_have_little_in_common_are_grouped_by_the_dials_alone(show):
    view = views.study()
    further = [f"model.setting{number}" for number in range(9)]
    for run in view["runs"]:
        run["settings"] |= dict.fromkeys(further, run["settings"]["lr"])
    settings = [key for key in view["settings"] if key != "seed"]
    page = show({**view, "settings": [*settings, *further, "seed"]})
    assert page.locator(".chip[aria-pressed=true]").all_inner_texts() == [*settings, *further][:5]


def test_runs_that_differ_in_their_seed_alone_are_one_group(show):
    view = views.study()
    runs = view["runs"][:5]
    for seed, run in enumerate(runs):
        run["settings"] = {"seed": seed}
    page = show({**view, "settings": ["seed"], "runs": runs})
    assert page.locator(".chip[aria-pressed=true]").all_inner_texts() == ["all runs"]
    level = summary([run["best"] for run in runs])
    told = page.locator("#legend tbody tr").inner_text()
    assert told.startswith("all runs")
    assert f"\t5\t{level['mean']:.2f} ± {level['half']:.2f}\t" in told
    charted(page)
    assert page.locator(_PSNR).evaluate("plot => plot.data.length") == 2  # the mean and its interval
    page.locator(".chip[data-key='all runs']").click()
    wait_for_lines(page, 5)
    until(page, "location.hash.includes('by=')")
    page.reload()
    assert page.locator(".chip[aria-pressed=true]").count() == 0
    page.locator(".chip[data-key=seed]").click()
    page.locator(".chip[data-key='all runs']").click()  # either by settings, or all
    assert page.locator(".chip[aria-pressed=true]").all_inner_texts() == ["all runs"]


def test_the_difference_to_the_reference_is_paired_by_seed(study):
    view = views.study()
    one, other = ([run["last"]["val/psnr"] for run in view["runs"][i : i + 3]] for i in (3, 0))
    mean = sum(a - b for a, b in zip(one, other, strict=True)) / 3
    told = study.locator("#legend tbody tr").nth(1).locator("td").last.inner_text()
    assert told.replace(MINUS, "-").startswith(f"{mean:+.2f} [")
    assert told.endswith("3 seeds")
    study.locator("#reference").select_option(index=1)
    study.locator("#legend tbody tr").nth(1).get_by_text("reference").wait_for()
    turned = study.locator("#legend tbody tr").first.locator("td").last.inner_text()
    assert turned.replace(MINUS, "-").startswith(f"{-mean:+.2f} [")


def test_the_legend_hides_a_line_everywhere(study):
    charted(study)
    charted(study, "[data-metric='train/kld'] .plot")
    button = study.locator("#legend [data-line]").first
    button.press("Enter")
    wait_for_lines(study, 7)
    wait_for_lines(study, 7, "[data-metric='train/kld'] .plot")
    assert button.get_attribute("aria-pressed") == "false"


def test_ticks_choose_the_runs(study):
    study.locator("#query").fill("lr=0.002 cyclical")
    study.get_by_role("button", name="Plot only these").click()
    charted(study)
    wait_for_lines(study, 2)
    study.locator("#tick-all").uncheck()
    study.get_by_text("No run is ticked").wait_for()


def test_hovering_shows_the_group_and_lights_its_line(study):
    charted(study)
    wait_for_lines(study, 8)
    study.locator(_PSNR).evaluate("plot => Plotly.Fx.hover(plot, [{curveNumber: plot.data.length - 2, pointNumber: 3}])")
    told = study.locator(f"{_PSNR} .hoverlayer").text_content()
    for text in ("lr 0.002", "tf_schedule linear", "epoch 4", "3 seeds"):
        assert text in told
    study.locator("#legend tbody tr").nth(2).hover()
    study.locator(f"{_PSNR}.dim .trace.lit").first.wait_for(state="attached")


def test_the_pointer_finds_a_run(study):
    study.evaluate("location.hash = 'by='")
    charted(study)
    wait_for_lines(study, 22)
    place = study.locator(_PSNR).evaluate(
        "plot => { const {xaxis: x, yaxis: y} = plot._fullLayout, box = plot.getBoundingClientRect(), line = plot.data[4];"
        " return [box.x + x._offset + x.d2p(line.x[18]), box.y + y._offset + y.d2p(line.y[18])]; }"
    )
    study.mouse.move(place[0] - 2, place[1])
    study.mouse.move(*place)
    study.locator(f"{_PSNR} .hoverlayer .hovertext").wait_for()
    told = study.locator(f"{_PSNR} .hoverlayer").text_content()
    assert "course_study/" in told
    assert "seed" in told


def test_the_kl_takes_a_log_axis_and_psnr_shows_the_last_frames_score(study):
    charted(study)
    assert study.get_by_role("img", name="Chart: validation PSNR, dB over the epochs").count() == 1
    assert "repeating the last frame" in study.locator(_PSNR).text_content()
    charted(study, "[data-metric='train/kld'] .plot")
    study.get_by_role("button", name="log", exact=True).click()
    until(study, "document.querySelector('[data-metric=\"train/kld\"] .plot').layout.yaxis.type === 'log'")


# --- statistics ---------------------------------------------------------------------------------------------------------

_PARTS = Path(cvae.report.html.__file__).with_name("assets")


@pytest.fixture(scope="module")
def awkward(tmp_path_factory) -> Collection:
    """Seeds that were run twice, runs that go on, cells that one side lacks, and cycles that only cyclical runs have."""
    root, random = tmp_path_factory.mktemp("awkward"), np.random.default_rng(0)
    grid = [(lr, schedule, seed) for lr in (1e-3, 2e-3, 4e-3) for schedule in ("monotonic", "3", "5") for seed in (1, 2, 3, 4)]
    missing = [(1e-3, "5", 2), (2e-3, "monotonic", 1), (2e-3, "monotonic", 4), (4e-3, "3", 3)]
    twice = [(1e-3, "monotonic", 1), (2e-3, "3", 2), (2e-3, "3", 2), (4e-3, "5", 4)]
    going_on = [(1e-3, "3", 3), (2e-3, "5", 1), (4e-3, "monotonic", 2)]
    for number, cell in enumerate([*(each for each in grid if each not in missing), *twice]):
        lr, schedule, seed = cell
        end = 18 + seed + 2 * (lr == 2e-3) + 3 * (schedule == "5") + random.normal(scale=0.3)
        words = (
            ["kl_schedule=monotonic"] if schedule == "monotonic" else ["kl_schedule=cyclical", f"kl_schedule.cycles={schedule}"]
        )
        psnrs = (15.0, end + 1, end)[: 2 if cell in going_on else 3]
        fake_run(root / str(number), psnrs, words, lr=lr, seed=seed, epochs=3)
    return collect([str(root)])


_BY_LR = ("kl_schedule", "kl_schedule.cycles")  # what agrees in runs that differ by the learning rate


def members(found: Collection, key: str, value: object) -> list[Run]:
    return [run for run in found.runs if run.settings[key] == value]


def psnr(run: Run) -> float | None:
    return run.last("val/psnr")


def summary(values: Sequence[float]) -> dict[str, Any]:
    mean, low, high = mean_interval(values)
    return {"n": len(values), "mean": mean, "half": (high - low) / 2}


def matched(one: list[Run], other: list[Run], keys: Sequence[str]) -> list[float]:
    """Paired differences within each cell of ``keys``, averaged over the cells of a seed."""

    def cell(run: Run) -> tuple[Any, ...]:
        return tuple(run.settings.get(key) for key in keys)

    found: dict[int, list[float]] = {}
    for each in {cell(run) for run in one}:
        inside = [by_seed([run for run in some if cell(run) == each], psnr) for some in (one, other)]
        for seed, difference in seed_differences(*inside).items():
            found.setdefault(seed, []).append(difference)
    return [float(np.mean(each)) for each in found.values()]


@pytest.mark.parametrize(
    ("key", "one", "other", "keys", "alone"),
    [
        ("lr", 2e-3, 1e-3, _BY_LR, 6),
        ("lr", 4e-3, 1e-3, _BY_LR, 2),
        ("kl_schedule", "cyclical", "monotonic", ("lr",), 5),  # no monotonic run has cycles, and yet they pair
    ],
)
def test_the_pages_statistics_are_pythons(browser, awkward, key, one, other, keys, alone):
    view = page_data(awkward, "", "", 0, False)
    assert view["settings"] == ["lr", "kl_schedule", "kl_schedule.cycles", "seed"]
    parts = "".join((_PARTS / f"{name}.js").read_text() for name in ("text", "state", "statistics"))
    page = browser.new_page()
    page.set_content(f'<script type="application/json" id="view">{json.dumps(view)}</script><script>{parts}</script>')
    script = """([key, ...values]) => {
        state.by = [key];
        const [one, other] = values.map((value) => runs.filter((run) => run.settings.get(key) === value));
        const level = overSeeds(finished(one).map((run) => [seedOf(run), run.last.get("val/psnr")]));
        return { level, curve: meanCurve(one, "val/psnr"), difference: pairedDifference(one, other, "val/psnr") };
    }"""
    told = page.evaluate(script, [key, one, other])
    page.close()
    first, second = members(awkward, key, one), members(awkward, key, other)
    assert told["level"] == pytest.approx(summary(list(by_seed(first, psnr).values())), abs=1e-3)
    assert told["difference"] == pytest.approx({**summary(matched(first, second, keys)), "alone": alone}, abs=1e-3)
    for point in told["curve"]:
        epoch = point.pop("epoch")
        there = by_seed([replace(run, state="finished") for run in first], lambda run, at=epoch: run.series("val/psnr").get(at))
        assert point == pytest.approx(summary(list(there.values())), abs=1e-3)


def test_the_legend_tells_finished_runs_and_prints_in_bold_what_leaves_out_zero(show, awkward):
    page = show(page_data(awkward, "", "", 0, False), choices="by=lr")
    rows = page.locator("#legend tbody tr")
    assert rows.locator("td:nth-child(2)").all_inner_texts() == ["11 of 12 4 seeds", "11 of 12 4 seeds", "11 of 12 4 seeds"]
    reference = members(awkward, "lr", 1e-3)
    for row, lr in enumerate((1e-3, 2e-3, 4e-3)):
        runs = members(awkward, "lr", lr)
        for cell, value in ((1, lambda run: run.best("val/psnr")[0]), (2, psnr)):
            level = summary(list(by_seed(runs, value).values()))
            assert rows.nth(row).locator("td").nth(cell).inner_text() == f"{level['mean']:.2f} ± {level['half']:.2f}"
        if lr != 1e-3:
            mean, low, high = mean_interval(matched(runs, reference, _BY_LR))
            assert rows.nth(row).locator("strong").count() == (low > 0 or high < 0) == (lr == 2e-3)
            assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] 4 seeds" in rows.nth(row).inner_text().replace(MINUS, "-")


# --- videos -------------------------------------------------------------------------------------------------------------


def pixels(page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('#videos canvas')].map(canvas => canvas.toDataURL())")


def test_videos_play_in_step_pause_and_step(study):
    study.locator("#videos").scroll_into_view_if_needed()
    before = pixels(study)
    until(study, "old => document.querySelector('#videos canvas').toDataURL() !== old", arg=before[0])
    assert study.locator("#moment").get_attribute("aria-live") == "off"
    study.locator("#play").click()
    assert study.locator("#moment").get_attribute("aria-live") == "polite"
    assert study.locator("#play").get_attribute("aria-pressed") is None
    at = pixels(study)
    study.wait_for_timeout(500)
    assert pixels(study) == at
    assert study.locator("#videos canvas").count() == 13
    study.locator("#frame").fill("0")
    assert study.locator("#moment").inner_text() == "frame 1 of 12, given"
    assert len(set(pixels(study))) == 1  # what was given is the same for all
    study.locator("#frame").press("End")
    assert study.locator("#moment").inner_text() == "frame 12 of 12, predicted"
    assert study.locator("#videos canvas.predicted").count() == 13
    assert len(set(pixels(study))) > 3
    study.locator("#videos .sequence select").select_option(index=1)
    assert pixels(study)[0] not in at


def test_videos_wait_for_a_reader_who_wants_no_motion(show):
    page = show(views.study(), reduced_motion="reduce")
    assert page.locator("#play").inner_text() == "Play"
    assert page.locator("#moment").inner_text() == "frame 1 of 12, given"


# --- look and state -----------------------------------------------------------------------------------------------------


def test_dark_recolours_page_and_charts_and_is_remembered(show):
    page = show(views.study(), color_scheme="light")
    charted(page)
    back = "getComputedStyle(document.body).backgroundColor"
    light = [page.evaluate(back), page.locator(_PSNR).evaluate("plot => plot.layout.font.color")]
    page.locator("#theme").click()
    until(page, f"old => {back} !== old", arg=light[0])
    charted(page)
    until(page, "old => document.querySelector('.plot').layout.font.color !== old", arg=light[1])
    page.reload()
    assert page.evaluate(back) != light[0]


@pytest.mark.parametrize("make", [views.study, views.hostile])
def test_a_phone_scrolls_in_one_direction(show, make):
    page = show(make(), width=390, has_touch=True, is_mobile=True)
    page.evaluate("document.querySelectorAll('.chart').forEach(chart => chart.scrollIntoView())")
    charted(page)
    assert wide(page) is False
    page.locator("#table .name").first.click()
    assert wide(page) is False


def test_a_reload_keeps_what_the_reader_chose(show):
    page = show(views.study())
    page.locator("#query").fill("lr=0.002")
    page.locator("th[data-column=best] button").click()
    page.locator(".chip[data-key=lr]").click()
    page.locator("#table tbody tr:visible input").first.uncheck()
    page.locator("#more").click()
    page.locator("#legend [data-line]").first.click()
    until(page, "location.hash.includes('hide=')")  # the last choice
    before = [names(page), page.url]
    page.reload()
    assert [names(page), page.url] == before
    assert page.locator("#query").input_value() == "lr=0.002"
    assert page.locator(".chip[aria-pressed=true]").all_inner_texts() == ["kl_schedule", "tf_schedule"]
    assert page.locator("#table tbody input:not(:checked)").count() == 1
    assert page.locator("#legend [aria-pressed=false]").count() == 1
    assert page.locator("[data-metric='val/ssim']").is_visible()


def test_a_table_with_many_settings_has_no_column_off_the_screen(show):
    view = views.study()
    more = [f"data.option_{i}" for i in range(12)]
    view["settings"] = [*view["settings"], *more]
    for run in view["runs"]:
        run["settings"].update(dict.fromkeys(more, 0.123456789))
    page = show(view, width=1280)
    page.locator("#fold", has_text="more columns").wait_for()
    fits = "node => node.scrollWidth <= node.clientWidth"
    heads = "#table thead th:visible"
    assert page.locator("#table").evaluate(fits)
    shown = [" ".join(text.split()) for text in page.locator(heads).all_inner_texts()]
    assert shown[:4] == ["run", "best validation PSNR dB", "last validation PSNR dB", "state"]
    assert "kl_schedule" in shown
    page.locator("#fold").click()
    assert page.locator(heads).count() == 4 + len(view["settings"]) + 3
    assert page.locator(f"{_ROWS} > td", has_text="0.1235").count()  # four digits
    page.locator("#fold", has_text="Fewer columns").click()
    assert page.locator("#table").evaluate(fits)


def test_paper_shows_whole_curves(show):
    page = show(views.study())
    charted(page)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = "nodes => nodes.map(node => node.getBoundingClientRect().width)"
    found = page.locator("#charts .chart:not([hidden]) .main-svg:first-child").evaluate_all(widths)
    assert len(found) >= 6
    assert max(found) <= 340  # half of A4 within its margins: 186 mm are 703 pixels
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    first = page.locator("#charts .main-svg").first
    first.scroll_into_view_if_needed()
    deadline = time.monotonic() + 400
    while first.bounding_box()["width"] <= 340:
        assert time.monotonic() < deadline, "a plot keeps the size that it had on paper"
        time.sleep(0.05)


def test_runs_on_other_data_are_named(show):
    assert show(views.study()).locator("#other-data").is_hidden()
    told = "These runs are on 2 different data sets"
    assert show(views.study(other_data=told)).locator("#other-data").inner_text() == told


def test_hostile_strings_are_text(show):
    page = show(views.hostile())
    charted(page)
    for plot in page.locator(".sweep .plot").all():
        plot.scroll_into_view_if_needed()
    page.locator(".sweep .js-plotly-plot .barlayer").wait_for(state="attached")
    page.evaluate("document.querySelectorAll('#table .name').forEach(name => { name.click(); details.close(); })")
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    shown = page.locator("body").inner_text()
    assert views.HOSTILE[0] in shown
    assert "turned [U+202E]gnp.exe" in shown
    page.locator("#fold").click()
    assert "__proto__" in page.locator("#table thead").inner_text()
    assert "<script>" in page.locator(".sweep .js-plotly-plot").text_content()
    assert wide(page) is False


def test_broken_folders_and_sweeps_are_listed(study):
    assert "metrics.jsonl: line 3 is no JSON" in study.locator("#unreadable").inner_text()
    study.locator(".sweep .plot").first.scroll_into_view_if_needed()
    study.locator(".sweep .js-plotly-plot").first.wait_for()
    assert "sweep_lr_tfr_beta" in study.locator(".sweep").inner_text()


def test_no_runs_are_told_in_words(show):
    page = show({**views.study(), "runs": [], "videos": [], "sweeps": []})
    page.get_by_text("There are no runs yet.").wait_for()


class Server:
    """Answers a live page's requests: the page of a version, that version, or nothing at all."""

    def __init__(self, page: Any) -> None:
        page.route("http://report.test/**", self._answer)
        page.clock.install()
        self.publish("1")
        page.goto("http://report.test/#q=cyclical")
        page.get_by_text("live", exact=True).wait_for()

    def publish(self, version: str) -> None:
        answers = {"title": "Answers", "html": "<details><summary>More</summary>of them</details>"}
        self._answers = {"": version and render(views.study(live=version, answers=answers)), "version": version}

    def _answer(self, route: Any) -> None:
        body = self._answers[route.request.url.removeprefix("http://report.test/")]
        if body:
            route.fulfill(body=body, content_type="text/html" if len(body) > 9 else "text/plain")
        else:
            route.abort()


def test_a_live_page_follows_its_server(browser):
    page = browser.new_page()
    server = Server(page)
    page.evaluate("scrollTo(0, 500)")
    server.publish("2")
    newer = page.get_by_role("button", name="Show newer results")
    newer.wait_for()  # the reader has just scrolled
    with page.expect_navigation():
        page.clock.fast_forward(20_000)
    page.get_by_text("live", exact=True).wait_for()
    assert page.evaluate("scrollY") == 500
    assert page.locator("#query").input_value() == "cyclical"
    assert newer.is_visible() is False
    server.publish("")
    page.get_by_text("no connection to the server").wait_for()
    page.close()


@pytest.mark.parametrize(
    "occupy",
    [
        "document.querySelector('#table .name').click()",
        "document.querySelector('#reference').focus()",
        "document.querySelector('#answers details').open = true",
        "document.querySelector('#play').click()",
    ],
)
def test_a_live_page_leaves_a_reader_in_the_middle_of_something(browser, occupy):
    page = browser.new_page()
    server = Server(page)
    page.evaluate(f"window.before = true; {occupy}")
    server.publish("2")
    page.locator("#newer:not([hidden])").wait_for()
    page.clock.fast_forward(60_000)
    page.wait_for_timeout(300)
    assert page.evaluate("window.before") is True
    page.close()


def test_the_button_for_newer_results_brings_the_reader_back(browser):
    page = browser.new_page()
    server = Server(page)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.locator("#frame").fill("5")
    page.locator("#reference").focus()
    page.evaluate("scrollTo(0, 700)")
    server.publish("2")
    with page.expect_navigation():
        page.get_by_role("button", name="Show newer results").click()
    page.get_by_text("live", exact=True).wait_for()
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    assert page.evaluate("[document.activeElement.id, scrollY]") == ["reference", 700]
    page.clock.run_for(3000)
    assert page.locator("#moment").inner_text() == "frame 6 of 12, predicted"
    assert page.locator("#play").inner_text() == "Play"
    page.close()


@pytest.mark.parametrize("kind", ["parcoords", "contour"])
def test_plotly_draws_a_sweeps_figures_under_the_policy(browser, kind):
    numbers = [1, 2, 3]
    trace = {"type": "parcoords", "dimensions": [{"label": key, "values": numbers} for key in ("lr", "beta")]}
    if kind == "contour":
        trace = {"type": "contour", "x": numbers, "y": numbers, "z": [numbers] * 3}
    view = {**views.study(), "runs": [], "videos": []}
    view["sweeps"][0]["figures"] = [{"title": kind, "about": "", "figure": {"data": [trace], "layout": {}}}]
    page = browser.new_page()  # a graphics driver may have its say on the console
    page.set_content(render(view))
    page.locator(f".sweep .{kind}{'layer' if kind == 'contour' else ''}").first.wait_for(state="attached")
    assert "not supported" not in page.locator(".sweep").inner_text()
    page.close()


def test_two_hundred_runs_are_usable(show):
    page = show(views.large(), choices="by=")
    page.locator("#query").fill("lr>1e-3 cyclical")
    page.get_by_text(" of 200 runs").wait_for()
    charted(page)
    assert lines(page) == 200
    assert page.locator(_PSNR).evaluate("plot => Math.max(...plot.data.map(trace => trace.x.length))") <= 150


def test_a_report_of_run_folders_opens_from_the_disk(show, tmp_path):
    """From folders to pixels: two groups of two seeds, videos, a name that would be a tag, and a folder that is broken."""
    for number, (lr, seed) in enumerate([(1e-3, 1), (1e-3, 2), (2e-3, 1), (2e-3, 2)]):
        name = "<script>window.pwned=1<" if number == 3 else str(number)
        fake_run(tmp_path / "runs" / name, (18.0, 19.0 + number), lr=lr, seed=seed, video=True)
    (tmp_path / "runs" / "broken" / ".hydra").mkdir(parents=True)
    page = show(page_data(collect(["runs"]), "runs", "python -m cvae.report", 48, False))
    assert sorted(names(page)) == ["0", "1", "2", "<script>window.pwned=1<"]
    assert "no .hydra/config.yaml" in page.locator("main").inner_text()
    charted(page)
    assert page.locator(f"{_PSNR} .scatterlayer .trace").count() == 2 * 2  # a mean and an interval each
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    until(page, "() => document.querySelector('canvas').getContext('2d').getImageData(0, 0, 64, 64).data.some((v) => v > 0)")
    assert page.evaluate("window.pwned") is None


# --- sweeps, and what else a reader looks for -----------------------------------------------------------------------------


def swept(tmp_path, folder="sweep"):
    """The page of a sweep of six trials, one of them pruned, over a number and a choice."""
    trials = []
    for number in range(6):
        lr, kl = 1e-4 * 2**number, ("cyclical", "monotonic")[number % 2]
        values = [18.0, 19.0, 20.0 + number % 5]
        place = {"number": number, "study": "s", "storage": "postgresql://elsewhere/x"}
        fake_run(tmp_path / folder / f"2026-11-23_18-00-00_{number}", values, [f"kl_schedule={kl}"], place, lr=lr)
        state = "pruned" if number == 5 else "complete"
        entry = {"number": number, "state": state, "values": values[-1:], "params": {"lr": lr, "kl_schedule": kl}}
        trials.append(entry)
    space = {"lr": "0.0001..0.01 log", "kl_schedule": "choice(cyclical, monotonic)"}
    record = {"study": "s", "objective": "val/psnr", "directions": ["maximize"], "space": space, "trials": trials}
    (tmp_path / folder / "sweep.json").write_text(json.dumps({**record, "command": "python -m cvae.train -m lr=0.1,0.2"}))
    return page_data(collect([folder]), folder, "python -m cvae.report", 48, False)


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG's ratio of two colours' luminances."""
    linear = [
        [(c / 255 / 12.92) if c < 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]] for colour in (one, other)
    ]
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (high + 0.05) / (low + 0.05)


def rgb(colour: str) -> list[float]:
    return [float(part) for part in re.findall(r"[\d.]+", colour)]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_trial_of_a_sweep_stands_out_from_the_page(show, tmp_path, theme):
    page = show(swept(tmp_path), color_scheme=theme)
    for plot in page.locator(".sweep .plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator(".xtick").first.wait_for(state="attached")
    back = rgb(page.locator(".sweep .chart").first.evaluate("node => getComputedStyle(node).backgroundColor"))
    plots = page.locator(".sweep .plot")
    lines = (
        plots.nth(1)
        .locator(".scatterlayer path.js-line")
        .evaluate_all("nodes => nodes.map(node => [node.style.stroke, Number(node.closest('.trace').style.opacity)])")
    )
    points = plots.nth(2).locator(".scatterlayer path.point").evaluate_all("nodes => nodes.map(node => [node.style.fill, 1])")
    notes = plots.nth(1).locator(".annotation-text").evaluate_all("nodes => nodes.map(node => [node.style.fill, 1])")
    assert (len(lines), len(points)) == (5, 10)
    for colour, opacity in [*lines, *points, *notes]:
        seen = [opacity * a + (1 - opacity) * b for a, b in zip(rgb(colour), back, strict=False)]
        assert contrast(seen, back) > 2.2, colour
    assert len({colour for colour, _ in lines}) == 5
    assert "cyclical" in plots.nth(2).text_content()
    assert "'" not in plots.nth(2).text_content()


def test_the_best_trial_has_its_command_and_its_run(show, tmp_path):
    page = show(swept(tmp_path))
    heads = page.locator(".sweep > h3").all_inner_texts()
    commands = page.locator(".sweep > .command code").all_inner_texts()
    assert heads == ["Repeat the best trial", "Resume the sweep"]
    assert "lr=0.0016" in commands[0]
    assert commands[1] == "python -m cvae.train -m lr=0.1,0.2"
    assert "Best trial 4, val/psnr 24" in page.locator(".sweep").inner_text()
    page.get_by_role("button", name="Open its run").click()
    assert "2026-11-23_18-00-00_4" in page.locator("dialog h2").inner_text()


def test_wide_figures_scroll_in_their_card(show, tmp_path):
    page = show(swept(tmp_path), width=390)
    page.locator(".sweep .plot").nth(2).scroll_into_view_if_needed()
    page.locator(".sweep .plot").nth(2).locator(".xtick").first.wait_for(state="attached")
    assert page.locator(".sideways").nth(2).evaluate("node => node.scrollWidth > node.clientWidth")
    assert wide(page) is False


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("LR=2e-3", 1),
        ("lr > 1e-3", 3),
        ("lr >= 0.004368102133190193 state = finished", 1),
        ("lr=0.004368102133190193", 1),
        ("lr!=0.004368102133190193", 3),
        (f"shift={MINUS}0.5", 1),
        (f"shift<{MINUS}2e{MINUS}1", 1),
        ("trial=2", 1),
        ("trial<2 !seed=1", 1),
        ('"lr=0.002"', 1),
        ("foo=1 lr=0.002", 0),
        ("!foo=1", 0),
    ],
)
def test_the_filter_takes_what_readers_type_and_paste(show, query, number):
    view = views.study(seeds=1)
    view["settings"].append("shift")
    view["runs"] = view["runs"][:4]
    for i, (run, lr) in enumerate(zip(view["runs"], (1e-4, 2e-3, 0.004368102133190193, 5e-3), strict=True)):
        run["settings"].update(lr=lr, seed=i, shift=0.5 - i if i < 2 else 0)
        run["provenance"]["trial"] = str(i)
    page = show(view)
    page.locator("#query").fill(query)
    assert len(names(page)) == number
    told = page.locator("#query-help").inner_text()
    assert ("No such setting: foo." in told) == ("foo" in query)


@pytest.mark.parametrize("place", ["#table tbody .name", "#videos .about .name"])
def test_names_are_cut_in_their_middle(show, place):
    view = views.study()
    for i, run in enumerate(view["runs"]):
        run["name"] = f"2026-11-23_18-00-00_course_study_of_the_schedules/{i}"
    page = show(view, width=390, reduced_motion="reduce")
    name = page.locator(place).nth(3)
    start, end = (name.locator("span").nth(i) for i in (0, 1))
    assert name.text_content() in [run["name"] for run in view["runs"]]
    assert start.evaluate("node => node.scrollWidth > node.clientWidth && getComputedStyle(node).textOverflow === 'ellipsis'")
    assert start.bounding_box()["width"] > 20
    box, last = name.bounding_box(), end.bounding_box()
    assert last["x"] + last["width"] <= box["x"] + box["width"] + 1  # its end is within sight


def test_videos_come_in_the_order_of_the_view_until_the_reader_sorts(show):
    view = views.study()
    for i, run in enumerate(view["runs"]):
        if run["video"]:
            run["video"]["rank"] = -i
    page = show(view, reduced_motion="reduce")
    shown = page.locator("#videos .about .name").all_text_contents()
    with_video = [run["name"] for run in view["runs"] if run["video"]]
    assert shown == with_video[::-1][:12]
    page.locator("th[data-column=name] button").click()
    until(page, "name => document.querySelector('#videos .about .name').textContent === name", with_video[0])


def test_the_page_tells_the_reader_s_own_time(show):
    made = show(views.study(), timezone_id="Asia/Tokyo").locator("#made time")
    assert made.inner_text() == "2026-11-23 23:53"
    assert made.get_attribute("title") == "2026-11-23T14:53:44+00:00"
