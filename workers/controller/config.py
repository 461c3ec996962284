"""The configuration of a run: what each part declares, put together and checked against each other."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from delta.errors import ConfigError
from delta.losses import RegularizationConfig
from delta.rewards import RewardConfig
from workers.cluster import ClusterConfig
from workers.controller.metrics import LoggerConfig
from workers.deadlines import DeadlinesConfig
from workers.learner.config import LearnerConfig
from workers.learner.learner import AlgorithmConfig
from workers.placement import NodePlacement, place
from workers.rollout.config import RolloutConfig, WeightTransfer


class Resume(Enum):
    """What to do with a run folder that holds a run.

    `auto` goes on from its newest checkpoint, and refuses if that is damaged; `last_good` goes on from the newest that
    is whole, and sets damaged ones aside; `never` refuses the folder.
    """

    auto = "auto"
    last_good = "last_good"
    never = "never"


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """How held-out accuracy is measured."""

    every: int = 20
    """Training steps between measurements; also before the first step and after the last."""
    samples: int = 4
    """Answers sampled per problem at the training temperature, beside the greedy one."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.every < 1 or self.samples < 1:
            raise ValueError(f"evaluation.every={self.every}, evaluation.samples={self.samples}: expected 1 or more.")


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """When the state of a run is written."""

    every: int = 20
    """Training steps between checkpoints; also after the last step and on interruption. Written in the background."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.every < 1 or self.keep < 1:
            raise ValueError(f"checkpoint.every={self.every}, checkpoint.keep={self.keep}: expected 1 or more.")


@dataclass(kw_only=True, slots=True)
class FaultsConfig:
    """What happens when the run is preempted, or when one of its processes dies or hangs."""

    grace_s: float = 25.0
    """How long a run may take to end in a checkpoint after SIGTERM or SIGUSR1; then the last complete checkpoint is
    what stays. Cleaning up takes a few seconds more."""
    max_restarts: int = 3
    """Times that a run starts again from its last checkpoint by itself; counted anew once it gets beyond the step that
    failed."""
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.grace_s <= 0 or self.max_restarts < 0:
            raise ValueError(
                f"faults.grace_s={self.grace_s}, faults.max_restarts={self.max_restarts}: expected more than 0 s and 0 "
                "or more restarts."
            )


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """One training run. The untyped fields are config groups: each holds the dataclass of the chosen variant."""

    steps: int = 100
    """Rollout batches to train on."""
    seed: int = 1
    """Of everything random: model, problems, order, sampling."""
    dry_run: bool = False
    """Check what is checked before a run, print the memory plan, and end; of a model, its config.json is enough."""
    label: str = ""
    """Name of the method in comparisons; the files of `conf/algorithm` set it."""
    run_dir: str = ""
    """Folder of the run."""
    sweep: str = ""
    """With `--multirun`, the folder of the sweep, in which the run folders of its members are; empty makes one of what
    is swept."""
    nodes: int = 1
    """Nodes of the cluster; learner ranks and engines are spread over them."""
    resume: Resume = Resume.auto
    """What to do if `run_dir` holds a run: `auto` goes on from its newest checkpoint, `last_good` from the newest that
    is whole, `never` refuses."""
    resume_from: str = ""
    """A checkpoint, or the folder of another run, to begin with while `run_dir` has no checkpoint of its own."""
    model: Any = None
    data: Any = None
    advantage: Any = None
    credit: Any = None
    surrogate: Any = None
    aggregation: Any = None
    importance: Any = None
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    verifier: Any = None
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    cluster: Any = field(default_factory=ClusterConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        """Check what concerns more than one part."""
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps}: expected 1 or more.")
        if self.nodes < 1:
            raise ConfigError(f"nodes={self.nodes}: expected 1 or more.")
        if self.rollout.weight_transfer is WeightTransfer.nccl and not self.cluster.num_gpus:
            raise ConfigError(
                "rollout.weight_transfer=nccl without GPUs: expected gloo, since NCCL moves what is on GPUs. Leave it "
                "out, or set cluster.num_gpus to the GPUs of a node."
            )
        if self.rollout.prompts_per_step % self.learner.updates_per_step:
            raise ConfigError(
                f"rollout.prompts_per_step={self.rollout.prompts_per_step} does not divide into "
                f"learner.updates_per_step={self.learner.updates_per_step} mini-batches; use a multiple of "
                f"{self.learner.updates_per_step} prompts, or another number of updates."
            )

    def placement(self, *, nodes: int) -> tuple[NodePlacement, ...]:
        """Who runs on which of so many nodes.

        Raises:
            ConfigError: They do not fit.
        """
        return place(
            nodes=nodes,
            gpus_per_node=self.cluster.num_gpus,
            num_ranks=self.learner.num_ranks,
            num_engines=self.rollout.num_workers,
            gpus_per_engine=self.rollout.tensor_parallel_size,
        )

    @property
    def mismatch_limit(self) -> float:
        """Tolerated difference between engine and learner, in nats: as set, or what the precision allows."""
        return self.rollout.mismatch_limit or (1e-3 if self.model.dtype == "float32" else 0.5)

    @property
    def algorithm(self) -> AlgorithmConfig:
        """What the learner computes."""
        return AlgorithmConfig(
            advantage=self.advantage,
            credit=self.credit,
            surrogate=self.surrogate,
            aggregation=self.aggregation,
            importance=self.importance,
            regularization=self.regularization,
        )
