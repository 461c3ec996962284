"""The reward is a weighted sum whose parts stay on the record."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delta.errors import ConfigError
from delta.rewards import PartConfig, Reward, RewardConfig
from delta.types import Outcome, Sample, Verdict

SAMPLE = Sample("\u0414\u0430: \\boxed{7}", "7", tokens=90, max_tokens=100)


def constant(sample, verdict, *, value):
    return float(value)


def raises(sample, verdict):
    raise AssertionError("asked although nothing was judged")


def part(name: str = "constant", *, weight: float = 1.0, **options) -> PartConfig:
    return PartConfig(function=f"{__name__}.{name}", weight=weight, options=options)


FINITE = st.floats(-1e6, 1e6)


@given(st.dictionaries(st.text(max_size=5), st.tuples(FINITE, FINITE), min_size=1, max_size=5))
def test_the_reward_is_the_weighted_sum_of_its_parts(numbers):
    config = RewardConfig(parts={name: part(weight=weight, value=value) for name, (weight, value) in numbers.items()})
    verdict = Reward(config).of(SAMPLE, Verdict(Outcome.wrong, 0.0))
    assert verdict.reward == pytest.approx(math.fsum(weight * value for weight, value in numbers.values()), abs=1e-3)
    assert verdict.parts == {name: value for name, (_, value) in numbers.items()}


def test_the_parts_that_come_along_add_up():
    names = {"correctness": (1.0, {}), "overlong": (0.5, {"buffer": 20}), "language": (2.0, {}), "format": (0.25, {})}
    config = RewardConfig(
        parts={
            name: PartConfig(function=f"delta.rewards.parts.{name}", weight=weight, options=options)
            for name, (weight, options) in names.items()
        }
    )
    verdict = Reward(config).of(SAMPLE, Verdict(Outcome.correct, 1.0, "7 = 7"))
    assert verdict.parts == {"correctness": 1.0, "overlong": -0.5, "language": 5 / 7, "format": 1.0}
    assert verdict.reward == pytest.approx(1.0 - 0.25 + 10 / 7 + 0.25)
    assert (verdict.outcome, verdict.detail) == (Outcome.correct, "7 = 7")


def test_by_default_the_reward_is_correctness():
    assert Reward(RewardConfig()).of(SAMPLE, Verdict(Outcome.correct, 1.0)).reward == 1.0
    assert Reward(RewardConfig()).of(SAMPLE, Verdict(Outcome.wrong, 0.5)).parts == {"correctness": 0.5}


@pytest.mark.parametrize("outcome", [Outcome.timeout, Outcome.error])
def test_what_was_not_judged_gets_no_reward_and_no_parts(outcome):
    config = RewardConfig(parts={"bonus": part("raises")})
    verdict = Reward(config).of(SAMPLE, Verdict(outcome, 0.75, "why"))
    assert (verdict.reward, dict(verdict.parts), verdict.detail) == (0.0, {}, "why")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_part_that_is_no_finite_number_is_refused_by_its_name(value):
    reward = Reward(RewardConfig(parts={"bonus": part(value=value, weight=0.0)}))
    with pytest.raises(ValueError, match=r"reward part bonus is -?(nan|inf); expected a finite number"):
        reward.of(SAMPLE, Verdict(Outcome.wrong, 0.0))


def test_a_sum_that_overflows_is_refused():
    reward = Reward(RewardConfig(parts={"huge": part(value=1e308, weight=1e308)}))
    with pytest.raises(ValueError, match="finite"):
        reward.of(SAMPLE, Verdict(Outcome.wrong, 0.0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("", r"reward\.parts\.style\.function is empty: expected package\.module\.function\."),
        ("delta.rewards.parts.none", r"reward\.parts\.style.*delta\.rewards\.parts has no function 'none'"),
        ("missing.style", r"reward\.parts\.style.*missing cannot be imported"),
    ],
)
def test_a_function_that_is_not_there_is_reported_with_the_name_of_its_part(function, message):
    with pytest.raises(ConfigError, match=message):
        Reward(RewardConfig(parts={"style": PartConfig(function=function)}))


def test_a_reward_without_parts_is_refused():
    with pytest.raises(ValueError, match=r"reward\.parts is empty"):
        RewardConfig(parts={})


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_must_be_finite(weight):
    with pytest.raises(ValueError, match=r"weight=(nan|inf): expected a finite number"):
        PartConfig(function="a.b", weight=weight)
