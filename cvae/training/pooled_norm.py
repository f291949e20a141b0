"""BatchNorm (Ioffe & Szegedy 2015) over a batch that several processes share: what one with the whole batch computes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cvae.errors import UserError


class PooledBatchNorm(_BatchNorm):
    """A BatchNorm whose statistics in training are those of all processes' rows; each process has equally many.

    ``torch.nn.SyncBatchNorm`` allows for unequal shares: it reads how many rows there are, so that the GPU's queue runs empty
    in every layer, and it takes no CPU. This one sends an operation forward and one backward, and waits for nothing.
    """

    as_plain = True  # see is_plain_norm
    world: int

    @classmethod
    def of(cls, norm: _BatchNorm, world: int) -> PooledBatchNorm:
        """The same layer with the same parameters, buffers and hooks, pooled over ``world`` processes."""
        pooled = cls.__new__(cls)
        pooled.__dict__.update(norm.__dict__)
        pooled.world = world
        return pooled

    def _check_input_dim(self, input: Tensor) -> None:
        """It takes whatever the layer it stands for takes."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor) -> Tensor:
        """Return ``NC...`` of the input's shape."""
        if not self.training:
            return super().forward(input)
        weight = self.weight if self.affine else input.new_ones(self.num_features, dtype=_exact(input))
        bias = self.bias if self.affine else torch.zeros_like(weight)
        output, mean, variance = _Pooled.apply(input, weight, bias, self.eps, self.world)
        if self.track_running_stats:
            self._track(mean, variance, self.world * input.numel() // self.num_features)
        return output  # type: ignore[no-any-return]

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        batches, running_mean, running_var = self.num_batches_tracked, self.running_mean, self.running_var
        assert batches is not None
        assert running_mean is not None
        assert running_var is not None
        batches.add_(1)
        share: Any = self.momentum if self.momentum is not None else (1 / batches.double()).to(mean)
        running_mean.lerp_(mean, share)
        running_var.lerp_(variance * (count / max(count - 1, 1)), share)


def _exact(input: Tensor) -> torch.dtype:
    """What sums of many values are kept in."""
    return torch.promote_types(input.dtype, torch.float32)


class _Pooled(torch.autograd.Function):
    """Normalise by pooled statistics; return them as well (C), the variance without Bessel's correction."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, world: int) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.stack(torch.var_mean(input.to(_exact(input)), [0, *range(2, input.dim())], correction=0))
        all_W2C = own.new_zeros(world, *own.shape)
        all_W2C[dist.get_rank()] = own
        dist.all_reduce(all_W2C)  # a gathering: the name of PyTorch's own changes
        variances_WC, means_WC = all_W2C.unbind(1)
        # With equal shares: the mean of the variances within, and the variance between.
        between, mean = torch.var_mean(means_WC, 0, correction=0)
        variance = variances_WC.mean(0) + between
        output = torch.native_batch_norm(input, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(input, weight, mean, variance)
        ctx.eps, ctx.world = eps, world
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        input, weight, mean, variance = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        known = (weight, mean, variance, mean, inverse, False, ctx.eps, [True, True, True])
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(gradient, input, *known)
        # Each value also moves the mean and the variance, and through them every row of every process.
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        by_weight, by_bias = sums * (weight * inverse / (ctx.world * (input.numel() // len(mean))))
        slope = by_weight * inverse
        shape = (-1, *[1] * (input.dim() - 2))
        shift = torch.addcmul((by_bias - slope * mean).view(shape), input, slope.view(shape))
        return (direct - shift).to(input.dtype), of_weight, of_bias, None, None


def pool(model: nn.Module, world: int) -> None:
    """Pool every BatchNorm in ``model`` over ``world`` processes; parameters, buffers and their names stay.

    One that stays in eval mode when the model trains takes no batch's statistics, and stays as it is.

    Raises:
        UserError: a layer derived from BatchNorm does something of its own, which cannot be pooled.
    """
    before = model.training
    model.train()
    for path, parent in [*model.named_modules()]:
        for name, child in [*parent.named_children()]:
            if not isinstance(child, _BatchNorm) or isinstance(child, nn.SyncBatchNorm) or not child.training:
                continue
            if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                place = f"{path}.{name}" if path else name
                raise UserError(
                    f"{place} is a {type(child).__name__}: {world} processes cannot train what is derived from BatchNorm, as "
                    "each would know its own rows alone: take torch.nn.BatchNorm2d, GroupNorm, or one process"
                )
            setattr(parent, name, PooledBatchNorm.of(child, world))
    model.train(before)
