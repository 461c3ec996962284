"""One real learner rank: seconds, tokens per second and peak memory of whole updates, and of a checkpoint, as JSON.

    python -m tests.bench.learner_rank                on a GPU: a Qwen3 of 1.7 billion parameters in bfloat16
    python -m tests.bench.learner_rank --quick        tiny sizes on the CPU: tries the program

A `LearnerWorker`, DeepSpeed's ZeRO-3 and all, without Ray, on random rollouts whose lengths are drawn from a log-normal
distribution; the model is random as well. Each variant is a process of its own: `delta` and `uniform` credit with
gradient checkpointing, and `delta` without, in smaller micro-batches. Every update is an old pass, credit, and two
optimizer steps. Peak memory is that of the GPU's allocator, beside what the memory plan says of the same settings.
Staging copies weights and moments to host memory: `first` locks that memory as well, `plain` is a copy into memory that
is not locked, for comparison.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from delta.types import FinishReason, Outcome, Prompt, Rollout, RolloutGroup, Verdict

GIB = 2**30
GROUP = 8

MODEL = {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "vocab_size": 151_936}
QUICK_MODEL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
QUICK = {"rollouts": 16, "longest": 64, "updates": 2, "token_scale": 1 / 128}

VARIANTS: dict[str, dict[str, Any]] = {
    "delta": {"credit": "delta", "tokens": 32_768, "checkpointing": True},
    "uniform": {"credit": "uniform", "tokens": 32_768, "checkpointing": True},
    "delta, 8,192 tokens, nothing computed twice": {"credit": "delta", "tokens": 8_192, "checkpointing": False},
}


def make_model(folder: str, *, quick: bool) -> None:
    """A random Qwen3 with tied embeddings, as the small ones have them."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from workers.warm_start.tokenizer import byte_tokenizer

    heads = {"num_attention_heads": 2, "num_key_value_heads": 1} if quick else {}
    sizes = QUICK_MODEL if quick else {**MODEL, "num_attention_heads": 16, "num_key_value_heads": 8}
    config = Qwen3Config(head_dim=32 if quick else 128, tie_word_embeddings=True, **{**sizes, **heads})
    torch.manual_seed(0)
    with torch.device("cpu" if quick else "cuda"):
        model = Qwen3ForCausalLM(config).to(torch.float32 if quick else torch.bfloat16)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def make_groups(options: argparse.Namespace, *, seed: int) -> list[RolloutGroup]:
    """Half of each group is right; a median of a quarter of the longest length, prompts of 64 tokens."""
    generator = np.random.default_rng(seed)
    groups = []
    for n in range(options.rollouts // GROUP):
        lengths = generator.lognormal(np.log(options.longest / 4), 0.8, GROUP).clip(1, options.longest).astype(int)
        rollouts = tuple(
            Rollout(
                group=n,
                index=g,
                token_ids=generator.integers(0, 256, length, dtype=np.int32),
                rollout_log_probs=np.zeros(length, dtype=np.float32),
                text="",
                finish_reason=FinishReason.stop,
                policy_version=0,
                seed=0,
            )
            for g, length in enumerate(lengths)
        )
        verdicts = tuple(Verdict(Outcome.correct if g % 2 else Outcome.wrong, float(g % 2)) for g in range(GROUP))
        prompt = Prompt(str(n), "", "", tuple(generator.integers(0, 256, 64).tolist()))
        groups.append(RolloutGroup(prompt, rollouts, verdicts))
    return groups


def measure(folder: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One variant, in this process."""
    started = time.perf_counter()
    variant = VARIANTS[name]
    os.environ["DS_ACCELERATOR"] = options.device
    os.environ.update({"PYTORCH_ALLOC_CONF": "expandable_segments:True"} if options.device == "cuda" else {})
    import torch

    from delta.advantages import GroupAdvantageConfig
    from delta.aggregations import TokenMeanConfig
    from delta.credit import DiscriminativeConfig, UniformConfig
    from delta.surrogates import ClippedConfig
    from workers.device import clock
    from workers.learner.config import LearnerConfig
    from workers.learner.learner import AlgorithmConfig
    from workers.learner.worker import LearnerWorker

    config = LearnerConfig(
        num_ranks=1,
        updates_per_step=2,
        tokens_per_micro_batch=max(options.longest + 64, int(variant["tokens"] * options.token_scale)),
        gradient_checkpointing=variant["checkpointing"],
        learning_rate=1e-6,
    )
    worker = LearnerWorker(rank=0, config=config)
    address, port = worker.address()
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    parameters = worker.set_up(
        folder,
        AlgorithmConfig(
            advantage=GroupAdvantageConfig(),
            credit=DiscriminativeConfig() if variant["credit"] == "delta" else UniformConfig(),
            surrogate=ClippedConfig(),
            aggregation=TokenMeanConfig(),
        ),
        dtype=dtype,
        temperature=1.0,
        mismatch_limit=float("inf"),
        address=address,
        port=port,
        timeout_s=300,
    )
    on_gpu = options.device == "cuda"
    found: dict[str, Any] = {"parameters": parameters, "set_up_s": time.perf_counter() - started}
    rows: list[dict[str, float]] = []
    for update in range(options.updates + 1):  # the first one warms up
        groups = make_groups(options, seed=update)
        begun = clock()
        metrics = worker.update(groups, policy_version=update).metrics
        seconds = clock() - begun
        tokens = sum(len(g.prompt.token_ids) + len(r.token_ids) - 1 for g in groups for r in g.rollouts)
        if update:
            times = {key: metrics[f"time/{key}_s"] for key in ("old_pass", "credit", "update")}
            rows.append({"seconds": seconds, "tokens": tokens, "tokens_per_s": tokens / seconds, **times})
    found["updates"] = rows
    found["median"] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    found["grad_norm"] = metrics["learner/grad_norm"]
    if on_gpu:
        # Products with weights only: 2 in the old pass where there is one, 6 in the update, 2 more where the forward
        # pass is computed again.
        flops = parameters * (6 + 2 * (found["median"]["old_pass"] > 0))
        found["mfu"] = flops * found["median"]["tokens_per_s"] / 989e12
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        free, total = torch.cuda.mem_get_info()
        found["used_on_device_gib"] = (total - free) / GIB
        response = sum(len(r.token_ids) for g in groups for r in g.rollouts)
        found["plan_gib"] = planned(folder, config, response, dtype)
    found["stage_s"] = {kind: staging(worker, kind) for kind in ("first", "again", "plain")}
    found["staged_gib"] = worker.checkpoint_bytes() / GIB
    return found


def planned(folder: str, config: Any, response_tokens: int, dtype: str) -> dict[str, float]:
    """What the memory plan says of the GPU at its peak, part by part, without the allowance for a process."""
    import torch
    from transformers import AutoConfig

    from workers.learner.memory_plan import MemoryInputs, model_shape, plan_memory

    plan = plan_memory(
        MemoryInputs(
            model=model_shape(AutoConfig.from_pretrained(folder)),
            working_bytes=getattr(torch, dtype).itemsize,
            on_gpu=True,
            num_ranks=1,
            num_engines=0,
            micro_batch_tokens=config.tokens_per_micro_batch,
            step_tokens=response_tokens,
            lm_head_chunk_tokens=config.lm_head_chunk_tokens,
            gradient_checkpointing=config.gradient_checkpointing,
            proxy_bytes=2,
            gpu_process_bytes=0,
        )
    )
    parts = {held.part.name: held.bytes / GIB for held in plan.on_learner_device()}
    return {"all": sum(parts.values()), **parts}


def staging(worker: Any, kind: str) -> float:
    """Seconds of a copy of the state to host memory."""
    import torch

    from workers.device import clock

    begun = clock()
    if kind == "plain":
        optimizer = worker._engine.optimizer
        for flat in optimizer.fp32_partitioned_groups_flat:
            for tensor in (flat, *optimizer.optimizer.state[flat].values()):
                tensor.detach().to("cpu", torch.float32, copy=True)
    else:
        worker.stage()
    return clock() - begun


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=128)
    parser.add_argument("--longest", type=int, default=4096, help="response tokens at most")
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--token-scale", type=float, default=1.0, help="of the micro-batches of the variants")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, on the CPU")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    options = parser.parse_args()
    options.device = "cpu" if options.quick else "cuda"
    return options


def in_own_process(function: Any, *arguments: Any, **keywords: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **keywords).result()


def main() -> None:
    from tests.bench.parts import machine

    options = parse_options()
    report: dict[str, Any] = {"machine": machine(), "settings": vars(options)}
    if options.device == "cuda":
        import torch

        report["gpu"] = torch.cuda.get_device_name(0)
    with tempfile.TemporaryDirectory() as folder:
        in_own_process(make_model, folder, quick=options.quick)
        for name in options.variants:
            report[name] = in_own_process(measure, folder, name, options)
            print(f"{name}: {json.dumps(report[name])}", file=sys.stderr, flush=True)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
