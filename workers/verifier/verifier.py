"""What the controller knows of verifiers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from delta.errors import ConfigError
from delta.rewards import RewardConfig
from delta.types import Sample, Verdict
from workers.cluster.nodes import Node
from workers.verifier.config import PoolConfig, RemoteConfig, VerifierConfig


@dataclass(slots=True)
class VerifierStatistics:
    """What happened since it was last asked."""

    cached: int = 0
    """Answers that were not scored, because an equal one was."""
    retried: int = 0
    """Answers scored again, because what scored them died."""
    replaced: int = 0
    """Processes, actors or connections that were lost."""

    def metrics(self) -> dict[str, float]:
        """By the names of the log."""
        return {f"verifier/{name}": float(value) for name, value in asdict(self).items()}


class Verifier(Protocol):
    """Scores answers somewhere else: on this cluster (`VerifierPool`) or behind a URL (`RemoteVerifier`)."""

    async def ready(self) -> None:
        """Return once it can score; raise a `DeltaError` if it never will."""

    async def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Exactly one verdict for each sample, in their order; waits while there is too much to do."""

    def take_statistics(self) -> VerifierStatistics:
        """What happened since the last call."""

    def close(self) -> None:
        """Leave nothing behind."""


def verifier_for(config: VerifierConfig, reward: RewardConfig, *, nodes: Sequence[Node] = ()) -> Verifier:
    """The verifier that a configuration describes.

    Args:
        config: Where answers are scored.
        reward: What a verdict is worth.
        nodes: Of the cluster, for a pool; without, all that it has.

    Raises:
        ConfigError: A reward that a remote service would not know of.
    """
    if isinstance(config, RemoteConfig):
        from workers.verifier.remote import RemoteVerifier

        if reward != RewardConfig():
            raise ConfigError(
                f"reward has the parts {', '.join(reward.parts)} and the verifier is remote, which sums the parts that "
                "it was started with. Give them to the service (delta-verify serve=HOST:PORT reward=...), and leave "
                "reward=correctness here."
            )
        return RemoteVerifier(config)
    if not isinstance(config, PoolConfig):
        raise TypeError(f"{type(config).__name__} describes no verifier")
    from workers.verifier.pool import VerifierPool  # Ray, which a remote service does without

    return VerifierPool(config, reward, nodes=nodes)
