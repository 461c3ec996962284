"""How far the two proxies of a token's gradient agree: coefficients of the same rollouts under both, as JSON.

    python -m tests.bench.proxies --model FOLDER      a causal LM in Hugging Face format, such as a run's export
    python -m tests.bench.proxies                     an untrained small model: tries the program, says nothing else

Rollouts are sampled from the model by transformers' generate at temperature 1, on sums of `delta.data.arithmetic`, and
judged by their final answers. An untrained model never answers right, so there rewards are drawn by lot.

`row` takes a token's own row of the LM head's gradient, `last_layer` all of it. What is compared are the coefficients
of tokens that carry a side, whose mean is 1 where no group is tied. Kinds of tokens:

    result    a digit behind `=`
    operand   a digit of a number that is added or taken from
    answer    a digit behind the mark of the final answer
    format    everything else: operators, `=`, line ends, the mark, the end
"""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from delta.advantages import group_advantages
from delta.credit import LastLayerProxy, RowProxy, SidedCredit, TokenSpace, estimate_credit, top_share
from delta.data.arithmetic import ArithmeticConfig, arithmetic_problems
from delta.data.collate import collate, rewards_of
from delta.data.micro_batch import pack_rows, row_index
from delta.data.problems import Problem
from delta.rewards import judge_final_answer
from delta.rewards.final_answer import MARKER
from delta.types import FinishReason, Outcome, Prompt, Rollout, RolloutGroup, TrainBatch, Verdict
from workers.learner.policy import Policy
from workers.warm_start.config import WarmStartModelConfig
from workers.warm_start.make import make_model
from workers.warm_start.tokenizer import byte_tokenizer

PROXIES = ("row", "last_layer")
KINDS = ("result", "operand", "answer", "format")
TOP = 0.2
CERTAIN = 0.99
"""Tokens of this probability have vectors near zero, where all that counts is the norms of the centroids."""
ROWS_AT_A_TIME = 32


def load(folder: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in the folder, or an untrained one."""
    if folder:
        return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokenizer = byte_tokenizer()
    return make_model(
        WarmStartModelConfig(hidden_size=64, intermediate_size=128, num_layers=2), tokenizer
    ).eval(), tokenizer


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    rollouts: int,
    max_new_tokens: int,
    by_lot: bool,
) -> list[RolloutGroup]:
    """Groups of judged rollouts; all prompts at once, padded on the left to the longest."""
    prompt_ids = [tokenizer.encode(problem.prompt) for problem in problems]
    width = max(map(len, prompt_ids))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    sampled = model.generate(
        input_ids=torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompt_ids]),
        attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=rollouts,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
    )
    responses = sampled[:, width:].reshape(len(problems), rollouts, -1)
    draw = np.random.default_rng(0)
    groups = []
    for place, (problem, ids) in enumerate(zip(problems, prompt_ids, strict=True)):
        found = [_rollout(tokenizer, row.tolist(), place, index) for index, row in enumerate(responses[place])]
        verdicts = [judge_final_answer(rollout.text, problem.answer) for rollout in found]
        if by_lot:
            verdicts = [Verdict(Outcome.correct, float(reward)) for reward in draw.permutation(rollouts) % 2]
        prompt = Prompt(problem.id, problem.prompt, problem.answer, tuple(ids))
        groups.append(RolloutGroup(prompt, tuple(found), tuple(verdicts)))
    return groups


def _rollout(tokenizer: PreTrainedTokenizerBase, tokens: list[int], group: int, index: int) -> Rollout:
    """Tokens up to the end token, with it; what follows is padding."""
    ended = tokenizer.eos_token_id in tokens
    tokens = tokens[: tokens.index(tokenizer.eos_token_id) + 1] if ended else tokens
    return Rollout(
        group=group,
        index=index,
        token_ids=np.asarray(tokens, dtype=np.int32),
        rollout_log_probs=np.zeros(len(tokens), dtype=np.float32),
        text=tokenizer.decode(tokens, skip_special_tokens=True),
        finish_reason=FinishReason.stop if ended else FinishReason.length,
        policy_version=0,
        seed=0,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Estimated:
    """What there is of the tokens that carry a side, row after row; `credit` and `seconds` by proxy."""

    credit: dict[str, SidedCredit]
    seconds: dict[str, dict[str, float]]
    advantages: Tensor
    """(S,)"""
    log_probs: Tensor
    """(S,)"""


@torch.no_grad()
def estimate(model: PreTrainedModel, batch: TrainBatch, *, refinements: int) -> Estimated:
    """Both estimates, from one pass over the rollouts that have an advantage."""
    policy = Policy(model, temperature=1.0)
    spaces: dict[str, TokenSpace] = {
        "row": RowProxy(),
        "last_layer": LastLayerProxy(policy.logits),
    }
    seconds = {proxy: {"fill_s": 0.0} for proxy in PROXIES}
    log_probs = []
    for rows in _rows_with_advantage(batch):
        micro_batch = pack_rows(batch, rows)
        statistics = policy(micro_batch)
        log_probs.append(statistics.log_probs)
        advantages = torch.from_numpy(batch.advantages[rows])[torch.from_numpy(row_index(batch, rows))]
        for proxy, space in spaces.items():
            started = time.perf_counter()
            space.append(statistics.hidden, statistics.log_probs, micro_batch.targets, advantages)
            seconds[proxy]["fill_s"] += time.perf_counter() - started
    neutral = int(batch.response_lengths[batch.advantages == 0].sum())
    credit = {}
    for proxy, space in spaces.items():
        started = time.perf_counter()
        credit[proxy] = estimate_credit(space, neutral_tokens=neutral, refinements=refinements)
        seconds[proxy]["estimate_s"] = time.perf_counter() - started
    return Estimated(credit, seconds, spaces["row"].advantages, torch.cat(log_probs))


def _rows_with_advantage(batch: TrainBatch) -> Iterator[list[int]]:
    rows = np.flatnonzero(batch.advantages).tolist()
    for first in range(0, len(rows), ROWS_AT_A_TIME):
        yield rows[first : first + ROWS_AT_A_TIME]


def kinds_of(tokens: Sequence[str]) -> list[str]:
    """The kind of each token of one response."""
    kinds, before = [], ""
    for token in tokens:
        kinds.append(_kind(before, token))
        before += token
    return kinds


def _kind(before: str, token: str) -> str:
    if not token.strip()[:1].isdigit():
        return "format"
    if re.search(rf"{MARKER} *-?[\d,.]*\Z", before):
        return "answer"
    return "result" if re.search(r"= *-?[\d,.]*\Z", before) else "operand"


def agreement(row: Tensor, last_layer: Tensor) -> dict[str, float | None]:
    """How alike two (S,) sets of coefficients are; None where a number has no meaning."""
    if len(row) < 2:
        return {"tokens": len(row)}
    everyone = torch.ones(len(row), dtype=torch.bool)
    tops = [top_share(values, everyone, share=TOP).selected for values in (row, last_layer)]
    return {
        "tokens": len(row),
        "pearson": _correlation(row, last_layer),
        "spearman": _correlation(ranks(row), ranks(last_layer)),
        "top_share_in_both": round(float((tops[0] & tops[1]).sum() / torch.stack(tops).sum(dim=1).min()), 4),
        "mean_absolute_difference": round(float((row - last_layer).abs().mean()), 4),
    }


def _correlation(left: Tensor, right: Tensor) -> float | None:
    """Pearson's; None where one of them is constant."""
    value = float(torch.corrcoef(torch.stack([left.double(), right.double()]))[0, 1])
    return None if math.isnan(value) else round(value, 4)


def ranks(values: Tensor) -> Tensor:
    """(S,) float64 places in ascending order; equal values share the mean of theirs."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def mean_by_kind(coefficients: dict[str, Tensor], kinds: Sequence[str], positive: Tensor) -> dict[str, dict]:
    """Tokens, and mean coefficient under each proxy, of each kind; on both sides together and apart."""
    report: dict[str, dict] = {}
    for kind in KINDS:
        members = torch.tensor([found == kind for found in kinds])
        report[kind] = {"tokens": int(members.sum())}
        for proxy, values in coefficients.items():
            parts = {"all": members, "positive": members & positive, "negative": members & ~positive}
            report[kind][proxy] = {name: round_mean(values[part]) for name, part in parts.items()}
    return report


def round_mean(values: Tensor) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def run(options: argparse.Namespace) -> dict:
    """The whole comparison."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model, tokenizer = load(options.model)
    config = ArithmeticConfig(problems=options.prompts, held_out=1)
    started = time.perf_counter()
    groups = sample(
        model,
        tokenizer,
        arithmetic_problems(config, seed=options.seed).train,
        rollouts=options.rollouts,
        max_new_tokens=options.max_new_tokens,
        by_lot=options.model is None,
    )
    sampling_s = time.perf_counter() - started
    rewards, judged = rewards_of(groups)
    batch = collate(groups, group_advantages(rewards, judged, normalize_std=True))
    if not batch.advantages.any():
        sys.exit("every group has equal rewards, so no token carries a side; take a model that is sometimes right.")
    estimated = estimate(model, batch, refinements=options.refinements)

    positive = estimated.advantages > 0
    coefficients = {proxy: estimated.credit[proxy].coefficients for proxy in PROXIES}
    uncertain = estimated.log_probs.exp() < CERTAIN
    texts = [rollout.token_ids.tolist() for group in groups for rollout in group.rollouts]
    sided_texts = [tokens for tokens, advantage in zip(texts, batch.advantages, strict=True) if advantage]
    kinds = [kind for tokens in sided_texts for kind in kinds_of([tokenizer.decode([token]) for token in tokens])]
    row, last_layer = coefficients.values()
    return {
        "model": options.model or "untrained, rewards by lot: the numbers say nothing",
        "shape": {
            "prompts": options.prompts,
            "rollouts_per_prompt": options.rollouts,
            "response_tokens": int(batch.response_lengths.sum()),
            "sided_tokens": len(positive),
            "tied_groups": int((rewards.amax(dim=1) == rewards.amin(dim=1)).sum()),
            "mean_reward": round(float(rewards.mean()), 4),
            "hidden": model.config.hidden_size,
            "vocabulary": model.get_output_embeddings().weight.shape[0],
            "refinements": options.refinements,
            "threads": options.threads,
        },
        "agreement": {
            "all": agreement(row, last_layer),
            "positive": agreement(row[positive], last_layer[positive]),
            "negative": agreement(row[~positive], last_layer[~positive]),
            "uncertain_positive": agreement(row[positive & uncertain], last_layer[positive & uncertain]),
            "uncertain_negative": agreement(row[~positive & uncertain], last_layer[~positive & uncertain]),
        },
        "top_share": TOP,
        "uncertain": f"tokens of probability below {CERTAIN}",
        "kinds": mean_by_kind(coefficients, kinds, positive),
        "temperatures": {proxy: estimated.credit[proxy].temperatures for proxy in PROXIES},
        "deviation": {proxy: round(float(values.std()), 4) for proxy, values in coefficients.items()},
        "seconds": {"sampling_s": round(sampling_s, 4), **estimated.seconds},
    }


def main() -> None:
    from tests.bench.parts import machine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rollouts", type=int, default=8, help="per prompt")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--refinements", type=int, default=1, help="K")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(json.dumps({"machine": machine(), **run(options)}, indent=1))


if __name__ == "__main__":
    main()
