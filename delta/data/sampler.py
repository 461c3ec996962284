"""Which prompts a step trains on: a function of the seed and the step, hence resumable without state."""

from collections.abc import Sequence

import numpy as np

from delta.types import Prompt


class PromptSampler:
    """Visits every prompt once per epoch, in an order drawn anew for each epoch.

    Position p of the endless prompt stream is element p mod n of epoch p div n's permutation, and step s reads
    positions s * batch to (s + 1) * batch. So a resumed run continues exactly where the interrupted one stopped, given
    only the step, and a batch that crosses an epoch's end takes its rest from the next epoch: nothing is skipped.
    """

    def __init__(self, prompts: Sequence[Prompt], *, batch_size: int, seed: int) -> None:
        """Sample from `prompts`, `batch_size` of them per step."""
        if not prompts:
            raise ValueError("PromptSampler needs at least one prompt")
        self._prompts = prompts
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> list[Prompt]:
        """The prompts of step `step`, counted from 0."""
        first = step * self._batch_size
        return [self._at(position) for position in range(first, first + self._batch_size)]

    def epoch(self, step: int) -> float:
        """Passes over the data that are complete when step `step` begins."""
        return step * self._batch_size / len(self._prompts)

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self._prompts))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
            self._epoch = epoch
        return self._prompts[int(self._order[place])]
