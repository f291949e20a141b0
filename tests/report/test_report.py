"""``python -m cvae.report``: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import optuna
import pytest
from fakes import fake_run, fake_study
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial
from PIL import Image

from cvae.errors import UserError
from cvae.evaluation.intervals import mean_interval
from cvae.metrics import BUILT_IN, Metric
from cvae.pages import plots
from cvae.report.html.data import page_data
from cvae.report.html.render import render
from cvae.report.serve import LivePage, serve
from cvae.report.sweeps import sweep_png
from cvae.runs.collection import collect, other_data
from cvae.sweep.records import SweepRecord


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    for number, (lr, seed) in enumerate([(1e-3, 1), (1e-3, 2), (2e-3, 1), (2e-3, 2)]):
        fake_run(root / str(number), (18.0, 19.0 + number + seed), lr=lr, seed=seed, video=number == 3)
    (root / "broken" / ".hydra").mkdir(parents=True)
    return root


@pytest.fixture
def runs(written, tmp_path):
    """Two settings, two seeds each, and a broken run."""
    return shutil.copytree(written, tmp_path / "runs")


@pytest.fixture
def no_curves(monkeypatch):
    """Markdown without curves, which take a second to draw."""
    monkeypatch.setattr("cvae.report.markdown.group_curves", lambda groups: None)


def page(found, version=None):
    """The HTML of a served report."""
    return render(page_data(found, "", "", 0, False, version))


def shown(path):
    """The data of a page."""
    return json.loads(re.search(r'<script type="application/json" id="view">(.*?)</script>', Path(path).read_text(), re.S)[1])


def test_a_page_holds_all_runs_names_the_broken_one_and_is_the_only_file(command, runs):
    before = {*Path().iterdir()}
    result = command("report", f"runs={runs}", "out=out/page.html")
    assert {*Path().iterdir()} - before == {Path("out")}
    assert [*Path("out").iterdir()] == [Path("out/page.html")]
    lines = ["warning: runs/broken: no .hydra/config.yaml", "4 runs, 1 unreadable: out/page.html"]
    assert (result.code, result.out.splitlines()) == (0, lines)
    view = shown("out/page.html")
    assert view["settings"] == ["lr", "seed"]
    assert [run["best"] for run in view["runs"]] == [20.0, 22.0, 22.0, 24.0]
    assert view["unreadable"] == [{"folder": "runs/broken", "reason": "no .hydra/config.yaml"}]
    assert view["command"] == f"python -m cvae.report runs={runs} out=out/page.html"
    assert [run["video"] is not None for run in view["runs"]] == [False, False, False, True]


def test_markdown_has_groups_with_paired_differences_and_a_picture(command, runs):
    result = command("report", f"runs={runs}", "format=md", "title=Rates")
    assert result.code == 0, result.err
    text = Path("report.md").read_text()
    assert text.startswith("# Rates\n")
    assert "| lr=0.002 | 2 | 23.00 [10.29, 35.71] | 0.01 [0.01, 0.01] | 1 [1, 1] | +2.00 [+2.00, +2.00], 2 seeds |" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert pictures == ["report_files/curves.png", "report_files/strip_0.png"]
    assert all(Path(picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "| 3 | 24.00 | 2 | 0.002 | 2 | finished | 24.00 | 0.01000 | 1.00 |" in text
    assert "3, after epoch 3: validation PSNR 24.00 dB, lr=0.002" in text
    assert "no .hydra/config.yaml" in text
    assert "\npython -m cvae.train lr=0.002 seed=2\n" in text


def test_markdown_has_at_most_four_digits_and_keeps_settings_apart(command, tmp_path, no_curves):
    for number, lr in enumerate((0.00123456789, 0.00123456111, 0.5)):
        fake_run(tmp_path / "runs" / str(number), (18.0, 20.0), lr=lr)
        fake_run(tmp_path / "runs" / f"{number} again", (18.0, 20.0), lr=lr, seed=2)
    assert command("report", "runs=runs", "out=report.md").code == 0
    groups, _, listed = Path("report.md").read_text().partition("## Runs")
    assert "| 0 | 20.00 | 2 | 0.001235 | 1 |" in listed
    assert "| lr=0.001235 | 2 |" in groups
    assert "| [0.00123456789] | 2 |" in groups  # another value, though it looks the same with four digits
    assert "| lr=0.5 | 2 |" in groups


def test_markdown_has_the_figures_of_a_sweep_and_as_many_strips_as_asked(command, tmp_path, no_curves):
    study = optuna.create_study(study_name="s", direction="maximize", storage=f"sqlite:///{tmp_path}/s.db")
    space = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "tf": CategoricalDistribution(["linear", "step $x$"])}
    for number in range(4):
        params = {"lr": 10.0 ** -(number + 1), "tf": ["linear", "step $x$"][number % 2]}
        study.add_trial(create_trial(value=19.0 + number, params=params, distributions=space))
    figure = sweep_png(SweepRecord("s", "", study, "val/psnr", "", None), [])
    with Image.open(io.BytesIO(figure)) as image:
        assert image.width > 900
        assert image.height > 900  # history, slices, importances
    assert sweep_png(SweepRecord("s", "", optuna.create_study(), "val/psnr", "", None), []) is None
    for number in range(3):
        fake_run(tmp_path / "runs" / str(number), (18.0, 20.0 + number), seed=number, video=True)
    assert command("report", "runs=runs", "out=report.md", "videos=2").code == 0
    assert re.findall(r"\n(\d), after epoch 3", Path("report.md").read_text()) == ["2", "1"]


def test_runs_on_other_data_are_named_in_both_forms(command, tmp_path, no_curves):
    for number, dataset in enumerate(("d", "d", "e")):
        folder = fake_run(tmp_path / "runs" / str(number))
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "dataset": dataset}))
    told = "These runs are on 2 different data sets, whose levels do not compare: 2 on "
    assert other_data(collect(["runs"]).runs).startswith(told)
    assert other_data(collect(["runs/[01]"]).runs) == ""
    command("report", "runs=runs", "out=report.md")
    assert told in Path("report.md").read_text()
    command("report", "runs=runs", "out=report.html")
    assert shown("report.html")["other_data"].startswith(told)


def test_only_finished_runs_are_paired_and_a_seed_counts_once(command, tmp_path, no_curves):
    for number, (lr, seed, *psnr) in enumerate(
        [(1e-3, 1, 18.0, 20.0), (1e-3, 2, 20.0), (2e-3, 1, 18.0, 21.0), (2e-3, 1, 18.0, 23.0), (2e-3, 2, 18.0, 9.0)]
    ):
        fake_run(tmp_path / "runs" / str(number), psnr, lr=lr, seed=seed, epochs=2)
    command("report", "runs=runs", "out=report.md")
    text = Path("report.md").read_text()
    assert "| lr=0.001 | 1 of 2 | 20.00 |" in text
    assert "| lr=0.002 | 3 | 15.50 [-67.09, 98.09] |" in text  # of 22 and 9
    assert "+2.00, 1 seed |" in text


def test_the_seeds_of_one_setting_are_a_group(command, tmp_path, no_curves):
    for seed, end in enumerate((20.0, 21.0, 22.0)):
        fake_run(tmp_path / "runs" / str(seed), (18.0, end), seed=seed)
    command("report", "runs=runs", "out=report.md")
    text = Path("report.md").read_text()
    assert "| all | 3 | 21.00 [18.52, 23.48] |" in text
    assert "paired difference to" not in text


def test_curves_have_intervals_over_seeds_and_a_seed_counts_once(tmp_path):
    for number, (seed, values) in enumerate([(1, (1, 2)), (1, (3, 4)), (2, (4, 7))]):
        fake_run(tmp_path / str(number), values, seed=seed)
    curves = plots._seed_curves(collect([str(tmp_path)]).runs, "val/psnr")
    assert curves == [{1: 2.0, 2: 3.0}, {1: 4.0, 2: 7.0}]
    axes = Figure().subplots()
    plots.band(axes, curves, "red", "")
    assert list(axes.lines[0].get_ydata()) == [3.0, 5.0]
    (band,) = axes.collections
    assert {round(y, 3) for _, y in band.get_paths()[0].vertices if y == y} >= {
        round(end, 3) for values in ((2, 4), (3, 7)) for end in mean_interval(values)[1:]
    }


def test_a_page_shows_of_each_run_what_it_has(command, tmp_path):
    for words in (["kl_schedule=cyclical"], ["kl_schedule=monotonic"]):
        fake_run(tmp_path / "runs" / words[0], words=words)
    command("report", "runs=runs")
    view = shown("report.html")
    assert "kl_schedule.cycles" not in view["common"]
    assert [run["other"].get("kl_schedule.cycles") for run in view["runs"]] == [3, None]


def test_of_a_sweep_nothing_is_said_but_on_the_page(command, tmp_path):
    fake_run(tmp_path / "sweep" / "0", trial={"number": 0, "study": "s", "storage": "postgresql://elsewhere/x"})
    trial = {"number": 0, "state": "complete", "values": [20.0], "params": {"lr": 1e-3}, "failure": None}
    record = {"study": "s", "objective": "val/psnr", "directions": ["maximize"], "space": {"lr": "0.001..0.003"}}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({**record, "trials": [trial]}))
    optuna.logging.set_verbosity(optuna.logging.INFO)
    result = command("report", "runs=sweep")
    assert (result.code, result.err) == (0, "")
    assert [sweep["name"] for sweep in shown("report.html")["sweeps"]] == ["s"]


def test_one_objective_ranks_all_runs(command, tmp_path):
    for number, objective in enumerate(["val/psnr", "val/psnr", "train/mse"]):
        fake_run(tmp_path / "runs" / str(number), objective=objective, seed=number)
    command("report", "runs=runs")
    view = shown("report.html")
    assert (view["objective"], [run["best"] for run in view["runs"]]) == ("val/psnr", [20.0] * 3)


def test_a_minimised_objective_ranks_by_the_table_of_its_runs(command, tmp_path):
    mine = (*BUILT_IN, Metric("val/mae", "MAE $a^$", form=".3f", better="min", short="MAE"))
    for number, low in enumerate((0.3, 0.1, 0.2)):
        values = {1: low + 0.5, 2: low, 3: low + 0.1}
        rows = lambda epoch, values=values: {"val/mae": values[epoch]}  # noqa: E731
        more = {"seed": number, "objective": "val/mae", "metrics": mine, "video": True}
        fake_run(tmp_path / "runs" / str(number), rows=rows, **more)
    fake_run(tmp_path / "runs" / "older", seed=3, objective="val/mae")
    assert command("report", "runs=runs", "videos=2").code == 0
    view = shown("report.html")
    assert view["objective"] == "val/mae"
    assert [(run["best"], run["best_epoch"]) for run in view["runs"]] == [(0.3, 2), (0.1, 2), (0.2, 2), (None, None)]
    assert [run["video"] is not None for run in view["runs"]] == [False, True, True, False]
    keys = ("key", "label", "unit", "form", "better")
    assert [tuple(metric[key] for key in keys) for metric in view["metrics"]][-1] == ("val/mae", "MAE $a^$", "", ".3f", "min")
    assert command("report", "runs=runs", "format=md").code == 0
    text = Path("report.md").read_text()
    assert "| 1 | 0.100 | 2 | 1 | finished | 20.00 |" in text
    assert "| older |  |  | 3 | finished | 20.00 |" in text


def test_videos_are_of_the_best_of_each_group_first(tmp_path):
    for number, (lr, seed, end) in enumerate([(1e-3, 1, 20), (1e-3, 2, 23), (2e-3, 1, 19), (2e-3, 2, 18)]):
        fake_run(tmp_path / "runs" / str(number), (18.0, 17.0, float(end)), lr=lr, seed=seed, video=True)
    found = collect(["runs"])
    videos = [run["video"] for run in page_data(found, "", "", 2, False)["runs"]]
    assert [video is not None for video in videos] == [False, True, True, False]
    assert videos[1]["epoch"] == 3
    assert [run["video"]["rank"] for run in page_data(found, "", "", 48, False)["runs"]] == [2, 0, 1, 3]


ODD = [
    lambda run: (run / "run.json").write_text('{"dataset": [1], "versions": [], "resumed": 3}'),
    lambda run: (run / "samples" / "epoch_0003.gif").write_bytes(b"GIF89a\xff\xff\xff\xff" + b"\0" * 99),
    lambda run: (run / "samples" / "epoch_0003.gif").rename(run / "samples" / "epoch_x.gif"),
    lambda run: (run / "eval").mkdir() or (run / "eval" / "x.json").write_text('{"videos": 1e999}'),
    lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1, "other": 3}\n'),
    lambda run: run.rename(run.with_name("\u00b2 $\\foo$ \udcff")),
]


@pytest.mark.slow
def test_odd_runs_do_not_prevent_a_report(command, tmp_path):
    whole = fake_run(tmp_path / "runs" / "whole", video=True)
    for number, spoil in enumerate(ODD):
        odd = shutil.copytree(whole, tmp_path / "runs" / str(number))
        config = (odd / ".hydra/config.yaml").read_text()
        (odd / ".hydra/config.yaml").write_text(config.replace("coin: per_step", f"coin: {{schedule: '${number}\\foo$'}}"))
        spoil(odd)
    for form, named in (("html", {"runs/1", "runs/2", "runs/3"}), ("md", {"runs/3"})):
        result = command("report", "runs=runs", f"format={form}")
        *warnings, last = result.out.splitlines()
        assert (result.code, last) == (0, f"7 runs, 6 finished, 1 running: report.{form}"), result.err
        assert {line.split(": ")[1] for line in warnings} == named
    videos = [run["video"] is not None for run in shown("report.html")["runs"]]
    assert videos == [True, False, False, True, True, True, True]


def test_a_study_s_page_opens_with_the_verdicts(command, tmp_path, monkeypatch):
    monkeypatch.setattr("cvae.study.answers.course_curves", lambda part: b"")  # drawn in test_course
    fake_study(tmp_path / "study", lambda lr, level, seed: [20.0 + seed, 20.0, 21.0, 22.0], seeds=2)
    assert command("report", "runs=study").code == 0
    page = Path("report.html").read_text()
    assert page.index("1. lr 0.0005 survives") < page.index("<details><summary>Measure") < page.index("What would refute it")


def test_results_are_shown_where_a_run_has_them(command, runs):
    (runs / "0" / "eval").mkdir()
    result = {"videos": 60, "psnr": {"mean": 20.5, "ci95": [20.1, 20.9]}, "baselines": {"copy_last": {"psnr": {"mean": 17.0}}}}
    result |= {
        "fvd": {"mean": 261.0, "ci95": [None, None]},
        "mine": {"mean": 3.0},
        "sentences": ["All is <well>."],
        "marks": ["odd"],
    }
    (runs / "0/eval/course.json").write_text(json.dumps(result))
    (runs / "0/eval/srvp.json").write_text("{")
    (runs / "0/eval/other.json").write_text('{"videos": 3}')
    command("report", f"runs={runs}")
    found = {each["protocol"]: each for each in shown("report.html")["runs"][0]["evals"]}
    course = found["course"]
    psnr, *others = course["scores"]
    assert (course["videos"], course["note"], course["sentences"]) == (60, "odd", ["All is <well>."])
    assert (psnr["mean"], psnr["low"], psnr["high"], psnr["copy"], psnr["metric"]["unit"]) == (20.5, 20.1, 20.9, 17.0, "dB")
    assert [(each["metric"]["label"], each["mean"], each["low"], each["metric"]["better"]) for each in others] == [
        ("FVD", 261.0, None, "min"),
        ("mine", 3.0, None, None),
    ]
    assert "eval/srvp.json is damaged" in found["srvp"]["note"]
    assert "psnr" in found["other"]["note"]
    command("report", f"runs={runs}", "format=md")
    text = Path("report.md").read_text()
    assert "| 0 | course | 60 | PSNR, dB | 20.50 [20.10, 20.90] (odd) | 17.00 |" in text
    assert "| 0 | course | 60 | FVD | 261.0 (odd) | — |" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs=nowhere"], "runs=nowhere does not exist"),
        (["runs=[]"], "runs=[] names no folder"),
        (["runs=3"], "runs=3 does not exist"),
        (["format=pdf"], "format=pdf: choose html or md"),
        (["watch=true", "format=md"], "leave out format= and out="),
        (["watch=true", "out=x.html"], "leave out format= and out="),
        (["videos=-1"], "videos=-1"),
        (["videos=many"], "videos=many"),
        (["out=runs"], "cannot write"),
        (["out=/proc/x/report.html"], "cannot write"),
        (["watch=true", "port=99999"], "port=99999"),
        (["-m", "videos=1,2"], "leave out -m"),
        (["lr=1"], "there is no such key"),
        (["ouut=x.html"], "did you mean out?"),
        (["+ouut=x.html"], "+ouut: a report has no such key"),
        (["runs="], "names no folder"),
        (["runs=null"], "names no folder"),
        (["runs=a,b"], "several values are runs=[a,b]"),
        (["runs=a,"], "runs=a,: cannot be read"),
        (["out=x.pdf"], "out=x.pdf: choose html or md"),
        (["out=x.html", "format=md"], "out=x.html and format=md disagree"),
    ],
)
def test_bad_input_is_one_line(command, runs, words, message):
    result = command("report", "runs=runs", *words)
    assert result.code == 1
    assert [line for line in result.out.splitlines() if not line.startswith("warning: ")] == []
    assert len(result.err.splitlines()) == 1
    assert message in result.err


def test_a_port_in_use_is_one_line(command, runs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = command("report", "runs=runs", "watch=true", f"port={taken.getsockname()[1]}")
    assert "choose another one" in result.err


def test_a_served_page_is_updated_when_runs_change_and_stays_when_they_are_removed(runs, monkeypatch):
    monkeypatch.setattr("cvae.report.serve._PAUSE", 0.05)
    ready, address = threading.Event(), []

    def note(text):
        address.append(re.search(r"http://127.0.0.1:\d+/", text)[0])
        ready.set()

    monkeypatch.setattr("cvae.report.serve.say", note)
    warned = threading.Event()
    monkeypatch.setattr("cvae.report.serve.warn", lambda text: warned.set())
    stop = threading.Event()
    server = threading.Thread(target=serve, args=([str(runs)], page, 0, stop), daemon=True)
    server.start()
    assert ready.wait(120)

    def get(path):
        with urllib.request.urlopen(address[0] + path) as answer:
            return answer.read().decode()

    first = get("version")
    assert f'"live":"{first}"' in get("").replace(" ", "")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(address[0], headers={"Host": "evil.example:80"}))
    fake_run(runs / "9", seed=9)
    deadline = time.monotonic() + 400
    while get("version") == first:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "runs/9" in get("")
    runs.rename(runs.with_name("elsewhere"))
    assert warned.wait(120)
    assert "runs/9" in get("")
    stop.set()
    server.join(120)
    assert not server.is_alive()


def test_runs_that_are_removed_leave_the_last_page(runs):
    live = LivePage([str(runs / "*")], page)
    live.update()
    before = live.version
    shutil.rmtree(runs)
    with pytest.raises(UserError):
        live.update()
    assert live.version == before


def test_runs_are_not_read_again_if_no_file_has_changed(runs, monkeypatch):
    live = LivePage([str(runs)], page)
    live.update()
    monkeypatch.setattr("cvae.report.serve.collect", None)
    live.update()
    (runs / "0" / "eval").mkdir()
    with pytest.raises(TypeError):
        live.update()
