"""What a rollout computes, in which order it may, and what each frame may depend on."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from report_loop import GaussianLSTM as LearnedPrior
from report_loop import Nets
from restated import BACKBONES, RELATIVE, assert_same_gradients, assert_same_state, copy_weights, distance, randomise
from restated import NF_SMALL as NF
from torch import Tensor

from cvae.errors import UserError
from cvae.model import backbones
from cvae.model.backbones import dcgan64
from cvae.model.cvae import CVAE, Rollout
from cvae.model.objective import MSE, Objective
from cvae.model.recurrent import GaussianLSTM, StandardNormal

STEPS = 20
B, T, G, Z, HIDDEN = 2, 6, 6, 3, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(cond_dim: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames, conditions and noise."""
    frames = draw(B, T, 3, 64, 64, seed=seed).sigmoid()
    return frames, draw(B, T, cond_dim, seed=seed + 1), draw(T, B, Z, seed=seed + 2)


def build(backbone: str, prior: str, n_past: int, cond_dim: int = 4, norm: str = "batch", **switches) -> CVAE:
    net = getattr(backbones, backbone)(G, NF / 64, norm)
    prior_net = GaussianLSTM(G, Z, HIDDEN) if prior == "learned" else StandardNormal(Z)
    return CVAE(net, prior_net, cond_dim, n_past, Z, HIDDEN, **switches).double()


@cache
def _weights(backbone: str, prior: str, cond_dim: int) -> dict[str, Tensor]:
    """The state after some training steps, so that BatchNorm's statistics and every weight are live."""
    model = build(backbone, prior, 2, cond_dim)
    randomise(model, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(STEPS):
        frames, cond, noise = batch(cond_dim, seed=100 * step)
        forced = draw(T, seed=100 * step + 3) > 0
        optimizer.zero_grad()
        Objective(MSE())(model(frames, cond, forced, noise), frames, 1e-3).total.backward()
        optimizer.step()
    return model.state_dict()


def trained(backbone: str, prior: str, n_past: int, cond_dim: int = 4, **switches) -> CVAE:
    """A trained model in eval mode; ``switches`` choose how it is rolled out."""
    model = build(backbone, prior, n_past, cond_dim, **switches)
    model.load_state_dict(_weights(backbone, prior, cond_dim))
    return model.eval()


def outputs(rollout: Rollout) -> list[Tensor]:
    return [
        rollout.predictions_BKCHW,
        rollout.mu_BKZ,
        rollout.logvar_BKZ,
        rollout.prior_mu_BKZ,
        rollout.prior_logvar_BKZ,
    ]


def assert_same_rollout(a: CVAE, b: CVAE, forced: Tensor) -> None:
    """Outputs and gradients of one batch agree."""
    frames, cond, noise = batch(4, seed=7777)
    rollouts = [model(frames, cond, forced, noise) for model in (a, b)]
    assert rollouts[0].first == rollouts[1].first == a.n_past
    pairs = list(zip(*map(outputs, rollouts), strict=True))
    assert [distance(x, y) <= RELATIVE for x, y in pairs] == [True] * 5
    for model, rollout in zip((a, b), rollouts, strict=True):
        model.zero_grad()
        sum((draw(*x.shape, seed=i) * x).sum() for i, x in enumerate(outputs(rollout))).backward()
    assert_same_gradients(a, b)


MASKS = {
    "all_forced": torch.ones(T, dtype=torch.bool),
    "none_forced": torch.zeros(T, dtype=torch.bool),
    "mixed": torch.tensor([False, False, True, False, True, False]),
    "per_sample": torch.tensor([[True, False, False, True, False, False], [False, True, False, False, True, False]]),
}


# --- planned and stepwise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("n_past", [1, 2, 3])
@pytest.mark.parametrize("prior", ["fixed", "learned"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_planned_rollout_equals_stepwise_in_eval_mode(backbone: str, prior: str, n_past: int, mask: str) -> None:
    planned = trained(backbone, prior, n_past, rollout="planned")
    stepwise = trained(backbone, prior, n_past, rollout="stepwise")
    norms = [module for module in planned.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked >= STEPS and norm.running_mean.any() for norm in norms)
    assert_same_rollout(planned, stepwise, MASKS[mask])


@pytest.mark.parametrize("mask", ["mixed", "per_sample"])
def test_without_batchnorm_planned_equals_stepwise_in_train_mode(mask: str) -> None:
    planned, stepwise = (build("dcgan64", "learned", 2, norm="group", rollout=name) for name in ("planned", "stepwise"))
    randomise(planned, seed=1)
    stepwise.load_state_dict(planned.state_dict())
    assert_same_rollout(planned.train(), stepwise.train(), MASKS[mask])


@pytest.mark.parametrize("rollout", ["planned", "stepwise"])
def test_mask_per_step_equals_its_rows_per_sample(rollout: str) -> None:
    model, (frames, cond, noise) = trained("dcgan64", "learned", 2, rollout=rollout), batch(4, seed=7777)
    with torch.no_grad():
        per_step, per_sample = (model(frames, cond, mask, noise) for mask in (MASKS["mixed"], MASKS["mixed"].repeat(B, 1)))
    assert all(torch.equal(x, y) for x, y in zip(outputs(per_step), outputs(per_sample), strict=True))


@pytest.mark.parametrize("rollout", ["planned", "stepwise"])
def test_samples_of_a_mask_do_not_mix(rollout: str) -> None:
    """Each sample is rolled out as its own row of the mask says, whatever the others do."""
    model, (frames, cond, noise) = trained("dcgan64", "learned", 2, rollout=rollout), batch(4, seed=7777)
    mask = MASKS["per_sample"]
    with torch.no_grad():
        together = model(frames, cond, mask, noise)
        for b, row in enumerate(mask):
            alone = model(frames, cond, row, noise)
            assert all(distance(x[b], y[b]) <= RELATIVE for x, y in zip(outputs(together), outputs(alone), strict=True))


@pytest.mark.parametrize(("free", "calls"), [([], 1), ([1, 2], 1), ([3], 2), ([4, 5], 3), ([3, 4, 5], 4)])
def test_planned_rollout_runs_convolutions_once_and_again_only_before_free_running_steps(free: list[int], calls: int) -> None:
    """n_past is 2: steps 1 and 2 are fed given frames whatever the coin says."""
    model, (frames, cond, noise) = trained("dcgan64", "fixed", 2), batch(4, seed=0)
    seen: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name, images in seen.items():
        net = getattr(model.backbone, name)
        net.register_forward_hook(lambda _, args, __, images=images: images.append(len(args[0])))
    forced = torch.ones(T, dtype=torch.bool)
    forced[free] = False
    model(frames, cond, forced, noise)
    assert len(seen["encoder"]) == len(seen["decoder"]) == calls
    assert seen["encoder"][0] == B * T  # each true frame once, all in one call
    assert sum(seen["decoder"]) == B * (T - 2)  # each scored prediction once


# --- what a frame may depend on ---------------------------------------------------------------------------------------


def changed(before: Tensor, after: Tensor) -> list[int]:
    """The indices of the time steps (dimension 1) at which two results differ by more than rounding."""
    return [t for t in range(before.shape[1]) if distance(after[:, t], before[:, t]) > 1e-12]


def silence_posterior(model: CVAE) -> None:
    """z becomes the noise alone."""
    for layer in (model.posterior.mu, model.posterior.logvar):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


@pytest.mark.parametrize("n_past", [1, 2, 3])
@pytest.mark.parametrize("rollout", ["planned", "stepwise"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_targets_reach_a_prediction_only_through_the_posterior(backbone: str, rollout: str, n_past: int) -> None:
    model = trained(backbone, "learned", n_past, rollout=rollout)
    frames, cond, noise = batch(4, seed=7777)
    scored = list(range(n_past, T))

    def answer(changed_frame: int, mask: str) -> list[int]:
        other = frames.clone()
        other[:, changed_frame] = 1 - other[:, changed_frame]
        with torch.no_grad():
            before, after = (model(x, cond, MASKS[mask], noise).predictions_BKCHW for x in (frames, other))
        return [n_past + k for k in changed(before, after)]

    assert answer(n_past, "none_forced") == scored  # the posterior sees the target
    silence_posterior(model)
    for frame in scored:
        assert answer(frame, "none_forced") == []
        assert answer(frame, "all_forced") == [t for t in scored if t > frame]
    for frame in range(n_past):
        assert answer(frame, "none_forced") == scored


@pytest.mark.parametrize("rollout", ["planned", "stepwise"])
def test_given_frames_are_never_replaced_by_predictions(rollout: str) -> None:
    """The coins of the steps that are fed a given frame, 1 .. n_past, change nothing; the next one does."""
    model, (frames, cond, noise) = trained("dcgan64", "fixed", 2, rollout=rollout), batch(4, seed=0)
    with torch.no_grad():
        before = model(frames, cond, MASKS["all_forced"], noise).predictions_BKCHW
        for step, differ in [(1, []), (2, []), (3, [3, 4, 5])]:
            forced = MASKS["all_forced"].clone()
            forced[step] = False
            assert [2 + k for k in changed(before, model(frames, cond, forced, noise).predictions_BKCHW)] == differ


@pytest.mark.parametrize(
    ("switches", "first"),
    [
        ({"rollout": "planned"}, 3),
        ({"rollout": "stepwise"}, 3),
        ({"rollout": "stepwise", "skips": "course", "force_past": False, "scored": "all"}, 1),
    ],
    ids=["planned", "stepwise", "course"],
)
def test_scored_are_the_steps_after_the_given_frames_or_all_in_the_course(switches: dict, first: int) -> None:
    model, (frames, cond, noise) = trained("dcgan64", "learned", 3, **switches), batch(4, seed=0)
    rollout = model(frames, cond, MASKS["mixed"], noise)
    assert rollout.first == first
    assert [len(x[0]) for x in outputs(rollout)] == [T - first] * 5
    scored = []
    for frame in range(T):
        other = frames.clone()
        other[:, frame] = 1 - other[:, frame]
        losses = [Objective(MSE())(rollout, target, 0.0).total.item() for target in (frames, other)]
        scored += [frame] if losses[0] != losses[1] else []
    assert scored == list(range(first, T))


@pytest.mark.parametrize("rollout", ["planned", "stepwise", "generate"])
def test_frame_t_is_conditioned_on_rows_up_to_t_minus_1(rollout: str) -> None:
    """The action of row t-1 is taken between frames t-1 and t; the last row changes nothing."""
    n_past = 2
    model = trained("dcgan64", "learned", n_past, rollout="planned" if rollout == "generate" else rollout)
    frames, cond, noise = batch(4, seed=0)

    def predict(cond: Tensor) -> Tensor:
        if rollout == "generate":
            return model.generate(frames[:, :n_past], cond, noise[None])[0]
        return model(frames, cond, MASKS["mixed"], noise).predictions_BKCHW

    with torch.no_grad():
        before = predict(cond)
        for row in range(T):
            other = cond.clone()
            other[:, row] += 1
            assert [n_past + k for k in changed(before, predict(other))] == [t for t in range(n_past, T) if t > row]


@pytest.mark.parametrize("prior", ["fixed", "learned"])
def test_generated_frames_depend_on_given_frames_conditions_and_noise_alone(prior: str) -> None:
    n_past = 2
    model, (frames, cond, noise) = trained("dcgan64", prior, n_past), batch(4, seed=0)
    past = frames[:, :n_past]
    with torch.no_grad():
        future = model.generate(past, cond, noise[None])[0]
        assert future.shape == (B, T - n_past, 3, 64, 64)
        assert torch.equal(future, model.generate(past, cond, noise[None])[0])
        assert torch.equal(future, model.generate(past, cond[:, : T - 1], noise[None])[0])
        assert torch.equal(future, model.generate(frames, cond, noise[None])[0])
        for frame in range(n_past):
            other = past.clone()
            other[:, frame] = 1 - other[:, frame]
            assert changed(future, model.generate(other, cond, noise[None])[0]) == [0, 1, 2, 3]
        # z_t is drawn for frame t; there is no z_0.
        for step, differ in [(0, []), (1, [2, 3, 4, 5]), (2, [2, 3, 4, 5]), (3, [3, 4, 5]), (4, [4, 5]), (5, [5])]:
            other = noise.clone()
            other[step] += 1
            assert [n_past + k for k in changed(future, model.generate(past, cond, other[None])[0])] == differ


# --- generation -------------------------------------------------------------------------------------------------------


def generate_by_hand(nets: Nets, past: Tensor, cond: Tensor, noise: Tensor, n_past: int, last_skip: int) -> Tensor:
    """Frame after frame: z from the posterior for given frames, from the prior after; skips until step ``last_skip``."""
    nets.start()
    made: list[Tensor] = []
    skip: list[Tensor] = []
    for t in range(1, T):
        x = past[:, t - 1] if t <= n_past else made[-1]
        h, new_skip = nets.encoder(x)
        if t <= last_skip:
            skip = new_skip
        z_prior = nets.prior(h, noise[t])[0] if isinstance(nets.prior, LearnedPrior) else noise[t]
        z = nets.posterior(nets.encoder(past[:, t])[0], noise[t])[0] if t < n_past else z_prior
        g = nets.predictor(torch.cat([cond[:, t - 1], h, z], 1))
        if t >= n_past:
            made.append(nets.decoder(g, skip))
    return torch.stack(made, 1)


COURSE = {"rollout": "stepwise", "skips": "course", "force_past": False, "scored": "all"}


@pytest.mark.parametrize(
    ("backbone", "prior", "n_past", "cond_dim", "switches"),
    [
        ("vgg64", "fixed", 2, 4, {}),
        ("dcgan64", "learned", 2, 4, {}),
        ("dcgan64", "learned", 3, 4, {}),
        ("dcgan64", "fixed", 1, 4, {}),
        ("dcgan64", "learned", 1, 4, {}),
        ("dcgan64", "fixed", 2, 0, {}),
        ("dcgan64", "fixed", 2, 4, COURSE),
    ],
    ids=["vgg", "learned_prior", "three_given", "one_given", "one_given_learned_prior", "no_condition", "course_skips"],
)
def test_generation_equals_stepping_by_hand(backbone: str, prior: str, n_past: int, cond_dim: int, switches: dict) -> None:
    model = trained(backbone, prior, n_past, cond_dim, **switches)
    nets = Nets(backbone, G, NF, Z, HIDDEN, cond_dim, prior == "learned").double().eval()
    copy_weights(model.backbone.encoder, nets.encoder)
    copy_weights(model.backbone.decoder, nets.decoder)
    copy_weights(model.posterior, nets.posterior)
    copy_weights(model.prior, nets.prior)
    copy_weights(model.predictor, nets.predictor)
    frames, cond, noise = batch(cond_dim, seed=0)
    with torch.no_grad():
        noises = torch.stack([noise, -noise, 2 * noise])
        futures = model.generate(frames[:, :n_past], cond, noises)
        for future, noise in zip(futures, noises, strict=True):
            expected = generate_by_hand(nets, frames, cond, noise, n_past, n_past - 1 if switches else n_past)
            assert distance(future, expected) <= RELATIVE


def test_conditions_are_standardised_by_the_statistics_in_the_weights() -> None:
    raw, (frames, cond, noise) = trained("dcgan64", "fixed", 2), batch(4, seed=0)
    mean, std = torch.tensor([1.0, -2.0, 0.0, 5.0]), torch.tensor([0.5, 3.0, 1.0, 10.0])
    source = copy.deepcopy(raw)
    source.normalise_conditions(mean, std)
    normalised = trained("dcgan64", "fixed", 2)
    normalised.load_state_dict(source.state_dict())
    with torch.no_grad():
        for predict in (
            lambda model, cond: model(frames, cond, MASKS["mixed"], noise).predictions_BKCHW,
            lambda model, cond: model.generate(frames[:, :2], cond, noise[None])[0],
        ):
            assert distance(predict(normalised, cond * std + mean), predict(raw, cond)) <= RELATIVE
            assert distance(predict(normalised, cond), predict(raw, cond)) > 1e-6


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rollout", ["planned", "stepwise"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_share_of_a_batch_takes_the_steps_that_the_whole_takes(rollout: str, mask: str) -> None:
    """Its own rows may all be forced: layers that pool over processes need as many calls from each."""
    model = trained("dcgan64", "learned", 2, rollout=rollout)
    frames, cond, noise = batch(4, seed=7777)
    calls: list[int] = []
    model.backbone.encoder.register_forward_hook(lambda *_: calls.append(1))
    whole, counts = outputs(model(frames, cond, MASKS[mask], noise)), [len(calls)]
    for row in range(B):
        calls.clear()
        rows = slice(row, row + 1)
        share = outputs(
            model(frames[rows], cond[rows], MASKS[mask], noise[:, rows], MASKS[mask].reshape(-1, T).expand(B, T)[rows])
        )
        counts.append(len(calls))
        assert [distance(x, y[rows]) <= RELATIVE for x, y in zip(share, whole, strict=True)] == [True] * 5
    assert len(set(counts)) == 1


@pytest.mark.parametrize(("backbone", "share"), [("vgg64", 0.5), ("dcgan64", 0.85)])
def test_checkpointing_changes_nothing_but_what_is_kept(backbone: str, share: float) -> None:
    """The same losses, gradients and BatchNorm statistics, from less memory."""
    kept, models = [], []
    for checkpointing in (False, True):
        net = getattr(backbones, backbone)(G, NF / 64, checkpointing=checkpointing)
        model = CVAE(net, StandardNormal(Z), 4, 2, Z, HIDDEN).double()
        randomise(model, seed=1)
        bytes_of: dict[int, int] = {}

        def keep(value: Tensor, bytes_of: dict[int, int] = bytes_of) -> Tensor:
            storage = value.untyped_storage()
            bytes_of[storage.data_ptr()] = storage.nbytes()
            return value

        frames, cond, noise = batch(4, seed=0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            rollout = model(frames, cond, MASKS["mixed"], noise)
        kept.append(sum(bytes_of.values()))
        Objective(MSE())(rollout, frames, 1e-3).total.backward()
        models.append(model)
    assert_same_state(*models)
    assert_same_gradients(*models)
    assert kept[1] < share * kept[0]


def test_training_on_one_batch_lowers_its_loss() -> None:
    """Frames that a model can learn: a bright square that the condition moves."""
    torch.manual_seed(0)
    model = CVAE(dcgan64(8, 1 / 16), StandardNormal(2), cond_dim=1, latent_dim=2, hidden_dim=8)
    x_BT = torch.tensor([[8 + 8 * t * d for t in range(4)] for d in (0, 1)])
    frames = torch.full((2, 4, 3, 64, 64), 0.1)
    for b in range(2):
        for t in range(4):
            frames[b, t, :, 20:36, x_BT[b, t] : x_BT[b, t] + 16] = 0.9
    cond = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 4, 1)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    mse, total = [], []
    for _ in range(30):
        noise = torch.randn(4, 2, 2, generator=generator)
        losses = Objective(MSE())(model(frames, cond, MASKS["all_forced"][:4], noise), frames, 1e-4)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        mse.append(losses.mse.item())
        total.append(losses.total.item())
    assert mse[-1] < 0.5 * mse[0]
    assert mse[-1] < 0.5 * frames[:, 2:].var().item()  # the MSE of the best flat image
    assert total[-1] < 0.5 * total[0]


@pytest.mark.parametrize(
    ("switches", "key"),
    [
        ({"rollout": "parallel"}, "rollout"),
        ({"skips": "none"}, "skips"),
        ({"scored": "past"}, "scored"),
        ({"n_past": 0}, "n_past"),
        ({"skips": "course"}, "rollout=stepwise"),
        ({"force_past": False}, "rollout=stepwise"),
        ({"scored": "all"}, "rollout=stepwise"),
        ({"rollout": "stepwise", "skips": "course", "n_past": 1}, "n_past"),
        ({"rollout": "stepwise", "force_past": False}, "scored=all"),
    ],
    ids=str,
)
def test_switches_without_meaning_are_refused_by_name(switches: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        CVAE(dcgan64(4, 1 / 32), StandardNormal(2), 4, latent_dim=2, hidden_dim=4, **switches)


@pytest.mark.parametrize("arguments", [{"width": 0}, {"width": "wide"}, {"feature_dim": 0}, {"norm": "layer"}], ids=str)
def test_bad_backbone_arguments_are_refused_by_name(arguments: dict) -> None:
    with pytest.raises(UserError, match=f"backbone.{next(iter(arguments))}"):
        dcgan64(**arguments)
