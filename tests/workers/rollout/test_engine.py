"""What the engine asks vLLM for, request by request."""

from types import SimpleNamespace

import numpy as np

from workers.rollout.engine import SamplingRequest, VllmEngine


class Recorder:
    """In vLLM's place: remembers what it was asked for and ends every request with one token."""

    def __init__(self) -> None:
        self.asked = {}

    def add_request(self, request_id, prompt, parameters):
        self.asked[request_id] = parameters

    def step(self):
        sampled = SimpleNamespace(token_ids=[7], logprobs=SimpleNamespace(logprobs=[-0.5]), finish_reason="length")
        return [SimpleNamespace(request_id=name, finished=True, outputs=[sampled]) for name in self.asked]

    def abort_request(self, _):
        pass


def test_sampling_is_as_each_request_says():
    engine = object.__new__(VllmEngine)
    engine._engine, engine._eos_token_id, engine._next_id = Recorder(), 0, 0
    requests = [
        SamplingRequest((1, 2), 1.0, 5, seed=3),
        SamplingRequest((1, 2), 0.5, 6, seed=4, top_p=0.7),
        SamplingRequest((1, 2), 0.0, 7, seed=5, stop_at_end=False),
    ]
    (lot,) = engine.sample(requests)
    assert [completion.place for completion in lot] == [0, 1, 2]
    assert all(np.array_equal(completion.token_ids, [7]) for completion in lot)
    plain, narrowed, greedy = engine._engine.asked.values()
    assert (plain.temperature, plain.top_p, plain.max_tokens, plain.seed) == (1.0, 1.0, 5, 3)
    assert (narrowed.temperature, narrowed.top_p, narrowed.max_tokens, narrowed.seed) == (0.5, 0.7, 6, 4)
    assert (greedy.temperature, greedy.top_p, greedy.ignore_eos) == (0.0, 1.0, True)
