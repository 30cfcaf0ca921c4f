"""Numbers from the device to the host, while the device goes on with what it was given since. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

__all__ = ["begin_transfer"]


def begin_transfer(tensors: Sequence[torch.Tensor]) -> Callable[[], list[Any]]:
    """Begin to bring tensors to the host.

    Args:
        tensors: on one device, of any shape and dtype.

    Returns:
        A function that waits for them and gives each as a list; on CUDA it waits for nothing that was launched since.
    """
    if not tensors or tensors[0].device.type != "cuda":
        return lambda: [tensor.tolist() for tensor in tensors]
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into pinned memory
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()

    def wait() -> list[Any]:
        there.synchronize()
        return [copy.tolist() for copy in copies]

    return wait
