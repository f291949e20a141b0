"""Several processes train what one would, as one run, and end together. Run by torchrun, this file compares gradients."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import tiny
from omegaconf import OmegaConf
from resuming import finish
from resuming import history as rows

from cvae.console import console
from cvae.errors import UserError
from cvae.model.backbones import dcgan64
from cvae.model.cvae import CVAE
from cvae.model.norms import BatchNorms
from cvae.model.objective import MSE, Objective, SigmaOptimal
from cvae.model.recurrent import GaussianLSTM
from cvae.training import distributed
from cvae.training.distributed import Processes
from cvae.training.pooled_norm import PooledBatchNorm
from cvae.training.runtime import Stopped
from cvae.training.trainer import Trainer

HERE = Path(__file__)
TORCHRUN = [str(Path(sys.executable).with_name("torchrun")), "--standalone"]

# --------------------------------------------------------------------------------------------------- gradients

B, T, Z = 4, 6, 3
FREE = 1.85  # nats that a dimension of z reaches at the last step in the mean over the batch, but not over its first half
LOSSES = {"mse": (MSE(), 0.0), "free bits": (MSE(), FREE), "sigma_optimal": (SigmaOptimal(), FREE)}
CASES = [
    *(("planned", "group", name) for name in LOSSES),
    ("stepwise", "group", "sigma_optimal"),
    ("planned", "batch", "sigma_optimal"),
    ("stepwise", "batch", "mse"),
]
# Rows 0 and 1 go to one process, 2 and 3 to the other: at step 3 the first has true frames alone, at step 5 the second.
FORCED = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 1]], dtype=torch.bool)


def compare(out: str) -> None:
    """In each process: how far its losses and gradients are from those of one that has the whole batch.

    Then the second one goes, and the first finds out.
    """
    processes = distributed.join()
    found: dict[str, object] = {}
    for rollout, norm, name in CASES:
        whole = losses_and_gradients(*LOSSES[name], rollout, norm, Processes())
        for mean in (processes.mean, Processes().mean) if (rollout, norm) == ("planned", "group") else (processes.mean,):
            share = losses_and_gradients(*LOSSES[name], rollout, norm, processes, mean)
            distances = [((a - b).norm() / b.norm()).item() for a, b in zip(share, whole, strict=True)]
            key = f"{rollout} {norm} {name}" if mean == processes.mean else f"{rollout} {norm} {name} unpooled"
            found[key] = max(distances[:3]), max(distances[3:])
    found["layer"] = max(layer_distances(processes))
    if processes.first:
        try:
            with processes.in_step():
                processes.agree(None)
        except UserError as error:
            found["lost"] = str(error)
    Path(f"{out}.{processes.rank}").write_text(json.dumps(found))
    os._exit(0)


def layer_distances(processes: Processes) -> list[float]:
    """Of what a layer returns and remembers, without weights and with a running mean of all batches; of a gradient."""
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.BatchNorm1d(3, momentum=None, affine=False)).double()
    pooled = copy.deepcopy(layer)
    processes.pool_norms(pooled)
    rows, found = processes.rows(B), []
    for _ in range(2):
        x_BCL, slope_BCL = 5 + torch.randn(2, B, 3, 7).double()
        whole, share = x_BCL.clone().requires_grad_(), x_BCL[rows].clone().requires_grad_()
        (layer(whole) * slope_BCL).sum().backward()
        (pooled(share) * slope_BCL[rows]).sum().backward()
        found += [(share.grad - whole.grad[rows]).abs().max().item(), (pooled(share) - layer(whole)[rows]).abs().max().item()]
    return found + [(a - b).abs().max().item() for a, b in zip(pooled.buffers(), layer.buffers(), strict=True)]


def losses_and_gradients(likelihood, free_bits: float, rollout: str, norm: str, processes: Processes, mean=None):
    """Losses, gradients and running statistics of a step."""
    torch.manual_seed(0)
    # Several channels a group: where a group is one channel, the bias before it has no gradient but rounding.
    model = CVAE(dcgan64(6, 1 / 4, norm), GaussianLSTM(6, Z, 5), 4, 2, Z, 5, rollout=rollout).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    # Frames that differ from row to row, so that the halves' means lie on both sides of the free bits.
    tiles = torch.rand(B, T, 3, 4, 4).double().repeat_interleave(16, dim=3).repeat_interleave(16, dim=4)
    frames, cond, noise = tiles, torch.randn(B, T, 4).double(), torch.randn(T, B, Z).double()
    rows = processes.rows(B)
    objective = Objective(likelihood, free_bits, None, mean or processes.mean)
    processes.pool_norms(model)
    norms = BatchNorms(model)
    network = processes.wrap(model)
    with norms.together():
        losses = objective(network(frames[rows], cond[rows], FORCED, noise[:, rows], FORCED[rows]), frames[rows], 0.3)
    losses.total.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    statistics = [each.clone().double() for name, each in model.named_buffers() if "running" in name or "tracked" in name]
    return [losses.total.detach(), losses.mse, losses.kld, *gradients, *statistics]


def launch(world: int, *command: str) -> list[subprocess.Popen[str]]:
    """The processes that torchrun would start, without it: nobody ends one when another fails, and each can be heard."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world), **free_address()}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def free_address() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("gradients") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent.parent), *sys.path]))
        processes = launch(2, str(HERE), str(out))
    for process in processes:
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
    return [json.loads(out.with_suffix(f".{rank}").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(("rollout", "norm", "name"), CASES)
def test_two_processes_have_the_losses_and_gradients_of_one(differences, rollout, norm, name):
    assert all(max(far[f"{rollout} {norm} {name}"]) < 1e-9 for far in differences)


@pytest.mark.slow
def test_a_layer_is_pooled_whatever_its_form(differences):
    assert all(far["layer"] < 1e-9 for far in differences)


@pytest.mark.slow
def test_a_curved_loss_needs_the_mean_of_the_whole_batch(differences):
    """So the test above can fail."""
    for far in differences:
        assert far["planned group mse unpooled"][1] < 1e-9
        assert far["planned group free bits unpooled"][1] > 1e-6
        assert far["planned group sigma_optimal unpooled"][1] > 1e-6


# ------------------------------------------------------------------------------------------------- whole runs

RUN = [
    "batch_size=4", "epochs=2", "epoch_size=12", "coin=per_sample", "tf_schedule=linear",
    "likelihood=sigma_optimal", "free_bits=0.001", "optim=sgd", "lr=1e-5", "grad_clip=100", "average=0.1", "kl_schedule=target",
]  # fmt: skip


def start(*words: str) -> subprocess.Popen[str]:
    """``torchrun -m cvae.train WORDS``."""
    command = [*TORCHRUN, "--nproc_per_node=2", "-m", "cvae.train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def state(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


def assert_agree(run: Path, alone: Path) -> None:
    """The same run but for rounding."""
    assert rows(run) == [pytest.approx(row, rel=1e-4, abs=1e-7) for row in rows(alone)]
    a, b = state(run), state(alone)
    torch.testing.assert_close(a["model"], b["model"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(a["generator"], b["generator"])


@pytest.fixture(scope="module")
def alone(drawn, tmp_path_factory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "cvae.train", *tiny(drawn, *RUN), f"hydra.run.dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def names(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*")}


@pytest.mark.slow
def test_the_first_process_alone_evaluates_by_a_protocol_of_ones_own(drawn):
    Path("own/protocol").mkdir(parents=True)
    Path("own/protocol/mine.yaml").write_text("# @package protocol.mine\nn_past: 1\nn_future: 3\n")
    words = tiny(drawn, "batch_size=4", "epochs=1", "evaluate=[mine]")
    code, out = finish(start("--config-dir", "own", *words, "hydra.run.dir=run"))
    assert code == 0, out
    assert Path("run/eval/mine.json").exists(), out


@pytest.mark.slow
def test_two_processes_are_one_run(drawn, alone, tmp_path):
    code, out = finish(start(*tiny(drawn, *RUN), "hydra.run.dir=run"))
    assert code == 0, out
    run = Path("run")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "cache"}
    assert names(run) == names(alone)
    assert_agree(run, alone)
    assert json.loads((run / "run.json").read_text())["processes"] == 2
    assert json.loads((alone / "run.json").read_text())["processes"] == 1
    lines = out.splitlines()
    for once in ("packing", "run  ", "device  ", "epoch 1/2", "epoch 2/2", "run folder"):
        assert sum(line.startswith(once) for line in lines) == (2 if once == "packing" else 1), out
    assert "fp32, 2 processes" in out
    assert "Warning" not in out


@pytest.fixture
def one_of_one(monkeypatch) -> Iterator[None]:
    """What ``torchrun --nproc_per_node=1`` sets."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **free_address()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_processes", distributed.current())
    yield
    if torch.distributed.is_initialized():  # after an error
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_process_group_of_one_changes_nothing(train, drawn, alone, one_of_one):
    result = train(*tiny(drawn, *RUN), "hydra.run.dir=run")
    assert (result.code, result.err) == (0, "")
    assert distributed.current().store is not None
    assert rows(Path("run")) == rows(alone)
    torch.testing.assert_close(state(Path("run"))["model"], state(alone)["model"], rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["-m", "--multirun", "hydra.mode=MULTIRUN"])
def test_a_multirun_is_refused_before_it_makes_a_folder(train, drawn, one_of_one, mode):
    result = train(mode, *tiny(drawn), "seed=1,2")
    assert result.code == 1
    assert result.err == "error: a multirun starts its own jobs, while torchrun's processes share one run: leave torchrun out\n"
    assert not Path("multirun").exists()


@pytest.mark.slow
def test_a_signal_stops_both_after_one_step_and_one_goes_on(train, drawn, alone):
    run = Path("run").absolute()
    process = start(*tiny(drawn, *RUN), f"hydra.run.dir={run}")
    wait_for(run / "metrics.jsonl", process)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, out = finish(process)
    assert code != 0
    assert out.count("stopped by SIGTERM; go on with: python -m cvae.train resume=") == 1, out
    assert state(run)["epoch"] == 1
    assert state(run)["iteration"] > 0
    result = train(f"resume={run}")
    assert result.code == 0, result.err
    assert_agree(run, alone)


@pytest.mark.slow
def test_two_go_on_with_the_run_of_one(train, drawn, alone, monkeypatch):
    run = Path("run").absolute()
    whole_epoch = Trainer._run_epoch

    def stopped(self, *given):
        if self.epoch == 1:
            raise Stopped(signal.SIGTERM)
        return whole_epoch(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_run_epoch", stopped)
        assert train(*tiny(drawn, *RUN), f"hydra.run.dir={run}").code == 75
    assert len(rows(run)) == 1
    first, second = launch(2, "-m", "cvae.train", f"resume={run}")
    out, error = first.communicate(timeout=400)
    assert (first.returncode, error) == (0, "")
    assert out.count("resumed at epoch 1") == 1
    assert second.communicate(timeout=400) == ("", "")
    assert_agree(run, alone)
    (resumed,) = json.loads((run / "run.json").read_text())["resumed"]
    assert resumed["processes"] == 2


# ----------------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def pair(*words: str) -> Iterator[list[subprocess.Popen[str]]]:
    processes = launch(2, "-m", "cvae.train", *words)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["batch_size=7"], ["batch_size=7", "2 processes", "batch_size=8"]),
        (["seed=1,2", "-m"], ["multirun", "leave torchrun out"]),
        (["lr=1e30", "optim=adam"], ["became", "epoch 1, iteration", "diverged.pt"]),
    ],
    ids=["batch", "multirun", "diverged"],
)
def test_an_error_is_one_line_and_ends_both(drawn, words, parts):
    with pair(*tiny(drawn, *RUN[:3], *words)) as (first, second):
        out, error = first.communicate(timeout=400)
        assert first.returncode == 1, out + error
        (line,) = error.splitlines()
        assert line.startswith("error: ")
        for part in parts:
            assert part in line
        assert second.communicate(timeout=400) == ("", "")
        assert second.returncode == 0


def test_parameters_that_take_no_part_are_named(one_of_one):
    """DDP waits for their gradients; one process trains without."""
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "not": torch.nn.Linear(2, 1)})
    model.forward = lambda x: model["used"](x)
    processes = distributed.join()
    network = processes.wrap(model)
    network(torch.ones(1, 2)).sum().backward()
    with pytest.raises(UserError, match=r"no gradient reaches not\.weight, not\.bias, and processes"), processes.in_step():
        network(torch.ones(1, 2))


@pytest.mark.slow
def test_a_lost_process_is_named(differences):
    lost = differences[0]["lost"]
    assert lost.startswith("lost another process (")
    assert lost.endswith("see what it said, then go on with resume=")


@pytest.fixture
def speaking() -> Iterator[None]:
    """A console of its own for whoever falls silent."""
    console.cache_clear()
    yield
    console.cache_clear()


def test_what_the_second_process_lacks_the_first_one_says(speaking):
    store = torch.distributed.HashStore()
    first, second = (Processes(rank, 2, rank, store) for rank in range(2))
    cfg = OmegaConf.create({"lr": 1e-3, "device": "auto", "beta": "${lr}", "compile": "true"})
    seen = []

    def train(cfg, folder, group, resumed):
        seen.append((OmegaConf.to_container(cfg), folder, group, resumed))
        raise UserError("no room here: make some")

    following = threading.Thread(target=second.follow, args=(train,))
    following.start()
    with pytest.raises(UserError, match="process 1: no room here: make some"):
        first.share(cfg, Path("/run"), True, torch.device("cuda", 0))
    store.set("ended", "by an error")
    following.join(120)
    assert not following.is_alive()
    wanted = {"lr": 1e-3, "device": "cuda", "beta": 1e-3, "compile": "true", "evaluate": []}  # the first process evaluates
    assert seen == [(wanted, Path("/run"), None, True)]


def test_where_nothing_is_trained_nobody_follows(speaking):
    store = torch.distributed.HashStore()
    with pytest.raises(SystemExit):
        Processes(0, 2, 0, store).lead(lambda: sys.exit(0))
    Processes(1, 2, 1, store).follow(lambda *given: pytest.fail("trains"))


def test_its_variables_without_torchrun_are_named(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"MASTER_ADDR.*torchrun, or unset RANK, LOCAL_RANK and WORLD_SIZE"):
        distributed.join()


# ------------------------------------------------------------------------------------------- shares and places


@pytest.mark.parametrize(("world", "batch"), [(1, 5), (2, 6), (3, 3)])
def test_the_rows_are_the_batch_in_equal_shares(world, batch):
    shares = [list(range(batch))[Processes(rank, world).rows(batch)] for rank in range(world)]
    assert [row for share in shares for row in share] == list(range(batch))
    assert {len(share) for share in shares} == {batch // world}


@pytest.mark.parametrize(("world", "batch", "near"), [(2, 7, 8), (5, 12, 10), (8, 3, 8), (4, 15, 16)])
def test_a_batch_that_cannot_be_shared_equally_names_one_that_can(world, batch, near):
    with pytest.raises(UserError, match=rf"batch_size={batch} .*{world} processes.*batch_size={near},"):
        Processes(0, world).rows(batch)


@pytest.fixture
def gpus(monkeypatch) -> list[torch.device]:
    """Two GPUs, as far as PyTorch tells; what was made the current one."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def together(local_rank: int, world: int = 2) -> Processes:
    return Processes(local_rank, world, local_rank, torch.distributed.HashStore())


@pytest.mark.parametrize(
    ("processes", "name", "expected"),
    [
        (together(0), "cuda", "cuda:0"),
        (together(1), "cuda", "cuda:1"),
        (Processes(5, 8, 1, torch.distributed.HashStore()), "cuda", "cuda:1"),  # on a second machine
        (together(0, 1), "cuda:1", "cuda:1"),
        (together(1), "cpu", "cpu"),
        (Processes(), "cuda", "cuda"),
        (Processes(), "cuda:1", "cuda:1"),
    ],
)
def test_every_process_has_a_gpu_of_its_own(gpus, processes, name, expected):
    assert processes.place(torch.device(name)) == torch.device(expected)
    assert gpus == ([torch.device(expected)] if processes.store is not None and "cuda" in name else [])


@pytest.mark.parametrize(
    ("processes", "name", "word"), [(together(2, 3), "cuda", "nproc_per_node=2"), (together(0), "cuda:1", "device=auto")]
)
def test_a_gpu_that_is_not_there_or_not_its_own_is_refused(gpus, processes, name, word):
    with pytest.raises(UserError, match=word):
        processes.place(torch.device(name))


def test_batch_norms_pool_and_keep_their_names_and_weights():
    model = dcgan64(8, 1 / 16)
    before = copy.deepcopy(model)
    Processes(0, 1).pool_norms(model)
    assert not any(isinstance(module, PooledBatchNorm) for module in model.modules())
    parameters = list(model.parameters())
    Processes(0, 2).pool_norms(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.state_dict().keys() == before.state_dict().keys()
    x_NCHW = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model.eval().encoder(x_NCHW), before.eval().encoder(x_NCHW))


def test_alone_everything_stays_as_it_is():
    processes = distributed.current()
    model, value = torch.nn.Linear(1, 1), torch.ones(1)
    assert processes.wrap(model) is model
    assert processes.mean(value) is value
    assert [processes.agree(signum) for signum in (None, 15)] == [None, 15]
    with pytest.raises(RuntimeError, match="gloom"), processes.in_step():
        raise RuntimeError("gloom")


if __name__ == "__main__":
    compare(sys.argv[1])
