"""What a person should hear about a run that goes on, but teaches nothing."""

from collections.abc import Sequence

from delta.types import RolloutGroup


class ConstantRewardAlarm:
    """Rings when all answers have had one and the same reward for too long.

    Usually it is the verifier, and not the policy: an answer format that is never recognised, references that nothing
    can equal, a reward that always pays.
    """

    def __init__(self, *, steps: int) -> None:
        """Ring after `steps` steps in a row."""
        self._steps = steps
        self._reward: float | None = None
        self._seen = 0

    def observe(self, groups: Sequence[RolloutGroup]) -> str | None:
        """Look at a step; what to say if the alarm rings, which it does once for each such stretch.

        A step without a judged answer changes nothing.
        """
        rewards = {verdict.reward for group in groups for verdict in group.verdicts if verdict.is_judged}
        if len(rewards) == 1 and (self._seen == 0 or rewards == {self._reward}):
            (self._reward,) = rewards
            self._seen += 1
        elif rewards:
            self._reward = next(iter(rewards)) if len(rewards) == 1 else None
            self._seen = int(len(rewards) == 1)
        if self._seen != self._steps or not rewards:
            return None
        return (
            f"alarm: every answer of the last {self._steps} steps had the reward {self._reward:g}, so nothing is "
            "learned. Look at answers in evaluations.jsonl: are they in the form that the verifier expects, and are "
            "the references right? delta-verify scores rows from the shell."
        )
