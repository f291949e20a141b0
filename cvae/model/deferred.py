"""Gradients of convolutions' weights, computed once for all uses of a weight in a training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor


def deferred(weight: Tensor, only_if_larger: bool = False) -> Tensor:
    """A convolution's weight to be used several times, whose gradient is one operation for all of these uses.

    Autograd by itself computes the gradient of each use, and adds them. Here each use keeps what the gradient is made of: the
    map that went in and the gradient of the one that came out. The backward pass gives back a saved activation for each that
    is kept, so that this takes about as much memory. When it has met the last use, maps of one size are put together along
    the batch. In other functions than convolutions the tensor is as any other.

    With ``only_if_larger``, uses by maps that have more than half as many numbers as the weight are left to autograd: putting
    such maps together takes as long as adding the weight's gradients (measured on CPUs; a map goes in and another comes out).
    """
    uses: list[_Use] = []
    collected: Tensor = _Collected.apply(uses, weight)
    tensor = collected.as_subclass(_Weight)
    tensor.uses, tensor.most = uses, weight.numel() / 2 if only_if_larger else math.inf
    return tensor


class _How(NamedTuple):
    """A convolution's arguments after the bias, as ``aten::convolution`` takes them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    transposed: bool
    output_padding: tuple[int, int]
    groups: int


class _Use(NamedTuple):
    how: _How
    x_NCHW: Tensor
    gradient_NCHW: Tensor
    backward: int  # the backward pass that met it

    def like(self) -> tuple[Any, ...]:
        """What uses have in common whose gradients can be computed together."""
        return (*self.how, *self.x_NCHW.shape[1:])


class _Weight(Tensor):
    uses: list[_Use]
    most: float  # numbers of a map

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            given = _CONVOLUTIONS[func](*args, **(kwargs or {})) if func in _CONVOLUTIONS else None
            if given is None or not isinstance(given[1], _Weight) or not torch.is_grad_enabled():
                return func(*args, **(kwargs or {}))
            x_NCHW, weight, bias, how = given
            # A single map gets its batch from the public function alone.
            if x_NCHW.dim() != 4 or x_NCHW.numel() > given[1].most:
                return func(*args, **(kwargs or {}))
            if torch.is_autocast_enabled(kind := weight.device.type):
                x_NCHW = x_NCHW.to(torch.get_autocast_dtype(kind))
                bias = None if bias is None else bias.to(x_NCHW.dtype)
            return _Convolution.apply(given[1].uses, how, x_NCHW, weight, bias)


_Given = tuple[Tensor, Tensor, Tensor | None, _How] | None


def _conv2d(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> _Given:
    if isinstance(padding, str):
        return None
    return x, weight, bias, _How(_pair(stride), _pair(padding), _pair(dilation), False, (0, 0), groups)


def _conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> _Given:
    return x, weight, bias, _How(_pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups)


_CONVOLUTIONS: dict[Any, Callable[..., _Given]] = {
    torch.conv2d: _conv2d,
    torch.conv_transpose2d: _conv_transpose2d,
}


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = (value,) if isinstance(value, int) else value
    return first, rest[0] if rest else first


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, uses: list[_Use], how: _How, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight)
        ctx.uses, ctx.how, ctx.biases = uses, how, None if bias is None else [*bias.shape]
        return torch.convolution(x_NCHW, weight, bias, *how)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_NCHW: Tensor) -> tuple[Any, ...]:
        x_NCHW, weight = ctx.saved_tensors
        ctx.uses.append(_Use(ctx.how, x_NCHW, gradient_NCHW, torch._C._current_graph_task_id()))
        wanted = [ctx.needs_input_grad[2], False, ctx.biases is not None and ctx.needs_input_grad[4]]
        of_x, of_bias = None, None
        if any(wanted):
            of_x, _, of_bias = _backward(gradient_NCHW, x_NCHW, weight, ctx.biases, *ctx.how, wanted)
        return None, None, of_x, None, of_bias


class _Collected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, uses: list[_Use], weight: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.uses = uses
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, total: Tensor | None) -> tuple[None, Tensor | None]:
        (weight,) = ctx.saved_tensors
        # A module may call torch.autograd.grad for its features: that pass asks for no gradient of a weight.
        now = torch._C._current_graph_task_id()
        own = sorted((use for use in ctx.uses if use.backward == now), key=_Use.like)
        for _, alike in groupby(own, _Use.like):
            uses = [*alike]
            x_NCHW, gradient_NCHW = (_together([use[k] for use in uses]) for k in (1, 2))
            one = _backward(gradient_NCHW, x_NCHW, weight, None, *uses[0].how, [False, True, False])[1]
            total = one if total is None else total + one
        ctx.uses.clear()
        return None, total


_backward = torch.ops.aten.convolution_backward


def _together(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps)
