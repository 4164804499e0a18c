"""The arithmetic of a sum of losses: that of its parts, and their factors."""

import html
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from steelyard.losses.compound import CompoundLoss


@dataclass(frozen=True)
class CompoundExplanation:
    """The value of a sum of losses; see :class:`steelyard.explain.Explanation`.

    ``parts`` are the explanations of the parts, ``factors`` what each is multiplied by.
    """

    loss: str
    factors: tuple[float, ...]
    parts: tuple[Any, ...]
    result: float

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        return asdict(self)

    def __str__(self) -> str:
        """The arithmetic as plain text."""
        return "\n\n".join([*map(str, self.parts), self._sum()])

    def _repr_html_(self) -> str:
        parts = "".join(part._repr_html_() for part in self.parts)
        return f"{parts}<p>{html.escape(self._sum())}</p>"

    def _sum(self) -> str:
        pairs = zip(self.factors, self.parts, strict=True)
        terms = " + ".join(f"{factor:g}·{part.result:.6f}" for factor, part in pairs)
        return f"{self.loss} = {terms} = {self.result:.6f}"


def explain_compound(
    loss: CompoundLoss,
    logits: Tensor,
    target: Tensor,
    sample_weight: Tensor | None,
    denominator: float | Tensor | None,
    explain: Callable[..., Any],
) -> CompoundExplanation:
    """One part after the other, each by ``explain``; see :func:`steelyard.explain`."""
    expected = float(loss(logits, target, sample_weight, denominator).detach())
    over = loss.denominators(denominator)
    parts = tuple(
        explain(part, logits, target, sample_weight, divisor)
        for part, divisor in zip(loss.losses, over, strict=True)
    )
    result = sum(f * part.result for f, part in zip(loss.factors, parts, strict=True))
    # The loss computed in float32 unless the logits were float64; the arithmetic here did not.
    if not (abs(result - expected) <= 1e-5 + 1e-4 * abs(expected) or result != result != expected):
        raise RuntimeError(
            f"the arithmetic gives {result}, but {loss} returned {expected}: please report this "
            "with the logits and the target"
        )
    return CompoundExplanation(type(loss).__name__, loss.factors, parts, result)
