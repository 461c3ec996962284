"""The byte tokenizer reads any text and gives it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.warm_start.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()


@given(st.text(max_size=200).filter(lambda text: "<pad>" not in text and "<eos>" not in text))
def test_any_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("text", ["12+34=46", "fünf — 🙂", "\\frac{1}{2}", "a\u2028b\n\t", " leading"])
def test_texts_are_one_token_per_byte(text):
    assert len(TOKENIZER.encode(text)) == len(text.encode())
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_the_answer_mark_is_one_token_and_survives_decoding():
    ids = TOKENIZER.encode("1=1\n#### 1")
    assert len(ids) == 4 + 1 + 2
    decoded = TOKENIZER.decode([*ids, TOKENIZER.eos_token_id], skip_special_tokens=True)
    assert decoded == "1=1\n#### 1"


def test_end_and_pad_are_different_tokens():
    assert TOKENIZER.eos_token_id != TOKENIZER.pad_token_id
    assert len(TOKENIZER) == 259
