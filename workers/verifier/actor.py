"""The verifier's host as a Ray actor."""

import ray

from workers.verifier.host import VerifierHost

VerifierActor = ray.remote(VerifierHost)
