"""One way to write a file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by another in one step: a reader never meets half of it.

    A file that already holds the text is left alone, so that what is finished can be shown from a
    disk that cannot be written. A character that UTF-8 cannot hold is written as its escape.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    if _holds(path, content):
        return
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:  # unlike tempfile's, with the rights of the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
