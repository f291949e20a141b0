"""Sweep overrides become distributions, and suggestions overrides that Hydra reads back as the same values."""

from __future__ import annotations

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from cvae.errors import UserError
from cvae.sweep.space import Space, read_space


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("k=cyclical,monotonic", CategoricalDistribution(["cyclical", "monotonic"])),
        ("k=1,2.5,true", CategoricalDistribution([1, 2.5, True])),
        ("k=null,0.1", CategoricalDistribution(["null", 0.1])),
        ("k=choice([0.9,0.99],[0.5,0.9])", CategoricalDistribution(["[0.9,0.99]", "[0.5,0.9]"])),
        ("k=choice('a, b',it is,'1',1,'x=y')", CategoricalDistribution(["'a, b'", "it is", "'1'", 1, "'x=y'"])),
        ("k='a, b','it is'", CategoricalDistribution(["'a, b'", "it is"])),
        ("k=interval(0,1)", FloatDistribution(0, 1)),
        ("k=interval(-1,2.5)", FloatDistribution(-1, 2.5)),
        ("k=tag(log, interval(1e-4, 5e-3))", FloatDistribution(1e-4, 5e-3, log=True)),
        ("k=int(interval(1, 5))", IntDistribution(1, 5)),
        ("k=tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("k=range(20,60,step=20)", IntDistribution(20, 60, step=20)),
        ("k=range(1,4)", IntDistribution(1, 4)),
        ("k=range(1,10,step=4)", IntDistribution(1, 9, step=4)),
        ("k=range(0,1,step=0.25)", FloatDistribution(0, 1, step=0.25)),
        ("k=range(0.1,0.7,step=0.2)", FloatDistribution(0.1, 0.7, step=0.2)),
    ],
)
def test_a_sweep_is_a_distribution(word: str, distribution) -> None:
    (read,) = read_space([word]).distributions.values()
    if isinstance(distribution, CategoricalDistribution):
        assert read == distribution
    else:
        assert type(read) is type(distribution)
        assert (read.low, read.log, read.step) == (distribution.low, distribution.log, distribution.step)
        assert read.high == pytest.approx(distribution.high)


def test_what_does_not_sweep_is_passed_as_it_was_written() -> None:
    words = ["kl_schedule=monotonic", "+extra='a b'", "++data.root=${oc.env:HOME}/x", "~likelihood.sigma", "betas=[0.9,0.99]"]
    space = read_space([*words, "lr=1e-3,2e-3"])
    assert space.overrides({"lr": 2e-3}) == [*words, "lr=0.002"]


@pytest.mark.parametrize("word", ["lr=0.5", "++lr=0.5", "+lr=0.5"])
def test_a_forced_key_counts_over_params_too(word: str) -> None:
    space = read_space([word], {"lr": "interval(0, 1)"})
    assert space.distributions == {}
    assert space.overrides({}) == [word]


def test_the_command_line_counts_over_params() -> None:
    params = {"lr": "tag(log, interval(1e-4, 1e-2))", "tfr": 1.0, "optim": "adam,sgd", "beta": None}
    space = read_space(["lr=3e-3", "tfr=interval(0,1)"], params)
    assert set(space.distributions) == {"tfr", "optim"}
    assert space.overrides({"tfr": 0.5, "optim": "sgd"}) == ["beta=null", "lr=3e-3", "tfr=0.5", "optim=sgd"]


WORDS = [
    "a=tag(log, interval(1e-9, 1))",
    "b=true,false",
    "c=null,1,2.5,'x y'",
    "d=range(0,1,step=0.125)",
    "e=int(interval(-3,3))",
    "f=choice([1,2],{a:1})",
]


def test_hydra_reads_a_suggestion_back() -> None:
    """Through the text of an override every suggested value comes back as itself."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = read_space(WORDS)
    originals = {o.get_key_element(): o for o in OverridesParser.create().parse_overrides(WORDS)}
    for _ in range(50):
        values = space.suggest(study.ask())
        for override in OverridesParser.create().parse_overrides(space.overrides(values)):
            key, back = override.get_key_element(), override.value()
            offered = originals[key]
            if offered.is_choice_sweep():
                assert back in [getattr(v, "text", v) for v in offered.value().list] or str(back) == "x y"
            else:
                assert back == values[key]
                assert type(back) is type(values[key])


# --- conditions -------------------------------------------------------------------------------------------------------

CYCLES = ["kl_schedule=cyclical,monotonic", "kl_schedule.cycles=range(2,5)"]


@pytest.mark.parametrize(("chosen", "expected"), [("cyclical", {"kl_schedule.cycles": 3}), ("monotonic", {})])
def test_a_parameter_without_its_condition_is_not_suggested(chosen: str, expected: dict) -> None:
    """Whichever of the two was written first."""
    for words in (CYCLES, CYCLES[::-1]):
        space = read_space(words, conditions={"kl_schedule.cycles": "kl_schedule=cyclical"})
        values = space.suggest(FixedTrial({"kl_schedule": chosen, "kl_schedule.cycles": 3}))
        assert values == {"kl_schedule": chosen, **expected}


@pytest.mark.parametrize(("words", "there"), [([], True), (["kl_schedule=cyclical"], True), (["kl_schedule=monotonic"], False)])
def test_a_condition_on_what_is_not_swept_looks_at_the_command_and_the_defaults(words: list[str], there: bool) -> None:
    space = read_space(
        [*words, CYCLES[1]], conditions={"kl_schedule.cycles": "kl_schedule=cyclical"}, choices={"kl_schedule": "cyclical"}
    )
    assert bool(space.suggest(FixedTrial({"kl_schedule.cycles": 3}))) is there


def test_conditions_chain() -> None:
    space = read_space(
        ["c=interval(0,1)", "b=x,y", "a=on,off"],
        conditions={"c": "b=x", "b": "a=on"},
    )
    assert space.suggest(FixedTrial({"a": "on", "b": "x", "c": 0.5})) == {"a": "on", "b": "x", "c": 0.5}
    assert space.suggest(FixedTrial({"a": "on", "b": "y", "c": 0.5})) == {"a": "on", "b": "y"}
    assert space.suggest(FixedTrial({"a": "off", "b": "x", "c": 0.5})) == {"a": "off"}


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "conditions", "parts"),
    [
        (["tfr=interval(1,0)"], {}, ("tfr=interval(1,0)", "upside down", "interval(0, 1)")),
        (["tfr=interval(1,1)"], {}, ("tfr=interval(1,1)", "one value")),
        (["lr=tag(log, interval(0,1))"], {}, ("lr=", "logarithmic", "above 0")),
        (["tfr=interval(0,inf)"], {}, ("tfr=interval(0,inf)", "finite")),
        (["epochs=range(60,20)"], {}, ("epochs=range(60,20)", "goes up")),
        (["epochs=range(20,60,step=-20)"], {}, ("epochs=", "goes up")),
        (CYCLES, {"kl_schedule.cycles": "cyclical"}, ("conditions.kl_schedule.cycles", "'cyclical'", "optim=sgd")),
        (CYCLES, {"kl_schedule.cycles": "kl_schedule=cosine"}, ("kl_schedule=cosine", "cyclical, monotonic")),
        (CYCLES, {"kl_schedule.ramp": "kl_schedule=cyclical"}, ("does not search kl_schedule.ramp", "remove")),
        (["a=1,2", "b=1,2"], {"a": "b=1", "b": "a=1"}, ("circle",)),
    ],
)
def test_bad_input_is_named(words: list[str], conditions: dict, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        read_space(words, conditions=conditions)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_an_empty_space_suggests_nothing() -> None:
    assert Space({}).suggest(FixedTrial({})) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"+hydra.callbacks.x._target_": "os.abort"},
        {"hydra.run.dir": "x"},
        {"allow_targets": "[os]"},
        {"lr": "${oc.env:TOKEN}"},
        {"optim": "../../evil"},
        {"~optim": None},
        {"more.x": "${oc.env:TOKEN}"},
    ],
)
def test_what_a_study_holds_sets_what_the_sweep_searches(values):
    space = read_space(["lr=interval(1e-4, 1e-3)", "optim=adam,sgd"])
    assert space.overrides({"lr": 1e-3, "optim": "sgd", "more.x": 3})  # a custom_search_space suggests more
    with pytest.raises(UserError, match=r"the study holds .*, which this sweep does not search"):
        space.overrides(values)
