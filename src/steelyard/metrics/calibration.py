"""Scores of probabilities: do they mean what they say?"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """How confidence and accuracy agree: tensors (…, B) for B bins.

    Attributes:
        count: int64, rows whose confidence falls into the bin.
        confidence: float64, their mean confidence; NaN in an empty bin.
        accuracy: float64, the share predicted right; NaN in an empty bin.
    """

    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    def __getitem__(self, trial: int) -> "Reliability":
        return Reliability(self.count[trial], self.confidence[trial], self.accuracy[trial])

    def calibration_error(self) -> Tensor:
        """Expected calibration error (…), the bins weighted by their rows."""
        share = self.count.double() / self.count.sum(-1, keepdim=True)
        return (share * (self.accuracy - self.confidence).abs()).nan_to_num(0.0).sum(-1)

    def to_dict(self) -> dict[str, Any]:
        """Nested lists under the names above, None in empty bins, ready for JSON."""
        return {
            "count": self.count.tolist(),
            "confidence": none_for_nan(self.confidence.tolist()),
            "accuracy": none_for_nan(self.accuracy.tolist()),
        }


def reliability_bins(
    confidence: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Bin predictions by their confidence: bin b holds b/B < confidence ≤ (b+1)/B.

    The confidence is in what was predicted. Where one class is rare, most rows are certain of the
    other, and rightly so: judge the rare one by :func:`reliability_of_class`.

    Args:
        confidence: Probability of the predicted class, float64 (…, N), in (0, 1].
        correct: Whether the prediction is right, bool (…, N).
        bins: how many, B.

    Example:
        Two rows are 75 % sure and one of them is right; one is 95 % sure, and right.

        >>> from steelyard.metrics import reliability_bins
        >>> confidence = torch.tensor([0.75, 0.75, 0.95], dtype=torch.float64)
        >>> bins = reliability_bins(confidence, torch.tensor([True, False, True]), bins=2)
        >>> bins.count, bins.accuracy[1]
        (tensor([0, 3]), tensor(0.6667, dtype=torch.float64))
        >>> bins.calibration_error()
        tensor(0.1500, dtype=torch.float64)
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    inner = torch.bucketize(confidence, edges[1:-1])  # the outer edges are not needed
    return _binned(confidence, correct, inner, bins)


def reliability_of_class(
    probability: Tensor, there: Tensor, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Bin rows by the probability of one class, as many rows in each bin: for a rare class.

    Bins of equal width have nearly all rows in one, where a rare class is improbable everywhere.

    Args:
        probability: of the class, float64 (N,).
        there: whether a row is of the class, bool (N,).
        bins: how many, B. Rows of one probability share a bin, so some may hold more, or none.

    Returns:
        The mean probability as `confidence`, and the share of the class as `accuracy`.

    Example:
        >>> from steelyard.metrics import reliability_of_class
        >>> probability = torch.tensor([0.01, 0.02, 0.1, 0.3], dtype=torch.float64)
        >>> bins = reliability_of_class(probability, probability > 0.2, bins=2)
        >>> bins.count, bins.accuracy
        (tensor([2, 2]), tensor([0.0000, 0.5000], dtype=torch.float64))
    """
    probability = probability.contiguous()
    lowest = probability.sort().values[[k * len(probability) // bins for k in range(1, bins)]]
    return _binned(probability, there, torch.bucketize(probability, lowest, right=True), bins)


def _binned(confidence: Tensor, correct: Tensor, inner: Tensor, bins: int) -> Reliability:
    """The bins from the bin (…, N) of each prediction."""
    batch = confidence.shape[:-1]
    trial = torch.arange(batch.numel(), device=confidence.device).reshape(*batch, 1)
    cell = (trial * bins + inner).flatten()

    def total(values: Tensor) -> Tensor:
        sums = values.new_zeros(batch.numel() * bins).index_add_(0, cell, values.flatten())
        return sums.reshape(*batch, bins)

    count = total(torch.ones_like(correct, dtype=torch.int64))
    return Reliability(count, total(confidence) / count, total(correct.double()) / count)


def brier(log_p: Tensor, target: Tensor) -> Tensor:
    """Brier score (…): mean squared distance of the probabilities from the truth.

    For two classes that of the positive one, in [0, 1]; for more the sum over classes, in [0, 2],
    as in scikit-learn.

    Args:
        log_p: log-probabilities (…, N, C).
        target: class indices (…, N).

    Raises:
        ValueError: a log-probability is above 0, as probabilities and most logits are.

    Example:
        >>> from steelyard.metrics import brier
        >>> p = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> brier(p.log(), torch.tensor([0, 1]))
        tensor(0.0850, dtype=torch.float64)
    """
    p = log_p.double().exp()
    if (p > 1 + 1e-3).any():
        raise ValueError(
            f"log_p has {log_p.max().item():.6g}, and no log-probability is above 0: give "
            "logits.log_softmax(-1), or the logarithm of probabilities"
        )
    truth = torch.nn.functional.one_hot(target.long(), p.shape[-1]).to(p)
    total = (p - truth).square().sum(-1).mean(-1)
    return total / 2 if p.shape[-1] == 2 else total


def none_for_nan(values: list[Any]) -> list[Any]:
    """Undefined is None in JSON, which has no NaN; lists may be nested."""
    return [none_for_nan(v) if isinstance(v, list) else None if v != v else v for v in values]
