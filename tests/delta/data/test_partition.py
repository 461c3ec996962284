import numpy as np
import pytest

from delta.data.partition import Partition, RowCost, partition_rows


def split(
    lengths: list[int],
    *,
    updates: int = 1,
    group_size: int = 1,
    ranks: int = 1,
    budget: int = 100,
    packed: bool = False,
    cost: RowCost | None = None,
) -> Partition:
    return partition_rows(
        np.array(lengths, dtype=np.int64),
        updates=updates,
        group_size=group_size,
        ranks=ranks,
        token_budget=budget,
        packed=packed,
        cost=cost,
    )


def random_lengths(rows: int, seed: int = 0) -> list[int]:
    return [int(length) for length in np.random.default_rng(seed).integers(1, 90, size=rows)]


def rows_of(partition: Partition) -> list[int]:
    return [row for update in partition.micro_batches for rank in update for rows in rank for row in rows]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("updates", [1, 2, 4])
def test_each_row_is_there_once(ranks: int, updates: int) -> None:
    partition = split(random_lengths(32), updates=updates, group_size=4, ranks=ranks)
    assert sorted(rows_of(partition)) == list(range(32))
    assert len(partition.micro_batches) == updates


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 40])
def test_ranks_have_the_same_number_of_micro_batches(ranks: int) -> None:
    for update in split(random_lengths(32), updates=2, group_size=4, ranks=ranks).micro_batches:
        assert len(update) == ranks
        assert len({len(rank) for rank in update}) == 1
        assert len(update[0]) >= 1


def test_padded_micro_batches_keep_the_budget_but_for_giant_rows() -> None:
    lengths = [*random_lengths(30), 500, 101]
    partition = split(lengths, ranks=2, budget=100)
    batches = [rows for update in partition.micro_batches for rank in update for rows in rank if rows]
    assert all(len(rows) * max(lengths[row] for row in rows) <= 100 or len(rows) == 1 for rows in batches)
    assert (30,) in batches
    assert (31,) in batches


def test_budget_is_used() -> None:
    assert split([10] * 10, budget=50).micro_batches == (((tuple(range(5)), tuple(range(5, 10))),),)


def test_budget_counts_padding() -> None:
    # 60 + 30 fits into 100 tokens, but the rectangle 2 * 60 does not.
    assert split([60, 30], budget=100).micro_batches == ((((0,), (1,)),),)


def test_groups_stay_in_their_update_in_batch_order() -> None:
    lengths = random_lengths(24)
    for ranks in (1, 3):
        partition = split(lengths, updates=3, group_size=4, ranks=ranks)
        for number, update in enumerate(partition.micro_batches):
            rows = sorted(row for rank in update for micro_batch in rank for row in micro_batch)
            assert rows == list(range(8 * number, 8 * number + 8))


def test_rows_of_a_micro_batch_are_alike_in_length() -> None:
    lengths = random_lengths(64)
    (ranks,) = split(lengths, ranks=2, budget=300).micro_batches
    for micro_batches in ranks:
        order = [lengths[row] for rows in micro_batches for row in rows]
        assert order == sorted(order, reverse=True)


def test_ranks_get_even_shares() -> None:
    lengths = random_lengths(64)
    (ranks,) = split(lengths, ranks=4).micro_batches
    shares = [[row for rows in rank for row in rows] for rank in ranks]
    assert [len(share) for share in shares] == [16] * 4
    tokens = [sum(lengths[row] for row in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)


def test_rows_are_dealt_back_and_forth() -> None:
    (ranks,) = split([80, 70, 60, 50], ranks=2, budget=1).micro_batches
    assert ranks == (((0,), (3,)), ((1,), (2,)))


def test_more_ranks_than_rows_leaves_empty_micro_batches() -> None:
    assert split([5, 5], ranks=4).micro_batches == ((((0,),), ((1,),), ((),), ((),)),)


def test_same_lengths_give_the_same_partition() -> None:
    lengths = random_lengths(32)
    assert split(lengths, updates=2, ranks=3) == split(lengths, updates=2, ranks=3)


def test_a_partial_group_is_refused() -> None:
    with pytest.raises(ValueError, match="7 rows are not groups of 2"):
        split([1] * 7, updates=1, group_size=2)


def test_updates_differ_by_one_group_at_most_and_none_is_empty() -> None:
    # What dynamic sampling leaves need not divide: 5 groups in 3 updates, and 1 group in 2.
    updates = split([1] * 10, updates=3, group_size=2).micro_batches
    assert [sum(len(rows) for rank in update for rows in rank) for update in updates] == [4, 4, 2]
    assert len(split([1] * 4, updates=2, group_size=4).micro_batches) == 1


def skewed_lengths(rows: int, seed: int = 0) -> list[int]:
    """Mostly short, few long: what a policy that reasons produces."""
    return [int(length) for length in np.random.default_rng(seed).lognormal(3.5, 1.2, size=rows).clip(1, 3000)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("seed", range(3))
def test_packed_rows_are_there_once_in_equally_many_micro_batches(ranks: int, seed: int) -> None:
    lengths = skewed_lengths(32, seed)
    partition = split(lengths, updates=2, group_size=4, ranks=ranks, budget=400, packed=True)
    assert sorted(rows_of(partition)) == list(range(32))
    for update in partition.micro_batches:
        assert len(update) == ranks
        assert len({len(rank) for rank in update}) == 1
        for rank in update:
            for rows in rank:
                assert sum(lengths[row] for row in rows) <= 400 or len(rows) == 1


def test_packing_counts_tokens_and_no_pads() -> None:
    # 60 + 30 fits into 100 tokens, though the rectangle 2 * 60 does not.
    assert split([60, 30], budget=100, packed=True).micro_batches == ((((0, 1),),),)
    assert split([50, 50], budget=100, packed=True).micro_batches == ((((0, 1),),),)


def test_packing_wastes_little_of_the_budget() -> None:
    lengths = [length for length in skewed_lengths(400) if length <= 1000]
    (ranks,) = split(lengths, ranks=4, budget=1000, packed=True).micro_batches
    needed = sum(lengths) / 1000
    assert 4 * len(ranks[0]) <= needed * 1.1 + 4


def test_packed_micro_batches_that_run_side_by_side_cost_alike() -> None:
    lengths = [length for length in skewed_lengths(400) if length <= 1000]
    (ranks,) = split(lengths, ranks=4, budget=1000, packed=True).micro_batches
    for side_by_side in zip(*ranks, strict=True):
        tokens = [sum(lengths[row] for row in rows) for rows in side_by_side]
        assert max(tokens) - min(tokens) <= 50


def test_packed_micro_batches_are_dealt_by_cost_and_back_and_forth() -> None:
    # Costs 90, 40 + 30, 60 and 50: like beside like, and who had the dearer of a pair gets the cheaper of the next.
    partition = split([90, 60, 50, 40, 30], ranks=2, budget=100, packed=True)
    assert partition.micro_batches == ((((0,), (2,)), ((3, 4), (1,))),)


def test_giant_rows_have_micro_batches_of_their_own_and_make_no_empty_ones() -> None:
    assert split([5000, 10, 10, 10], ranks=2, budget=100, packed=True).micro_batches == ((((0,),), ((1, 2, 3),)),)
    (ranks,) = split([700, 10, 5000, 300, 10], ranks=2, budget=100, packed=True).micro_batches
    assert sorted(rows for rank in ranks for rows in rank) == [(0,), (1, 4), (2,), (3,)]


def test_more_ranks_than_packed_rows_leaves_empty_micro_batches() -> None:
    assert split([5, 5], ranks=4, packed=True).micro_batches == ((((0,),), ((1,),), ((),), ((),)),)


def test_long_rows_weigh_more_than_their_tokens() -> None:
    # One row of 1,000 tokens costs as much as 2,000 tokens in short rows, where attention is half of the work.
    lengths = [1000] + [10] * 300
    (ranks,) = split(lengths, ranks=2, budget=10_000, packed=True, cost=RowCost(attention_length=1000)).micro_batches
    with_giant, other = sorted(ranks, key=lambda rank: 0 not in rank[0])
    assert len(with_giant[0]) == pytest.approx(1 + (300 - 200) / 2, abs=3)
    assert len(other[0]) == pytest.approx(200 + (300 - 200) / 2, abs=3)


def test_rows_without_a_token_are_dealt_too() -> None:
    assert sorted(rows_of(split([0, 0, 3], ranks=2, packed=True))) == [0, 1, 2]
