"""What was given in the place of a tensor, for errors."""

from typing import Any

INDICES_OF_NAMES = (
    "class indices instead of names: "
    "torch.tensor([class_counts.names.index(name) for name in names])"
)
CELLS_OF_NAMES = (
    "0 and 1 instead of names: of one class torch.tensor([name == positive for name in names])"
)


def expected_tensor(given: Any, of_names: str = INDICES_OF_NAMES) -> str:
    """What an error expects instead, and how to make it.

    Args:
        given: what was given, and is no tensor.
        of_names: what it expects where names were given: torch has no tensor of those.
    """
    return of_names if _holds_names(given) else "a tensor: torch.as_tensor(…)"


def _holds_names(given: Any) -> bool:
    """Whether the first of the values is text, however deep they are nested."""
    while not isinstance(given, str):
        try:
            given = next(iter(given))
        except (StopIteration, TypeError):
            return False
    return True
