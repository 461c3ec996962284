"""Who runs on which node: learner ranks in contiguous blocks, engines evenly.

Neighbouring ranks share a node, so that most of what they exchange stays on it. Engines do not talk to each other; the
last nodes get the odd ones, because the first get the odd ranks.
"""

from dataclasses import dataclass

from delta.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """Who runs on a node."""

    learner_ranks: tuple[int, ...]
    engines: tuple[int, ...]


def place(
    *, nodes: int, gpus_per_node: int, num_ranks: int, num_engines: int, gpus_per_engine: int
) -> tuple[NodePlacement, ...]:
    """Distribute learner ranks and engines over equal nodes, the first of which is the head.

    Whoever fits at all is placed: engines only need a node with room for a whole one, ranks fill what is left.

    Args:
        nodes: How many there are.
        gpus_per_node: Each rank takes one, each engine `gpus_per_engine`; 0 runs all on CPUs, which have no limit.
        num_ranks: `learner.num_ranks`.
        num_engines: `rollout.num_workers`.
        gpus_per_engine: `rollout.tensor_parallel_size`; 1 on CPUs.

    Raises:
        ConfigError: They do not fit.
    """
    if nodes < 1:
        raise ConfigError(f"nodes={nodes}: expected at least 1.")
    if not gpus_per_node and gpus_per_engine != 1:
        raise ConfigError(
            f"rollout.tensor_parallel_size={gpus_per_engine} without GPUs: expected 1, since an engine on CPUs is one "
            "process. Set it to 1, or cluster.num_gpus to the GPUs of a node."
        )
    room = gpus_per_node // gpus_per_engine if gpus_per_node else num_engines
    if num_engines > nodes * room:
        raise ConfigError(
            f"rollout.num_workers={num_engines} engines of rollout.tensor_parallel_size={gpus_per_engine} GPUs: "
            f"expected at most {nodes * room}, since each of {nodes} node(s) with cluster.num_gpus={gpus_per_node} has "
            f"room for {room}. Ask for more nodes, fewer engines, or fewer GPUs per engine."
        )
    spread, odd = divmod(num_engines, nodes)
    engines = [spread + (node >= nodes - odd) for node in range(nodes)]
    free = [gpus_per_node - count * gpus_per_engine if gpus_per_node else num_ranks for count in engines]
    if num_ranks > sum(free):
        raise ConfigError(
            f"learner.num_ranks={num_ranks} with a GPU each: expected at most {sum(free)}, the GPUs that "
            f"{num_engines} engine(s) of {gpus_per_engine} leave on {nodes} node(s) with "
            f"cluster.num_gpus={gpus_per_node}. Ask for more nodes, fewer ranks, or fewer engines."
        )
    ranks = [0] * nodes
    for _ in range(num_ranks):
        emptiest = min((node for node in range(nodes) if ranks[node] < free[node]), key=ranks.__getitem__)
        ranks[emptiest] += 1
    return tuple(
        NodePlacement(ranks_here, engines_here)
        for ranks_here, engines_here in zip(_blocks(ranks), _blocks(engines), strict=True)
    )


def _blocks(counts: list[int]) -> list[tuple[int, ...]]:
    """Numbers from 0 on, so many for each node."""
    ends = [sum(counts[: node + 1]) for node in range(len(counts))]
    return [tuple(range(end - count, end)) for end, count in zip(ends, counts, strict=True)]
