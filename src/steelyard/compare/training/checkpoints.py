"""Trainings that survive `kill -9`: checkpoints written in one step, and as seldom as is cheap."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from steelyard.compare.study import StudyError

_SHARE = 1 / 30  # of the time may go into checkpoints; of an epoch worth keeping it is far less


class Checkpoint:
    """Where one training keeps its state.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._cost = 0.0
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether enough time has passed since the last one to write another."""
        return self.path is not None and time.monotonic() - self._written >= self._cost * (
            1 / _SHARE
        )

    def save(self, state: dict[str, Any], path: Path | None = None) -> None:
        """Replace the checkpoint in one step, or write another beside it.

        Raises:
            StudyError: the disk is full or cannot be written; an older checkpoint is untouched.
        """
        path = path or self.path
        if path is None:
            return
        begun = time.monotonic()
        write_state(state, path)
        self._written = time.monotonic()
        self._cost = self._written - begun

    def load(self) -> dict[str, Any] | None:
        """The state kept last, or None."""
        return None if self.path is None else read_state(self.path)

    def clear(self) -> None:
        """Forget what was kept: the training is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values in one step: a reader never meets half of it."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and "write" not in str(error):
            raise
        reason = getattr(error, "strerror", None) or "the disk is full"
        raise StudyError(
            f"{path} could not be written: {reason}; what was finished before is safe, and the "
            "same command resumes it"
        ) from error


def read_state(path: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, on the CPU; None where there is no such file.

    Raises:
        StudyError: the file holds something else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise StudyError(
            f"{path} is no checkpoint that can be read; delete it, and its training begins anew"
        ) from error
    return state
