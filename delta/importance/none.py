"""No correction: engine and learner are taken to be the same policy."""

from dataclasses import dataclass

from delta.importance.importance import ImportanceConfig
from delta.tokens import OldTokens


@dataclass(kw_only=True, slots=True)
class NoneConfig(ImportanceConfig):
    """No factor (`importance=none`); right where every step trains on its own rollouts in full precision."""

    def weights(self, tokens: OldTokens) -> None:
        """Nothing."""
        del tokens
