"""Fingerprints, perceptual hashes of 16 bytes, by which a model recognises its training images and their copies.

A hash holds the signs of an image's low frequencies: it survives JPEG, resizing, brightness, contrast and small marks.
It is far too coarse to reconstruct the image, but anyone with the image can test whether the model was trained on it.

Reference:
    Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010 (pHash)
"""

import base64
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.duplicates import trimmed
from busseg.data.sample import Sample
from busseg.imaging.images import read_image
from busseg.storage.files import blaming

FINGERPRINTS = "fingerprints"  # key in a model's metadata
# The most bits, of 128, in which the hashes of copies differ. benchmarks/fingerprints.py measured on the 761 images of
# BUSI that `best` was trained with: JPEG of quality 75 at half size changes at most 6 bits; the nearest of 1,323 images
# of three other datasets differs in 31.
MOST_BITS = 24
_KIND = "dct128"  # another kind of hash needs another name, because the two cannot be compared
_BYTES = 16
_SIDE_PX = 32  # side of the thumbnail whose frequencies are hashed
_SKIPPED = 6  # lowest frequencies, in which all scans are alike: bright above, dark below

# Rows and columns of the frequencies, from low to high.
_FREQUENCIES = sorted(np.ndindex(_SIDE_PX, _SIDE_PX), key=lambda place: (sum(place), place))
_ROWS, _COLUMNS = np.array(_FREQUENCIES[_SKIPPED : _SKIPPED + 8 * _BYTES]).T
_MIRROR = np.packbits(_COLUMNS % 2 == 1)  # the bits that a left-right flip inverts


def fingerprint(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The perceptual hash of an image.

    Args:
        image: Array uint8, `(height, width)` of grey values, or `(height, width, 3)`, RGB.

    Returns:
        Array `(16,)` uint8.
    """
    thumbnail = cv2.resize(_grey(image), (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.packbits(cv2.dct(thumbnail.astype(np.float32))[_ROWS, _COLUMNS] > 0)


def fingerprint_samples(
    samples: Iterable[Sample], progress: Callable[[Iterable], Iterable] = iter
) -> NDArray[np.uint8]:
    """The fingerprints of samples, array `(n, 16)` uint8; `progress` wraps the iteration, for a progress bar."""
    return np.array([fingerprint(read_image(sample.image)) for sample in progress(samples)])


def knows(fingerprints: NDArray[np.uint8], image: NDArray[np.uint8]) -> bool:
    """Whether an image is one of those with the given fingerprints, or a copy of one.

    It recognises copies that were compressed, resized (also to another aspect ratio), brightened or darkened, mirrored
    from left to right, or put into a black frame; but not copies with more than about 2 % cropped from a side.

    Args:
        fingerprints: Array `(n, 16)` uint8.
        image: See `fingerprint`.
    """
    return differing_bits(fingerprints, image) <= MOST_BITS


def differing_bits(fingerprints: NDArray[np.uint8], image: NDArray[np.uint8]) -> int:
    """The number of bits, of 128, in which an image differs from the nearest fingerprint; 128 if there are none.

    The image is compared with and without its black frame, and both mirrored, too.
    """
    grey = _grey(image)
    upright = np.stack([fingerprint(grey), fingerprint(trimmed(grey))])
    asked = np.concatenate([upright, upright ^ _MIRROR])
    return int(np.bitwise_count(asked[:, None] ^ fingerprints).sum(axis=2).min(initial=8 * _BYTES))


def _grey(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


def describe_fingerprints(fingerprints: NDArray[np.uint8]) -> dict[str, dict[str, str]]:
    """Fingerprints in the form of a model's metadata.

    Args:
        fingerprints: Array `(n, 16)` uint8.

    Returns:
        Dict with the one key `FINGERPRINTS`, fit for JSON.
    """
    return {FINGERPRINTS: {_KIND: base64.b64encode(fingerprints.tobytes()).decode("ascii")}}


def read_fingerprints(metadata: dict, path: str | Path) -> NDArray[np.uint8] | None:
    """The fingerprints in a model's metadata.

    Args:
        metadata: Dict, from `busseg.inference.metadata.read_metadata`.
        path: Path of the model, for the error.

    Returns:
        Array `(n, 16)` uint8; None for a model without fingerprints.

    Raises:
        ValueError: If they are broken.
    """
    with blaming(path, "the fingerprints of a model"):
        text = metadata.get(FINGERPRINTS, {}).get(_KIND)
        if text is None:
            return None
        return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(-1, _BYTES)
