"""Find copies among images: by the published groups of BUSI, and in any folder by the pixels.

Copies are found by content in three steps, as in image retrieval. Upright SIFT features describe every image. Images
with the most similar features overall (VLAD vectors) are candidates. The features that two candidates share then place
one image on the other, and the two are compared where they overlap. Mirrored copies are found the same way.

References:
    Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 60, 2004
    Arandjelović and Zisserman, "Three things everyone should know to improve object retrieval", CVPR 2012 (RootSIFT)
    Arandjelović and Zisserman, "All about VLAD", CVPR 2013
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from busseg.imaging.images import count_pixels, read_image
from busseg.imaging.threads import map_in_turn
from busseg.storage.files import read_csv

# Least similarity of copies; benchmarks/duplicates.py chooses it on one half of BUSI's published groups.
SIMILARITY = 0.23
SIDE_PX = 192  # longer side of the thumbnails: half of BUSI's smallest images
THINNEST_PX = 16  # least shorter side of a thumbnail with features: a descriptor covers 16 x 16 px
FEATURES = 300  # per image
WORDS = 64  # in the vocabulary of the VLAD vectors
CANDIDATES = 10  # per image, and again per mirrored image
BLOCK = 256  # images whose vectors are compared with all others at a time
RATIO = 0.85  # a feature matches if its nearest neighbour is nearer than this times the second nearest
MATCHES = 60  # most matches of a pair; the strongest features first
TOLERANCE_PX = 4  # error of a feature's place when one image lies on the other
MIN_MATCHES = 5  # matches that agree on a placement; two always do
CONTRAST_PX = 4  # standard deviation of the Gaussian window that evens out brightness and contrast
MARGIN_PX = 3  # distance of the compared overlap from the borders

_NO_FEATURES = np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8)

# The index of each of SIFT's 4 x 4 x 8 (row, column, direction) entries after a left-right flip.
_FLIPPED = np.arange(128).reshape(4, 4, 8)[:, ::-1, (4 - np.arange(8)) % 8].ravel()


@dataclass(frozen=True)
class Copy:
    """Two images that show the same scan.

    Attributes:
        first, second: Their paths.
        similarity: Correlation of the two images over the part they share, from 0 to 1, after one has been scaled,
            shifted and perhaps mirrored to lie on the other, and brightness and contrast have been evened out.
        exact: Whether they have the same size and, in grey, the same pixels. Their similarity is then 1.
    """

    first: Path
    second: Path
    similarity: float
    exact: bool


@dataclass(frozen=True, eq=False)
class _Scan:
    """The description of an image, about 130 kB.

    `digest` is the hash of its pixels. The rest describes its thumbnail: `pixels`; `points`, the `(x, y)` of the
    features, float32 `(n, 2)`, strongest first; `descriptors`, their SIFT descriptors, uint8 `(n, 128)`.
    """

    digest: bytes
    pixels: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


@cache
def published_busi_groups() -> dict[str, str]:
    """The published groups of copies in BUSI.

    Returns:
        Dict from image stem, such as `benign (433)`, to group. 780 images, 587 groups, 8 of which cross classes.

    Reference:
        Pawłowska, Karwat and Żołek, "Letter to the Editor. Re: Dataset of breast ultrasound images" (2023),
        https://doi.org/10.1016/j.dib.2023.109247, with its supplement, https://doi.org/10.17632/k8t3gnx9h6.1,
        CC BY 4.0.
    """
    rows = read_csv(Path(__file__).parent / "busi_groups.csv", required=("image", "group"))
    return {row["image"]: f"busi-{row['group']}" for row in rows}


def find_copies(
    paths: Sequence[str | Path],
    progress: Callable[[Iterable], Iterable] = iter,
    similarity: float = SIMILARITY,
) -> list[Copy]:
    """Find the pairs of images that show the same scan, by their pixels alone.

    It finds copies that were cropped (down to about a third), scaled, mirrored from left to right, brightened or
    darkened, compressed, or marked with calipers and text; and neighbouring frames of one sweep, more reliably the less
    the probe moved. It does not find rotated copies, nor copies whose aspect ratio changed by more than about 15 %. For
    an image without texture it finds only exact copies.

    In a group with more than `CANDIDATES` copies, not every pair is compared, but enough to join them into a group.

    Args:
        paths: Sequence of paths of images.
        progress: Function that wraps the iteration over the images read, then over the pairs compared, for progress
            bars.
        similarity: Least similarity of copies that are not exact, in `[0, 1]`.

    Returns:
        List of `Copy`, in the order of `paths`, the earlier image first.

    Raises:
        FileNotFoundError, ValueError: If a file is not a readable image.
    """
    files = [Path(path) for path in paths]
    # The matrices are small: threads of the linear algebra library would cost ten times what they save.
    with threadpool_limits(1, "blas"):
        scans = [scan for _, scan in zip(progress(files), map_in_turn(_read, files, count_pixels))]
        candidates = sorted(_candidates(scans))
        compared = map_in_turn(lambda pair: _compare(scans[pair[0]], scans[pair[1]], mirrored=pair[2]), candidates)
        found: dict[tuple[int, int], float] = {}
        for (i, j, _), score in zip(progress(candidates), compared):
            found[i, j] = max(score, found.get((i, j), 0.0))
    exact = _exact_pairs(scans)
    found = {pair: score for pair, score in found.items() if score >= similarity} | dict.fromkeys(exact, 1.0)
    return [Copy(files[i], files[j], score, (i, j) in exact) for (i, j), score in sorted(found.items())]


def content_groups(paths: Sequence[str | Path], copies: Iterable[Copy]) -> dict[Path, str]:
    """Group images, so that copies, and copies of copies, are together.

    Args:
        paths: Sequence of paths of images.
        copies: Iterable of `Copy` among them.

    Returns:
        Dict from each path to its group. A group's name is the path of its first image, relative to the folder that
        holds all images, with forward slashes.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images = [Path(path) for path in paths]
    if not images:
        return {}
    place = {path: i for i, path in enumerate(images)}
    pairs = np.array([(place[copy.first], place[copy.second]) for copy in copies], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(images), len(images)))
    _, numbers = connected_components(graph, directed=False)
    _, first = np.unique(numbers, return_index=True)
    root = os.path.commonpath([path.parent for path in images])
    return {path: images[first[number]].relative_to(root).as_posix() for path, number in zip(images, numbers)}


# === Describe ===


def _read(path):
    return _describe(read_image(path))


def _describe(image):
    """The `_Scan` of a grey image `(height, width)`, uint8."""
    digest = hashlib.blake2b(repr(image.shape).encode() + image.tobytes()).digest()
    pixels = _thumbnail(trimmed(image))
    if min(pixels.shape) < THINNEST_PX:
        return _Scan(digest, pixels, *_NO_FEATURES)
    # A low threshold, because tissue has little contrast. Twice the features, because those that SIFT finds in two
    # directions are one feature here.
    sift = cv2.SIFT_create(2 * FEATURES, contrastThreshold=0.01, edgeThreshold=20)
    strongest = sorted(sift.detect(pixels), key=lambda feature: (-feature.response, feature.pt))
    features = list({(feature.pt, feature.size): feature for feature in strongest}.values())[:FEATURES]
    for feature in features:
        feature.angle = 0  # scans are not rotated, and a fixed direction makes descriptors more distinct
    features, descriptors = sift.compute(pixels, features)
    if not features:
        return _Scan(digest, pixels, *_NO_FEATURES)
    points = np.float32([feature.pt for feature in features])
    return _Scan(digest, pixels, points, descriptors.astype(np.uint8))  # SIFT's floats are whole numbers up to 255


def trimmed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, `(height, width)`, without the black frame of the screen."""
    lit = cv2.blur(image, (5, 5)) > 8
    rows, columns = (np.flatnonzero(lit.mean(axis=axis) > 0.05) for axis in (1, 0))
    if not (len(rows) and len(columns)):
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _thumbnail(image):
    scale = SIDE_PX / max(image.shape)
    size = [max(1, round(side * scale)) for side in image.shape[::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _mirrored(scan):
    points = np.float32([scan.pixels.shape[1] - 1, 0]) + scan.points * np.float32([-1, 1])
    return replace(scan, pixels=scan.pixels[:, ::-1], points=points, descriptors=scan.descriptors[:, _FLIPPED])


def _root(descriptors):
    """RootSIFT: float32 vectors of length 1, so that a product is the cosine of two descriptors."""
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


# === Choose candidates ===


def _candidates(scans):
    """Pairs of images whose features are similar overall: set of `(i, j, mirrored)`, i < j."""
    words = _vocabulary(scans)
    if words is None:
        return set()
    vectors = np.stack([_vlad(scan, words) for scan in scans])
    flipped = np.stack([_vlad(_mirrored(scan), words) for scan in scans])
    count = min(CANDIDATES + 1, len(scans))  # one more, because an image is its own nearest neighbour
    found = set()
    for start in range(0, len(scans), BLOCK):
        for mirrored, queries in ((False, vectors), (True, flipped)):
            alike = queries[start : start + BLOCK] @ vectors.T
            nearest = np.argpartition(-alike, count - 1, axis=1)[:, :count].tolist()
            pairs = ((i, j) for i, others in enumerate(nearest, start) for j in others if i != j)
            found |= {(min(pair), max(pair), mirrored) for pair in pairs}
    return found


def _vocabulary(scans):
    """Typical descriptors, float32 `(n, 128)`; None if there are too few features."""
    from sklearn.cluster import KMeans  # half a second that a prediction need not wait for

    descriptors = np.concatenate([scan.descriptors for scan in scans] or [np.zeros((0, 128), np.uint8)])
    some = np.random.default_rng(0).permutation(len(descriptors))[: 200 * WORDS]
    if len(some) < WORDS:
        return None
    return KMeans(WORDS, n_init=1, max_iter=20, random_state=0).fit(_root(descriptors[some])).cluster_centers_


def _vlad(scan, words):
    """The image as one vector of length 1: for each word, the sum of its features' differences from it."""
    descriptors = _root(scan.descriptors)
    nearest = (descriptors @ words.T - np.sum(words**2, axis=1) / 2).argmax(axis=1)
    member = np.eye(len(words), dtype=np.float32)[nearest]
    vector = member.T @ descriptors - member.sum(axis=0)[:, None] * words
    vector /= np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-6)
    return vector.ravel() / max(np.linalg.norm(vector), 1e-6)


def _exact_pairs(scans):
    same = {}
    for i, scan in enumerate(scans):
        same.setdefault(scan.digest, []).append(i)
    return {pair for members in same.values() for pair in combinations(members, 2)}


# === Compare a pair ===


def _compare(first, second, mirrored):
    """Similarity of two scans, in `[0, 1]`; 0 if too few features agree on a placement."""
    if mirrored:
        first = _mirrored(first)
    placement = _placement(*_matches(first, second))
    return 0.0 if placement is None else _overlap_correlation(first.pixels, second.pixels, placement)


def _matches(first, second):
    """Places of the features that are clearly each other's nearest: two float32 arrays `(n, 2)`."""
    cosine = _root(first.descriptors) @ _root(second.descriptors).T
    if min(cosine.shape) < MIN_MATCHES:
        return first.points[:0], second.points[:0]
    rows = np.arange(len(cosine))
    nearest = cosine.argmax(axis=1)
    best = cosine[rows, nearest]
    mutual = cosine.argmax(axis=0)[nearest] == rows
    cosine[rows, nearest] = -1
    # The squared distance of vectors of length 1 is 2 - 2 * cosine.
    matched = np.flatnonzero(mutual & (1 - best < RATIO**2 * (1 - cosine.max(axis=1))))[:MATCHES]
    return first.points[matched], second.points[nearest[matched]]


def _placement(points, others):
    """The scaling and shift, a float32 matrix `(2, 3)`, that puts most of `points` on `others`; None if too few agree.

    Deterministic RANSAC: every two matches propose one scale and a shift.
    """
    i, j = np.triu_indices(len(points), 1)
    span, other_span = points[j] - points[i], others[j] - others[i]
    scale = np.sum(span * other_span, axis=1) / np.maximum(np.sum(span**2, axis=1), 1)
    wide = (np.abs(span).sum(axis=1) > 5 * TOLERANCE_PX) & (scale > 1 / 3) & (scale < 3)
    i, scale = i[wide], scale[wide, None]
    if not len(scale):
        return None
    shift = others[i] - scale * points[i]
    error = np.abs(scale[:, None] * points + shift[:, None] - others).max(axis=2)
    agreeing = error < TOLERANCE_PX
    best = agreeing.sum(axis=1).argmax()
    points, others = points[agreeing[best]], others[agreeing[best]]
    if len(points) < MIN_MATCHES:
        return None
    # Least squares, each direction with its own scale if the matches are spread enough to estimate it.
    middle, other_middle = points.mean(axis=0), others.mean(axis=0)
    spread = np.mean((points - middle) ** 2, axis=0)
    own = np.mean((points - middle) * (others - other_middle), axis=0) / np.maximum(spread, 1)
    scale = np.where((spread > 100) & (np.abs(own / scale[best] - 1) < 0.2), own, scale[best])
    return np.float32(np.column_stack([np.diag(scale), other_middle - scale * middle]))


def _overlap_correlation(pixels, others, placement):
    """Correlation, 0 or more, of the overlap when `placement` puts `pixels` on `others`."""
    size = others.shape[::-1]
    placed = cv2.warpAffine(pixels, placement, size, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones_like(pixels), placement, size, flags=cv2.INTER_NEAREST)
    border = np.ones((2 * MARGIN_PX + 1, 2 * MARGIN_PX + 1), np.uint8)
    inside = cv2.erode(inside, border, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    if inside.sum() < SIDE_PX:
        return 0.0
    return max(0.0, float(np.corrcoef(_evened(placed)[inside], _evened(others)[inside])[0, 1]))


def _evened(pixels):
    """The pixels without local brightness and with equal local contrast, float32."""
    detail = pixels - cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), CONTRAST_PX)
    contrast = cv2.GaussianBlur(detail**2, (0, 0), CONTRAST_PX)
    return detail / np.sqrt(contrast + 20)  # 20 keeps the noise of black regions small
