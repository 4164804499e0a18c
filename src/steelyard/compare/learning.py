"""Whether cross-entropy was still learning when its training ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steelyard._results import DoneCell

# Of what was learnt, in the second half of the epochs: more, and the training was cut short.
# Studies whose learning rate falls to zero have 0 to a fifth of it there once they are trained.
_LATE = 0.3


def said_of_learning(baseline: Mapping[str, Any], counts: Sequence[int]) -> list[str]:
    """That cross-entropy was still learning, in one sentence; none where it was not.

    A network that knows the class frequencies alone tells no row from another. So what it learnt is
    how far its training loss fell below theirs, and the share of the second half of the epochs is

        Σ (l_half − l_end) / Σ (l_frequencies − l_end), with sums over seeds.

    Args:
        baseline: the entry of cross-entropy.
        counts: (C,) training rows of one seed.
    """
    done = [cell for cell in baseline["seeds"] if cell["status"] == "done"]
    known = [cell for cell in done if len(cell["curve"]["epoch"]) > 1]
    losses = np.array([_losses(cell, counts) for cell in known], dtype=np.float64)
    guess, half, end = losses.reshape(-1, 3).sum(0)
    learnt = guess - end
    if not half - end > _LATE * learnt > 0:
        return []
    late = 100 * min(1.0, (half - end) / learnt)  # the first half may not even reach the guess
    return [
        f"Cross-entropy was still learning when its {known[0]['curve']['epoch'][-1]} epochs ended: "
        f"by its training loss {late:.0f} % of what it learnt came in their second half. Another "
        "loss may only learn faster: repeat the study with twice the epochs before you believe a "
        "difference."
    ]


def _losses(cell: DoneCell, counts: Sequence[int]) -> tuple[float, float | None, float | None]:
    """Of the class frequencies alone, after half of the epochs, and at the end."""
    curve = cell["curve"]
    losses = curve["train_loss"]
    half = next(k for k, epoch in enumerate(curve["epoch"]) if 2 * epoch >= curve["epoch"][-1])
    options = next(t["options"] for t in cell["trials"] if t["draw"] == cell["chosen"])
    shares = np.asarray(counts, dtype=np.float64) / sum(counts)
    smoothing = options.get("label_smoothing", 0.0)
    # The mean of smoothed targets is the best answer that is the same for every row.
    target = (1 - smoothing) * shares + smoothing / len(counts)
    target = target[target > 0]
    return float(-(target * np.log(target)).sum()), losses[half], losses[-1]
