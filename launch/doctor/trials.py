"""What can only be known by trying: an all-reduce, a generation, a sandbox. Small, and with the real parts."""

import os
import socket
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue

from launch.doctor.check import Finding, failed, ok, skipped, warning
from workers.controller.config import TrainConfig
from workers.learner.memory_plan import MIB
from workers.rollout.config import RolloutConfig
from workers.verifier.config import PoolConfig
from workers.warm_start.config import WarmStartModelConfig

ALL_REDUCE_MIB = 16
ALL_REDUCE_S = 30.0
NEW_TOKENS = 8
TINY = WarmStartModelConfig(hidden_size=64, intermediate_size=128, num_layers=2, num_heads=2, num_kv_heads=1)


def all_reduce(config: TrainConfig) -> Finding:
    """Two processes add up their numbers, over NCCL where the run has two GPUs, else over gloo."""
    import torch

    # Counting does not open a device, which forks could not use any more.
    on_gpus = min(config.cluster.num_gpus, torch.cuda.device_count()) >= 2
    backend = "nccl" if on_gpus else "gloo"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = get_context("fork")  # torch is imported already
    answers = context.SimpleQueue()
    ranks = [context.Process(target=_rank, args=(rank, backend, port, answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    codes = [process.exitcode for process in ranks]
    found = [] if answers.empty() else [answers.get()]
    if any(codes) or not found:
        return failed(
            f"{backend}: the ranks ended with exit codes {codes}",
            expected="a sum",
            remedy="Look at its output below; NCCL_DEBUG=INFO and TORCH_DISTRIBUTED_DEBUG=DETAIL say more. Often the "
            "interface is wrong: NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME.",
        )
    return ok(f"{backend}, two ranks: {ALL_REDUCE_MIB} MiB in {1000 * found[0]:.0f} ms")


def _rank(rank: int, backend: str, port: int, answers: "SimpleQueue[float]") -> None:
    """One of the two; the first says how long a warm all-reduce took."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    distributed.init_process_group(
        backend,
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=ALL_REDUCE_S),
        device_id=device if backend == "nccl" else None,
    )
    for _ in range(2):
        numbers = torch.full((ALL_REDUCE_MIB * MIB // 4,), float(rank + 1), device=device)
        distributed.barrier()
        began = time.perf_counter()
        distributed.all_reduce(numbers)
        largest = numbers.max().item()  # waits for the device
        seconds = time.perf_counter() - began
        if (largest, numbers.min().item()) != (3.0, 3.0):
            raise ArithmeticError(f"1 + 2 gave {largest}")
    if rank == 0:
        answers.put(seconds)
    distributed.barrier()
    # Leaving by the interpreter's own end may abort: threads of gloo are still there when C++ takes its objects down.
    os._exit(0)


def small_engine(config: TrainConfig) -> tuple[RolloutConfig, dict[str, str]]:
    """An engine of the run, cut down to the tiny model, which has too few heads for several GPUs; its environment."""
    from workers.rollout.engine import engine_environment

    settings = replace(
        config.rollout,
        max_model_len=128,
        max_new_tokens=NEW_TOKENS,
        max_num_seqs=8,
        kv_cache_gib=1,
        tensor_parallel_size=1,
    )
    return settings, engine_environment(settings, on_gpu=config.cluster.num_gpus > 0)


def generation(config: TrainConfig) -> Finding:
    """A tiny model is loaded by vLLM, answers one prompt, and has the log-probabilities that transformers computes."""
    from workers.rollout.engine import SamplingRequest, VllmEngine

    settings, environment = small_engine(config)
    os.environ.update(environment)  # before vLLM is imported

    import torch

    from workers.warm_start.make import make_model
    from workers.warm_start.tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model = make_model(TINY, tokenizer).to(getattr(torch, config.model.dtype)).eval()
    prompt = tokenizer.encode("12+34=")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        began = time.perf_counter()
        engine = VllmEngine(folder, settings, eos_token_id=tokenizer.eos_token_id, dtype=config.model.dtype, seed=0)
        loaded = time.perf_counter()
        request = SamplingRequest(tuple(prompt), 1.0, NEW_TOKENS, seed=1, stop_at_end=False)
        (completion,) = (completion for finished in engine.sample([request]) for completion in finished)
        ended = time.perf_counter()
    token_ids = [*prompt, *completion.token_ids.tolist()]
    with torch.inference_mode():
        log_probs = model(input_ids=torch.tensor([token_ids])).logits[0, :-1].float().log_softmax(dim=-1)
    wanted = log_probs[range(len(prompt) - 1, len(token_ids) - 1), completion.token_ids.tolist()]
    mismatch = float((wanted - torch.from_numpy(completion.log_probs)).abs().max())
    if not mismatch <= config.mismatch_limit:
        return failed(
            f"vLLM and transformers differ by {mismatch:.1e} nats in a token's log-probability",
            expected=f"{config.mismatch_limit:g} at most",
            remedy="Install the versions of the lock; the run would be stopped by its parity probe.",
        )
    return ok(
        f"vLLM loaded a tiny model in {loaded - began:.1f} s, {NEW_TOKENS} tokens in {ended - loaded:.1f} s, "
        f"{mismatch:.0e} nats from transformers"
    )


def sandbox(config: TrainConfig) -> Finding:
    """A Python starts in bubblewrap."""
    from workers.verifier.code.config import SandboxMode
    from workers.verifier.code.sandbox import probe

    if not isinstance(config.verifier, PoolConfig):
        return skipped("verifier=remote: programs run elsewhere")
    mode = config.verifier.code.sandbox
    if mode is SandboxMode.process:
        return warning(
            "verifier.code.sandbox=process: programs see this user's files and the network",
            expected="bubblewrap",
            remedy="Leave it at auto, unless all tasks are mathematics.",
        )
    works, reason = probe()
    if works:
        return ok("bubblewrap works")
    describe = failed if mode is SandboxMode.bubblewrap else warning
    return describe(
        f"bubblewrap does not work here: {reason}",
        expected="a sandbox, if the data has programs to judge",
        remedy="Install it (apt install bubblewrap), or allow user namespaces: sysctl "
        "kernel.unprivileged_userns_clone=1; a container needs seccomp and AppArmor profiles that let it.",
    )
