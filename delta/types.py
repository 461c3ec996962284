"""The nouns of the project: frozen records for what happened, in the order in which it happens.

    Prompt -> Rollout -> Verdict -> RolloutGroup -> TrainBatch -> UpdateReport

Records cross process boundaries; string-keyed dictionaries do not. Token ids go in and token ids come out: nothing is
ever tokenised twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]
Floats = NDArray[np.float32]


class FinishReason(Enum):
    """Why a rollout ended: the model said so (`stop`), or the token limit cut it (`length`)."""

    stop = "stop"
    length = "length"


class Outcome(Enum):
    """What the verifier found. `timeout` and `error` are never a wrong answer: they say nothing about the answer."""

    correct = "correct"
    wrong = "wrong"
    unparsable = "unparsable"
    timeout = "timeout"
    error = "error"

    @property
    def is_judgement(self) -> bool:
        """Whether the answer was judged at all; the other outcomes carry no reward."""
        return self not in (Outcome.timeout, Outcome.error)


@dataclass(frozen=True, slots=True)
class FunctionTests:
    """The reference of a programming problem: Python source whose asserts call the function that was asked for."""

    source: str
    entry_point: str


@dataclass(frozen=True, slots=True)
class StdioCase:
    """What a program reads from its standard input and must write to its standard output."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class StdioTests:
    """The reference of a competition problem."""

    cases: tuple[StdioCase, ...]


@dataclass(frozen=True, slots=True)
class PluginAnswer:
    """The reference of a task with a judge of its own."""

    judge: str
    """Python path of the judge, `package.module.function`; see `delta.rewards.plugin`."""
    answer: str
    """What the judge is given beside the response, as JSON."""


Reference = str | FunctionTests | StdioTests | PluginAnswer
"""What an answer is scored against; a text is the final answer of a math problem, plain or LaTeX."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to score, with all that a reward may look at."""

    response: str
    answer: Reference = field(repr=False)
    prompt: str = ""
    tokens: int = 0
    """Length of the response; 0 where nobody counted."""
    max_tokens: int = 0
    """Where responses are cut; 0 for nowhere."""
    truncated: bool = False
    """Whether this one was."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem: what the policy reads (as text and as token ids) and the reference answer it never sees."""

    id: str
    text: str
    answer: Reference
    token_ids: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One sampled answer, stamped with the policy that sampled it."""

    group: int
    """Place of its prompt in the step's batch, 0 to N - 1."""
    index: int
    """Place in the group, 0 to G - 1."""
    token_ids: TokenIds
    """(T,) sampled tokens, the end token included where there is one."""
    rollout_log_probs: Floats
    """(T,) log-probabilities under the engine's policy at the sampling temperature, in nats."""
    text: str
    finish_reason: FinishReason
    policy_version: int
    seed: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verifier's finding on one rollout."""

    outcome: Outcome
    reward: float
    detail: str = ""
    seconds: float = 0.0
    """Execution: from the moment a worker began, which is when its deadline begins."""
    queue_seconds: float = 0.0
    """Waiting and travelling, before and after."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The reward's named parts before they are weighted; empty where the answer was not judged."""
    charged: bool = False
    """Whether a timeout counts as a wrong answer (`verifier.timeout_is_wrong`)."""

    @property
    def is_judged(self) -> bool:
        """Whether its reward says something about the answer, so that it counts in the group's advantages."""
        return self.charged or self.outcome.is_judgement


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """A prompt with its G rollouts and their verdicts, in the order of `Rollout.index`."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]

    def __post_init__(self) -> None:
        """Refuse a group whose rollouts and verdicts do not pair up."""
        if len(self.rollouts) != len(self.verdicts):
            raise ValueError(f"{len(self.rollouts)} rollouts with {len(self.verdicts)} verdicts in {self.prompt.id}")

    @property
    def is_mixed(self) -> bool:
        """Whether the judged rewards differ; otherwise no rollout is better than its siblings: there is no signal."""
        return len({verdict.reward for verdict in self.verdicts if verdict.is_judged}) > 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainBatch:
    """All rollouts of a step as ragged arrays: row b owns tokens `offsets[b]` to `offsets[b + 1]`.

    Every learner rank holds the whole batch and trains on its share of the rows, so nothing about a row depends on who
    computes it.
    """

    token_ids: TokenIds
    """(sum of row lengths,) prompt and response tokens, row after row."""
    offsets: NDArray[np.int64]
    """(B + 1,)"""
    prompt_lengths: NDArray[np.int64]
    """(B,)"""
    rollout_log_probs: Floats
    """(sum of response lengths,) in row order."""
    advantages: Floats
    """(B,)"""
    loss_mask: NDArray[np.bool_]
    """(sum of response lengths,) the sampled tokens that carry loss."""

    @property
    def rows(self) -> int:
        """B, the number of rollouts."""
        return len(self.prompt_lengths)

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """(B,) prompt plus response tokens."""
        return np.diff(self.offsets)

    @property
    def response_lengths(self) -> NDArray[np.int64]:
        """(B,) sampled tokens."""
        return self.row_lengths - self.prompt_lengths

    @property
    def response_offsets(self) -> NDArray[np.int64]:
        """(B + 1,) where a row's response starts in the arrays that hold response tokens only."""
        return np.concatenate([[0], np.cumsum(self.response_lengths)])


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What the learner did with one batch: metrics with a namespace, durations in seconds."""

    policy_version: int
    metrics: Mapping[str, float]
