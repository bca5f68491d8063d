"""Data to train small nets on: spoken-like words that are computed, and what the shared images give."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from common import shared_data

RATE = 16000
FRAME, STEP, FRAMES = 640, 320, 49  # 40 ms every 20 ms of one second
MEL_BANDS, COEFFICIENTS = 40, 10

# A word is two different syllables, and a syllable two formants that glide from Hz to Hz.
SYLLABLES = (
    ((400, 900), (1200, 2000)),
    ((900, 400), (2000, 1200)),
    ((350, 350), (900, 900)),
    ((800, 800), (2400, 2400)),
)
WORDS = tuple((first, second) for first in range(4) for second in range(4) if first != second)

BANDS, ROWS = 128, 5
ANIMALS = (2, 3, 4, 5, 6, 7)


class Data(NamedTuple):
    """Samples to train on and others to evaluate with; without labels they are their own targets."""

    train: np.ndarray
    train_labels: np.ndarray | None
    test: np.ndarray
    test_labels: np.ndarray | None


def words() -> Data:
    """One-second words of twelve kinds in noise, as 49 x 10 cepstral coefficients."""
    random = np.random.default_rng(1)
    labels = random.integers(0, len(WORDS), 8000)
    features = np.stack([cepstrum(word(WORDS[label], random)) for label in labels])[..., None]
    return Data(features[:7000], labels[:7000], features[7000:], labels[7000:])


def word(syllables: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Returns one second of two syllables by a random speaker in noise of -16 to 4 dB."""
    sound = np.zeros(RATE)
    start = random.integers(0, RATE // 5)
    pitch, size = random.uniform(90, 260), random.uniform(0.85, 1.18)
    for syllable in syllables:
        length = random.integers(RATE // 5, RATE // 3)
        sound[start : start + length] = glide(SYLLABLES[syllable], length, pitch, size)
        start += length + random.integers(0, RATE // 20)
    noise = random.normal(size=RATE)
    noise += 2 * np.convolve(noise, np.full(16, 1 / 16), "same")
    loudness = np.sqrt(np.mean(noise**2) / np.mean(sound**2)) * 10 ** (random.uniform(-16, 4) / 20)
    return (sound * loudness + noise) * 10 ** random.uniform(-1, 0)


def glide(formants: tuple[tuple[int, int], ...], length: int, pitch: float, size: float) -> np.ndarray:
    """Returns a syllable: gliding formants that swell at the pitch, faded in and out."""
    swelling = 1 + np.sin(2 * np.pi * pitch * np.arange(length) / RATE)
    paths = [np.linspace(begin * size, end * size, length) for begin, end in formants]
    voices = sum(np.sin(2 * np.pi * np.cumsum(path) / RATE) for path in paths)
    return np.hanning(length) ** 0.5 * swelling * voices


def cepstrum(sound: np.ndarray) -> np.ndarray:
    """Returns float32 [49, 10]: cepstral coefficients of log mel energies, as keyword spotters take them."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::STEP] * np.hanning(FRAME)
    energies = np.abs(np.fft.rfft(frames, 1024)) ** 2 @ mel_filters(513)
    bands = np.arange(MEL_BANDS)
    cosines = np.cos(np.pi / MEL_BANDS * (bands[:, None] + 0.5) * np.arange(COEFFICIENTS)) * np.sqrt(2 / MEL_BANDS)
    return (np.log(energies + 1e-3) @ cosines).astype(np.float32)


def mel_filters(bins: int) -> np.ndarray:
    """Returns [bins, MEL_BANDS]: triangles of equal width on the mel scale from 20 to 4000 Hz."""
    edges = np.linspace(np.log1p(20 / 700), np.log1p(4000 / 700), MEL_BANDS + 2)
    mels = np.log1p(np.linspace(0, RATE / 2, bins) / 700)[:, None]
    rising = (mels - edges[:-2]) / (edges[1] - edges[0])
    return np.clip(np.minimum(rising, 2 - rising), 0, None)


def spectra() -> Data:
    """Log spectra of five neighbouring rows of ImageNet images, 128 bands each, in dB like those of machine sounds."""
    from PIL import Image

    paths = sorted(shared_data("imagenet").glob("*.jpg"))
    images = np.stack([np.asarray(Image.open(path).convert("L"), np.float64) for path in paths])
    magnitudes = np.abs(np.fft.rfft(images * np.hanning(images.shape[2]), axis=2))[:, :, 1 : BANDS + 1]
    decibels = (20 * np.log10(magnitudes + 1)).astype(np.float32)
    windows = decibels[:, : decibels.shape[1] // ROWS * ROWS].reshape(len(images), -1, ROWS * BANDS)
    # Whole images on either side: neighbouring windows of one image resemble each other.
    train, test = (part.reshape(-1, ROWS * BANDS) for part in (windows[:300], windows[300:, ::3]))
    return Data(train, None, test, None)


def animals() -> Data:
    """CIFAR-10 images of 96 x 96 pixels in [-1, 1]: animals against vehicles."""
    data = np.load(shared_data("resnet8_cifar10/cifar10_1200.npz"))
    labels = np.isin(data["y"], ANIMALS).astype(int)
    images = enlarge(data["x"].astype(np.float32) / np.float32(127.5) - 1)
    return Data(images[:800], labels[:800], images[800:], labels[800:])


def enlarge(images: np.ndarray, factor: int = 3) -> np.ndarray:
    """Returns the images with the values between pixels filled in linearly along both axes."""
    for axis in (1, 2):
        size = images.shape[axis]
        at = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1).astype(np.float32)
        low = np.minimum(at.astype(int), size - 2)
        weight = (at - low).astype(np.float32).reshape([-1 if axis == other else 1 for other in range(4)])
        images = images.take(low, axis) * (1 - weight) + images.take(low + 1, axis) * weight
    return images


def melody(length: int, random: np.random.Generator) -> np.ndarray:
    """Returns float32 sound at 22050 Hz: notes of decaying harmonics at random times, and faint noise."""
    sound = 0.003 * random.normal(size=length)
    for _ in range(random.integers(3, 9)):
        start = random.integers(0, length * 3 // 4)
        seconds = np.arange(length - start) / 22050
        pitch = 440 * 2 ** (random.integers(-24, 25) / 12)
        harmonics = np.arange(1, 7)[:, None]
        waves = np.sin(2 * np.pi * pitch * harmonics * seconds) * random.uniform(0.2, 1, [6, 1]) / harmonics
        sound[start:] += random.uniform(0.05, 0.3) * waves.sum(0) * np.exp(-seconds * random.uniform(1, 6))
    return sound.astype(np.float32)
