"""Files are written whole or not at all."""

from __future__ import annotations

import os

import pytest

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.files import read_file, write_file, write_files


def test_write_makes_folders_and_leaves_no_temporary_file(tmp_path):
    target = tmp_path / "a" / "b" / "file"
    write_file(str(target), b"content", kind="test file")
    assert target.read_bytes() == b"content"
    assert os.listdir(target.parent) == ["file"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_file(str(tmp_path / "link"), b"new", kind="test file")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_all_files_or_none(tmp_path):
    (tmp_path / "first").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    contents = {str(tmp_path / "first"): b"new", str(tmp_path / "folder"): b"new"}
    with pytest.raises(AmctRuntimeError, match=r"test file .*folder cannot be written"):
        write_files(contents, kind="test file")
    assert (tmp_path / "first").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["first", "folder"]


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("file/name", "file/folder/name"):
        with pytest.raises(AmctRuntimeError, match=rf"cannot be written \({tmp_path}/file is a file, not a folder\)"):
            write_file(str(tmp_path / path), b"content", kind="test file")


@pytest.mark.parametrize("path", ["missing", "."])
def test_what_cannot_be_read(tmp_path, path):
    with pytest.raises(AmctRuntimeError, match=r"test file .* cannot be read .*; do something"):
        read_file(tmp_path / path, kind="test file", remedy="do something")
