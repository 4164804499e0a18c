"""How a kernel cuts up the logits: from C, S and the dtype alone, by fixed rules."""

from typing import NamedTuple

WARP = 32


class Heuristic(NamedTuple):
    """On what the block sizes hang, but for the logits.

    Attributes:
        of_thread: the logits of a thread, by which there are so many warps.
        of_program: the classes that a program of rows holds at once: the logits of the widest.
        of_rows: the logits of a program of narrow rows.
        of_lane: how often a lane of a warp along places reads 16 bytes of each class.
    """

    of_thread: int = 16
    of_program: int = 4096
    of_rows: int = 1024
    of_lane: int = 4


HEURISTIC = Heuristic()
"""What is launched; ``python -m benchmarks.gpu`` tries others."""


class Blocks(NamedTuple):
    """How a kernel cuts up logits (N, C, S)."""

    spatial: bool
    block_p: int
    block_c: int
    num_warps: int

    @classmethod
    def of(
        cls, classes: int, places: int, itemsize: int, heuristic: Heuristic | None = None
    ) -> "Blocks":
        """For C classes, S places and logits of so many bytes."""
        by = heuristic or HEURISTIC
        width = _power_of_2(classes)
        if places == 1:
            block_c = min(width, by.of_program)
            warps = max(4, block_c // (WARP * by.of_thread))
            return cls(False, max(1, by.of_rows // block_c), block_c, warps)
        # All lanes along the places, each with 16 bytes: then no two share a position's sums.
        row = WARP * 16 // itemsize
        block_p = min(_power_of_2(places), by.of_lane * row)
        warps = max(1, block_p // row)
        return cls(True, block_p, min(width, WARP * warps * by.of_thread // block_p), warps)

    def grid(self, n: int, s: int) -> int:
        """How many programs have all positions."""
        return n * -(-s // self.block_p) if self.spatial else -(-n // self.block_p)


def _power_of_2(size: int) -> int:
    """The next power of 2."""
    return 1 << (size - 1).bit_length()
