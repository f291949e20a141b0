"""README's picture of a small run: truth and futures of each sequence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import readme_gif
from PIL import Image


def test_it_shows_the_truth_and_three_futures_of_each_sequence(trained: Path, monkeypatch, capsys) -> None:
    words = [str(trained), "--split", "validate", "--sequences", "0", "1", "--frames", "7", "--out", "it.gif"]
    monkeypatch.setattr(sys, "argv", ["readme_gif.py", *words])
    readme_gif.main()
    assert f"written it.gif: validate [0, 1] of {trained}, 7 frames, seed 1" in capsys.readouterr().out
    with Image.open("it.gif") as image:
        assert image.n_frames == 7
        assert image.width == pytest.approx(4 * 64 * 3, abs=60)
        assert image.height == pytest.approx(2 * 64 * 3, abs=120)
        for t, alike in ((0, True), (6, False)):  # a given frame, and a predicted one
            image.seek(t)
            picture = image.convert("RGB")
            for x, y in ((x, y) for x in (1, 2, 3) for y in (0, 1)):
                truth, future = (picture.crop((12 + 200 * at, 50 + 224 * y, 196 + 200 * at, 234 + 224 * y)) for at in (0, x))
                assert (truth.tobytes() == future.tobytes()) == alike


def test_a_sequence_that_there_is_not_is_one_line(trained: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["readme_gif.py", str(trained), "--sequences", "9", "--out", "it.gif"])
    with pytest.raises(SystemExit):
        readme_gif.main()
    assert "sequence=9: test of" in capsys.readouterr().err
    assert not Path("it.gif").exists()
