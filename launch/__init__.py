"""Hydra entry points: compose, validate, hand over."""

import workers  # noqa: F401  before any library reads the environment that it prepares
