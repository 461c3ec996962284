import pytest
from hypothesis import given
from hypothesis import strategies as st

from delta.errors import ConfigError
from workers.placement import NodePlacement, place


def test_ranks_are_blocks_and_the_odd_engine_goes_where_fewer_ranks_are() -> None:
    placed = place(nodes=2, gpus_per_node=0, num_ranks=3, num_engines=3, gpus_per_engine=1)
    assert placed == (NodePlacement((0, 1), (0,)), NodePlacement((2,), (1, 2)))


def test_ranks_take_the_gpus_that_whole_engines_leave() -> None:
    placed = place(nodes=2, gpus_per_node=4, num_ranks=4, num_engines=1, gpus_per_engine=4)
    assert placed == (NodePlacement((0, 1, 2, 3), ()), NodePlacement((), (0,)))


@given(
    nodes=st.integers(1, 5),
    gpus=st.integers(0, 8),
    num_ranks=st.integers(1, 20),
    num_engines=st.integers(1, 20),
    per_engine=st.integers(1, 8),
)
def test_everybody_is_placed_once_and_in_order_or_it_is_impossible(
    nodes: int, gpus: int, num_ranks: int, num_engines: int, per_engine: int
) -> None:
    per_engine = per_engine if gpus else 1
    possible = not gpus or (
        num_engines <= nodes * (gpus // per_engine) and num_ranks + num_engines * per_engine <= nodes * gpus
    )
    try:
        placed = place(
            nodes=nodes, gpus_per_node=gpus, num_ranks=num_ranks, num_engines=num_engines, gpus_per_engine=per_engine
        )
    except ConfigError:
        assert not possible
        return
    assert possible
    assert len(placed) == nodes
    assert [rank for node in placed for rank in node.learner_ranks] == list(range(num_ranks))
    assert [engine for node in placed for engine in node.engines] == list(range(num_engines))
    engines = [len(node.engines) for node in placed]
    assert max(engines) - min(engines) <= 1
    if gpus:
        assert all(len(node.learner_ranks) + len(node.engines) * per_engine <= gpus for node in placed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 0, 1, 1, 1), "nodes=0"),
        ((2, 0, 1, 1, 2), "tensor_parallel_size=2"),
        ((2, 8, 1, 3, 8), "at most 2"),
        ((1, 8, 8, 1, 1), "at most 7"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(settings: tuple[int, ...], message: str) -> None:
    nodes, gpus, num_ranks, num_engines, per_engine = settings
    with pytest.raises(ConfigError, match=message):
        place(nodes=nodes, gpus_per_node=gpus, num_ranks=num_ranks, num_engines=num_engines, gpus_per_engine=per_engine)
