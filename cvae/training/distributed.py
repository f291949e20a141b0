"""Several processes that train one model, a share of every batch each, started by torchrun.

Only the first process goes through Hydra, prints, validates and writes. The others wait until it has built its run, then
build and train the same one. All of them draw masks and noise for the whole batch and take their rows, so a run computes the
same however many processes it has. In a process that torchrun did not start, everything here does nothing.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from cvae.console import silence
from cvae.errors import UserError, first_line
from cvae.training.pooled_norm import pool

_PATIENCE = timedelta(hours=1)  # the others wait in a collective while the first process validates
_POLL = 0.1  # seconds


class Processes:
    """This process and the others of its run. ``Processes()`` is one that runs alone.

    Besides collectives they have a store of strings, in which the first process can take any time before the others join
    in, and any of them can fail without another hanging in a collective.
    """

    def __init__(self, rank: int = 0, world: int = 1, local_rank: int = 0, store: dist.Store | None = None) -> None:
        self.rank, self.world, self.local_rank, self.store = rank, world, local_rank, store
        self._trained: list[str] = []  # parameters that DDP awaits gradients of

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    # --- building a run ---------------------------------------------------------------------------------------------------

    def place(self, device: torch.device) -> torch.device:
        """The GPU of this process, if ``device`` is CUDA.

        Raises:
            UserError: there is none for it.
        """
        if self.store is None or device.type != "cuda":
            return device
        if device.index is None:
            gpus = torch.cuda.device_count()
            if self.local_rank >= gpus:
                raise UserError(
                    f"this machine has {gpus} GPUs, too few for its processes: --nproc_per_node={gpus}, or device=cpu"
                )
            device = torch.device("cuda", self.local_rank)
        elif self.world > 1:
            raise UserError(f"device={device}, but {self.world} processes need a GPU each: device=auto")
        torch.cuda.set_device(device)
        return device

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch.

        Raises:
            UserError: the batch does not fall into equal shares; a mean of means would not be the batch's mean.
        """
        share, rest = divmod(batch, self.world)
        if rest:
            near = max(1, round(batch / self.world)) * self.world
            raise UserError(
                f"batch_size={batch} is the batch of all {self.world} processes together, and does not fall into equal "
                f"shares: batch_size={near}, or another number of processes"
            )
        return slice(self.rank * share, (self.rank + 1) * share)

    def pool_norms(self, model: nn.Module) -> None:
        """Have every BatchNorm in ``model`` take its statistics over the rows of all processes, as one process would."""
        if self.world > 1:
            pool(model, self.world)

    def share(self, cfg: DictConfig, folder: Path, resumed: bool, device: torch.device) -> None:
        """Have the others build the run that is built here, and wait until they have. Every process calls it once.

        Raises:
            UserError: one of them cannot.
        """
        if self.store is None:
            return
        if not self.first:
            self.store.set(f"built {self.rank}", "")
            return
        # Of the device its type: auto might be something else on another machine. The first process alone evaluates.
        config = OmegaConf.to_container(OmegaConf.merge(cfg, {"device": device.type, "evaluate": []}), resolve=True)
        self.store.set("run", json.dumps({"config": config, "folder": str(folder), "resumed": resumed}))
        for rank in range(1, self.world):
            if error := self._wait_for(f"built {rank}"):
                raise UserError(f"process {rank}: {error}")

    # --- training ---------------------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` with its gradients averaged over the processes; all of them start from the first one's weights."""
        if self.store is None:
            return model
        self._trained = [name for name, each in model.named_parameters() if each.requires_grad]
        # Without device_ids, DDP leaves the arguments alone: the mask that steers the rollout belongs on the CPU.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        # Buffers are equal everywhere by themselves; PyTorch has renamed what says so.
        settings: dict[str, Any] = {next(key for key in ("forward_sync_buffers", "broadcast_buffers") if key in known): False}
        return nn.parallel.DistributedDataParallel(model, **settings)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, with the gradient of this one's share alone.

        DDP averages gradients. So a loss f(mean(x)), f however curved, has the gradient that one process would give it.
        """
        return value if self.world == 1 else _Mean.apply(value, self.world)

    def agree(self, signum: int | None) -> int | None:
        """A signal that any process was sent, the same for all; a signal may reach them at different steps, or only one."""
        if self.world == 1:
            return signum
        highest = torch.tensor(signum or 0)  # on the CPU: no GPU waits for it
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest) or None

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Name the failure when another process is gone, or when a parameter takes no part in the loss.

        Raises:
            UserError: instead of what the collective or DDP raised.
        """
        try:
            yield
        except RuntimeError as error:
            if unused := _without_gradient(error):
                names = ", ".join(self._trained[k] for k in unused if k < len(self._trained))
                raise UserError(
                    f"no gradient reaches {names}, and processes that train together wait for it: use them in the loss, call "
                    "requires_grad_(False) on them, or train without torchrun"
                ) from error
            if not _lost(error):
                raise
            raise UserError(f"lost another process ({first_line(error)}): see what it said, then go on with resume=") from error

    # --- beginning and end ------------------------------------------------------------------------------------------------

    def lead(self, main: Callable[[], Any]) -> None:
        """Run ``main`` as the first process, and tell the others when it has ended, with or without an error."""
        assert self.store is not None
        ended = "by an error"
        try:
            main()
            ended = "well"
        finally:
            if not self.store.check(["run"]):
                self.store.set("run", "null")  # --help, show=, or an error: nothing to train
            self.store.set("ended", ended)
        dist.destroy_process_group()

    def follow(self, train: Callable[[DictConfig, Path, str | None, bool], Any]) -> None:
        """Train with the first process once it has built its run, and print nothing: it prints for all."""
        assert self.store is not None
        silence()
        try:
            run = json.loads(self._wait_for("run"))
            if run is None:
                return
            try:
                train(OmegaConf.create(run["config"]), Path(run["folder"]), None, run["resumed"])
            except UserError as error:
                self.store.set(f"built {self.rank}", str(error))
            except (SystemExit, KeyboardInterrupt):
                pass  # stopped; torchrun ends all processes when one ends, and the first one may still be saving
            # After an error the first process is gone, and taking the group apart would wait for it.
            if self._wait_for("ended") == "well":
                dist.destroy_process_group()
        except RuntimeError as error:
            if not _lost(error):
                raise

    def _wait_for(self, key: str) -> str:
        """The value that another process sets; polled, as a wait in the store itself takes no signal and blocks other calls."""
        assert self.store is not None
        while not self.store.check([key]):
            time.sleep(_POLL)
        return str(self.store.get(key).decode())


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, world: int) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total / world

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _lost(error: RuntimeError) -> bool:
    # NCCL and the store have types of their own; gloo's errors are plain and begin with the place in its source.
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def _without_gradient(error: RuntimeError) -> list[int]:
    """The numbers of the parameters that DDP has waited for in vain, if that is what it says."""
    found = re.search(r"did not receive grad for rank \d+: ([\d ]+)", str(error))
    return [int(number) for number in found[1].split()] if found else []


_processes = Processes()


def current() -> Processes:
    """This process and the others, as ``join`` found them."""
    return _processes


def join() -> Processes:
    """Join the processes that torchrun started.

    Raises:
        UserError: RANK, LOCAL_RANK and WORLD_SIZE are set, but not by torchrun.
    """
    global _processes
    try:
        store, rank, world = next(dist.rendezvous("env://"))
    except ValueError as error:
        raise UserError(f"{error}: start several processes with torchrun, or unset RANK, LOCAL_RANK and WORLD_SIZE") from error
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_PATIENCE)
    _processes = Processes(rank, world, int(os.environ["LOCAL_RANK"]), dist.PrefixStore("cvae", store))
    return _processes


def run(main: Callable[[], Any], train: Callable[[DictConfig, Path, str | None, bool], Any]) -> None:
    """Be one of torchrun's processes: the first runs ``main``, which comes to ``train``; the others only ``train``."""
    processes = join()
    if processes.first:
        processes.lead(main)
    else:
        processes.follow(train)
