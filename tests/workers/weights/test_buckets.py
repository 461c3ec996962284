"""Broadcasts of a sync: everything once, in order, and never much at a time."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.distributed.weight_transfer.base import ParamMeta

from workers.weights.buckets import BUCKET_BYTES, buckets

QUARTER = BUCKET_BYTES // 4


def weight(name: str, size: int, dtype: torch.dtype = torch.float32) -> ParamMeta:
    return ParamMeta(name, dtype, (size // dtype.itemsize,))


def names(stream: list[ParamMeta]) -> list[list[str]]:
    return [[meta.name for meta in bucket] for bucket in buckets(stream)]


def test_a_bucket_is_filled_to_its_limit_and_no_further():
    assert names([weight(name, QUARTER) for name in "abcdefghi"]) == [list("abcd"), list("efgh"), ["i"]]
    assert names([weight("a", 4), weight("b", BUCKET_BYTES), weight("c", 4)]) == [["a"], ["b"], ["c"]]
    assert names([]) == []


def test_a_larger_weight_travels_alone_and_dtypes_are_not_mixed():
    assert names([weight("a", 4), weight("b", 5 * QUARTER), weight("c", 4)]) == [["a"], ["b"], ["c"]]
    mixed = [weight("a", 4), weight("b", 4, torch.bfloat16), weight("c", 4, torch.bfloat16), weight("d", 4)]
    assert names(mixed) == [["a"], ["b", "c"], ["d"]]


@given(st.lists(st.tuples(st.integers(1, 2 * BUCKET_BYTES), st.sampled_from([torch.float32, torch.bfloat16]))))
def test_every_weight_is_sent_once_in_order(sizes):
    stream = [weight(str(place), size, dtype) for place, (size, dtype) in enumerate(sizes)]
    assert [meta for bucket in buckets(stream) for meta in bucket] == stream
