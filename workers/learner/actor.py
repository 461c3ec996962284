"""The learner rank as a Ray actor."""

import ray

from workers.learner.worker import LearnerWorker

LearnerActor = ray.remote(LearnerWorker)
