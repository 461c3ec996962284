"""What a kind of cluster has to know about submissions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from launch.submit.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What was sent."""

    job_id: str
    follow: str
    """Command that shows how the job is doing."""
    cancel: str
    """Command that ends it."""


class Backend(Protocol):
    """A kind of cluster. Made with its part of the configuration: `SlurmBackend(config.cluster)`."""

    def render(self, plan: Plan) -> Mapping[str, str]:
        """The files of the submission by name; the same plan gives the same text."""
        ...

    def lint(self, plan: Plan, files: Mapping[str, str]) -> Sequence[str]:
        """Find what cannot work without asking the cluster, from the plan and the rendered files alone.

        Returns:
            Warnings, a sentence each.

        Raises:
            ConfigError: What was seen, what was expected, what to do.
        """
        ...

    def check(self, plan: Plan) -> Sequence[str]:
        """Find what cannot work by asking the cluster, before anything is sent.

        Returns:
            Warnings, a sentence each.

        Raises:
            ConfigError: What was seen, what was expected, what to do.
            SubmissionError: The cluster cannot be asked.
        """
        ...

    def submit(self, plan: Plan, files: Mapping[str, str]) -> Submission:
        """Write the files into `plan.job_dir` and send them.

        Raises:
            SubmissionError: The cluster refuses; its words are in the message.
        """
        ...
