"""The nodes of the Ray cluster, and functions done on each of them."""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

HEAD = "node:__internal_head__"
"""Resource that Ray gives to the head alone."""
POLL_S = 0.5
"""How often Ray is asked whether those who are silent still live."""


RAY_ADDRESS = "RAY_ADDRESS"
"""Environment variable with the HOST:PORT of a Ray that is there already; whoever started it sets it for the driver."""


def is_attached() -> bool:
    """Whether this driver works on a Ray that somebody else started."""
    return bool(os.environ.get(RAY_ADDRESS))


@dataclass(frozen=True, slots=True)
class Node:
    """A node that Ray takes for alive."""

    node_id: str
    """Ray's; a node that was away comes back under another."""
    address: str
    name: str
    """Hostname."""
    is_head: bool
    cpus: float
    gpus: float

    def __str__(self) -> str:
        """As messages name it."""
        return f"{self.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What came of a function on a node."""

    node: Node
    value: T | None = None
    trouble: str = ""
    """Why there is no value; empty if there is one."""


def listed(*, num_gpus: int = 0) -> list[Node]:
    """The nodes that Ray lists as alive and that have CPUs and `num_gpus` GPUs: head first, then by address.

    A node that died is listed for a while beside the one that took its place; `answering` finds out who is there.
    """
    import ray

    nodes = [
        Node(
            node_id=entry["NodeID"],
            address=entry["NodeManagerAddress"],
            name=entry["NodeManagerHostname"],
            is_head=HEAD in entry["Resources"],
            cpus=entry["Resources"].get("CPU", 0.0),
            gpus=entry["Resources"].get("GPU", 0.0),
        )
        for entry in ray.nodes()
        if entry["Alive"]
    ]
    usable = [node for node in nodes if node.cpus and node.gpus >= num_gpus]
    return sorted(usable, key=lambda node: (not node.is_head, _natural(node.address), node.node_id))


def _natural(address: str) -> list[str | int]:
    """A key that sorts n2 before n10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", address)]


def describe(nodes: Sequence[Node]) -> str:
    """The nodes in words."""
    return ", ".join(map(str, nodes)) or "none"


def pinned(node: Node | None) -> Any:
    """Ray's scheduling strategy for an actor that belongs on `node`; with None Ray chooses."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return "DEFAULT" if node is None else NodeAffinitySchedulingStrategy(node.node_id, soft=False)


async def everywhere(
    nodes: Sequence[Node], function: Callable[..., T], *args: Any, timeout_s: float
) -> list[Answer[T]]:
    """Call a function in a fresh process on every node, side by side; one answer for each, in order.

    Args:
        nodes: Where.
        function: Importable by name; arguments and result must survive pickling. What it raises is raised here.
        args: Its arguments.
        timeout_s: Deadline for all; a node that Ray declares dead before has answered with that.
    """
    import ray

    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = [remote.options(scheduling_strategy=pinned(node)).remote(*args) for node in nodes]
    asked = [asyncio.ensure_future(_answer(node, call)) for node, call in zip(nodes, calls, strict=True)]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    try:
        dead: set[Node] = set()
        while (left_s := deadline - loop.time()) > 0:
            silent = [task for node, task in zip(nodes, asked, strict=True) if node not in dead and not task.done()]
            if not silent:
                break
            await asyncio.wait(silent, timeout=min(left_s, POLL_S))
            dead = set(nodes) - set(listed())
        return [
            task.result()
            if task.done()
            else Answer(node, trouble="it is gone" if node in dead else f"no answer within {timeout_s:g} s")
            for node, task in zip(nodes, asked, strict=True)
        ]
    finally:
        for call, task in zip(calls, asked, strict=True):
            if not task.done():
                ray.cancel(call, force=True)
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _answer(node: Node, call: Any) -> Answer[Any]:
    import ray

    try:
        return Answer(node, await call)
    except ray.exceptions.RayTaskError:
        raise  # the function's own: it says nothing about the node
    except ray.exceptions.RayError as error:
        return Answer(node, trouble=(str(error).strip().splitlines() or [type(error).__name__])[0])
