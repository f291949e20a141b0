"""The conditional VAE and its rollout (SVG, Denton & Fergus 2018, with the robot's actions as condition).

Step t predicts frame t from the feature of frame t-1, the action taken between them (``cond[t-1]``) and z_t. In training
z_t comes from the posterior, which sees frame t; in generation from the posterior for given frames, from the prior after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from cvae.errors import UserError, require
from cvae.model.backbones import Backbone, StageContext
from cvae.model.coins import Coins
from cvae.model.contract import check_parts
from cvae.model.moving import moved
from cvae.model.recurrent import FramePredictor, GaussianLSTM, StandardNormal, State, size_hint
from cvae.model.together import lent

__all__ = ["CVAE", "Rollout", "reparameterise"]


@dataclass(frozen=True)
class Rollout:
    """What a training rollout predicted, for the scored steps t = first .. T-1 (K of them)."""

    predictions_BKCHW: Tensor
    mu_BKZ: Tensor
    logvar_BKZ: Tensor
    prior_mu_BKZ: Tensor
    prior_logvar_BKZ: Tensor
    first: int


def reparameterise(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """z = mu + noise * exp(logvar / 2), so that gradients reach mu and logvar (Kingma & Welling 2014)."""
    return mu + noise * torch.exp(0.5 * logvar)


class CVAE(nn.Module):
    """Backbone, posterior, prior and frame predictor, rolled out over a window.

    ``rollout="planned"`` encodes all true frames in one call and decodes every prediction that no later step needs in one
    call; ``"stepwise"`` keeps the literal order of the published loops. In eval mode both give the same numbers.

    The remaining switches exist for ``compat=course``, which repeats the course report's loop: ``skips="course"`` takes the
    skips at step n_past - 1, that is from frame n_past - 2; ``force_past=False`` tosses the teacher-forcing coin for given
    frames too; ``scored="all"`` decodes and scores every step from 1 on. They need ``rollout="stepwise"``.

    Raises:
        UserError: a part is of another kind, a switch has no such value, or the combination has no meaning.
    """

    cond_mean_A: Tensor
    cond_std_A: Tensor

    def __init__(
        self,
        backbone: Backbone,
        prior: StandardNormal | GaussianLSTM,
        cond_dim: int,
        n_past: int = 2,
        latent_dim: int = 64,
        hidden_dim: int = 256,
        predictor_layers: int = 2,
        posterior_layers: int = 1,
        rollout: str = "planned",
        skips: str = "past",
        force_past: bool = True,
        scored: str = "future",
    ) -> None:
        super().__init__()
        check_parts(backbone, prior)
        _check_switches(n_past, rollout, skips, force_past, scored)
        sizes = {"latent_dim": latent_dim, "hidden_dim": hidden_dim}
        sizes |= {"predictor_layers": predictor_layers, "posterior_layers": posterior_layers}
        for name, size in sizes.items():
            if hint := size_hint(name, size):
                raise UserError(f"model.{name} is {size!r}: {hint}")
        self.n_past, self.rollout, self.force_past = n_past, rollout, force_past
        self.first_scored = n_past if scored == "future" else 1
        # The last step whose input's skips are taken: step t is fed frame t-1.
        self.skip_step = n_past if skips == "past" else n_past - 1
        self.latent_dim = latent_dim
        self.backbone = backbone
        self.prior = prior
        self.posterior = GaussianLSTM(backbone.feature_dim, latent_dim, hidden_dim, posterior_layers)
        self.predictor = FramePredictor(
            cond_dim + backbone.feature_dim + latent_dim, backbone.feature_dim, hidden_dim, predictor_layers
        )
        # Part of the weights: a checkpoint predicts from raw conditions, wherever they come from.
        self.register_buffer("cond_mean_A", torch.zeros(cond_dim))
        self.register_buffer("cond_std_A", torch.ones(cond_dim))

    def normalise_conditions(self, mean_A: Tensor, std_A: Tensor) -> None:
        """Feed (cond - mean) / std to the predictor from now on."""
        self.cond_mean_A.copy_(mean_A)
        self.cond_std_A.copy_(std_A)

    def forward(
        self, frames_BTCHW: Tensor, cond_BTA: Tensor, forced: Tensor, noise_TBZ: Tensor, mask_BT: Tensor | None = None
    ) -> Rollout:
        """Roll the posterior and the predictor over a window of true frames.

        Args:
            frames_BTCHW: true frames in [0, 1].
            cond_BTA: raw conditions; row t belongs to frame t, and its action leads to frame t+1.
            forced: bool, T or BT, on the CPU: whether step t is fed the true frame t-1 (teacher forcing). Steps fed a given
                frame are always forced unless ``force_past`` is off. It steers the control flow, hence the CPU.
            noise_TBZ: standard normal; entry t makes z_t, entry 0 is unused.
            mask_BT: of a mask BT these rows, on the device: where several processes share a batch, each has its own. All of
                them take the steps that the whole ``forced`` asks for, so that layers that pool over the processes meet.
        """
        forced_BT = forced.reshape(-1, forced.shape[-1]).clone()  # one row stands for all
        if self.force_past:
            forced_BT[:, : self.n_past + 1] = True
        coins = Coins(forced_BT, moved(forced_BT, frames_BTCHW.device) if mask_BT is None else mask_BT)
        cond_BTA = (cond_BTA - self.cond_mean_A) / self.cond_std_A
        noise_BTZ = noise_TBZ.transpose(0, 1)
        if self.rollout == "stepwise":
            return self._stepwise(frames_BTCHW, cond_BTA, coins, noise_BTZ)
        return self._planned(frames_BTCHW, cond_BTA, coins, noise_BTZ)

    def _planned(self, frames_BTCHW: Tensor, cond_BTA: Tensor, coins: Coins, noise_BTZ: Tensor) -> Rollout:
        """Encode all true frames at once; decode at once all predictions that no later step waits for.

        Step t is fed true frame x(t-1), or where it runs free prediction p(t-1), which must be decoded and encoded before.
        With n_past = 2 and a mask that lets steps 5 and 7 run free::

            frame or step t     0   1   2   3   4   5   6   7
            encoder            x0  x1  x2  x3  x4  x5  x6  x7     one call
            posterior, z            1   2   3   4   5   6   7     one call: step t sees frame t
            input of step          x0  x1  x2  x3 |p4  x5 |p6     forced: 1-4 and 6
            prior, predictor        1   2   3   4 | 5   6 | 7     a call for each stretch, up to the next free step
            decoder, encoder                   p4      p6         a call each, between two stretches
            decoder                    p2  p3      p5      p7     one call at the end
            scored                     p2  p3  p4  p5  p6  p7

        The decoder's skips are those of frame n_past - 1 throughout.
        """
        length = frames_BTCHW.shape[1]
        free = [t for t in range(2, length) if not coins.forces(t)]
        nets = (self.backbone.encoder, self.backbone.decoder, self.prior, self.predictor)
        encoder, decoder, prior, predictor = (lent(net, len(free) + 1) for net in nets)
        h_NG, skips = encoder(frames_BTCHW.flatten(0, 1))
        h_BTG = torch.unflatten(h_NG, 0, (-1, length))
        context = self.backbone.decoder.context([_frame_of_each(skip, length, self.n_past - 1) for skip in skips])
        # Step t stands at index t-1 from here on, as there is no step 0.
        mu_BTZ, logvar_BTZ, _ = self.posterior(h_BTG[:, 1:], None)
        z_BTZ = reparameterise(mu_BTZ, logvar_BTZ, noise_BTZ[:, 1:])

        decoded: dict[int, Tensor] = {}
        state: State = None
        prior_state: State = None
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        bounds = [1, *free, length]
        sizes = [end - start for start, end in pairwise(bounds)]
        # Split and not sliced: the gradient of each slice would be as large as the whole.
        parts = (part.split(sizes, dim=1) for part in (h_BTG[:, :-1], z_BTZ, cond_BTA[:, :-1]))
        for start, inputs_BTG, z_now_BTZ, cond_now_BTA in zip(bounds, *parts, strict=False):
            if start > 1:
                decoded[start - 1] = decoder(steps[-1][0].unbind(1)[-1], context)
                h_BG = coins.mixed(start, inputs_BTG[:, 0], encoder(decoded[start - 1])[0])
                rest = [inputs_BTG[:, 1:]] if inputs_BTG.shape[1] > 1 else []
                inputs_BTG = torch.cat([h_BG[:, None], *rest], dim=1)
            prior_mu_BTZ, prior_logvar_BTZ, prior_state = prior(inputs_BTG, prior_state)
            g_BTG, state = predictor(torch.cat([cond_now_BTA, inputs_BTG, z_now_BTZ], dim=-1), state)
            steps.append((g_BTG, prior_mu_BTZ, prior_logvar_BTZ))

        g_BTG, prior_mu_BTZ, prior_logvar_BTZ = (torch.cat(parts, dim=1) for parts in zip(*steps, strict=True))
        scored = slice(self.first_scored - 1, None)
        mu, logvar, prior_mu, prior_logvar = (x[:, scored] for x in (mu_BTZ, logvar_BTZ, prior_mu_BTZ, prior_logvar_BTZ))
        x_BKCHW = self._decode_rest(g_BTG, lambda g_NG: decoder(g_NG, context), decoded)
        return Rollout(x_BKCHW, mu, logvar, prior_mu, prior_logvar, self.first_scored)

    def _decode_rest(self, g_BTG: Tensor, decode: Callable[[Tensor], Tensor], decoded: dict[int, Tensor]) -> Tensor:
        """Decode in one call the scored steps that the loop did not have to; return all as ``BKCHW``."""
        times = range(self.first_scored, g_BTG.shape[1] + 1)
        rest = [t for t in times if t not in decoded]
        # Parts and stacks: an index made of a list would be copied to the GPU, and the host would wait for it.
        g_TBG = g_BTG.unbind(1)
        g_BKG = torch.stack([g_TBG[t - 1] for t in rest], dim=1) if decoded else g_BTG[:, self.first_scored - 1 :]
        x_BKCHW: Tensor = torch.unflatten(decode(g_BKG.flatten(0, 1)), 0, g_BKG.shape[:2])
        if not decoded:
            return x_BKCHW
        decoded = decoded | dict(zip(rest, x_BKCHW.unbind(1), strict=True))
        return _in_sequence([decoded[t] for t in times])

    def _stepwise(self, frames_BTCHW: Tensor, cond_BTA: Tensor, coins: Coins, noise_BTZ: Tensor) -> Rollout:
        x_BCHW = frames_BTCHW[:, 0]
        context: list[StageContext] = []
        posterior_state: State = None
        prior_state: State = None
        state: State = None
        predictions: list[Tensor] = []
        steps: list[tuple[Tensor, ...]] = []
        length = frames_BTCHW.shape[1]
        encoder, decoder = lent(self.backbone.encoder, 2 * length), lent(self.backbone.decoder, length)
        posterior, prior, predictor = (lent(net, length) for net in (self.posterior, self.prior, self.predictor))
        for t in range(1, length):
            target_BG = encoder(frames_BTCHW[:, t])[0]
            x_BCHW = coins.mixed(t, frames_BTCHW[:, t - 1], x_BCHW)
            h_BG, skips = encoder(x_BCHW)
            if t <= self.skip_step:
                context = self.backbone.decoder.context(skips)
            mu_BTZ, logvar_BTZ, posterior_state = posterior(target_BG[:, None], posterior_state)
            prior_mu_BTZ, prior_logvar_BTZ, prior_state = prior(h_BG[:, None], prior_state)
            z_BTZ = reparameterise(mu_BTZ, logvar_BTZ, noise_BTZ[:, t : t + 1])
            g_BTG, state = predictor(torch.cat([cond_BTA[:, t - 1 : t], h_BG[:, None], z_BTZ], dim=-1), state)
            if t >= self.first_scored:
                x_BCHW = decoder(g_BTG[:, 0], context)
                predictions.append(x_BCHW)
                steps.append((mu_BTZ, logvar_BTZ, prior_mu_BTZ, prior_logvar_BTZ))
        mu_BKZ, logvar_BKZ, prior_mu_BKZ, prior_logvar_BKZ = (torch.cat(parts, dim=1) for parts in zip(*steps, strict=True))
        return Rollout(_in_sequence(predictions), mu_BKZ, logvar_BKZ, prior_mu_BKZ, prior_logvar_BKZ, self.first_scored)

    def generate(self, past_BTCHW: Tensor, cond_BTA: Tensor, noise_STBZ: Tensor) -> Tensor:
        """Predict S futures: frames n_past .. T-1 from n_past given ones, as ``SBKCHW`` in [0, 1].

        The past is encoded once for all futures, and so is its share of the decoder.

        Args:
            past_BTCHW: the given frames, true.
            cond_BTA: raw conditions of at least T-1 steps.
            noise_STBZ: standard normal; other noise, other future. T is the length of past and future.
        """
        (samples, length, batch, _), n_past = noise_STBZ.shape, self.n_past
        # N = B * S, the futures of a sequence in a row, as the decoder wants it.
        noise_NTZ = noise_STBZ.permute(2, 0, 1, 3).flatten(0, 1)
        cond_NTA = ((cond_BTA - self.cond_mean_A) / self.cond_std_A).repeat_interleave(samples, dim=0)
        h_BG, skips = self.backbone.encoder(past_BTCHW[:, :n_past].flatten(0, 1))
        context = self.backbone.decoder.context([_frame_of_each(skip, n_past, self.skip_step - 1) for skip in skips])
        h_NTG = torch.unflatten(h_BG, 0, (batch, n_past)).repeat_interleave(samples, dim=0)
        state: State = None
        prior_state: State = None
        if n_past > 1:
            given = slice(0, n_past - 1)
            mu_NTZ, logvar_NTZ, _ = self.posterior(h_NTG[:, 1:], None)
            z_NTZ = reparameterise(mu_NTZ, logvar_NTZ, noise_NTZ[:, 1:n_past])
            _, _, prior_state = self.prior(h_NTG[:, given], None)
            _, state = self.predictor(torch.cat([cond_NTA[:, given], h_NTG[:, given], z_NTZ], dim=-1), None)
        h_NG = h_NTG[:, -1]
        frames: list[Tensor] = []
        for t in range(n_past, length):
            if frames:
                h_NG = self.backbone.encoder(frames[-1])[0]
            mu_NTZ, logvar_NTZ, prior_state = self.prior(h_NG[:, None], prior_state)
            z_NTZ = reparameterise(mu_NTZ, logvar_NTZ, noise_NTZ[:, t : t + 1])
            g_NTG, state = self.predictor(torch.cat([cond_NTA[:, t - 1 : t], h_NG[:, None], z_NTZ], dim=-1), state)
            # A copy: where the decoder is a CUDA graph, its next call writes over what this one returned.
            frames.append(self.backbone.decoder(g_NTG[:, 0], context).clone())
        future_BSKCHW: Tensor = torch.unflatten(_in_sequence(frames), 0, (batch, samples))
        return future_BSKCHW.transpose(0, 1)


def _frame_of_each(skip_NCHW: Tensor, length: int, t: int) -> Tensor:
    """Frame t of each of the windows that lie one after another in N; gradients, too, keep the memory channels last."""
    skip_BTHWC = torch.unflatten(skip_NCHW.permute(0, 2, 3, 1), 0, (-1, length))
    skip_BHWC: Tensor = skip_BTHWC[:, t]
    return skip_BHWC.permute(0, 3, 1, 2)


def _in_sequence(frames: list[Tensor]) -> Tensor:
    """Stack K maps ``BCHW`` to ``BKCHW``; the memory stays channels last."""
    return torch.stack([x_BCHW.permute(0, 2, 3, 1) for x_BCHW in frames], dim=1).permute(0, 1, 4, 2, 3)


def _check_switches(n_past: int, rollout: str, skips: str, force_past: bool, scored: str) -> None:
    for name, value, choices in [
        ("rollout", rollout, ("planned", "stepwise")),
        ("skips", skips, ("past", "course")),
        ("scored", scored, ("future", "all")),
    ]:
        require(value in choices, f"model.{name}", value, f"choose {' or '.join(choices)}")
    require(n_past >= 1, "n_past", n_past, "at least 1 given frame is needed, and 2 show motion (n_past=2)")
    if rollout == "planned" and (skips, force_past, scored) != ("past", True, "future"):
        raise UserError(
            "model.rollout=planned needs model.skips=past model.force_past=true model.scored=future: "
            "set model.rollout=stepwise, or leave the course's switches to compat=course"
        )
    if skips == "course" and n_past < 2:
        raise UserError(f"model.skips=course takes its last skips at step n_past - 1, but n_past is {n_past}: n_past=2")
    if not force_past and scored == "future":
        raise UserError("model.force_past=false feeds predictions of given frames back: it needs model.scored=all")
