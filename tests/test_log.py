"""Log lines, levels and the log file."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys

import pytest

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctTypeError, AmctValueError
from amct_tensorflow.log import Logger

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (\w+) - \[AMCT\]:\[(\w+)\]: (.*)")


def push_all(logger: Logger) -> None:
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, f"push_{level}_message")(f"a {level}", module_name="test")


def levels_in(text: str) -> list[str]:
    lines = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(lines)
    return [line.group(1) for line in lines if line]


def test_lines_have_the_vendors_form(capsys):
    Logger().push_warning_message("something, 100% sure", module_name="save_model")
    match = LINE.fullmatch(capsys.readouterr().err.strip())
    assert match is not None and match.groups() == ("WARNING", "save_model", "something, 100% sure")


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", 4), ("INFO", 3), ("Warning", 2), ("error", 1)],
)
def test_levels(capsys, monkeypatch, level, shown):
    logger = Logger()
    monkeypatch.setattr("amct_tensorflow.log.LOGGER", logger)
    amct.set_logging_level(print_level=level, save_level="info")
    push_all(logger)
    assert len(levels_in(capsys.readouterr().err)) == shown
    with open("amct_log/amct_tensorflow.log", encoding="utf-8") as file:
        assert levels_in(file.read()) == ["INFO", "WARNING", "ERROR"]


@pytest.mark.parametrize("name", ["print_level", "save_level"])
@pytest.mark.parametrize(
    ("level", "error"), [("verbose", AmctValueError), ("", AmctValueError), (1, AmctTypeError), (None, AmctTypeError)]
)
def test_levels_that_do_not_exist(name, level, error):
    with pytest.raises(error, match=name):
        amct.set_logging_level(**{name: level})


def test_log_file_is_private():
    Logger().push_error_message("x")
    assert stat.S_IMODE(os.stat("amct_log").st_mode) & 0o027 == 0
    assert stat.S_IMODE(os.stat("amct_log/amct_tensorflow.log").st_mode) == 0o640


def test_a_folder_that_is_not_writable_does_not_stop_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "amct_log").write_text("in the way")
    Logger().push_error_message("still printed")
    assert "still printed" in capsys.readouterr().err


def test_importing_leaves_no_trace(tmp_path):
    subprocess.run([sys.executable, "-c", "import amct_tensorflow"], cwd=tmp_path, check=True, capture_output=True)
    assert not list(tmp_path.iterdir())


def test_op_messages_have_levels(capsys):
    logger = Logger()
    logger.set_levels(print_level=10, save_level=10)
    for level in range(4):
        logger.push_op_message(level, "x")
    assert levels_in(capsys.readouterr().err) == ["DEBUG", "INFO", "WARNING", "ERROR"]
