"""Warnings that point at the user's own line."""

import sys
import warnings
from itertools import takewhile
from traceback import walk_stack
from types import FrameType

import torch

_PACKAGE = __name__.partition(".")[0]


def tell(text: str) -> None:
    """Warn at the line that called the library, however deep within it this is called.

    Python then shows the warning once for that line, also of a loss that is called in a loop.
    Whoever traces the call is told nothing.
    """
    if torch.compiler.is_compiling():
        return
    within = takewhile(_is_ours, (frame for frame, _ in walk_stack(sys._getframe())))
    warnings.warn(text, stacklevel=1 + sum(1 for _ in within))


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE
