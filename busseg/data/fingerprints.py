"""Perceptual hashes of the images that a model was made with, 16 bytes each, by which it knows them and their copies.

A hash is the signs of an image's low frequencies: it survives JPEG, resizing, brightness, contrast and small marks. It
is far too coarse to show the image, but whoever has the image can tell that it was there.

Reference:
    Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010 (pHash)
"""

import base64

import cv2
import numpy as np

from busseg.data.duplicates import trimmed
from busseg.imaging.images import read_image
from busseg.storage.files import blaming

FINGERPRINTS = "fingerprints"  # in a model's metadata
# The most bits, of 128, in which the hashes of copies differ. Measured by benchmarks/fingerprints.py on the 761 images
# of BUSI that `best` was trained with: JPEG of quality 75 at half size changes 6 bits at most; the nearest of 1,323
# scans of three other datasets differs in 31.
MOST_BITS = 24
_KIND = "dct128"  # hashes made otherwise need another name: the two do not compare
_BYTES = 16
_SIDE_PX = 32  # of the thumbnail whose frequencies are taken
_SKIPPED = 6  # the lowest frequencies, in which all scans are alike: bright above, dark below

# Rows and columns of the frequencies, from low to high.
_FREQUENCIES = sorted(np.ndindex(_SIDE_PX, _SIDE_PX), key=lambda place: (sum(place), place))
_ROWS, _COLUMNS = np.array(_FREQUENCIES[_SKIPPED : _SKIPPED + 8 * _BYTES]).T
_MIRROR = np.packbits(_COLUMNS % 2 == 1)  # the bits that change from left to right


def fingerprint(image):
    """The perceptual hash of an image.

    Args:
        image: Array uint8, `(height, width)` of grey values, or `(height, width, 3)`, RGB.

    Returns:
        Array `(16,)` uint8.
    """
    thumbnail = cv2.resize(_grey(image), (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.packbits(cv2.dct(thumbnail.astype(np.float32))[_ROWS, _COLUMNS] > 0)


def fingerprint_samples(samples, progress=iter):
    """The fingerprints of samples, array `(n, 16)`; `progress` wraps the iteration over them, for a progress bar."""
    return np.array([fingerprint(read_image(sample.image)) for sample in progress(samples)])


def knows(fingerprints, image):
    """Whether an image is one of those with the given fingerprints, or a copy of one.

    Found are copies that were compressed, resized (also to another aspect), made brighter or darker, mirrored from
    left to right, or put into a black frame. Not found are those of which more than about 2 % was cropped from a side.

    Args:
        fingerprints: Array `(n, 16)` uint8.
        image: See `fingerprint`.
    """
    return differing_bits(fingerprints, image) <= MOST_BITS


def differing_bits(fingerprints, image):
    """In how many bits, of 128, an image differs from the nearest of some fingerprints; 128 if there are none.

    The image is asked for as it is and without a black frame, and mirrored each.
    """
    grey = _grey(image)
    upright = np.stack([fingerprint(grey), fingerprint(trimmed(grey))])
    asked = np.concatenate([upright, upright ^ _MIRROR])
    return int(np.bitwise_count(asked[:, None] ^ fingerprints).sum(axis=2).min(initial=8 * _BYTES))


def _grey(image):
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


def describe_fingerprints(fingerprints):
    """Fingerprints as a model's metadata holds them.

    Args:
        fingerprints: Array `(n, 16)` uint8.

    Returns:
        Dict with the one key `FINGERPRINTS`, as JSON has it.
    """
    return {FINGERPRINTS: {_KIND: base64.b64encode(fingerprints.tobytes()).decode("ascii")}}


def read_fingerprints(metadata, path):
    """The fingerprints in a model's metadata.

    Args:
        metadata: Dict, of `busseg.inference.metadata.read_metadata`.
        path: Path of the model, for the error.

    Returns:
        Array `(n, 16)` uint8, or None of a model that does not say which images it was made with.

    Raises:
        ValueError: If they are broken.
    """
    with blaming(path, "the fingerprints of a model"):
        text = metadata.get(FINGERPRINTS, {}).get(_KIND)
        if text is None:
            return None
        return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(-1, _BYTES)
