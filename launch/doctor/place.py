"""Where the run will be: on this machine, or on nodes that a scheduler gives it."""

import os

from launch.submit.config import SubmittedConfig
from workers.controller.config import TrainConfig

ON_A_NODE = ("RAY_ADDRESS", "SLURM_JOB_ID")
"""Set where this machine is a node of the job, as in an allocation or a pod."""


def is_submitted(config: TrainConfig) -> bool:
    """Whether the run is only sent off from here."""
    return isinstance(config.cluster, SubmittedConfig) and not any(name in os.environ for name in ON_A_NODE)
