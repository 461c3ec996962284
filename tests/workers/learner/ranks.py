"""Real DeepSpeed ranks without Ray: a function runs on each, and what they return comes back."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(function: Callable[..., Any], *arguments: Any, ranks: int, device: str = "cpu") -> list[Any]:
    """What `function(rank, *arguments)` returns on each of the ranks, which are processes of their own.

    On a GPU (`cuda`) there can be one rank.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", device)  # before the ranks import anything
        torch.multiprocessing.spawn(_rank, args=(function, arguments, ranks, port, folder), nprocs=ranks)
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(ranks)]


def _rank(rank: int, function: Callable[..., Any], arguments: Any, ranks: int, port: int, folder: str) -> None:
    from workers.learner.engine import join_ranks

    torch.set_num_threads(1)
    join_ranks(rank=rank, world_size=ranks, address="127.0.0.1", port=port, timeout_s=120)
    torch.save(function(rank, *arguments), Path(folder) / str(rank))
    torch.distributed.destroy_process_group()
    # The result is on disk. Leaving by the interpreter's own end aborts now and then ("terminate called without an
    # active exception"): a thread of gloo or DeepSpeed is still there when C++ takes its objects down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
