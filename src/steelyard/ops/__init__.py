"""The only room that touches N×C numbers: the losses of a problem, and the choice of engine.

:mod:`~steelyard.ops.problem` says what is to be done. Each family derives it, with its definition:
:mod:`~steelyard.ops.softmax`, :mod:`~steelyard.ops.sigmoid`; sums over regions are
:mod:`~steelyard.ops.region`. :mod:`~steelyard.ops.dispatch` chooses who does it:

* :mod:`~steelyard.ops.reference`, the definition itself, and the oracle of all others;
* :mod:`~steelyard.ops.cpu`: a walk over tiles, a tile's arithmetic for each family, and a short way
  for few logits;
* :mod:`~steelyard.ops.cuda`: kernels, what launches them, and their proof at first use;
* :mod:`~steelyard.ops.parts`: the definition on parts, for what has no kernel on an accelerator;
* :mod:`~steelyard.ops.graph`: the gradient written out, for a graph that the user compiles.

:mod:`~steelyard.ops.linear` walks over the rows of features, so that logits live no longer than
their tile; :mod:`~steelyard.ops.linear_tiles` has the tiles, :mod:`~steelyard.ops.linear_graph` the
ops for a graph. :mod:`~steelyard.ops.compat` has every use of what torch does not promise.
"""

from steelyard.ops import compat
from steelyard.ops.cpu.small import are_few, losses_at_once
from steelyard.ops.dispatch import (
    ENGINES,
    EngineChoice,
    choose_engine,
    losses,
    lovasz,
    sums,
    sums_at_once,
)
from steelyard.ops.problem import (
    Problem,
    Reduction,
    along_classes,
    compute_dtype,
    edited,
    select,
)
from steelyard.ops.region import Masses, Overlap, Sums, covered, masses
from steelyard.ops.sigmoid import (
    CellProblem,
    Penalty,
    Probability,
    RankProblem,
    Rebalance,
    Side,
    Spare,
)
from steelyard.ops.softmax import CROSS_ENTROPY, SoftmaxProblem, Tail

__all__ = [
    "CROSS_ENTROPY",
    "ENGINES",
    "CellProblem",
    "EngineChoice",
    "Masses",
    "Overlap",
    "Penalty",
    "Probability",
    "Problem",
    "RankProblem",
    "Rebalance",
    "Reduction",
    "Side",
    "SoftmaxProblem",
    "Spare",
    "Sums",
    "Tail",
    "along_classes",
    "are_few",
    "choose_engine",
    "compat",
    "compute_dtype",
    "covered",
    "edited",
    "losses",
    "losses_at_once",
    "lovasz",
    "masses",
    "select",
    "sums",
    "sums_at_once",
]
