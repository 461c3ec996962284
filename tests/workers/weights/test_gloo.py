"""The sender of weights, with an engine's side played by a thread on a real gloo group."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

from tests.workers.learner.ranks import free_port
from workers.weights import buckets
from workers.weights.gloo import GlooTrainerWeightTransferEngine, _broadcast

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

SIZE, COUNT = 2**21, 3
"""Elements of a weight, more than sockets keep in flight, and the number of weights, a bucket each."""


class Weights(WeightSource):
    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(str(place), torch.float32, (SIZE,)) for place in range(COUNT)]

    def __iter__(self) -> Any:
        for place in range(COUNT):
            yield str(place), torch.full((SIZE,), float(place))


class Engine:
    """The control plane's client and the engine behind it in one; gives up after so many weights."""

    def __init__(self, group: Any, *, gives_up_after: int) -> None:
        self.group, self.gives_up_after = group, gives_up_after
        self.received: list[float] = []
        self.finished = False

    def start_weight_update(self) -> None:
        pass

    def update_weights(self, info: Any) -> None:
        for _ in info["names"][: self.gives_up_after]:
            weight = torch.empty(SIZE)
            _broadcast(self.group, weight).wait()
            self.received.append(float(weight[-1]))
        if self.gives_up_after < COUNT:
            raise KeyError("a name this engine does not know")

    def finish_weight_update(self) -> None:
        self.finished = True


def sync(monkeypatch: pytest.MonkeyPatch, *, gives_up_after: int) -> Engine:
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 4 * SIZE)
    port = free_port()

    def join(rank: int) -> Any:
        return stateless_init_torch_distributed_process_group(
            "127.0.0.1", port, rank, 2, "gloo", timeout=timedelta(seconds=600)
        )

    with ThreadPoolExecutor(1) as executor:
        other = executor.submit(join, 1)
        group = join(0)
        engine = Engine(other.result(), gives_up_after=gives_up_after)
    trainer = GlooTrainerWeightTransferEngine(client=engine, source=Weights(), is_sender=True)
    trainer._group = group
    try:
        trainer.send_weights()
    finally:
        assert engine.received == list(map(float, range(gives_up_after)))
    return engine


def test_every_bucket_arrives(monkeypatch):
    assert sync(monkeypatch, gives_up_after=COUNT).finished


@pytest.mark.parametrize("gives_up_after", [0, 1, 2])
def test_what_an_engine_gives_up_for_is_heard_at_once(monkeypatch, gives_up_after):
    """And not the deadline of the collective that it has left."""
    with pytest.raises(KeyError, match="a name this engine does not know"):
        sync(monkeypatch, gives_up_after=gives_up_after)
