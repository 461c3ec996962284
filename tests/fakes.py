"""Stand-ins at the seams, for tests of what is around them."""

from collections.abc import Iterator, Sequence

import numpy as np

from delta.types import FinishReason
from workers.rollout.engine import Completion, SamplingRequest


class FakeEngine:
    """An engine that answers with the last byte of the prompt; later requests finish first."""

    def __init__(self) -> None:
        self.version = 0
        self.transfers: list[str] = []

    def sample(self, requests: Sequence[SamplingRequest]) -> Iterator[list[Completion]]:
        for place in reversed(range(len(requests))):
            token = requests[place].prompt_token_ids[-1]
            yield [
                Completion(
                    place=place,
                    token_ids=np.array([token], dtype=np.int32),
                    log_probs=np.array([-0.5], dtype=np.float32),
                    finish_reason=FinishReason.length,
                )
            ]

    def log_probs(self, token_ids):
        return np.full(len(token_ids) - 1, -0.5, dtype=np.float32)

    def transfer(self, method, *args):
        self.transfers.append(method)

    def set_policy_version(self, version):
        self.version = version
