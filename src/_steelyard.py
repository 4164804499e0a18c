"""What a process does before it imports torch, which takes seconds.

It stands outside the package, for importing the package imports torch.
"""

from __future__ import annotations

import os
import signal
import threading
import time

_LOOK = 0.2  # seconds between two looks of a worker at whether its parent lives


def main() -> int:
    """Import the command `steelyard` and run it.

    Ctrl-C during the import ends the process as it ends any other, without a traceback.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not where a shell has it ignored, as behind `&`
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from steelyard.cli import main as command

    signal.signal(signal.SIGINT, handler)
    return command()


def end_with_parent(parent: int) -> None:
    """In a worker process: end as soon as the parent is gone, be it killed.

    A worker that waits for work would otherwise wait on, and hold the parent's output open.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    if os.name == "posix":
        threading.Thread(target=watch, daemon=True).start()
