"""Where randomness comes from: every use of it has a stream of its own, named by what it is for.

Initial weights, batch order, augmentation and dropout never share a generator, so that a loss
that draws one number more than another leaves all the others as they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


def stream(*names: int | str) -> int:
    """The seed of a named stream: 63 bits, the same on every machine.

    Example:
        >>> stream(0, "order", 3) == stream(0, "order", 3) != stream(0, "order", 4)
        True
    """
    digest = blake2b(repr(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the generators that a user's code reads: Python's, NumPy's, torch's."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - what the user's own code draws from
    torch.manual_seed(seed)


@contextmanager
def restored() -> Iterator[None]:
    """Leave the caller's generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
