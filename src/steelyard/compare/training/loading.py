"""Batches of a Dataset: which rows, in which order, and what randomness their samples see."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from steelyard.compare.sampling import evenly
from steelyard.compare.study import StudyError
from steelyard.compare.training.streams import stream

Key = tuple[int, int]  # (epoch, row): what a loader asks the Dataset for


class Piece(NamedTuple):
    """One micro-batch of one rank.

    Attributes:
        rows: of the Dataset.
        ends_step: the optimiser steps after it.
        stand_in: this rank has no row left in the step; the row is there to keep it in step
            with the others, and counts nothing.
    """

    rows: np.ndarray
    ends_step: bool
    stand_in: bool


@dataclass(frozen=True)
class Steps:
    """How an order of rows becomes optimiser steps.

    Steps are of nearly equal size, at most `batch_size`: a last batch of one row would break
    batch normalisation. Each step is dealt out to the ranks row by row.

    Attributes:
        batch_size: rows per optimiser step, over all ranks.
        micro_batch: rows per forward on one rank; None takes a rank's whole part at once.
        rank: this one.
        ranks: how many.
    """

    batch_size: int
    micro_batch: int | None = None
    rank: int = 0
    ranks: int = 1

    def number(self, rows: int) -> int:
        """Optimiser steps in an epoch of so many rows."""
        return -(-rows // self.batch_size)

    def pieces(self, order: np.ndarray) -> Iterator[Piece]:
        """This rank's micro-batches of an epoch; every rank has as many."""
        for step in np.array_split(order, self.number(len(order))):
            largest = -(-len(step) // self.ranks)
            size = self.micro_batch or largest
            mine = step[self.rank :: self.ranks]
            starts = range(0, largest, size)
            for start in starts:
                part = mine[start : start + size]
                ends = start == starts[-1]
                yield Piece(part if len(part) else step[:1], ends, not len(part))


def shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Every row once, in the order of a seed's epoch: the same for every loss."""
    return np.random.default_rng(stream(seed, "order", epoch)).permutation(rows)


def balanced(rows: np.ndarray, labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """As many draws as rows, every class as often as any other.

    Args:
        rows: to draw from.
        labels: (len(rows),) their classes.
        seed: of the study.
        epoch: of the training.
    """
    rng = np.random.default_rng(stream(seed, "balanced order", epoch))
    chosen: np.ndarray = rows[evenly(labels, rng)]
    return chosen


def sample(dataset: Any, row: int, name: str) -> Any:
    """One sample of the user's Dataset.

    Raises:
        SampleError: it could not be loaded.
    """
    try:
        return dataset[row]
    except Exception as error:
        raise SampleError(
            f"row {row} of {name} {_CANNOT}: {type(error).__name__}: {_one_line(error)}"
        ) from error


class _Seeded(Dataset[Any]):
    """A Dataset whose samples see generators seeded by (seed, epoch, row), whoever loads them.

    Seeding Python's and NumPy's generators for each sample costs more than many a sample. Each is
    first marked, batch by batch; once a batch has drawn from it, that batch is loaded again with
    the generator seeded for each sample, and so are all batches from then on.
    """

    def __init__(self, dataset: Any, seed: int, name: str) -> None:
        self.dataset, self.seed, self.name = dataset, seed, name
        self.drawn_from: set[str] = set()

    def __getitems__(self, keys: Sequence[Key]) -> list[Any]:
        # The loop's own streams go on after the batch; reseeding costs less than saving states.
        python, numpy = random.getrandbits(64), np.random.randint(2**32)  # noqa: NPY002
        own = torch.default_generator.get_state()
        try:
            samples = self._samples(keys)
            while new := self._moved():
                self.drawn_from |= new
                samples = self._samples(keys)
            return samples
        finally:
            random.seed(python)
            np.random.seed(numpy)  # noqa: NPY002
            torch.default_generator.set_state(own)

    def _samples(self, keys: Sequence[Key]) -> list[Any]:
        random.seed(_MARK)
        np.random.seed(_MARK)  # noqa: NPY002
        return [self._sample(*key) for key in keys]

    def _moved(self) -> set[str]:
        """Generators that were marked and have been drawn from since."""
        drawn = {
            "python": random.getrandbits(64) != _FIRST["python"],
            "numpy": np.random.randint(2**32) != _FIRST["numpy"],  # noqa: NPY002
        }
        return {name for name, moved in drawn.items() if moved} - self.drawn_from

    def _sample(self, epoch: int, row: int) -> Any:
        key = struct.pack("<3q", self.seed, epoch, row)
        seed = int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 1
        torch.default_generator.manual_seed(seed)
        if "python" in self.drawn_from:
            random.seed(seed)
        if "numpy" in self.drawn_from:
            np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
        return sample(self.dataset, row, self.name)


_MARK = 0
_FIRST = {
    "python": random.Random(_MARK).getrandbits(64),
    "numpy": np.random.RandomState(_MARK).randint(2**32),
}


class SampleError(StudyError):
    """A Dataset raised; the message says at which row."""


_CANNOT = "could not be loaded"
_PLACE = f"{SampleError.__module__}.{SampleError.__name__}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Tensors(Dataset[Any]):
    """A TensorDataset, indexed by whole batches: its samples see no randomness."""

    def __init__(self, dataset: TensorDataset) -> None:
        self.tensors = dataset.tensors

    def __getitems__(self, keys: Sequence[Key]) -> Any:
        rows = torch.tensor([row for _, row in keys])
        return tuple(tensor[rows] for tensor in self.tensors)


def _as_it_is(batch: Any) -> Any:
    return batch


class Loader:
    """Batches of given rows; worker processes, if any, stay from epoch to epoch.

    Args:
        dataset: the user's.
        seed: of the study; decides the augmentation of each row in each epoch.
        name: what the user called the Dataset.
        collate: makes a batch of samples; None is PyTorch's own.
        workers: processes that load; 0 loads here.
        pin: pin memory, for a GPU.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int,
        name: str,
        collate: Callable[[list[Any]], Any] | None = None,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        whole = type(dataset) is TensorDataset and collate is None
        self._batches: list[list[Key]] = []
        self._generator = torch.Generator()
        self._loader = DataLoader(
            _Tensors(dataset) if whole else _Seeded(dataset, stream(seed, "samples"), name),
            batch_sampler=_Asked(self),
            collate_fn=_as_it_is if whole else collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            generator=self._generator,
        )

    def __call__(self, batches: Sequence[np.ndarray], epoch: int) -> Iterator[Any]:
        """The collated batches of these rows, in order."""
        self._batches = [[(epoch, row) for row in rows.tolist()] for rows in batches]
        self._generator.manual_seed(epoch)
        try:
            yield from self._loader
        except SampleError as error:
            # From a worker process it comes with the printed trace, and the cause at the end.
            told = [line for line in str(error).splitlines() if _CANNOT in line]
            raise SampleError(told[-1].removeprefix(f"{_PLACE}: ")) from error


class _Asked:
    """The batches that the loader is asked for now."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.loader._batches)

    def __len__(self) -> int:
        return len(self.loader._batches)
