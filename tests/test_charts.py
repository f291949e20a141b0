"""Charts show a run's schedules as they are, mark what matters, and survive every kind of run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny
from matplotlib.figure import Figure
from PIL import Image

from cvae import charts, pictures
from cvae.charts import Chosen
from cvae.run_schedules import Plan
from cvae.schedules import Constant, Cyclical, Exponential, Linear, Step, Target

DRAWS_CURVES = True
KEYS = {"train/mse": 0.02, "train/kld": 12.0, "kl_weight": 1e-4, "tf_ratio": 1.0}
PANELS = [
    [("val/psnr", "PSNR, dB"), ("val/psnr_copy", "last frame, dB"), ("val/psnr_best", "best $x$, dB")],
    *([(key, f"about {key}")] for key in KEYS),
]
CYCLES = Plan(Cyclical(3, 0.5), Step(0.5), beta=1e-4, tfr=0.9, epochs=3)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    saved: list[Figure] = []
    real = Figure.savefig

    def savefig(self: Figure, *words: Any, **options: Any) -> None:
        saved.append(self)
        real(self, *words, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        return image.size


def chosen(epochs: int = 3, title: str = "lr $0.1$") -> Chosen:
    plan = Plan(Cyclical(3, 0.5), Step(0.5), 1e-4, 0.9, epochs)
    return Chosen(plan, lambda row: None if row.get("val/psnr") is None else -row["val/psnr"], title)


def history(epochs: int, every: int = 1, best: bool = False) -> list[dict[str, Any]]:
    """Of a run that is best after two thirds of its epochs."""
    rows = [{"epoch": epoch, **KEYS} for epoch in range(1, epochs + 1)]
    for row in rows:
        if row["epoch"] % every == 0 or row["epoch"] == epochs:
            psnr = 20 - abs(row["epoch"] / epochs - 2 / 3)
            row |= {"val/psnr": psnr, "val/psnr_copy": 17.0, **({"val/psnr_best": 22.0} if best else {})}
    return rows


def by_label(figure: Figure) -> dict[str, dict[str, list[float]]]:
    """Axes label -> line's label -> its epochs."""
    return {axes.get_ylabel(): {line.get_label(): [*line.get_xdata()] for line in axes.lines} for axes in figure.axes}


@pytest.mark.parametrize(("epochs", "every", "best"), [(1, 1, False), (7, 3, True), (300, 20, True)])
def test_curves_show_every_epoch_that_has_a_value(tmp_path, figures, epochs, every, best):
    charts.curves(history(epochs, every, best), [*PANELS, [("val/mae", "none")]], tmp_path / "curves.png", chosen(epochs))
    width, height = size(tmp_path / "curves.png")
    assert width > 1000
    assert height > 600
    all_epochs = list(range(1, epochs + 1))
    validated = [epoch for epoch in all_epochs if epoch % every == 0 or epoch == epochs]
    found = by_label(figures[0])
    assert [*found] == ["PSNR, dB", "about train/mse", "about train/kld", "KL weight", "teacher-forcing ratio"]
    assert found["about train/mse"]["about train/mse"] == all_epochs
    assert found["PSNR, dB"]["PSNR, dB"] == validated
    told = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert told == ["PSNR, dB", "last frame, dB", r"best \$x\$, dB"][: 3 if best else 2]


def test_every_panel_marks_the_best_epoch_and_the_end_of_forcing(tmp_path, figures):
    charts.curves(history(12), PANELS, tmp_path / "curves.png", chosen(12))
    figure = figures[0]
    panels = [lines for name, lines in by_label(figure).items() if name != "teacher-forcing ratio"]  # it shares a panel
    assert len(panels) == 4
    for lines in panels:
        assert lines["best epoch, 8"] == [8, 8]
        assert lines["forcing ends"] == pytest.approx([6, 6])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["forcing ends", "best epoch, 8"]
    assert figure.get_suptitle() == r"lr \$0.1\$"


def test_both_schedules_have_one_zero(tmp_path, figures):
    charts.curves(history(3), PANELS, tmp_path / "curves.png", chosen())
    axes = {axes.get_ylabel(): axes for axes in figures[0].axes}
    kl, forcing = axes["KL weight"], axes["teacher-forcing ratio"]
    heights = [each.transAxes.inverted().transform(each.transData.transform((0, 0)))[1] for each in (kl, forcing)]
    assert heights[0] == pytest.approx(heights[1])
    assert kl.get_ylim()[1] == pytest.approx(1e-4 * 1.08)
    assert forcing.get_ylim()[1] == pytest.approx(0.9 * 1.08)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [
            {"epoch": 1},
            {"epoch": 2, **KEYS, "val/psnr": None},
            {"epoch": 3, **KEYS, "val/psnr": float("nan"), "train/mse": float("inf")},
        ],
    ],
    ids=["no rows", "values missing or not finite"],
)
def test_curves_are_drawn_from_what_is_there(tmp_path, rows):
    charts.curves(rows, PANELS, tmp_path / "curves.png", chosen())
    size(tmp_path / "curves.png")


@pytest.mark.parametrize("epochs", [1, 2, 3, 40, 300])
def test_epochs_are_whole_numbers_on_the_axis(tmp_path, monkeypatch, epochs):
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    charts.curves(history(epochs), PANELS, tmp_path / "curves.png", chosen(epochs))
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        assert low <= 0 < epochs <= high
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)


def test_no_display_and_no_shared_state_is_needed(tmp_path):
    """pyplot would choose a backend for the process, and keep a list of all figures."""
    script = (
        "import sys; from pathlib import Path; from cvae import charts; from cvae.run_schedules import Plan;"
        "from cvae.schedules import Constant;"
        "plan = Plan(Constant(), Constant(), 1, 1, 2);"
        "charts.schedules([('a', plan)], Path(sys.argv[1])); print('matplotlib.pyplot' in sys.modules)"
    )
    variables = {**os.environ, "MPLBACKEND": "TkAgg", "PYTHONPATH": str(Path(pictures.__file__).parents[1])}
    variables.pop("DISPLAY", None)
    command = [sys.executable, "-c", script, str(tmp_path / "it.png")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    size(tmp_path / "it.png")


# --- schedules --------------------------------------------------------------------------------------------------------


def test_three_epochs_of_a_cyclical_schedule_are_not_flat(tmp_path, figures):
    """Each epoch is one cycle: the means of the epochs are all the same."""
    charts.schedules([("cyclical", CYCLES), ("constant", Plan(Constant(0.5), Constant(), 1e-4, 1, 3))], tmp_path / "it.png")
    size(tmp_path / "it.png")
    (kl,) = (line for line in figures[0].axes[0].lines if line.get_label() == "KL weight")
    epochs, weights = np.asarray(kl.get_xdata()), np.asarray(kl.get_ydata())
    assert (epochs[0], epochs[-1]) == (0, 3)
    for start in range(3):
        half = (epochs >= start) & (epochs <= start + 0.499)
        assert weights[half] == pytest.approx(1e-4 * 2 * (epochs[half] - start), abs=1e-9)
    assert [axes.get_title() for axes in figures[0].axes[:2]] == ["cyclical", "constant"]
    assert figures[0].axes[0].get_ylim() == figures[0].axes[1].get_ylim()  # they can be compared


def test_a_sudden_end_is_upright(tmp_path, figures):
    charts.schedules([("", CYCLES)], tmp_path / "it.png")
    forcing = figures[0].axes[1].lines[0]
    epochs, ratios = np.asarray(forcing.get_xdata()), np.asarray(forcing.get_ydata())
    assert ratios == pytest.approx(np.where(epochs < 1.5, 0.9, 0))
    assert np.diff(epochs).max() <= 0.002


def test_a_schedule_that_moves_with_the_epochs_has_steps(tmp_path, figures):
    charts.schedules([("", Plan(Linear(), Linear(), 1, 1, 4, "epoch"))], tmp_path / "it.png")
    line = figures[0].axes[0].lines[0]
    assert {*line.get_ydata()} == {1, 0.75, 0.5, 0.25}
    at = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert [at[epoch] for epoch in range(4)] == [1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("forcing", "tfr", "step", "end"),
    [
        (Step(0.5), 1, "iteration", 5),
        (Step(1 / 3), 0.5, "iteration", 10 / 3),
        (Step(1 / 3), 0.5, "epoch", 4),
        (Linear(0.2, 0.8), 1, "iteration", 7.94),
        (Linear(0.2, 0.8, 0.3), 1, "iteration", None),
        (Exponential(0.9), 1, "iteration", 4.3709),
        (Step(0.5), 0, "iteration", None),
        (Constant(1), 1, "iteration", None),
        (Constant(0), 1, "iteration", None),
    ],
)
def test_forcing_ends_where_less_than_a_hundredth_is_left(forcing, tfr, step, end):
    assert Plan(Constant(), forcing, 1, tfr, 10, step).forcing_ends == (end if end is None else pytest.approx(end, abs=1e-3))


# --- show=schedules ---------------------------------------------------------------------------------------------------


def titles(figures: list[Figure]) -> list[str]:
    return [axes.get_title() for axes in figures[-1].axes if axes.get_title()]


@pytest.mark.slow
def test_every_setting_of_a_multirun_is_drawn_once(train, figures):
    found = train("-m", "show=schedules", "kl_schedule=cyclical,constant", "tfr=0.5,1", "beta=1", "lr=1e-3,2e-3", "seed=1,2")
    assert (found.code, found.err) == (0, "")
    cyclical, constant = "KL cyclical (cycles 3, ramp 0.5)", "KL constant (value 1.0)"
    assert titles(figures) == [
        f"{kl}\nforcing early_step (at 0.25)\ntfr {tfr}" for kl in (cyclical, constant) for tfr in ("0.5", "1.0")
    ]
    assert [path.name for path in Path().iterdir()] == ["schedules.png"]


@pytest.mark.slow
def test_of_a_sweep_what_can_be_listed_is_drawn(train, figures):
    found = train("show=schedules", "experiment=sweep_schedules", "tf_schedule=step")
    assert found.code == 0, found.err
    assert "since a sweep chooses them from a range: tfr, beta" in found.out
    kinds = [f"KL cyclical (cycles {cycles}, ramp 0.5)" for cycles in (2, 3, 4, 5)]
    assert [title.split("\n")[0] for title in titles(figures)] == [*kinds, "KL monotonic (ramp 0.5)"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tf_schedule.at=range(0,1,0.04)"], "draws at most 24 settings"),
        (["tf_schedule.at=range(0,1,0.01)", "epochs=range(1,20)"], "more than 1000 settings"),
    ],
)
def test_too_many_settings_are_one_line(train, words, said):
    found = train("-m", "show=schedules", *words)
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert said in found.err


@pytest.mark.slow
def test_a_run_says_in_its_curves_what_was_chosen(train, drawn, figures):
    assert train(*tiny(drawn), "hydra.run.dir=run", "tf_schedule=linear").code == 0
    (figure,) = (each for each in figures if each.get_suptitle())
    for said in ("kl_schedule=cyclical (cycles 3, ramp 0.5)", "tf_schedule=linear", "likelihood=mse", "lr=0.0005", "seed=1"):
        assert said in " ".join(figure.get_suptitle().split())
    assert {"SSIM", "validation PSNR, dB", "KL weight"} <= by_label(figure).keys()
    assert "validation MSE" in by_label(figure)["MSE a step"]


def test_a_weight_that_follows_the_kl_is_drawn_as_it_was_recorded(tmp_path, figures):
    plan = Plan(Target(ramp=0.25), Step(0.25), 2.0, 1.0, 8)
    assert plan.follows == pytest.approx(2, abs=0.01)
    rows = [{"epoch": epoch, "val/psnr": 20.0, "kl_weight": 2.0 if epoch < 3 else 3.0 * epoch} for epoch in range(1, 9)]
    charts.curves(rows, [[("val/psnr", "PSNR")]], tmp_path / "a.png", Chosen(plan, lambda row: -row["val/psnr"], "t"))
    charts.schedules([("a", plan)], tmp_path / "b.png")  # of no run: a shade
    lines = {line.get_label(): line for axes in figures[0].axes for line in axes.lines}
    epochs, weights = lines["KL weight"].get_data()
    assert (np.isnan(weights) == (np.array(epochs) > plan.follows)).all()
    epochs, weights = lines["KL weight, epoch means"].get_data()
    assert list(zip(epochs, weights, strict=True))[-6:] == [(epoch, 3.0 * epoch) for epoch in range(3, 9)]
    assert lines["KL weight"].axes.get_ylim()[1] > 24
    (shade,) = [patch for axes in figures[1].axes for patch in axes.patches]
    assert shade.get_label() == "KL weight follows the KL"
