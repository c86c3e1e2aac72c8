"""Run-length encodings of masks: those of COCO, CVAT and Label Studio."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)  # Label Studio's four sizes of a run's length


# === Counts of pixels without and with lesion, in turn ===
def to_counts(values: NDArray[np.uint8]) -> list[int]:
    """The lengths of the runs of a vector of 0 and 1: first of zeros, perhaps 0, then of ones, and so on in turn."""
    borders = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff([0, *borders, len(values)]).tolist()
    return [0, *lengths] if len(values) and values[0] else lengths


def from_counts(counts: Sequence[int], length: int) -> NDArray[np.uint8]:
    """The vector of `to_counts`.

    Raises:
        ValueError: If the counts do not sum to the length.
    """
    runs = np.asarray(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != length:
        raise ValueError(f"Expected run lengths of {length} pixels together, found {runs.sum()}")
    return np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)


# === COCO: column by column ===
def from_coco(segmentation: dict, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask of COCO's run lengths, `{"size": [height, width], "counts": ...}`.

    Args:
        segmentation: The dict; its counts are a list, or text as pycocotools compresses them.
        shape: `(height, width)` of the image in pixels, which its size must be.

    Returns:
        Array `shape`, uint8, 0 or 1.

    Raises:
        ValueError: If the size is another one, or the counts do not fill it.
    """
    height, width = shape
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"Expected run lengths of {height} x {width} pixels, found {segmentation['size']}")
    counts = segmentation["counts"]
    counts = counts if isinstance(counts, list) else decompress(counts)
    return from_counts(counts, height * width).reshape(width, height).T


def compress(counts: Sequence[int]) -> str:
    """Run lengths as the text that pycocotools writes: differences, in characters of five bits and one to continue."""
    text = ""
    for index, count in enumerate(counts):
        number = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def decompress(text: str) -> list[int]:
    """The run lengths of `compress`."""
    counts: list[int] = []
    number, shift = 0, 0
    for character in text.encode("ascii"):
        bits = character - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)  # a negative number
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number, shift = 0, 0
    return counts


# === Label Studio: the bits of thi.ng's rle-pack, four channels a pixel, row by row ===
def to_label_studio(mask: NDArray[np.uint8]) -> list[int]:
    """A mask as the list of bytes that Label Studio calls `rle`.

    32 bits hold the number of values, 5 the bits of a value less 1, four times 4 the bits of a run's length less 1.
    Then come the runs: a bit 1, two bits that choose one of the four sizes, the length less 1, and the value.

    Args:
        mask: Array `(height, width)`, uint8, 0 or 1.

    Reference:
        https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
    """
    text = f"{4 * mask.size:032b}{_VALUE_BITS - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS)
    longest = 2 ** _LENGTH_BITS[-1]
    for index, count in enumerate(to_counts(mask.ravel())):
        for length in [longest] * (4 * count // longest) + [4 * count % longest]:
            if length:
                size = next(i for i, bits in enumerate(_LENGTH_BITS) if length <= 2**bits)
                text += f"1{size:02b}{length - 1:0{_LENGTH_BITS[size]}b}{255 * (index % 2):08b}"
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - 48).tolist()


def from_label_studio(rle: Sequence[int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask of `to_label_studio`, or of Label Studio's own brush: pixels that are not transparent.

    Args:
        rle: List of bytes.
        shape: `(height, width)` of the image in pixels.

    Returns:
        Array `shape`, uint8, 0 or 1.

    Raises:
        ValueError: If the bytes hold another number of pixels, or end too early.
    """
    bits = "".join(f"{byte:08b}" for byte in bytes(rle))
    place = 0

    def take(count):
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError(f"Expected a mask of {shape[0]} x {shape[1]} pixels, found one that ends too early")
        return int(bits[place - count : place], 2)

    if (found := take(32)) != 4 * shape[0] * shape[1]:
        raise ValueError(f"Expected a mask of {shape[0]} x {shape[1]} pixels, found {found} values")
    value_bits = take(5) + 1
    length_bits = [take(4) + 1 for _ in range(4)]
    values, done = np.zeros(found, np.int64), 0
    while done < found:
        is_run = take(1)
        length = take(length_bits[take(2)]) + 1
        values[done : done + length] = (
            take(value_bits) if is_run else [take(value_bits) for _ in range(length)][: found - done]
        )
        done += length
    return (values.reshape(*shape, 4)[..., 3] > 0).astype(np.uint8)
