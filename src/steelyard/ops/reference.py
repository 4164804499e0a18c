"""The definition of any problem as an engine: plain torch, and the oracle of all others."""

from torch import Tensor

from steelyard.ops.problem import Problem, Reduction


def losses(logits: Tensor, problem: Problem, reduction: Reduction) -> Tensor:
    """The losses, reduced; autograd differentiates them by everything, to any order."""
    each, share = problem.losses(logits)
    return reduction(each, problem, share)[0]
