"""What several benchmarks measure with: a random policy, a memory meter, a spread, and the machine's name."""

import os
import platform
import statistics
from pathlib import Path

import psutil
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from workers.cpu_linear import use_onednn
from workers.learner.policy import Policy


def random_policy(
    *, hidden: int, layers: int, vocabulary: int, positions: int, device: str, dtype: torch.dtype
) -> Policy:
    """An untrained Qwen3 with heads 64 wide, half as many of keys, its own LM head and no end token."""
    heads = max(1, hidden // 64)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=hidden // heads,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        eos_token_id=None,
        pad_token_id=None,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config).to(device=device, dtype=dtype)
    use_onednn(model)
    return Policy(model, temperature=1.0)


def used_bytes(device: str) -> int:
    """Memory in use: of the GPU's allocator, else of this program."""
    return torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss


def peak_bytes(device: str) -> int:
    """The most that was in use so far, in the same terms."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident_peak()


def resident_peak() -> int:
    """Largest resident memory of this program so far; `getrusage` would count what it was forked from as well."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no VmHWM (peak resident memory): this needs a Linux kernel that counts it")


def median_and_spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles, in seconds."""
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {"median_s": round(quartiles[1], 4), "q1_s": round(quartiles[0], 4), "q3_s": round(quartiles[2], 4)}


def machine() -> dict[str, object]:
    """What was measured on, for the record."""
    from workers.controller.trajectory import versions  # knows Ray, which measured processes had better not import

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "load_average": os.getloadavg()[0], "versions": versions()}
