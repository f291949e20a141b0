"""A checkpoint is whole or not there, holds what was put in, and runs nothing."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cvae.errors import UserError
from cvae.training import checkpoint
from cvae.training.runtime import Stopped


def state() -> dict[str, Any]:
    """As a run's: weights, an optimizer's nested state (its like: a real one costs seconds to import), plain values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    moments = {k: {"step": torch.tensor(5.0), "exp_avg": torch.randn(3, 4)} for k in range(2)}
    return {
        "model": model.state_dict(),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99), "params": [0, 1], "fused": None}]},
        "generator": torch.Generator().manual_seed(7).get_state(),
        "half": torch.randn(3).to(torch.bfloat16),
        "best": -float("inf"),
        "epoch": 3,
        "nothing": None,
        "words": ["a", ("b", True)],
    }


def one_line(error: BaseException, *words: object) -> None:
    assert isinstance(error, UserError)
    assert "\n" not in str(error)
    for word in words:
        assert str(word) in str(error)


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, and of the same types, however deep."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------ save and load


def test_what_is_saved_is_loaded(tmp_path):
    path, saved = tmp_path / "deep" / "checkpoints" / "last.pt", state()
    checkpoint.save(path, saved)
    loaded = checkpoint.load(path)
    assert loaded.pop("format") == checkpoint.FORMAT
    assert_same(loaded, saved)
    assert left_in(path.parent) == {"last.pt"}


def test_others_can_load_it_without_trusting_it(tmp_path):
    checkpoint.save(tmp_path / "last.pt", state())
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 3


def test_what_is_loaded_can_be_saved_again_and_is_on_the_device_asked_for(tmp_path):
    checkpoint.save(tmp_path / "a.pt", state())
    checkpoint.save(tmp_path / "b.pt", checkpoint.load(tmp_path / "a.pt"))
    loaded = checkpoint.load(tmp_path / "b.pt", torch.device("meta"))
    assert loaded["epoch"] == 3
    assert {value.device.type for value in loaded["model"].values()} == {"meta"}


# ----------------------------------------------------------------------------------------------------- atomicity


class Unpicklable:
    def __reduce__(self) -> str:
        raise TypeError("no")


@pytest.mark.parametrize("before", [True, False], ids=["a file is there", "none is there"])
@pytest.mark.parametrize(
    "failure",
    [
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("[enforce fail] write failed"),
        TypeError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failure_in_the_middle_leaves_the_file_that_was_there(tmp_path, monkeypatch, failure, before):
    path = tmp_path / "last.pt"
    if before:
        checkpoint.save(path, {"epoch": 1})
        old = path.read_bytes()

    def save(state: Any, file: Any) -> None:
        file.write(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises((UserError, KeyboardInterrupt, TypeError)) as caught:
        checkpoint.save(path, {"epoch": 2})
    if isinstance(failure, (OSError, RuntimeError)):
        one_line(caught.value, path, "the previous one is kept" if before else "there is no earlier one", "resume=")
    else:
        assert caught.value is failure
    assert left_in(tmp_path) == ({"last.pt"} if before else set())
    if before:
        assert path.read_bytes() == old


def test_what_cannot_be_saved_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1})
    with pytest.raises(TypeError):
        checkpoint.save(path, {"epoch": 2, "other": Unpicklable()})
    assert checkpoint.load(path)["epoch"] == 1
    assert left_in(tmp_path) == {"last.pt"}


def test_the_file_is_whole_before_it_takes_the_name(tmp_path, monkeypatch):
    path, seen, written = tmp_path / "last.pt", [], []
    checkpoint.save(path, {"epoch": 1})
    real = torch.save

    def save(state: Any, file: Any) -> None:
        seen.append(checkpoint.load(path)["epoch"])
        written.append(os.fstat(file.fileno()).st_ino)
        real(state, file)
        seen.append(checkpoint.load(path)["epoch"])

    monkeypatch.setattr(torch, "save", save)
    checkpoint.save(path, {"epoch": 2})
    assert [*seen, checkpoint.load(path)["epoch"]] == [1, 1, 2]
    assert written == [path.stat().st_ino]  # renamed, which is atomic, not copied


def test_what_a_killed_process_left_is_no_hindrance(tmp_path):
    (tmp_path / "last.pt.partial").write_bytes(b"half" * 1000)
    checkpoint.save(tmp_path / "last.pt", {"epoch": 2})
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 2
    assert left_in(tmp_path) == {"last.pt"}


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        checkpoint.save(tmp_path / "file" / "last.pt", {"epoch": 2})
    one_line(caught.value, tmp_path / "file" / "last.pt")


# ------------------------------------------------------------------------------------------------ in a thread


def test_a_thread_saves_the_state_as_it_was_when_it_was_given(tmp_path, monkeypatch):
    """Though training goes on, in place, before the first byte is written; tensors that two parts share stay one."""
    given, later, real = state(), threading.Event(), torch.save
    given["trained"] = {"0.weight": given["model"]["0.weight"]}
    expected = copy.deepcopy({**given, "model": dict(given["model"])})

    def save(saved: Any, file: Any) -> None:
        assert later.wait(60)
        assert saved["trained"]["0.weight"] is saved["model"]["0.weight"]
        real(saved, file)

    monkeypatch.setattr(torch, "save", save)
    with checkpoint.Writer() as writer:
        writer.write([tmp_path / "best.pt", tmp_path / "last.pt"], given, {})
        for tensor in (*given["model"].values(), given["half"], given["optimizer"]["state"][0]["exp_avg"]):
            tensor.zero_()
        given["optimizer"]["param_groups"][0]["lr"] = 5.0
        later.set()
    for name in ("best", "last"):
        assert_same(checkpoint.load(tmp_path / f"{name}.pt"), {"format": checkpoint.FORMAT, **expected})


def test_files_are_written_in_the_order_in_which_they_were_given(tmp_path, monkeypatch):
    written, real = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, *rest: (written.append(path.name), real(path, *rest)))
    with checkpoint.Writer() as writer:
        writer.write([tmp_path / "best.pt", tmp_path / "last.pt"], {"epoch": 1}, {})
        writer.write([tmp_path / "last.pt"], {"epoch": 2}, {})
    assert written == ["best.pt", "last.pt", "last.pt"]
    assert [checkpoint.load(tmp_path / f"{name}.pt")["epoch"] for name in ("best", "last")] == [1, 2]


@pytest.mark.parametrize("by", ["the next write", "the end", "an error"])
def test_a_write_that_fails_in_the_thread_is_told(tmp_path, by):
    (tmp_path / "file").write_text("")

    def train() -> None:
        with checkpoint.Writer() as writer:
            writer.write([tmp_path / "file" / "last.pt"], {"epoch": 1}, {})
            if by == "the next write":
                writer.write([tmp_path / "last.pt"], {"epoch": 2}, {})
            if by == "an error":
                raise Stopped(15)  # which says that the state is saved

    with pytest.raises(UserError) as caught:
        train()
    one_line(caught.value, tmp_path / "file" / "last.pt")
    assert left_in(tmp_path) == {"file"}


# ---------------------------------------------------------------------------------------- what is no checkpoint


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        checkpoint.load(tmp_path / "last.pt")
    one_line(caught.value, tmp_path / "last.pt", "is missing")


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_named(tmp_path, share):
    path = tmp_path / "last.pt"
    checkpoint.save(path, state())
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    one_line(caught.value, path, "damaged")


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"epochs: 3\nlr: 0.002\n",
        b'{"epoch": 3}\n',
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04",
        b"\0" * 1000,
        b".",
    ],
    ids=["text", "YAML", "JSON", "GIF", "PNG", "zip", "zeros", "pickle"],
)
def test_a_file_of_another_kind_is_named(tmp_path, content):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    one_line(caught.value, path)


def test_a_folder_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        checkpoint.load(tmp_path)
    one_line(caught.value, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"format": checkpoint.FORMAT + 1, "epoch": 3},
        {"format": 0, "epoch": 3},
        {"format": str(checkpoint.FORMAT)},
        {"model": {"weight": torch.ones(2)}},
        {},
        [1, 2],
        torch.ones(3),
        None,
    ],
    ids=["newer", "older", "another type", "weights alone", "empty", "list", "tensor", "nothing"],
)
def test_a_file_of_another_version_is_named(tmp_path, content):
    path = tmp_path / "last.pt"
    torch.save(content, path)
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    one_line(caught.value, path, f"format {checkpoint.FORMAT}")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "among the weights"])
@pytest.mark.parametrize("kind", ["pickle", "old torch", "new torch"])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, kind, nested):
    path, trace = tmp_path / "last.pt", tmp_path / "trace"
    content: Any = Evil(trace)
    if nested:
        content = {"format": checkpoint.FORMAT, "model": {"weight": torch.ones(2), "bias": content}}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "new torch")
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    one_line(caught.value, path)
    assert not trace.exists()
    if kind != "pickle":  # that the file would have, had it been trusted
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_a_program_is_refused_without_a_word_of_pytorch_s(tmp_path, recwarn):
    """An archive that PyTorch takes for one of its programs."""
    path = tmp_path / "last.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(UserError) as caught:
        checkpoint.load(path)
    one_line(caught.value, path)
    assert not recwarn.list
