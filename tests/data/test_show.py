"""A sequence as a GIF: its frames, and its actions as arrows beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from cvae.data.store import VideoData
from cvae.pictures import film

ORANGE = (219, 109, 40)


def pages(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(page.convert("RGB")) for page in ImageSequence.Iterator(image)]


def test_a_sequence_becomes_a_gif_of_its_frames(command, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVAE_CACHE", str(tmp_path / "cache"))
    result = command("data", "show", drawn, "--split", "validate", "--sequence", "1")
    assert result.code == 0, result.err
    shown = pages(Path("show_validate_1.gif"))
    true_THWC = VideoData(str(drawn)).validate[1][0]
    assert len(shown) == 30
    for page, frame_HWC in zip(shown, true_THWC, strict=True):
        inside = page[22 : 22 + 320 : 5, 8 : 8 + 320 : 5].astype(int)
        assert abs(inside - frame_HWC).mean() < 8  # the colours of a GIF are 256
    again = command("data", "show", drawn, "--split", "validate", "--sequence", "take 0/01", "--out", "named.gif")
    assert again.code == 0
    assert Path("named.gif").read_bytes() == Path("show_validate_1.gif").read_bytes()


@pytest.mark.parametrize("sequence", ["2", "-1", "take 9/00"])
def test_a_sequence_that_is_not_there_is_one_line(command, drawn, sequence):
    result = command("data", "show", drawn, "--split", "validate", f"--sequence={sequence}")
    assert result.code == 1
    assert f"--sequence {sequence}: " in result.err
    assert "2 sequences, from 0 (take 0/00) to 1 (take 0/01)" in result.err


@pytest.mark.parametrize(("dx", "dy", "side"), [(1, 0, "right"), (-1, 0, "left"), (0, 1, "up"), (0, -1, "down")])
def test_an_arrow_points_where_the_action_goes(tmp_path, dx, dy, side):
    values = np.array([[dx, dy, 0.5], [0, 0, -1]], np.float32)
    film(np.zeros((2, 64, 64, 3), np.uint8), values, ["dx", "dy", "grip"], "one", tmp_path / "one.gif")
    first, second = (np.abs(page.astype(int) - ORANGE).max(axis=2) < 60 for page in pages(tmp_path / "one.gif"))
    circle = first[22:172, 336:]
    rows, columns = np.nonzero(circle)
    reach = {"right": columns.max() - 75, "left": 75 - columns.min(), "down": rows.max() - 75, "up": 75 - rows.min()}
    assert max(reach, key=reach.get) == side
    bar, other = first[172:, 336:].nonzero()[1], second[172:, 336:].nonzero()[1]
    assert abs(np.ptp(other) - 2 * np.ptp(bar)) <= 4  # 1 is twice as long as 0.5,
    assert other.min() < bar.min()  # and on the other side


def test_no_conditions_no_arrows(tmp_path):
    film(np.zeros((3, 64, 64, 3), np.uint8), np.zeros((3, 0), np.float32), [], "one", tmp_path / "one.gif")
    assert pages(tmp_path / "one.gif")[0].shape == (22 + 320 + 8, 320 + 16, 3)
