"""Hydra entry points: compose, validate, hand over."""
