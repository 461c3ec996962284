"""The learner rank as a Ray actor."""

import ray

from workers.learner.worker import LearnerWorker

# A checkpoint is written in a thread of its own, while the rank goes on with the next step.
LearnerActor = ray.remote(concurrency_groups={"checkpoint": 1})(LearnerWorker)
