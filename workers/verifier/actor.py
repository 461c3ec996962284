"""The verifier worker as a Ray actor."""

import ray

from workers.verifier.worker import VerifierWorker

VerifierActor = ray.remote(VerifierWorker)
