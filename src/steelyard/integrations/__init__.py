"""Steelyard inside other trainers: one small file each, imported on demand."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(package: str, requirement: str) -> Iterator[None]:
    """Turn the failed import of a package into one sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != package:  # the package is there, but something that it needs is not
            raise
        raise ModuleNotFoundError(
            f"steelyard.integrations.{package} needs {package}: pip install '{requirement}'",
            name=package,
        ) from None
