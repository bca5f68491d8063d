"""Log lines on the console and in ./amct_log/amct_tensorflow.log.

A line reads ``<time> - <LEVEL> - [AMCT]:[<module>]: <message>``, as in the vendor's tool. The folder and the file
are made with the first line that is written, so importing the package leaves no trace.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from amct_tensorflow.errors import AmctTypeError, AmctValueError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FILE = os.path.join("amct_log", "amct_tensorflow.log")
_FORMAT = "%(asctime)s - %(levelname)s - [AMCT]:[%(amct_module)s]: %(message)s"


class _Stderr(logging.StreamHandler):
    """Writes to the sys.stderr of the moment, which notebooks and tests replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


class _LazyFile(logging.Handler):
    """Appends to LOG_FILE below the working directory of the first line; silent if that cannot be written."""

    def __init__(self) -> None:
        super().__init__()
        self._stream: TextIO | None = None
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._stream is None and not self._failed:
                self._stream = self._open()
            if self._stream is not None:
                self._stream.write(self.format(record) + "\n")
                self._stream.flush()
        except OSError as error:  # a read-only folder must not stop the work
            self._failed, self._stream = True, None
            print(f"{LOG_FILE} cannot be written ({error.strerror}), so it gets no lines", file=sys.stderr)

    @staticmethod
    def _open() -> TextIO:
        os.makedirs(os.path.dirname(LOG_FILE), mode=0o750, exist_ok=True)
        descriptor = os.open(LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        return os.fdopen(descriptor, "a", encoding="utf-8")


class Logger:
    """The package's logger; `push_*_message` are the names that user scripts of the vendor's tool call."""

    def __init__(self) -> None:
        self._logger = logging.Logger("amct_tensorflow", logging.DEBUG)
        self._console, self._file = _Stderr(), _LazyFile()
        for handler in (self._console, self._file):
            handler.setLevel(logging.INFO)
            handler.setFormatter(logging.Formatter(_FORMAT))
            self._logger.addHandler(handler)

    def set_levels(self, print_level: int, save_level: int) -> None:
        """Sets the least level of the console and of the file."""
        self._console.setLevel(print_level)
        self._file.setLevel(save_level)

    @contextlib.contextmanager
    def filtered_console(self, chosen: logging.Filter) -> Iterator[None]:
        """Prints only what a filter passes, meanwhile; the file gets every line."""
        self._console.addFilter(chosen)
        try:
            yield
        finally:
            self._console.removeFilter(chosen)

    def _push(self, level: int, message: str, module_name: str) -> None:
        self._logger.log(level, "%s", message, extra={"amct_module": module_name})

    def push_debug_message(self, message: str, module_name: str = "amct_tensorflow") -> None:
        """Logs details, such as scales and offsets."""
        self._push(logging.DEBUG, message, module_name)

    def push_info_message(self, message: str, module_name: str = "amct_tensorflow") -> None:
        """Logs what was done."""
        self._push(logging.INFO, message, module_name)

    def push_warning_message(self, message: str, module_name: str = "amct_tensorflow") -> None:
        """Logs what a user must know although the work goes on."""
        self._push(logging.WARNING, message, module_name)

    def push_error_message(self, message: str, module_name: str = "amct_tensorflow") -> None:
        """Logs why the work stopped."""
        self._push(logging.ERROR, message, module_name)

    def push_op_message(self, level: int, message: str) -> None:
        """Logs a message of the C++ ops, level 0 (debug) to 3 (error)."""
        self._push((logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)[level], message, "calibration")


LOGGER = Logger()


def set_logging_level(print_level: str = "info", save_level: str = "info") -> None:
    """Sets the least level that is printed and saved.

    Args:
        print_level: ``debug``, ``info``, ``warning`` or ``error``, in any case: for the console.
        save_level: likewise for ./amct_log/amct_tensorflow.log.

    Raises:
        AmctTypeError: a level is not a string.
        AmctValueError: a level is none of the four.
    """
    numbers = []
    for name, level in (("print_level", print_level), ("save_level", save_level)):
        if not isinstance(level, str):
            raise AmctTypeError(f"{name} must be str, not {type(level).__name__}: use one of {list(LEVELS)}")
        if level.upper() not in LEVELS:
            raise AmctValueError(f"{name}{{'{level}'}} is invalid, only support {list(LEVELS)}")
        numbers.append(logging.getLevelName(level.upper()))
    LOGGER.set_levels(*numbers)


@contextlib.contextmanager
def silenced(*names: str) -> Iterator[None]:
    """Keeps the loggers of other packages from saying anything: what goes wrong there is told in an error of ours."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
