"""What every subcommand says where it cannot do what was asked for."""

from typing import Any

PROGRAM = "steelyard"

Commands = Any  # argparse keeps the type of its subparsers to itself


class UsageError(Exception):
    """What was asked for cannot be done; the message is all the user sees."""
