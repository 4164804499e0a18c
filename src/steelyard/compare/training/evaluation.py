"""What a trained network says of rows: every row once, whoever computes it.

Rows are dealt out by their number and never padded: a sampler that pads counts rows twice. Of
classes the logits stay, of masks and sequences one confusion matrix per row: thresholds, costs
and scores that are thought of later need no training.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from steelyard import metrics
from steelyard.compare.training.batches import call, logits_of, moved, parted
from steelyard.compare.training.loading import Loader
from steelyard.compare.training.ranks import Ranks
from steelyard.compare.training.targets import Kind

_WHOLE = 1 << 24  # logits that are kept in float32; more are kept in float16
_UNSEEN = -1  # the epoch by which a Dataset's samples are seeded outside training


class NotFiniteError(ValueError):
    """A network gave NaN or infinite logits: it diverged."""


@dataclass(frozen=True)
class Predictions:
    """What one network says of N rows; one of the two is there.

    Attributes:
        logits: (N, C) of classes.
        confusion: (N, C, C) positions of each row, true class by predicted class, of masks and
            sequences.
        adjusted: (A, N, C, C) the same of logits from which other vectors were subtracted.
        shown: (n, h, w) predicted classes of the first few masks, for people to look at.
    """

    logits: np.ndarray | None = None
    confusion: np.ndarray | None = None
    adjusted: np.ndarray | None = None
    shown: np.ndarray | None = None

    def packed(self) -> bytes:
        """The arrays as a compressed NPZ file."""
        file = io.BytesIO()
        given = {k: v for k, v in vars(self).items() if v is not None}
        np.savez_compressed(file, **given)
        return file.getvalue()

    @classmethod
    def unpacked(cls, data: bytes) -> Predictions:
        """What `packed` packed."""
        with np.load(io.BytesIO(data)) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})

    def matrix(self, labels: np.ndarray | None) -> Tensor:
        """The confusion matrix (C, C) of all rows; of logits, with these labels (N,)."""
        if self.confusion is not None:
            return torch.from_numpy(self.confusion.sum(0, dtype=np.int64))
        assert self.logits is not None
        assert labels is not None
        guess = torch.from_numpy(self.logits.argmax(1))
        return metrics.confusion_matrix(guess, torch.from_numpy(labels), self.logits.shape[1])


@dataclass(frozen=True)
class Marks:
    """Per unit and class: positions found, positions there, positions predicted, each (U, C).

    Every score of a study follows from sums of these over units, so that units can be resampled.
    """

    found: sparse.csr_array
    there: sparse.csr_array
    predicted: sparse.csr_array

    @classmethod
    def of(cls, predictions: Predictions, labels: np.ndarray | None, units: np.ndarray) -> Marks:
        """Marks of predictions, rows of one unit added up.

        Args:
            predictions: of N rows.
            labels: (N,) true classes, where the predictions are logits.
            units: (N,) the unit of each row, 0 to U − 1.
        """
        rows = sparse.csr_array(
            (np.ones(len(units)), (units, np.arange(len(units)))),
            shape=(int(units.max()) + 1, len(units)),
        )
        if predictions.confusion is not None:
            matrices = predictions.confusion
            parts = (
                np.diagonal(matrices, axis1=1, axis2=2),
                matrices.sum(2),
                matrices.sum(1),
            )
            return cls(*(rows @ sparse.csr_array(part.astype(np.float64)) for part in parts))
        assert predictions.logits is not None
        assert labels is not None
        guess, classes = predictions.logits.argmax(1), predictions.logits.shape[1]
        there, predicted = _one_hot(labels, classes), _one_hot(guess, classes)
        return cls(rows @ (there * predicted), rows @ there, rows @ predicted)

    @property
    def units(self) -> int:
        """U."""
        return int(self.there.shape[0])


def _one_hot(labels: np.ndarray, classes: int) -> sparse.csr_array:
    n = len(labels)
    return sparse.csr_array((np.ones(n), labels, np.arange(n + 1)), shape=(n, classes))


@torch.no_grad()
def predict(
    network: torch.nn.Module,
    loader: Loader,
    rows: np.ndarray,
    kind: Kind,
    classes: int,
    *,
    batch_size: int,
    device: str,
    ranks: Ranks,
    ignore_index: int = -100,
    scale: float = 1.0,
    adjust: Tensor | None = None,
) -> Predictions:
    """Predictions of rows, the same on every rank.

    Memory does not grow with the pixels: a row of a mask leaves C × C numbers.

    Args:
        network: as training left it.
        loader: of the Dataset.
        rows: which of its rows, in the order of the result.
        kind: of the targets.
        classes: C.
        batch_size: rows at a time.
        device: where the network is.
        ranks: every rank predicts its share.
        ignore_index: positions with this class are not counted.
        scale: multiplies logits; the cosines of a normalised head need training's.
        adjust: (A, C) of masks and sequences, what to subtract from logits for `adjusted`.

    Raises:
        NotFiniteError: logits are NaN or infinite.
    """
    if kind == "classes":
        keep: _Logits | _Confusion = _Logits(scale)
    else:
        keep = _Confusion(classes, ignore_index, adjust)
    mine = rows[ranks.rank :: ranks.number]
    number = -(-len(mine) // batch_size)
    parts = []
    network.eval()
    batches = np.array_split(mine, number) if number else []
    for batch in loader(batches, _UNSEEN):
        inputs, target = parted(moved(batch, device))
        logits = logits_of(call(network, inputs), target, classes)
        parts.append(keep(logits, target))
    found = np.concatenate(parts) if parts else None
    everyone = ranks.gathered(found)
    shape = next(part for part in everyone if part is not None)
    whole = np.empty((len(rows), *shape.shape[1:]), dtype=shape.dtype)
    for rank, part in enumerate(everyone):
        if part is not None:
            whole[rank :: ranks.number] = part
    if kind != "classes":
        adjusted = np.moveaxis(whole[:, 1:], 1, 0) if adjust is not None else None
        return Predictions(confusion=whole[:, 0], adjusted=adjusted)
    if not np.isfinite(whole).all():
        raise NotFiniteError("its logits are not finite")
    return Predictions(logits=whole if whole.size <= _WHOLE else whole.astype(np.float16))


class _Logits:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, logits: Tensor, _: Tensor) -> np.ndarray:
        kept: np.ndarray = (self.scale * logits.float()).cpu().numpy()
        return kept


class _Confusion:
    """Matrices (B, 1 + A, C, C): of the logits, and of the logits adjusted in A ways."""

    def __init__(self, classes: int, ignore_index: int, adjust: Tensor | None) -> None:
        self.classes, self.ignore_index = classes, ignore_index
        self.adjust = torch.zeros(0, classes) if adjust is None else adjust

    def __call__(self, logits: Tensor, target: Tensor) -> np.ndarray:
        if not logits.detach().sum().isfinite() and not _finite_where_counted(
            logits, target != self.ignore_index
        ):
            raise NotFiniteError("its logits are not finite")
        c = self.classes
        # What is ignored goes to a class of its own, which is cut off.
        true = torch.where(target == self.ignore_index, c, target.long()).flatten(1)
        flat = logits.flatten(2)  # (B, C, P)
        found = [metrics.confusion_matrix(flat.argmax(1), true, c + 1)]
        for vector in self.adjust.to(flat):
            guess = (flat - vector[:, None]).argmax(1)
            found.append(metrics.confusion_matrix(guess, true, c + 1))
        kept: np.ndarray = torch.stack(found, 1)[..., :c, :c].to(torch.int32).cpu().numpy()
        return kept


def _finite_where_counted(logits: Tensor, counted: Tensor) -> bool:
    return bool(logits.isfinite().all(1)[counted].all())
