"""Pictures open anywhere, show the right frames in the right places, and survive every kind of run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cvae import pictures

Pixels = NDArray[np.uint8]

GREEN, GREY, ORANGE = (46, 160, 67), (175, 184, 193), (219, 109, 40)


def opened(path: Path, file_format: str) -> tuple[int, int]:
    """The size of a picture all of whose pixels can be read."""
    with Image.open(path) as image:
        assert image.format == file_format
        image.load()
        return image.size


def names(count: int) -> list[str]:
    return [f"traj_{s}/{s}" for s in range(count)]


# ------------------------------------------------------------------------------------------------- strips, GIFs


def videos(sequences: int, length: int) -> tuple[Pixels, Pixels]:
    """Truth and prediction, every frame in a colour of its own, by which it is found in a picture."""
    colours_S2TC = np.zeros((sequences, 2, length, 3), np.uint8)
    for s, row, t in np.ndindex(sequences, 2, length):
        colours_S2TC[s, row, t] = (5 + 8 * t, 60 * s, 250 * row)
    frames = np.broadcast_to(colours_S2TC[:, :, :, None, None], (sequences, 2, length, 64, 64, 3))
    return np.ascontiguousarray(frames[:, 0]), np.ascontiguousarray(frames[:, 1])


def find(picture: Pixels, colour: NDArray[np.uint8], tolerance: int = 0) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom (exclusive) of the one square of a colour; None if it is not there."""

    def alike(part: Pixels) -> tuple[NDArray[np.int64], ...]:
        return (np.abs(part.astype(np.int16) - colour).max(axis=-1) <= tolerance).nonzero()

    ys, xs = alike(picture[::8, ::8])  # a look at few pixels says where to look closely
    if not ys.size:
        return None
    y, x = max(0, 8 * ys.min() - 8), max(0, 8 * xs.min() - 8)
    ys, xs = alike(picture[y : 8 * ys.max() + 9, x : 8 * xs.max() + 9])
    left, top, right, bottom = x + xs.min(), y + ys.min(), x + xs.max() + 1, y + ys.max() + 1
    assert ys.size == (bottom - top) * (right - left)  # it fills its box: nothing is drawn over it
    return int(left), int(top), int(right), int(bottom)


def assert_framed(picture: Pixels, box: tuple[int, int, int, int], colour: tuple[int, int, int], tolerance: int = 0) -> None:
    """The pixels all around a box have a colour."""
    left, top, right, bottom = box
    ring = np.concatenate(
        [
            picture[top - 1, left - 1 : right + 1],
            picture[bottom, left - 1 : right + 1],
            picture[top - 1 : bottom + 1, left - 1],
            picture[top - 1 : bottom + 1, right],
        ]
    )
    strays = ring[np.abs(ring.astype(int) - colour).max(axis=-1) > tolerance].tolist()
    assert strays[:3] == []


@pytest.mark.parametrize(
    ("sequences", "length", "n_past"), [(1, 3, 2), (4, 12, 2), (2, 12, 1), (1, 30, 2), (2, 30, 10), (1, 2, 1), (2, 14, 4)]
)
def test_a_strip_shows_truth_above_prediction_in_the_order_of_time(tmp_path, sequences, length, n_past):
    true_STHWC, predicted_STHWC = videos(sequences, length)
    pictures.strip(true_STHWC, predicted_STHWC, n_past, names(sequences), tmp_path / "strip.png")
    opened(tmp_path / "strip.png", "PNG")
    with Image.open(tmp_path / "strip.png") as image:
        picture = np.asarray(image.convert("RGB"))

    tops, shown = [], []
    for s in range(sequences):
        for row, video in enumerate((true_STHWC, predicted_STHWC)):
            boxes = {t: find(picture, video[s, t, 0, 0]) for t in range(length)}
            there = {t: box for t, box in boxes.items() if box is not None}
            shown.append(list(there))
            tops.append({top for _, top, _, _ in there.values()})
            lefts = [left for left, _, _, _ in there.values()]
            assert lefts == sorted(lefts)
            assert len({*np.diff(lefts)}) <= 1  # an even row
            for t, box in there.items():
                assert (box[2] - box[0], box[3] - box[1]) == (128, 128)
                assert_framed(picture, box, GREEN if t < n_past else (GREY, ORANGE)[row])
    assert all(columns == shown[0] for columns in shown)
    assert all(len(top) == 1 for top in tops)
    assert [min(top) for top in tops] == sorted(min(top) for top in tops)

    columns = shown[0]
    assert min(2, n_past) <= sum(t < n_past for t in columns) <= 2
    assert {n_past - 1, n_past, length - 1} <= set(columns)  # the last that is given, the first and the last prediction
    if length <= 12:
        assert set(range(n_past, length)) <= set(columns)
    else:
        assert 10 <= len(columns) <= 14
        gaps = np.diff([t for t in columns if t >= n_past])
        assert gaps.max() - gaps.min() <= 1


def played(path: Path) -> tuple[list[Pixels], list[int], dict[str, Any]]:
    """The frames of a GIF as a viewer shows them, their milliseconds, and what the file says of itself."""
    frames, durations = [], []
    with Image.open(path) as image:
        info = dict(image.info)
        for t in range(image.n_frames):
            image.seek(t)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
    return frames, durations, info


@pytest.mark.parametrize(("sequences", "length", "n_past"), [(1, 3, 2), (4, 5, 2), (2, 8, 4)])
def test_a_gif_shows_every_frame_in_turn(tmp_path, sequences, length, n_past):
    true_STHWC, predicted_STHWC = videos(sequences, length)
    pictures.gif(true_STHWC, predicted_STHWC, n_past, names(sequences), tmp_path / "it.gif")
    opened(tmp_path / "it.gif", "GIF")
    frames, _, _ = played(tmp_path / "it.gif")
    assert len(frames) == length
    assert {frame.shape for frame in frames} == {frames[0].shape}
    for t, frame in enumerate(frames):
        boxes = {}
        for s in range(sequences):
            for row, video in enumerate((true_STHWC, predicted_STHWC)):
                box = find(frame, video[s, t, 0, 0], tolerance=4)  # a GIF has few colours
                assert box is not None, (s, row, t)
                assert (box[2] - box[0], box[3] - box[1]) == (192, 192)
                assert_framed(frame, box, GREEN if t < n_past else (GREY, ORANGE)[row], tolerance=16)
                boxes[s, row] = box
            assert boxes[s, 0][0] == boxes[s, 1][0]
            assert boxes[s, 0][1] < boxes[s, 1][1]
        for row in (0, 1):
            lefts = [boxes[s, row][0] for s in range(sequences)]
            assert lefts == sorted(set(lefts))
            assert len({boxes[s, row][1] for s in range(sequences)}) == 1


@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
@pytest.mark.parametrize("length", [2, 9])
def test_a_gif_lasts_as_long_as_it_has_frames_and_loops(tmp_path, length, still):
    true_STHWC, predicted_STHWC = videos(1, length)
    if still:  # writers of GIFs like to merge frames that are alike
        true_STHWC[:] = predicted_STHWC[:] = 90
    pictures.gif(true_STHWC, predicted_STHWC, 1, ["a"], tmp_path / "it.gif")
    _, durations, info = played(tmp_path / "it.gif")
    assert len(durations) == length
    assert info["loop"] == 0
    assert set(durations[:-1]) == {150}
    assert durations[-1] > 150


@pytest.mark.parametrize("name", ["", "0", "a very long name of a folder indeed/12", "Küche/1", "日本/1"])
def test_any_name_can_stand_beside_a_sequence(tmp_path, name):
    for draw, file_format in ((pictures.strip, "PNG"), (pictures.gif, "GIF")):
        draw(*videos(1, 4), 2, [name], tmp_path / f"it.{file_format}")
        opened(tmp_path / f"it.{file_format}", file_format)


@pytest.mark.parametrize("name", ["0", "traj_10000_to_10255/255", "kitchen table, take 3/0", "WOODEN_BOARD_AND_BOWL/12"])
def test_a_name_is_not_drawn_over_the_frames(tmp_path, name):
    pictures.strip(*videos(1, 3), 2, [name], tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as image:
        picture = np.asarray(image.convert("RGB"))
    for row, video in enumerate(videos(1, 3)):
        box = find(picture, video[0, 0, 0, 0])
        assert box is not None, row
        assert_framed(picture, box, GREEN)


def test_a_sample_gif_is_read_back(tmp_path):
    """Truth and prediction of plain colours, which the GIF's palette keeps."""
    colours = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [200, 200, 30]]], dtype=np.uint8)  # row, sequence
    videos_RSTHWC = np.broadcast_to(colours[:, :, None, None, None], (2, 2, 5, 64, 64, 3))
    pictures.gif(videos_RSTHWC[0], videos_RSTHWC[1], 2, ["a", "b"], tmp_path / "epoch_0001.gif")
    found = pictures.read_gif((tmp_path / "epoch_0001.gif").read_bytes(), 3)
    for read_STHWC, drawn_STHWC in zip(found, videos_RSTHWC, strict=True):
        assert read_STHWC.shape == (2, 3, 64, 64, 3)
        assert np.abs(read_STHWC.astype(int) - drawn_STHWC[:, :3]).max() < 12


def test_a_gif_of_another_kind_is_refused(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "x.gif")
    with pytest.raises(ValueError, match="sample video"):
        pictures.read_gif((tmp_path / "x.gif").read_bytes(), 3)
