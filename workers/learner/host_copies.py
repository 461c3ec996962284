"""Copies of a learner's state in host memory."""

import torch
from torch import Tensor


class HostCopies:
    """Float32 copies of tensors, by name.

    What is on a GPU is copied into page-locked memory, several times as fast as into ordinary memory. Locking takes
    longer than a copy, so the memory is kept, and is overwritten by the next copy of that name.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._kept: dict[str, Tensor] = {}

    def begin(self, name: str, source: Tensor) -> Tensor:
        """A copy of `source`, flat as it is; its values are there after `finish`."""
        if not source.is_cuda:
            return source.to("cpu", torch.float32, copy=True)
        if name not in self._kept:
            self._kept[name] = _page_locked(source.numel())
        return self._kept[name].copy_(source, non_blocking=True)

    def finish(self) -> None:
        """Wait for the copies that were begun."""
        if self._kept:
            torch.cuda.synchronize()


def _page_locked(count: int) -> Tensor:
    """(count,) float32, for as long as the process lives.

    Exactly that much: torch's own pinned memory comes in powers of two, up to twice what is asked for.
    """
    buffer = torch.empty(count)
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0))
    return buffer
