"""`load_data` under the path that user scripts of the vendor's tool import it from."""

from amct_tensorflow.data import load_data

__all__ = ["load_data"]
