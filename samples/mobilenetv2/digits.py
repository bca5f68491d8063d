"""The digits data set of scikit-learn in the form that the embedded MobileNetV2 takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

TRAIN_IMAGES = 1200
IMAGE_SIZE = 32


class Digits(NamedTuple):
    """Images are float32 ``[N, 32, 32, 3]`` in [-1, 1]; labels are the digits 0 to 9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits() -> Digits:
    """Returns the 1797 digits: the first 1200 to train and calibrate on, the last 597 to test on.

    The data set is ordered by writer, so the test digits come from people the model has never seen.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    from sklearn import datasets

    data = datasets.load_digits()
    pixels = data.images.astype(np.float32) * (255.0 / 16.0)
    zoom = IMAGE_SIZE // pixels.shape[1]
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    images = np.repeat(preprocess(pixels)[..., np.newaxis], 3, axis=-1)
    labels = data.target.astype(np.int64)
    return Digits(images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES], images[TRAIN_IMAGES:], labels[TRAIN_IMAGES:])


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """Maps pixel values 0 to 255 to [-1, 1], as the ImageNet MobileNetV2 expects them too."""
    return (pixels / 127.5 - 1.0).astype(np.float32)
