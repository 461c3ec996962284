"""Which problems may never be trained on, decided by their text alone.

Every source and the warm start follow the same rule, so a problem that is measured on was never seen before, wherever
else it may occur.
"""

import hashlib

RESERVED = 0.1
"""Share of all texts that the warm start and the generators never train on."""


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that looks random but belongs to the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def is_reserved(text: str) -> bool:
    """Whether a problem is kept for measuring."""
    return hash_fraction(text) < RESERVED
