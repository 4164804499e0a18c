"""The softmax family: the logits are edited, and a tail penalises log p."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from steelyard.ops.problem import Problem, along_classes, compute_dtype, select, weighted


class Tail(NamedTuple):
    """A function of log p with a parameter, elementwise.

    Attributes:
        value: the function, in operations that autograd differentiates to any order.
        with_slope: the value and its slope, the derivative by −log p: how much of cross-entropy's
            gradient it has. A number where the slope is constant.
        kernel: the name under which ``_tail`` of ``ops/cuda/kernels.py`` has it too, if it has.
    """

    value: Callable[[Tensor, Any], Tensor]
    with_slope: Callable[[Tensor, Any], tuple[Tensor, Tensor | float]]
    kernel: str | None = None

    def __call__(self, log_p: Tensor, parameter: Any) -> Tensor:
        """The value."""
        return self.value(log_p, parameter)


def _minus_log_p(log_p: Tensor, _: Any) -> Tensor:
    return -log_p


def _of_slope_one(log_p: Tensor, _: Any) -> tuple[Tensor, float]:
    return -log_p, 1.0


CROSS_ENTROPY = Tail(_minus_log_p, _of_slope_one, "cross_entropy")
"""−log p."""


@dataclass(slots=True, kw_only=True, eq=False)
class SoftmaxProblem(Problem):
    """Losses of the softmax family, one per position.

    For class indices y without smoothing ``weight_y · s · tail(log p_y)``; else, for a distribution
    t, ``s · Σ_c weight_c · t'_c · tail(log p_c)`` with ``t' = (1−ε)·t + ε/C``.

    Attributes:
        target: class indices (N, d…) in int64, or probabilities (N, C, d…).
        tail: the function of log p.
        parameter: of the tail: a number, one per class (C,), or a tuple of these.
    """

    tail: Tail = CROSS_ENTROPY
    parameter: Any = None

    @property
    def of_indices(self) -> bool:
        """Whether the target is class indices."""
        return not self.target.is_floating_point()

    @property
    def all_classes(self) -> bool:
        """Whether log p of every class counts, not only that of the target."""
        smoothing = self.smoothing
        return isinstance(smoothing, Tensor) or smoothing > 0 or self.target.is_floating_point()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that takes part, but the logits."""
        vectors = (self.weight, self.sample_weight, self.scale, self.bias, self.margin)
        found = [self.target, *[vector for vector in vectors if vector is not None]]
        parameter = self.parameter
        # None and numbers first: it is what most are, and isinstance of a Tensor asks PyTorch.
        if parameter is not None and type(parameter) is not float:
            each = parameter if isinstance(parameter, tuple) else (parameter,)
            found += [part for part in each if isinstance(part, Tensor)]
        return tuple(found)

    def losses(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """The definition; see :meth:`Problem.losses`."""
        log_p = self.edited_logits(logits).log_softmax(1)
        if not self.of_indices:
            rows = self._over_classes(log_p)
            share = self.sample_weight
            return (rows if share is None else weighted(share, rows)), share
        ignored = self.target == self.ignore_index
        index = self.target.masked_fill(ignored, 0)
        share = factor = self.share(index, ignored)
        if self.all_classes:
            rows, factor = self._over_classes(log_p), self.sample_weight
        else:
            # Unlike gather it has a backward that Inductor fuses; log p is 0 where ignored, and so
            # is the tail.
            log_p = -F.nll_loss(
                log_p, self.target, ignore_index=int(self.ignore_index), reduction="none"
            )
            rows = self.tail(log_p, self.parameter_of(index))
        return (rows if factor is None else weighted(factor, rows)), share

    def count(self, over: str | None, share: Tensor | None = None) -> Tensor:
        """What a mean divides by; see :meth:`Problem.count`."""
        target, samples = self.target, self.sample_weight
        if self.of_indices:
            unweighted = self.weight is None and samples is None
            if share is None and over != "count" and not unweighted:
                ignored = target == self.ignore_index
                share = self.share(target.masked_fill(ignored, 0), ignored)
            if over == "count" or share is None:
                return (target != self.ignore_index).sum()
            return share.sum()
        if over == "weight":
            if self.weight is not None:
                target = along_classes(self.weight, target) * target
            weighted = target.sum(1)
            return (weighted if samples is None else samples * weighted).sum()
        if over == "count" or samples is None:
            return target.new_full((), math.prod(target.shape[:1] + target.shape[2:]))
        return samples.sum()

    def share(self, index: Tensor, ignored: Tensor) -> Tensor | None:
        """What positions of these classes count: ``weight_y · s``, and 0 where ignored.

        None where that is 1, or 0 where ignored. The index is 0 where ignored.
        """
        share = self.sample_weight
        if self.weight is not None:
            own = select(self.weight, index)
            share = own if share is None else own * share
        return None if share is None else share.masked_fill(ignored, 0)

    def parameter_of(self, index: Tensor) -> Any:
        """The tail's parameter for these classes."""
        return self._each_parameter(lambda vector: select(vector, index))

    def class_parameter(self, like: Tensor) -> Any:
        """The tail's parameter as it meets log p of all classes (N, C, d…)."""
        return self._each_parameter(lambda vector: along_classes(vector, like))

    def _each_parameter(self, change: Callable[[Tensor], Tensor]) -> Any:
        def changed(part: Any) -> Any:
            return change(part) if isinstance(part, Tensor) and part.ndim > 0 else part

        parameter = self.parameter
        if isinstance(parameter, tuple):
            return tuple([changed(part) for part in parameter])
        return changed(parameter)

    def edited_logits(self, logits: Tensor) -> Tensor:
        """The edited logits (N, C, d…), in at least float32; of zeros where ignored."""
        wide = logits.to(compute_dtype(logits))
        if not self.of_indices:
            return self.edited(wide, self.target)
        target = self.target.unsqueeze(1)  # (N, 1, d…)
        # Before anything else touches them: a NaN that is only multiplied by 0 later stays a NaN.
        wide = wide.masked_fill(target == self.ignore_index, 0)
        one_hot = None
        if self.margin is not None:
            classes = torch.arange(logits.shape[1], device=logits.device)
            one_hot = (along_classes(classes, logits) == target).to(wide.dtype)
        return self.edited(wide, one_hot)

    def _over_classes(self, log_p: Tensor) -> Tensor:
        """``Σ_c weight_c · t'_c · tail(log p_c)``, (N, d…)."""
        losses = self.tail(log_p, self.class_parameter(log_p))
        spread = self.smoothing / log_p.shape[1]
        if not self.of_indices:
            share = (1 - self.smoothing) * self.target + spread
            if self.weight is not None:
                share = along_classes(self.weight, log_p) * share
            return weighted(share, losses).sum(1)
        if self.weight is not None:
            losses = weighted(along_classes(self.weight, log_p), losses)
        ignored = self.target == self.ignore_index
        own = losses.gather(1, self.target.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
        rows = (1 - self.smoothing) * own + spread * losses.sum(1)
        return rows.masked_fill(ignored, 0)
