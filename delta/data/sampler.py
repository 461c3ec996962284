"""Which prompts come next: a function of the seed and of how many came before, hence resumable by a number."""

from collections.abc import Sequence

import numpy as np

from delta.types import Prompt


class PromptSampler:
    """Visits every prompt once per epoch, in an order drawn anew for each epoch.

    Position p of the endless prompt stream is element p mod n of epoch p div n's permutation. So a resumed run
    continues exactly where the interrupted one stopped, given only the position, and a batch that crosses the end of an
    epoch takes its rest from the next one: nothing is skipped.
    """

    def __init__(self, prompts: Sequence[Prompt], *, seed: int) -> None:
        """Sample from `prompts`."""
        if not prompts:
            raise ValueError("PromptSampler needs at least one prompt")
        self._prompts = prompts
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def take(self, position: int, count: int) -> list[Prompt]:
        """The next `count` prompts after the first `position` of the stream."""
        return [self._at(place) for place in range(position, position + count)]

    def epoch(self, position: int) -> float:
        """Passes over the data that are complete after `position` prompts."""
        return position / len(self._prompts)

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self._prompts))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
            self._epoch = epoch
        return self._prompts[int(self._order[place])]
