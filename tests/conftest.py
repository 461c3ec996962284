"""Shared by all tests: a cache of their own, tiny models, and runs of the real command in a subprocess."""

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import workers  # noqa: F401  before any test module imports Ray, which reads its authentication mode then

ROOT = Path(__file__).parent.parent

TINY = (
    "model.hidden_size=64",
    "model.intermediate_size=128",
    "model.num_layers=2",
    "model.num_heads=2",
    "model.num_kv_heads=1",
    "model.steps=60",
    "data.held_out=20",
    "rollout.prompts_per_step=8",
    "rollout.group_size=4",
    "rollout.max_model_len=512",
    "rollout.num_workers=1",
    "evaluation.samples=1",
    "logger.wandb=disabled",
)
"""A run of the real stack that is over in half a minute, most of which is starting processes."""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Warm starts are cached per test session, not in the user's home."""
    folder = tmp_path_factory.mktemp("cache")
    previous = os.environ.get("DELTA_CACHE")
    os.environ["DELTA_CACHE"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["DELTA_CACHE"]
    else:
        os.environ["DELTA_CACHE"] = previous


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writing more bytes than this to a file fails in this process, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


Train = Callable[..., subprocess.CompletedProcess[str]]


def command(overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "launch.train", *overrides]


@pytest.fixture
def train() -> Train:
    """Run the training command to its end; returns exit code and output."""

    def run(*overrides: str, timeout_s: float = 300, check: bool = False) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(command(overrides), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
        if check:
            assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
        return finished

    return run


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run on this machine, that others are compared with."""
    from tests.integration.runs import RUN

    run_dir = tmp_path_factory.mktemp("run") / "uninterrupted"
    finished = subprocess.run(
        command([*RUN, "logger.wandb=offline", "logger.tensorboard=true", f"run_dir={run_dir}"]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,  # the warm start of the laptop run is in it, and machines are shared
        env={**os.environ, "DELTA_TEST_RUN": str(run_dir)},
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    (run_dir / "output.txt").write_text(finished.stdout)
    return run_dir


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray for all tests that use actors without the whole command."""
    from workers.cluster import ClusterConfig, local_cluster

    with local_cluster(ClusterConfig(), log_folder=tmp_path_factory.mktemp("ray-logs")):
        yield


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Untrained models of the project's own kind, in Hugging Face format."""
    import torch

    from workers.warm_start.config import WarmStartModelConfig
    from workers.warm_start.make import make_model as untrained
    from workers.warm_start.tokenizer import byte_tokenizer

    made: dict[tuple[object, ...], Path] = {}

    def make(*, tie_embeddings: bool = True, seed: int = 0) -> Path:
        key = (tie_embeddings, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("model")
            torch.manual_seed(seed)
            config = WarmStartModelConfig(
                hidden_size=64,
                intermediate_size=128,
                num_layers=2,
                num_heads=2,
                num_kv_heads=1,
                tie_embeddings=tie_embeddings,
            )
            model = untrained(config, byte_tokenizer())
            with torch.no_grad():  # small initial weights make all policies alike; a test wants to see differences
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.mul_(4)
            model.save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make
