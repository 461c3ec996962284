import pytest
import torch

from delta.shapes import check_shape


@pytest.mark.parametrize(
    ("shape", "axes", "sizes"),
    [
        ((3, 4), "S H", {}),
        ((3, 4), "S H", {"S": 3}),
        ((3, 4), "S H", {"S": 3, "H": 4}),
        ((0,), "S", {"S": 0}),
        ((), "", {}),
    ],
)
def test_fitting_shapes_pass(shape: tuple[int, ...], axes: str, sizes: dict[str, int]) -> None:
    check_shape(torch.empty(shape), axes, **sizes)


@pytest.mark.parametrize(
    ("shape", "axes", "sizes"),
    [((3,), "S H", {}), ((3, 4, 5), "S H", {}), ((3, 4), "S H", {"S": 4}), ((3, 4), "S H", {"H": 3}), ((1,), "", {})],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], axes: str, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="got shape"):
        check_shape(torch.empty(shape), axes, **sizes)


def test_message_says_what_was_seen_and_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"got shape \(3, 4\), expected \(5, 'H'\) \(S H\)"):
        check_shape(torch.empty(3, 4), "S H", S=5)
