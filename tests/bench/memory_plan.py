"""Peak memory of real learner ranks beside the plan: `python -m tests.bench.memory_plan`.

Each rank is a process of its own around a random Qwen3: DelTA's token vectors kept from an old pass, and, when they are
gone, two updates of packed rows that fill the micro-batch, as a run does it. What the process had before the model was
loaded is taken off both.
"""

import tempfile
from typing import Any

import torch

from tests.bench.parts import resident_peak
from tests.workers.learner.ranks import run_ranks
from workers.learner.config import LearnerConfig
from workers.learner.memory_plan import (
    MIB,
    MemoryInputs,
    Phase,
    Place,
    peak,
    plan_memory,
)
from workers.learner.model_shape import model_shape

SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "vocab_size": 32_000}
"""Some 50 million parameters, a third of them in each of embedding and LM head."""

SETTINGS: dict[str, dict[str, Any]] = {
    "1 rank": {"num_ranks": 1},
    "1 rank, checkpointing": {"num_ranks": 1, "gradient_checkpointing": True},
    "1 rank, a quarter of the tokens": {"num_ranks": 1, "tokens_per_micro_batch": 1024},
    "2 ranks": {"num_ranks": 2},
    "2 ranks, checkpointing": {"num_ranks": 2, "gradient_checkpointing": True},
    "2 ranks, bfloat16": {"num_ranks": 2, "dtype": torch.bfloat16},
}


def make(folder: str) -> Any:
    """A random model of `SIZES` in a folder; its configuration."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(num_attention_heads=8, num_key_value_heads=4, head_dim=64, **SIZES)
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return config


def measure_rank(rank: int, folder: str, config: LearnerConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Peak before the model, and in the end."""
    from transformers import AutoModelForCausalLM

    from delta.credit import RowProxy
    from delta.data.micro_batch import MicroBatch
    from workers.cpu_linear import use_onednn
    from workers.learner.engine import create_engine
    from workers.learner.policy import Policy

    before = resident_peak()
    causal_lm = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    use_onednn(causal_lm)
    if config.gradient_checkpointing:
        causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    engine = create_engine(Policy(causal_lm, temperature=1.0, lm_head_chunk_tokens=config.lm_head_chunk_tokens), config)
    tokens = config.tokens_per_micro_batch
    space = RowProxy()
    generator = torch.Generator().manual_seed(rank)
    token_ids = torch.randint(0, SIZES["vocab_size"], (1, tokens), generator=generator)
    batch = MicroBatch(
        token_ids=token_ids,
        predictors=torch.arange(tokens - 1),
        targets=token_ids[0, 1:].clone(),
        row_lengths=(tokens // 2, tokens // 4, tokens // 4),
    )
    engine.eval()
    with torch.no_grad():
        statistics = engine(batch, with_entropy=True)
        space.append(statistics.hidden, statistics.log_probs, batch.targets, torch.ones(tokens - 1))
    del statistics, space
    engine.train()
    for _ in range(2):
        engine.backward(-engine(batch).log_probs.mean())
        engine.step()
    return before, resident_peak()


def saved_bytes(model_config: Any, dtype: torch.dtype, *, tokens: int) -> int:
    """What autograd saves in a forward pass of the policy over two packed rows, without the weights."""
    from transformers import AutoModelForCausalLM

    from delta.data.micro_batch import MicroBatch
    from workers.learner.policy import Policy

    causal_lm = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
    known = {weight.untyped_storage().data_ptr() for weight in causal_lm.parameters()}
    policy = Policy(causal_lm, temperature=1.0).train()
    batch = MicroBatch(
        token_ids=torch.zeros(1, tokens, dtype=torch.int64),
        predictors=torch.arange(tokens - 1),
        targets=torch.zeros(tokens - 1, dtype=torch.int64),
        row_lengths=(tokens // 2, tokens // 2),
    )
    saved: dict[int, torch.Tensor] = {}  # kept, so that no address is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        policy(batch)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in known)


def compare(folder: str, model_config: Any, **setting: Any) -> tuple[int, int]:
    """Planned and measured bytes of a rank, without those of an empty process."""
    setting = {"tokens_per_micro_batch": 4096, **setting}
    dtype = setting.pop("dtype", torch.float32)
    config = LearnerConfig(lm_head_chunk_tokens=512, **setting)
    found = run_ranks(measure_rank, folder, config, dtype, ranks=config.num_ranks)
    inputs = MemoryInputs(
        model=model_shape(model_config),
        working_bytes=dtype.itemsize,
        gpus_per_node=0,
        num_ranks=config.num_ranks,
        num_engines=0,
        micro_batch_tokens=config.tokens_per_micro_batch,
        step_tokens=config.tokens_per_micro_batch * config.num_ranks,
        lm_head_chunk_tokens=config.lm_head_chunk_tokens,
        gradient_checkpointing=config.gradient_checkpointing,
        proxy_bytes=dtype.itemsize,
        learner_process_bytes=0,
    )
    plan = plan_memory(inputs)
    # No checkpoint is written and no engine is fed here.
    parts = [part for part in plan.learner if Phase.sync not in part.phases and not part.name.startswith("checkpoint")]
    return peak(parts, Place.device, Place.host), max(after - before for before, after in found)


def main() -> None:
    """Print a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        model_config = make(folder)
        print("| setting | planned MiB | measured MiB | planned / measured |\n|---|---:|---:|---:|")
        for name, setting in SETTINGS.items():
            planned, measured = compare(folder, model_config, **setting)
            print(f"| {name} | {planned / MIB:,.0f} | {measured / MIB:,.0f} | {planned / measured:.2f} |", flush=True)


if __name__ == "__main__":
    main()
