"""What every layer needs in a training step, done for all layers at once: on a GPU each small operation costs a launch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cvae.model.deferred import deferred


def _pays(device: torch.device) -> bool:
    """Whether fewer launches are worth it: a CPU starts an operation in no time.

    So it is for compiled modules: a compiler merges what one call does, and would cast weights and add gradients in each.
    """
    return device.type == "cuda"


_CAPTURES: ContextVar[bool] = ContextVar("captures", default=False)


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """The context of a step that is, or will be, replayed as one launch: on a GPU, too, gradients of weights are deferred.

    It makes fewer and larger kernels. In other steps its Python functions cost a GPU's host more time than the launches that
    they save. A CPU needs no context: it gains wherever a weight is larger than the maps that it meets.
    """
    before = _CAPTURES.set(True)
    try:
        yield
    finally:
        _CAPTURES.reset(before)


def _defers(module: nn.Module, device: torch.device) -> bool:
    """Whether the gradient of a convolution's weight is computed once for several calls; a compiler cannot see into that."""
    compiled = any(each._compiled_call_impl for each in module.modules())
    return (device.type == "cpu" or _CAPTURES.get()) and not _thrifty(module) and not compiled


def _thrifty(module: nn.Module) -> bool:
    """Whether it gives time for memory: then nothing is kept for the last use."""
    return bool(getattr(module, "checkpointing", False))


def _casts_all(module: nn.Module) -> bool:
    """Whether autocast is on wherever the module convolves."""
    return bool(getattr(module, "autocast_throughout", False))


def lent(module: nn.Module, calls: int) -> Callable[..., Any]:
    """``module``, to be called up to ``calls`` times in a training step, where one operation then serves all of its parameters.

    Under autocast the weights of convolutions are cast in one copy, and so are their gradients; autocast casts one after the
    other. A module says by ``autocast_throughout`` that it switches autocast off nowhere; of others the convolutions are left
    alone. Several calls get a loan of the parameters each, whose gradients are added to those of later calls in one operation;
    autograd by itself adds them parameter by parameter. While ``deferring``, and on a CPU for weights that are larger than the
    maps, the gradient of a convolution's weight is computed once for all calls; on a CPU that is all that is done.
    """
    first = next(module.parameters(), None)
    if first is None or not torch.is_grad_enabled():
        return module
    pays = _pays(first.device)
    defers = calls > 1 and _defers(module, first.device)
    return _Lent(module, calls, pays, defers) if pays or defers else module


def lent_weights(module: nn.Module, weights: list[Tensor]) -> list[Tensor]:
    """The same for weights of convolutions that ``module`` computes from its own."""
    weights = cast_together(weights)
    if not torch.is_grad_enabled() or not _defers(module, device := weights[0].device):
        return weights
    return [deferred(each, only_if_larger=not _pays(device)) for each in weights]


class _Lent:
    """A module that is called with what stands in for its parameters: for all of them, or for convolutions' weights alone."""

    def __init__(self, module: nn.Module, calls: int, everything: bool, defers: bool) -> None:
        self._module = module
        owners = [(each, name) for each in module.modules() for name, own in each._parameters.items() if own is not None]
        if not everything:
            owners = [(owner, name) for owner, name in owners if _is_weight(owner, name)]
        if torch.is_autocast_enabled(next(module.parameters()).device.type) and not _casts_all(module):
            owners = [(owner, name) for owner, name in owners if not isinstance(owner, _ConvNd)]
        self._places = [(owner._parameters, name) for owner, name in owners]
        self._parameters: list[Any] = [own[name] for own, name in self._places]
        convolutions = [k for k, (owner, _) in enumerate(owners) if isinstance(owner, _ConvNd)]
        tensors = [*self._parameters]
        for k, each in zip(convolutions, cast_together([tensors[k] for k in convolutions]), strict=True):
            tensors[k] = each
        weights = [k for k in convolutions if defers and _is_weight(*owners[k])]
        for k in weights:
            tensors[k] = deferred(tensors[k], only_if_larger=not everything)
        others = [k for k in range(len(tensors)) if k not in weights]
        alone = calls == 1 or _thrifty(module) or not others
        self._loans: Iterator[list[Any]] = repeat(tensors) if alone else _loans(calls, tensors, others)

    def __call__(self, *inputs: Any) -> Any:
        self._put(next(self._loans))
        try:
            return self._module(*inputs)
        finally:
            self._put(self._parameters)

    def _put(self, tensors: Sequence[Any]) -> None:
        for (own, name), tensor in zip(self._places, tensors, strict=True):
            own[name] = tensor


def _is_weight(owner: nn.Module, name: str) -> bool:
    return isinstance(owner, _ConvNd) and name == "weight"


def _loans(calls: int, tensors: list[Tensor], others: list[int]) -> Iterator[list[Tensor]]:
    """The same tensors for each of several calls, of which ``others`` are lent anew to each."""
    loans = iter(_Loans.apply(calls, *(tensors[k] for k in others)))
    for _ in range(calls):
        of_call = [*tensors]
        for k in others:
            of_call[k] = next(loans)
        yield of_call


class _Loans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, calls: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.calls = calls
        return tuple(each.detach() for _ in range(calls) for each in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        count = len(gradients) // ctx.calls
        sums: list[Any] = [*gradients[-count:]]
        for start in range(len(gradients) - 2 * count, -1, -count):  # the last call's come first, as autograd adds them
            alike: dict[torch.dtype, list[int]] = {}  # an operation is for one type
            for k, each in enumerate(gradients[start : start + count]):
                if sums[k] is None:
                    sums[k] = each
                elif each is not None:
                    alike.setdefault(each.dtype, []).append(k)
            for ks in alike.values():
                added = torch._foreach_add([sums[k] for k in ks], [gradients[start + k] for k in ks])
                for k, each in zip(ks, added, strict=True):
                    sums[k] = each
        return None, *sums


def as_before(stage: nn.Module) -> contextlib.AbstractContextManager[None]:
    """The context in which a stage is computed once more with the parameters that it has now; BatchNorm counts no batch."""
    return _as_before(stage, [dict(each._parameters) for each in stage.modules()])


@contextlib.contextmanager
def _as_before(stage: nn.Module, parameters: list[dict[str, Any]]) -> Iterator[None]:
    now = [dict(each._parameters) for each in stage.modules()]
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    for each, own in zip(stage.modules(), parameters, strict=True):
        each._parameters.update(own)
    try:
        yield
    finally:
        for each, own in zip(stage.modules(), now, strict=True):
            each._parameters.update(own)
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


def cast_together(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors in autocast's precision, if there is one, by one copy forward and one backward."""
    if not tensors or not torch.is_autocast_enabled(kind := tensors[0].device.type):
        return tensors
    return [*_Cast.apply(torch.get_autocast_dtype(kind), *tensors)]


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        return _cast(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = iter(_cast([each for each in gradients if each is not None], ctx.dtype))
        return None, *(None if each is None else next(there) for each in gradients)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(each, dtype=dtype) for each in tensors)
    torch._foreach_copy_(copies, [*tensors])
    return copies
