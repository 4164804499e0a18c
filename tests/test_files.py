"""Files are written whole or not at all, and with the rights that the user's umask gives."""

import os
from pathlib import Path

import pytest

from steelyard._files import write_atomically


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, "newer")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["results.json"]
    with pytest.raises(OSError, match="No such file"):
        write_atomically(tmp_path / "none" / "results.json", "x")


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(tmp_path, umask, rights):
    path = tmp_path / "page.html"
    before = os.umask(umask)
    try:
        write_atomically(path, "x")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == rights


def test_a_file_that_already_holds_the_text_is_not_touched(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "same")
    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"same")
    write_atomically(path, "same")
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, "other")


def test_a_name_from_a_file_system_of_another_alphabet_is_written_as_its_escape(tmp_path):
    path = tmp_path / "page.html"
    write_atomically(path, "\udcff é")
    assert path.read_text(encoding="utf-8") == "\\udcff é"
