"""One process or many in step: what `torchrun` started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one network together.

    Attributes:
        rank: its number.
        number: how many there are.
    """

    rank: int = 0
    number: int = 1

    @classmethod
    def here(cls, device: str = "cpu") -> Ranks:
        """The ranks that `torchrun` started, joined now if they are not yet; else one alone."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return cls()
            gpu = device.startswith("cuda")
            if gpu:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process stores and prints."""
        return self.rank == 0

    def gathered(self, value: Any) -> list[Any]:
        """The value of every rank, in order, on every rank."""
        if self.number == 1:
            return [value]
        values: list[Any] = [None] * self.number
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        if self.number == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def summed(self, value: Tensor) -> Tensor:
        """A tensor added up over the ranks."""
        if self.number > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until every rank is here."""
        if self.number > 1:
            dist.barrier()
