"""The one legend for tensor shapes, and the check that enforces it.

    N  prompts of a step              G  rollouts per group           B  rollouts of a step, N * G
    T  tokens of a padded row         S  loss-mask tokens, flattened  V  vocabulary            H  hidden size

Names stay clean of suffixes; docstrings write `(B, T)` beside the argument. A position t of a row is predicted by the
hidden state of position t - 1.
"""

from torch import Tensor


def check_shape(tensor: Tensor, axes: str, **sizes: int) -> None:
    """Assert that `tensor` has the named axes and, where given, their sizes.

    Args:
        tensor: Any tensor.
        axes: Names from the legend, separated by blanks: `"S H"`.
        **sizes: Expected sizes of some of the axes: `S=12`.

    Raises:
        ValueError: The rank or a size differs.
    """
    names = axes.split()
    seen = tuple(tensor.shape)
    expected = tuple(sizes.get(name, name) for name in names)
    if len(seen) != len(names) or any(
        name in sizes and size != sizes[name] for name, size in zip(names, seen, strict=True)
    ):
        raise ValueError(f"got shape {seen}, expected {expected} ({axes})")
