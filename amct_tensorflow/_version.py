"""The package's version and the range of TensorFlow versions it supports: the only place of both."""

__version__ = "0.1.0"

MIN_TENSORFLOW = (2, 16)
MAX_TENSORFLOW = (2, 21)
