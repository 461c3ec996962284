"""The rollout worker as a Ray actor."""

import ray

from workers.rollout.worker import RolloutWorker

RolloutActor = ray.remote(RolloutWorker)
