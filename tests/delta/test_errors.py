import pickle

import pytest

from delta import errors
from delta.errors import DeltaError

KINDS = [
    (errors.ConfigError, ValueError),
    (errors.DataError, ValueError),
    (errors.ModelError, ValueError),
    (errors.CheckpointError, RuntimeError),
    (errors.StorageError, OSError),
    (errors.MismatchError, RuntimeError),
    (errors.WorkerError, RuntimeError),
]


@pytest.mark.parametrize(("kind", "built_in"), KINDS)
def test_errors_are_caught_as_ours_and_as_the_built_in_they_refine(
    kind: type[DeltaError], built_in: type[Exception]
) -> None:
    assert issubclass(kind, DeltaError)
    assert issubclass(kind, built_in)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_errors_survive_the_trip_to_another_process(kind: type[DeltaError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("what was seen")))
    assert type(copy) is kind
    assert str(copy) == "what was seen"
