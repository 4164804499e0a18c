"""After training: what the logits of an imbalanced model need before they are believed."""

from torch import Tensor

from steelyard import ops
from steelyard.classes import ClassCounts, ClassCountsLike
from steelyard.classes.counts import absent_classes
from steelyard.classes.warning import tell
from steelyard.losses.contract import check_logits, warn_of_probabilities
from steelyard.losses.options import check_number
from steelyard.losses.priors import known, log_odds, log_prior
from steelyard.losses.vectors import PerClass, fit, read_class_vector, readable

__all__ = ["adjust_logits", "unweight_logits"]


def adjust_logits(logits: Tensor, class_counts: ClassCountsLike, tau: float = 1.0) -> Tensor:
    """Post-hoc logit adjustment: ``logits − τ · log prior``.

    A model that was trained with plain cross-entropy on imbalanced classes then predicts as if the
    classes were balanced. Do not use it after :func:`logit_adjusted_loss` or
    :func:`balanced_softmax_loss`: they adjust in training, and adjusting twice is wrong.

    With several labels (``class_counts`` that know their ``total``) the log-odds of the prior take
    the place of its logarithm, as in :func:`sigmoid_logit_adjusted_loss`.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating; of several labels (N,) is one class.
        class_counts: training examples per class. A count of 0 is taken as 1, as the losses take
            it. With τ > 0 such a class may win nearly everywhere: leave it out.
        tau: strength τ, finite; 1 is the balanced optimum, and −τ undoes τ.

    Returns:
        A new tensor of the logits' shape; float32 for half precisions.

    Raises:
        TypeError: logits are not a floating tensor.
        ValueError: tau is not finite, or the number of classes differs.

    Warns:
        UserWarning: a count of 0 with τ > 0; or logits that are probabilities, seen on the CPU.

    Example:
        >>> adjust_logits(torch.tensor([[1.0, 0.5]]), [900, 100]).argmax(1)
        tensor([1])

    Reference:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314.
    """
    counts = known(class_counts)
    several = counts is not None and counts.total is not None
    check_logits(logits, "(N,)" if several else "(C,)")
    strength = check_number("tau", tau, float("-inf"))
    if not several:
        warn_of_probabilities(logits)
    if counts is not None:
        _warn_of_absent(counts, strength)
        class_counts = counts
    prior = log_odds(class_counts, None) if several else log_prior(class_counts)
    return _minus_per_class(logits, "class_counts", strength * prior, alone=int(several))


def unweight_logits(logits: Tensor, weight: PerClass) -> Tensor:
    """Undo the class weights of a model trained with weighted cross-entropy: ``logits − log w``.

    Such a model learns q ∝ w·p. The softmax of the result is p, so probabilities and log loss
    mean something again. For the weighted decisions take the argmax of the logits as they are.

    Args:
        logits: (N, C), (N, C, d1, …) or (C,), floating.
        weight: the weights of the training, all > 0.

    Returns:
        A new tensor of the logits' shape; float32 for half precisions.

    Raises:
        TypeError: logits are not a floating tensor.
        ValueError: a weight of 0, whose class was never learnt, or another number of classes.

    Warns:
        UserWarning: logits that are probabilities, seen on the CPU.

    Example:
        >>> unweight_logits(torch.tensor([[0.0, 0.0]]), [1.0, 3.0]).softmax(1)
        tensor([[0.7500, 0.2500]])
    """
    check_logits(logits)
    warn_of_probabilities(logits)
    values, others_are_one = read_class_vector("weight", weight)
    if (values == 0).any():
        raise ValueError(
            f"weight of class {int((values == 0).nonzero()[0])} is 0: training never saw that "
            "class, so its probability cannot be given back: take it out of logits and weight"
        )
    # log 1 is 0, so padding with ones before the logarithm is padding a dict's missing classes.
    classes = logits.shape[min(1, logits.ndim - 1)]
    like = logits.new_empty(0, dtype=ops.compat.widest(logits.device))
    values = fit("weight", values, classes, like, others_are_one=others_are_one)
    return _minus_per_class(logits, "weight", values.log())


def _warn_of_absent(counts: ClassCounts, strength: float | Tensor) -> None:
    """Say which classes are raised the most without a single example."""
    if not (absent := absent_classes(counts)):
        return
    if isinstance(strength, Tensor):
        strength = float(strength.max()) if readable(strength) else 0.0
    if strength > 0:
        tell(
            f"{absent}. adjust_logits takes a count of 0 as 1 and raises such a class the most, so "
            "that it may win nearly everywhere: leave it out of logits and counts, "
            "adjust_logits(logits[:, occurs], counts[occurs]) with occurs = counts > 0"
        )


def _minus_per_class(logits: Tensor, name: str, vector: Tensor, alone: int = 0) -> Tensor:
    """Logits minus a number per class; ``alone`` is the dimension that logits (n,) lack."""
    wide = logits.to(ops.compute_dtype(logits))
    batch = wide.unsqueeze(alone) if wide.ndim == 1 else wide  # (N, C, d…)
    vector = fit(name, vector, batch.shape[1], batch)
    result = batch - ops.along_classes(vector, batch)
    return result.squeeze(alone) if wide.ndim == 1 else result
