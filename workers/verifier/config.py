"""How answers are scored."""

from dataclasses import dataclass, field

from delta.rewards import RewardConfig
from workers.verifier.code import CodeConfig

SANDBOX_S = 30.0
"""What sandboxes may take to start and to be cleaned up, on a busy machine."""


@dataclass(kw_only=True, slots=True)
class VerifierConfig:
    """What every verifier has, wherever it runs."""

    max_failure_rate: float = 0.1
    """Share of a step's verdicts that may be timeouts or errors; above it the run stops."""
    timeout_is_wrong: bool = False
    """Train on an answer that ran out of time as on a wrong one, reward 0. By default it is left out of its group's
    advantages and counts as a failure of the verifier. Meant for code, where a policy can learn to loop."""
    constant_reward_steps: int = 10
    """Steps in a row with one and the same reward for every answer after which the run raises an alarm."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.max_failure_rate <= 1:
            raise ValueError(f"verifier.max_failure_rate={self.max_failure_rate}: expected a rate from 0 to 1.")
        if self.constant_reward_steps < 1:
            raise ValueError(f"verifier.constant_reward_steps={self.constant_reward_steps}: expected 1 or more.")


@dataclass(kw_only=True, slots=True)
class PoolConfig(VerifierConfig):
    """Killable worker processes on the cluster's own CPUs (`verifier=pool`)."""

    num_workers: int | None = None
    """Worker processes per node; null takes `cpu_share` of the node's CPUs."""
    cpu_share: float = 0.5
    """Of a node's CPUs, the rest being left to engines and learners; at least one worker."""
    timeout_s: float = 10.0
    """Time one math answer, or one with a judge of its own, may take; then its worker is killed and replaced, and the
    outcome is `timeout`. Programs have limits of their own, `verifier.code`."""
    patience: float = 4.0
    """While others wait, an answer that takes so many times longer than usual for its kind is put back, to be scored
    from the start when the quick ones are done; then it may take so many times longer again, up to its deadline."""
    memory_mib: int = 4096
    """Address space of one worker; beyond it the answer's outcome is `error`."""
    require_mark: bool = False
    """Accept a math answer only in `\\boxed{...}` or after `####`; otherwise the last words may state it too."""
    max_response_chars: int = 1_000_000
    """A longer response is unparsable, unseen."""
    cache_size: int = 100_000
    """Verdicts remembered, so that equal answers are scored once; 0 for none."""
    max_in_flight: int = 64
    """Answers sent to one worker process ahead of its work; further ones wait where they are."""
    code: CodeConfig = field(default_factory=CodeConfig)

    @property
    def code_deadline_s(self) -> float:
        """When a worker that judges a program is taken for hung: its sandboxes keep `code.timeout_s` themselves."""
        return self.code.timeout_s + SANDBOX_S

    def __post_init__(self) -> None:
        """Check the ranges."""
        VerifierConfig.__post_init__(self)
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"verifier.num_workers={self.num_workers}: expected at least 1 worker, or null.")
        if not 0 < self.cpu_share <= 1 or self.timeout_s <= 0 or self.patience <= 1:
            raise ValueError(
                f"verifier.cpu_share={self.cpu_share}, verifier.timeout_s={self.timeout_s}, "
                f"verifier.patience={self.patience}: expected a share above 0 and up to 1, a positive time, and a "
                "factor above 1."
            )
        if self.memory_mib < 1024 or self.max_response_chars < 1 or self.cache_size < 0 or self.max_in_flight < 1:
            raise ValueError(
                f"verifier.memory_mib={self.memory_mib}, verifier.max_response_chars={self.max_response_chars}, "
                f"verifier.cache_size={self.cache_size}, verifier.max_in_flight={self.max_in_flight}: expected at "
                "least 1024 MiB, 1 character, 0 verdicts and 1 answer."
            )


@dataclass(kw_only=True, slots=True)
class RemoteConfig(VerifierConfig):
    """A scoring service elsewhere (`verifier=remote`); `delta-verify serve=HOST:PORT` is one."""

    url: str = ""
    """Of the service, such as `http://10.0.0.7:8000`; it gets `POST /score`, see docs/verifier.md."""
    timeout_s: float = 120.0
    """Time one request may take, with all its answers."""
    max_in_flight: int = 8
    """Requests at a time; further ones wait."""
    batch_size: int = 32
    """Answers in one request."""
    retries: int = 3
    """Further tries after a failed request; then its answers' outcome is `error`."""
    cache_size: int = 100_000
    """Verdicts remembered, so that equal answers are sent once; 0 for none."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        VerifierConfig.__post_init__(self)
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"verifier.url={self.url}: expected http://HOST:PORT or https://...")
        if self.timeout_s <= 0 or self.max_in_flight < 1 or self.batch_size < 1 or self.retries < 0:
            raise ValueError(
                f"verifier.timeout_s={self.timeout_s}, verifier.max_in_flight={self.max_in_flight}, "
                f"verifier.batch_size={self.batch_size}, verifier.retries={self.retries}: expected a positive time, "
                "at least 1 request and 1 answer, and 0 or more retries."
            )


@dataclass(frozen=True, slots=True)
class ScoringConfig:
    """What a worker process needs to know."""

    pool: PoolConfig
    reward: RewardConfig
