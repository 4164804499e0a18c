"""What every loss means by its options, whatever its family: the checks, written once."""

from typing import Any

import torch
from torch import Tensor

from steelyard import ops
from steelyard._given import INDICES_OF_NAMES, expected_tensor
from steelyard.classes.numbers import kind_of
from steelyard.classes.warning import tell
from steelyard.losses.options import Options, check_number
from steelyard.losses.vectors import check_values, moved, readable

_LOOKED_AT = 1 << 12  # numbers of a target that every call can afford to look at: some 10 µs
ROUNDING = 0.01  # by which half precision may lift the sum of many probabilities above 1

NO_SUM = "denominator divides a sum, and reduction='none' makes none: leave one of the two out"


def reduction_of(
    options: Options, over: str | None, denominator: float | Tensor | None, logits: Tensor
) -> ops.Reduction:
    """What becomes of the losses of one call; a denominator divides their sum, and no other does.

    Args:
        options: of the loss.
        over: what its mean divides by, by name.
        denominator: the user's, if given.
        logits: of the call.
    """
    if denominator is None:
        return ops.Reduction(options.reduction, over, options.nothing)
    if options.reduction == "none":
        raise ValueError(NO_SUM)
    return ops.Reduction("mean", check_denominator(denominator, logits), options.nothing)


def check_denominator(denominator: float | Tensor, logits: Tensor) -> Tensor:
    """The denominator of one call as a tensor that can divide the sum."""
    dtype = ops.compute_dtype(logits)
    if isinstance(denominator, Tensor):
        if denominator.ndim > 0:
            raise ValueError(
                f"denominator has shape {tuple(denominator.shape)}, expected a number or a 0-d "
                "tensor: sum it first"
            )
        if denominator.is_complex():
            raise TypeError("denominator is complex: expected a number ≥ 0")
    number = check_number("denominator", denominator, 0)
    if isinstance(number, Tensor):
        return moved("denominator", number, logits.device, dtype)
    return logits.new_full((), number, dtype=dtype)


def check_same_device(logits: Tensor, target: Tensor) -> None:
    """Raise unless the target is where the logits are."""
    if target.device != logits.device:
        raise ValueError(
            f"the target is on {target.device} and the logits are on {logits.device}: use "
            "target.to(logits.device)"
        )


def check_logits(logits: Any, alone: str = "(C,)") -> None:
    """Raise unless logits are floating, with a dimension of classes.

    Args:
        logits: what was given.
        alone: what logits of one dimension are: "(C,)" one position, "(N,)" one class.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        order = ": they are the first argument" if isinstance(logits, Tensor) else ""
        raise TypeError(
            f"logits are {described(logits)}, expected a floating-point tensor (N, C, …) or {alone}"
            f"{order}"
        )
    if logits.ndim > 1 and logits.shape[1] > 0:
        return
    one_class = logits.ndim == 1 and alone == "(N,)"
    if logits.ndim == 0 or (not one_class and logits.shape[min(1, logits.ndim - 1)] == 0):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, expected (N, C), (N, C, d1, …) or {alone} "
            "with at least one class"
        )


def warn_of_probabilities(logits: Tensor) -> None:
    """Say so where logits (N, C, d…) of several positions are all ≥ 0 and sum to 1.

    Rows of 0 and 1 alone are no softmax, but logits that somebody made up.
    """
    if logits.ndim < 2 or min(logits.shape[:2]) < 2 or not logits.numel() or not readable(logits):
        return
    seen = logits.detach()
    sums = seen.sum(1, dtype=torch.promote_types(seen.dtype, torch.float32))
    in_shares = seen.amin() >= 0 and ((sums - 1).abs() <= ROUNDING).all()
    if in_shares and ((seen > 0) & (seen < 1)).any():
        tell(
            "logits are ≥ 0 and sum to 1 over the classes, as probabilities do: give the logits "
            "from before the softmax, or probabilities.log()"
        )


def check_is_tensor(target: Any, of_names: str = INDICES_OF_NAMES) -> None:
    """Raise unless the target is a tensor; names in its place are to become what of_names says."""
    if not isinstance(target, Tensor):
        expected = expected_tensor(target, of_names)
        raise TypeError(f"target is {described(target)}, expected {expected}")


def check_sample_weight(sample_weight: Any, positions: torch.Size) -> Tensor:
    """sample_weight expanded to one number per position."""
    if not isinstance(sample_weight, Tensor):
        raise TypeError(f"sample_weight is {described(sample_weight)}, expected a tensor")
    dense: Tensor = (
        sample_weight if sample_weight.layout is torch.strided else sample_weight.to_dense()
    )
    try:
        expanded = dense.expand(positions)
    except RuntimeError:
        short = sample_weight.ndim == 1 and sample_weight.shape[:1] == positions[:1]
        view = f".view(-1{', 1' * (len(positions) - 1)})"
        hint = f": for one weight per sample use sample_weight{view}" if short else ""
        raise ValueError(
            f"sample_weight has shape {tuple(sample_weight.shape)}, which does not broadcast to "
            f"the positions {tuple(positions)}{hint}"
        ) from None
    check_values("sample_weight", dense)
    return expanded


def described(value: object) -> str:
    """What an error calls a value of the wrong type."""
    return f"a {value.dtype} tensor" if isinstance(value, Tensor) else kind_of(value)


def first_of(target: Tensor) -> Tensor | None:
    """The first positions (n, C, d…) of a target of floating numbers; None if to look costs."""
    if not readable(target) or target.numel() == 0:
        return None
    few = target.detach()
    for dim in range(2, few.ndim):
        if few[0].numel() > _LOOKED_AT:
            few = few.narrow(dim, 0, 1)
    return few[: max(1, _LOOKED_AT // few[0].numel())]


def refuse_labels(target: Tensor) -> None:
    """Raise where numbers (N, C, d…) are negative or NaN, or are labels of 0 and 1 for one logit.

    Labels: several of a position, or a 0 for the only class, whose softmax is 1. Other numbers that
    sum to something else than 1 pass, as in PyTorch: they scale their position's loss.
    """
    if target.shape[1] == 1 and (absent := target == 0).any():
        raise ValueError(
            f"target{absent.nonzero()[0].tolist()} is 0 for the only class, and the softmax of one "
            "logit is 1 whatever it is: one logit for two classes is for sy.BCEWithLogitsLoss"
        )
    if target.amin() >= 0:  # not where a number is NaN
        sums = target.sum(1, dtype=torch.promote_types(target.dtype, torch.float32))
        several = sums > 1 + ROUNDING
        if not several.any() or not (several & ((target == 0) | (target == 1)).all(1)).any():
            return
    check_probabilities(target, 0, 1 + ROUNDING)


def check_probabilities(target: Tensor, low: float, high: float) -> None:
    """Raise unless all numbers (N, C, d…) are ≥ 0 and those of a position sum to low..high."""
    sums = target.sum(1, dtype=torch.promote_types(target.dtype, torch.float32))
    if target.amin() >= 0 and sums.amin() >= low and sums.amax() <= high:  # NaN fails too
        return
    several = "a loss of several labels per position is sy.BCEWithLogitsLoss"
    if not (wrong := ~(target >= 0)).any():
        where = (~((sums >= low) & (sums <= high))).nonzero()[0].tolist()
        raise ValueError(
            f"the probabilities of target{where} sum to {float(sums[tuple(where)]):.6g}: expected "
            f"1 over the class dimension; {several}"
        )
    where = wrong.nonzero()[0].tolist()
    raise ValueError(
        f"target{where} is {float(target[tuple(where)])!r}: probabilities are numbers ≥ 0; a "
        f"position that is not to count has sample_weight=0, and {several}"
    )
