import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from delta.diagnostics import LearnerSums, batch_metrics, check_mismatch, is_reasoned
from delta.errors import MismatchError
from delta.types import FinishReason, Outcome, RolloutGroup
from tests.factories import make_group, make_tokens


def same(tensor: Tensor) -> Tensor:
    return tensor


def add_old(
    sums: LearnerSums,
    log_probs: Tensor,
    entropy: Tensor,
    rollout_log_probs: Tensor,
    coefficients: Tensor,
    importance: Tensor | None = None,
) -> None:
    tokens = make_tokens(log_probs=log_probs, entropy=entropy, rollout_log_probs=rollout_log_probs)
    sums.add_old(tokens, coefficients, importance)


def metrics_of(sums: LearnerSums) -> dict[str, float]:
    return sums.metrics(same, same)


def test_mismatch_up_to_the_limit_passes() -> None:
    check_mismatch(0.0, 0.1, where="step 0")
    check_mismatch(0.1, 0.1, where="step 0")


@pytest.mark.parametrize("difference", [0.11, math.inf, math.nan])
def test_mismatch_above_the_limit_or_not_a_number_stops(difference: float) -> None:
    with pytest.raises(MismatchError, match=r"^step 3: .*rollout.mismatch_limit=0\.1\."):
        check_mismatch(difference, 0.1, where="step 3")


def test_old_policy_metrics_are_means_over_tokens() -> None:
    sums = LearnerSums()
    add_old(
        sums,
        torch.tensor([-1.0, -2.0]),
        torch.tensor([0.5, 1.5]),
        torch.tensor([-1.25, -1.5]),
        torch.tensor([0.8, 1.2]),
    )
    add_old(sums, torch.tensor([-3.0]), torch.tensor([4.0]), torch.tensor([-3.0]), torch.tensor([1.0]))
    metrics = metrics_of(sums)
    assert metrics["learner/tokens"] == 3
    assert metrics["policy/entropy"] == pytest.approx(2.0)
    assert metrics["policy/mismatch_mean"] == pytest.approx(0.25)
    assert metrics["policy/mismatch_max"] == 0.5
    assert metrics["credit/lambda_max"] == pytest.approx(1.2)
    assert metrics["credit/lambda_std"] == pytest.approx((0.08 / 3) ** 0.5)


def test_update_metrics_are_means_over_trained_tokens_and_steps() -> None:
    sums = LearnerSums()
    ratios = torch.tensor([1.0, 2.0, 0.5])
    sums.add_update(torch.tensor(0.25), ratios[:2].log(), torch.tensor([False, True]))
    sums.add_update(torch.tensor(0.5), ratios[2:].log(), torch.tensor([False]))
    sums.add_grad_norm(1.0)
    sums.add_grad_norm(4.0)
    metrics = metrics_of(sums)
    assert metrics["loss/surrogate"] == pytest.approx(0.375)
    assert metrics["loss/clip_fraction"] == pytest.approx(1 / 3)
    assert metrics["learner/grad_norm"] == 2.5
    assert metrics["policy/kl"] == pytest.approx(sum(r - 1 - math.log(r) for r in (1.0, 2.0, 0.5)) / 3)


def test_an_optimizer_step_without_a_finite_gradient_is_counted_and_spoils_no_mean() -> None:
    sums = LearnerSums()
    for norm in (1.0, math.inf, 3.0, math.nan):
        sums.add_grad_norm(norm)
    metrics = metrics_of(sums)
    assert (metrics["learner/updates"], metrics["learner/skipped_updates"]) == (2, 2)
    assert metrics["learner/grad_norm"] == 2.0
    lost = LearnerSums()
    lost.add_grad_norm(math.inf)
    assert metrics_of(lost)["learner/grad_norm"] == 0.0


def test_kl_estimate_keeps_tiny_steps() -> None:
    sums = LearnerSums()
    sums.add_update(torch.tensor(0.0), torch.tensor([1e-5, -1e-5]), torch.tensor([False, False]))
    assert metrics_of(sums)["policy/kl"] == pytest.approx(0.5e-10, rel=1e-3)


def test_ranks_are_reduced_before_the_means_are_taken() -> None:
    one, other = LearnerSums(), LearnerSums()
    add_old(one, torch.tensor([-1.0]), torch.tensor([2.0]), torch.tensor([-1.5]), torch.tensor([0.9]))
    add_old(other, torch.full((3,), -1.0), torch.zeros(3), torch.full((3,), -1.0), torch.full((3,), 1.1))
    metrics = one.metrics(
        lambda tensor: tensor + other._sums, lambda tensor: torch.maximum(tensor, torch.tensor([0.0, 1.1]).double())
    )
    assert metrics["policy/entropy"] == pytest.approx(0.5)
    assert metrics["policy/mismatch_max"] == 0.5
    assert metrics["credit/lambda_max"] == pytest.approx(1.1)
    assert metrics["learner/tokens"] == 4


def test_importance_weights_are_summed_up_over_the_tokens() -> None:
    sums = LearnerSums()
    for weights in (torch.tensor([0.0, 2.0]), torch.tensor([1.0]), torch.empty(0)):
        values = torch.zeros_like(weights)
        add_old(sums, values, values, values, values, weights)
    assert metrics_of(sums)["importance/mean"] == pytest.approx(1.0)
    assert metrics_of(sums)["importance/zero"] == pytest.approx(1 / 3)


def test_named_means_are_reduced_over_the_ranks_in_one_order() -> None:
    one, other = LearnerSums(), LearnerSums()
    one.add_mean("b", torch.tensor([1.0, 2.0]))
    one.add_mean("a", torch.tensor([10.0]))
    other.add_mean("a", torch.tensor([20.0, 30.0]))
    other.add_mean("b", torch.empty(0))
    parts = iter([other._sums, torch.stack([other._means["a"], other._means["b"]])])
    metrics = one.metrics(lambda tensor: tensor + next(parts), same)
    assert metrics["a"] == 20.0
    assert metrics["b"] == 1.5


def test_nan_does_not_hide_in_the_largest_mismatch() -> None:
    sums = LearnerSums()
    ones = torch.ones(2)
    add_old(sums, torch.tensor([-1.0, math.nan]), ones, torch.tensor([-1.0, -1.0]), ones)
    add_old(sums, torch.tensor([-1.0, -1.0]), ones, torch.tensor([-1.0, -1.0]), ones)
    with pytest.raises(MismatchError):
        check_mismatch(sums.mismatch_max(same), 0.5, where="step 0")


def test_empty_micro_batches_change_nothing() -> None:
    sums, untouched = LearnerSums(), LearnerSums()
    for each in (sums, untouched):
        add_old(each, torch.tensor([-1.0]), torch.ones(1), torch.tensor([-1.0]), torch.ones(1))
        each.add_grad_norm(1.0)
    none = torch.empty(0)
    add_old(sums, none, none, none, none)
    sums.add_update(torch.tensor(0.0), none, none.bool())
    assert metrics_of(sums) == metrics_of(untouched)


def test_nothing_added_gives_finite_metrics() -> None:
    assert all(math.isfinite(value) for value in metrics_of(LearnerSums()).values())


def test_equal_coefficients_have_no_spread() -> None:
    sums = LearnerSums()
    values = torch.full((7,), 0.1)
    add_old(sums, values, values, values, values)
    assert metrics_of(sums)["credit/lambda_std"] == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("response", "reasoned"),
    [
        ("2+2=4\n#### 4", True),
        ("so \\boxed{4}", True),
        ("#### 4", False),
        ("  \n#### 4", False),
        ("\\boxed{4}", False),
        ("2+2=4", False),
        ("", False),
    ],
)
def test_reasoning_is_what_stands_before_the_answer(response: str, reasoned: bool) -> None:
    assert is_reasoned(response) is reasoned


def with_texts(group: RolloutGroup, *texts: str, reason: FinishReason = FinishReason.stop) -> RolloutGroup:
    rollouts = tuple(
        replace(rollout, text=text, finish_reason=reason) for rollout, text in zip(group.rollouts, texts, strict=True)
    )
    return RolloutGroup(group.prompt, rollouts, group.verdicts)


def test_batch_metrics_of_a_hand_made_step() -> None:
    first = make_group([1.0, 0.0, 9.0], outcomes=[Outcome.correct, Outcome.wrong, Outcome.timeout])
    second = make_group(
        [0.0, 0.0, 0.0], outcomes=[Outcome.wrong, Outcome.unparsable, Outcome.error], responses=[(1,)] * 3
    )
    metrics = batch_metrics(
        [
            with_texts(first, "1\n#### 1", "#### 1", "?"),
            with_texts(second, "2\n#### 1", "?", "?", reason=FinishReason.length),
        ]
    )
    assert metrics["reward/mean"] == pytest.approx(1 / 4)  # of the four judged ones
    assert metrics["reward/mixed_groups"] == 1 / 2
    assert metrics["rollout/tokens"] == 12
    assert metrics["rollout/length_mean"] == 2
    assert metrics["rollout/truncated"] == 1 / 2
    assert metrics["rollout/reasoned"] == pytest.approx(2 / 6)
    shares = {outcome: metrics[f"reward/{outcome.value}"] for outcome in Outcome}
    assert shares[Outcome.wrong] == pytest.approx(2 / 6)
    assert all(shares[outcome] == pytest.approx(1 / 6) for outcome in Outcome if outcome is not Outcome.wrong)


def test_unjudged_reward_does_not_make_a_group_mixed() -> None:
    group = make_group([1.0, 0.0], outcomes=[Outcome.correct, Outcome.timeout])
    assert batch_metrics([group])["reward/mixed_groups"] == 0.0


def test_batch_without_any_judgement_has_finite_metrics() -> None:
    metrics = batch_metrics([make_group([0.0, 0.0], outcomes=[Outcome.error, Outcome.timeout])])
    assert metrics["reward/mean"] == 0.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_digest_tells_apart_tokens_verdicts_prompts_and_their_order() -> None:
    first, second = make_group(rewards=[1, 0]), make_group(rewards=[0, 1])
    digest = batch_metrics([first, second])["rollout/digest"]
    assert batch_metrics([make_group(rewards=[1, 0]), make_group(rewards=[0, 1])])["rollout/digest"] == digest
    assert 0 < digest < 2**52
    assert digest == int(digest)
    rollout = first.rollouts[0]
    other_tokens = replace(first, rollouts=(replace(rollout, token_ids=rollout.token_ids + 1), *first.rollouts[1:]))
    other_prompt = replace(first, prompt=replace(first.prompt, id="other"))
    for changed in ([second, first], [first, first], [other_tokens, second], [other_prompt, second]):
        assert batch_metrics(changed)["rollout/digest"] != digest
