"""A device of a given capacity, for tests: real tensors on the CPU, counted as they come and go.

Every operation's result is counted when it is made and taken off when the last tensor on its memory
goes; what would go beyond the capacity raises what a card raises. It has the interface by which a
real card's memory is asked, so the code under test runs as it is.
"""

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


class SmallDevice(TorchDispatchMode):
    """Counts the bytes of living tensors while it is entered, up to `capacity`."""

    def __init__(self, capacity: int = 1 << 60) -> None:
        super().__init__()
        self.capacity = capacity
        self.live = self.most = self.refusals = 0
        self.seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.take, result)
        return result

    def take(self, tensor: Tensor) -> None:
        """Count a tensor's memory, once; refuse it where there is no room."""
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        size = storage.nbytes()
        if self.live + size > self.capacity:
            self.refusals += 1
            raise torch.OutOfMemoryError(f"Tried to allocate {size} bytes.\nA test says so.")
        self.seen[storage] = True
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self.give_back, size)

    def give_back(self, size: int) -> None:
        self.live -= size

    def start(self) -> None:
        self.most = self.live

    def allocated(self) -> int:
        return self.most

    def reserved(self) -> int:
        return self.most
