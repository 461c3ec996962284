"""Makes the weight transfer of this project known in each process of an engine.

A tensor-parallel engine starts processes of its own, which import what they are told by name: an extension of vLLM's
worker class. That this module is imported is all it is for.
"""

import workers.weights.gloo  # noqa: F401  registers the backend with vLLM


class WeightTransferExtension:
    """Adds nothing to the worker."""
