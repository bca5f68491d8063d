"""`LOGGER` under the path that user scripts of the vendor's tool import it from."""

from amct_tensorflow.log import LOGGER

__all__ = ["LOGGER"]
