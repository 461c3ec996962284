import hashlib

import pytest

from delta.data.held_out import RESERVED, hash_fraction, is_reserved


def test_fraction_belongs_to_the_text_alone() -> None:
    # The first eight bytes of the SHA-256, so the split is the same on every machine and in every run.
    digest = hashlib.sha256(b"12+30=").hexdigest()
    assert hash_fraction("12+30=") == int(digest[:16], 16) / 16**16


def test_known_text_keeps_its_fraction() -> None:
    # SHA-256 of the empty text begins e3b0c442: 0xe3b0c442 / 2^32.
    assert hash_fraction("") == pytest.approx(0xE3B0C442 / 2**32, abs=1e-9)
    assert not is_reserved("")


def test_fractions_are_spread_evenly() -> None:
    fractions = [hash_fraction(f"text {index}") for index in range(4000)]
    assert all(0 <= fraction < 1 for fraction in fractions)
    for tenth in range(10):
        share = sum(tenth / 10 <= fraction < (tenth + 1) / 10 for fraction in fractions) / len(fractions)
        assert share == pytest.approx(0.1, abs=0.02)


def test_the_stated_share_is_reserved() -> None:
    reserved = [is_reserved(f"text {index}") for index in range(4000)]
    assert sum(reserved) / len(reserved) == pytest.approx(RESERVED, abs=0.025)


@pytest.mark.parametrize("text", ["größer", "等于", "a\u2028b", " "])
def test_any_text_has_a_fraction(text: str) -> None:
    assert 0 <= hash_fraction(text) < 1
