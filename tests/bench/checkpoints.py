"""What a checkpoint costs on this machine, as JSON: how long the step waits, the disk takes, and a resume takes.

    make bench-checkpoint                             a random Qwen3 of 100 M parameters, float32, two ranks
    make bench-checkpoint ARGS="--rounds 9 --folder /somewhere/else"

Rounds alternate an update alone with one beside which the checkpoint taken before it is written. A resume is timed
without the start of processes: checksums of all files, then loading on as many ranks and on half as many.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from delta.advantages import GroupAdvantageConfig
from delta.aggregations import TokenMeanConfig
from delta.credit import UniformConfig
from delta.surrogates import ClippedConfig
from delta.types import FinishReason, Outcome, Prompt, Rollout, RolloutGroup, Verdict
from workers.cluster import ClusterConfig, local_cluster
from workers.controller.checkpoints import CheckpointStore, Manifest
from workers.controller.trajectory import versions
from workers.deadlines import DeadlinesConfig
from workers.learner.config import LearnerConfig
from workers.learner.group import LearnerGroup
from workers.learner.learner import AlgorithmConfig
from workers.warm_start.tokenizer import byte_tokenizer

VOCABULARY = 32_000
GROUPS, GROUP_SIZE, TOKENS = 2, 2, 48
ALGORITHM = AlgorithmConfig(
    advantage=GroupAdvantageConfig(),
    credit=UniformConfig(),
    surrogate=ClippedConfig(),
    aggregation=TokenMeanConfig(),
)


def make_model(folder: Path) -> int:
    """A random Qwen3 of about 100 M parameters; their number."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=4,
            head_dim=64,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def rollouts() -> list[RolloutGroup]:
    """Random answers, half of them right."""
    generator = np.random.default_rng(0)
    groups = []
    for n in range(GROUPS):
        answers = tuple(
            Rollout(
                group=n,
                index=g,
                token_ids=generator.integers(0, VOCABULARY, TOKENS).astype(np.int32),
                rollout_log_probs=np.full(TOKENS, -np.log(VOCABULARY), dtype=np.float32),
                text="",
                finish_reason=FinishReason.stop,
                policy_version=0,
                seed=0,
            )
            for g in range(GROUP_SIZE)
        )
        verdicts = tuple(Verdict((Outcome.wrong, Outcome.correct)[g % 2], float(g % 2)) for g in range(GROUP_SIZE))
        groups.append(RolloutGroup(Prompt(str(n), "", "", tuple(range(1, 9))), answers, verdicts))
    return groups


async def start(model: Path, ranks: int) -> LearnerGroup:
    learners = LearnerGroup(LearnerConfig(num_ranks=ranks, updates_per_step=1), deadlines=DeadlinesConfig())
    await learners.set_up(str(model), ALGORITHM, dtype="float32", temperature=1.0, mismatch_limit=1e6)
    return learners


async def timed(work) -> tuple[float, object]:
    started = time.perf_counter()
    result = await work
    return time.perf_counter() - started, result


async def measure(model: Path, folder: Path, *, ranks: int, rounds: int) -> dict[str, list[float]]:
    import ray  # not before `workers`, which sets its authentication mode

    groups = rollouts()
    seconds: dict[str, list[float]] = {
        name: [] for name in ("stall_s", "write_s", "update_alone_s", "update_beside_s", "verify_s")
    }
    store = CheckpointStore(folder / "checkpoints", keep=1)
    learners = await start(model, ranks)
    await learners.update(groups, policy_version=0)  # makes the moments, and leaves the first, slower one out
    for step in range(1, rounds + 1):
        seconds["update_alone_s"].append((await timed(learners.update(groups, policy_version=0)))[0])
        stalled, size = await timed(learners.stage())
        seconds["stall_s"].append(stalled)
        draft = store.begin(step, needed=int(size))
        (written, files), (updated, _) = await asyncio.gather(
            timed(learners.write(draft)), timed(learners.update(groups, policy_version=0))
        )
        seconds["write_s"].append(written)
        seconds["update_beside_s"].append(updated)
        manifest = Manifest(
            step=step,
            prompts=0,
            ranks=ranks,
            model=str(model),
            trajectory={},
            weights_hash="",
            versions=versions(),
            files=files,
        )
        store.publish(draft, manifest)
        started = time.perf_counter()
        store.latest()
        seconds["verify_s"].append(time.perf_counter() - started)
    for actor in learners.actors:
        ray.kill(actor)
    (checkpoint,) = store.published()
    seconds["bytes"] = [sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())]
    for others in dict.fromkeys((ranks, max(ranks // 2, 1))):
        learners = await start(model, others)
        seconds[f"load_on_{others}_s"] = [(await timed(learners.load(checkpoint)))[0] for _ in range(rounds)]
        for actor in learners.actors:
            ray.kill(actor)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; a temporary one else")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-checkpoint-", dir=options.folder))
    try:
        parameters = make_model(folder / "model")
        with local_cluster(ClusterConfig(), log_folder=folder / "logs"):
            seconds = asyncio.run(measure(folder / "model", folder, ranks=options.ranks, rounds=options.rounds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (size,) = seconds.pop("bytes")
    print(
        json.dumps(
            {
                "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
                "parameters": parameters,
                "dtype": "float32",
                "ranks": options.ranks,
                "rounds": options.rounds,
                "update_tokens": GROUPS * GROUP_SIZE * TOKENS,
                "checkpoint_mib": round(size / 2**20, 1),
                "bytes_per_parameter": round(size / parameters, 2),
                **{
                    name: {
                        "median": round(statistics.median(values), 3),
                        "min": round(min(values), 3),
                        "max": round(max(values), 3),
                    }
                    for name, values in seconds.items()
                },
                "versions": versions(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
