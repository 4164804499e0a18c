"""Starts the command `steelyard`.

It stands outside the package because importing the package imports torch, which takes seconds:
Ctrl-C during them ends the process as it ends any other, without a traceback.
"""

from __future__ import annotations

import signal


def main() -> int:
    """Import the command and run it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from steelyard.cli import main as command

    signal.signal(signal.SIGINT, handler)
    return command()
