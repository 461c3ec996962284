"""The same examples in every run, and no deadline: a slow machine is not a failure."""

from hypothesis import settings

settings.register_profile("delta", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("delta")
