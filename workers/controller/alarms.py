"""What a person should hear about a run that goes on, but teaches nothing."""

from collections.abc import Mapping, Sequence

from delta.errors import GradientError
from delta.types import RolloutGroup

MAX_LOST_STEPS = 3
"""Steps in a row that may train nothing for want of a finite gradient."""


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


class GradientAlarm:
    """Rings for every optimizer step that DeepSpeed left out because its gradient was infinite or not a number.

    One may be an accident of a single batch, and the run does without it. Where whole steps are lost one after the
    other, the weights are not going to recover: they stay as they are, be it for days.
    """

    def __init__(self) -> None:
        """Nothing was lost yet."""
        self._lost = 0

    def observe(self, metrics: Mapping[str, float], *, step: int) -> str | None:
        """Look at the learner's metrics of a step; what to say if the alarm rings.

        Raises:
            GradientError: This step and those before it, `MAX_LOST_STEPS` together, trained nothing.
        """
        made, skipped = metrics["learner/updates"], metrics["learner/skipped_updates"]
        self._lost = 0 if made else self._lost + 1
        if not skipped:
            return None
        happened = (
            f"step {step}: {skipped:.0f} of {made + skipped:.0f} optimizer steps were left out, because their gradient "
            "was infinite or not a number"
        )
        if self._lost < MAX_LOST_STEPS:
            return f"alarm: {happened}. The weights stay as they were before these."
        raise GradientError(
            f"{happened}; the {MAX_LOST_STEPS - 1} steps before trained nothing either. Look at loss, entropy and "
            "learner/grad_norm of the steps before in metrics.jsonl; a lower learner.learning_rate or "
            "model.dtype=float32 may help, in a new run_dir that begins at a checkpoint before (resume_from=...)."
        )
