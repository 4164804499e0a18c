"""How much memory there is, so that what cannot fit is refused before the system ends it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_UNKNOWN = 4 * 2**30
_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: str) -> int:
    """Bytes that can still be taken on a device, a container's limit included."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_free_in_system(), _free_in_container())


def in_words(size: int) -> str:
    """Bytes as a person reads them."""
    size = -(-size // 2**20)
    return f"{size:,} MB" if size < 10_000 else f"{-(-size // 1024):,} GB"


def _free_in_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):  # what caches hold can be taken
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return _UNKNOWN


def _free_in_container() -> int:
    """What the control group leaves; a program that takes more is killed."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        taken = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(map(str.split, (_CGROUP / "memory.stat").read_text("ascii").splitlines()))
        return max(0, limit - taken + int(stat["inactive_file"]))  # that cache can be taken
    except (OSError, ValueError, KeyError):  # no control group, or its limit is "max"
        return 2**63
