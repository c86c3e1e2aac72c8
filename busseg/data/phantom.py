"""Synthetic B-mode breast ultrasound with lesions, for the demo, the examples and the tests.

Drawing simulates a scan. Three maps describe the tissue: diffuse echo level, specular sheets and attenuation. A lesion
changes the maps, not the image, so its posterior shadow or enhancement follows from its attenuation. `envelope`
computes the fully developed speckle of a pulse-echo scanner, and log compression the grey levels. Phantoms exercise the
toolkit; a score on them says nothing about patients.

References:
    Wagner et al., "Statistics of Speckle in Ultrasound B-Scans", IEEE Trans. Sonics Ultrason. 30(3), 1983
    Stavros et al., "Solid breast nodules", Radiology 196(1), 1995: the signs that tell malignant from benign
    Al-Dhabyani et al., "Dataset of breast ultrasound images" (BUSI), Data in Brief 28, 2020
"""

from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.sample import CLASSES
from busseg.imaging.images import write_image
from busseg.imaging.threads import map_in_turn

# Echo levels are in dB re scatterers of rms amplitude 1.
DYNAMIC_RANGE_DB = 58  # from black to white
WHITE_DB = 20
NOISE_DB = -36
SPECULAR = 4.0  # amplitude of a full sheet that faces the beam
LESION_AREA = {"benign": 0.04, "malignant": 0.12}  # medians of BUSI, as fractions of the image

# From the skin down: skin, fat, gland, retromammary fat, pectoral muscle, chest wall. Thickness is a fraction of the
# image height; the chest wall takes the rest.
LAYER_THICKNESS = np.array([0.035, 0.2, 0.33, 0.08, 0.2], np.float32)
LAYER_ECHO_DB = np.array([-4, -17, -8, -17, -19, -26], np.float32)
LAYER_ECHO_SPREAD_DB = np.array([1, 3, 3, 2, 3, 4], np.float32)
LAYER_ATTENUATION_DB = np.array([0, 2, 6, 6, 14, 50], np.float32)  # per image height, after the machine's gain
# Strength of each kind of sheet in each layer, 0..1
SEPTA = np.array([0, 0.7, 0.5, 0.5, 0.1, 0.05], np.float32)
STRANDS = np.array([0, 0.2, 0.5, 0.3, 0.1, 0.05], np.float32)
FIBRES = np.array([0, 0, 0.1, 0.1, 0.5, 0.05], np.float32)


def draw_phantom(
    label: str, seed: int, height: int = 360, width: int = 440
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one phantom and its mask; the same arguments give the same pixels.

    Args:
        label: One of `CLASSES`. A normal phantom has an empty mask.
        seed: Int >= 0.
        height, width: Size of the image in pixels.

    Returns:
        `(image, mask)`, both uint8 `(height, width)`: grey levels 0..255; 1 on the body of the lesion without
        its halo and shadow, else 0.

    Raises:
        ValueError: If `label` is not one of `CLASSES`.
    """
    image, (mask,) = _draw(label, seed, height, width, lesions=1)
    return image, mask


def draw_clip(
    label: str, seed: int, frames: int = 12, step_px: int = 8, noise: float = 8, height: int = 360, width: int = 440
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a clip in which the probe moves sideways over one phantom, and the masks of its frames.

    Args:
        label, seed, height, width: As of `draw_phantom`; the size is that of a frame.
        frames: Number of frames.
        step_px: Pixels by which the tissue moves to the left from frame to frame. A lesion may come into view or leave.
        noise: Standard deviation of the noise of each frame, in grey levels.

    Returns:
        `(images, masks)`, both uint8 `(frames, height, width)`, with the values of `draw_phantom`.
    """
    image, mask = draw_phantom(label, seed, height, width + step_px * (frames - 1))
    starts = [step_px * number for number in range(frames)]
    images = np.stack([image[:, start : start + width] for start in starts])
    noisy = images + np.random.default_rng(seed).normal(0, noise, images.shape)
    return np.rint(noisy).clip(0, 255).astype(np.uint8), np.stack([mask[:, start : start + width] for start in starts])


def write_phantoms(
    root: str | Path, per_class: int = 20, seed: int = 0, progress: Callable[[Iterable], Iterable] = iter
) -> None:
    """Write a folder with the layout of BUSI: `root/benign/phantom benign (1).png`, `..._mask.png`, ...

    Sizes vary. Every tenth lesion image holds two lesions and has a second mask, `..._mask_1.png`. Masks are 0/255.
    The stem starts with "phantom", because the published list of duplicates contains real BUSI names.

    Args:
        root: Path of the folder.
        per_class: Number of images per class.
        seed: Int >= 0. The same seed gives the same images.
        progress: Function that wraps the iteration over the images, for a progress bar.
    """

    def write(phantom):
        label, number = phantom
        height, width = np.random.default_rng((seed, number)).integers((320, 380), (420, 500))
        lesions = 2 if number % 10 == 0 and label != "normal" else 1
        image, masks = _draw(label, seed * per_class + number, height, width, lesions)
        stem = f"phantom {label} ({number})"
        write_image(Path(root) / label / f"{stem}.png", image)
        for mask, suffix in zip(masks, ("_mask", "_mask_1")):
            write_image(Path(root) / label / f"{stem}{suffix}.png", mask * 255)

    phantoms = list(product(CLASSES, range(1, per_class + 1)))
    for _ in zip(progress(phantoms), map_in_turn(write, phantoms)):
        pass


def envelope(
    amplitude: NDArray[np.floating],
    rng: np.random.Generator,
    specular: NDArray[np.floating] | float = 0.0,
    axial_px: float = 0.7,
    lateral_px: float = 1.2,
) -> NDArray[np.float32]:
    """Echo envelope of unresolved scatterers: speckle with Rayleigh statistics, mean / std = 1.91 where uniform.

    The scatterers are a complex Gaussian field, weighted by `amplitude` and blurred by the pulse: short along
    the beam, wider across it, and wider still with depth.

    Args:
        amplitude: Float array `(height, width)`, rms echo of the scatterers, linear.
        rng: `np.random.Generator`.
        specular: Array like `amplitude`: echo of smooth interfaces, which has one phase and so no speckle.
        axial_px, lateral_px: Standard deviations of the pulse in pixels, at the top of the image.

    Returns:
        float32 `(height, width)`, linear, with mean square `amplitude**2` where `specular` is 0.
    """
    depth = np.linspace(0, 1, len(amplitude), dtype=np.float32)[:, None]
    scatterers = rng.standard_normal((2, *amplitude.shape), dtype=np.float32)  # real and imaginary part
    scatterers *= amplitude * np.float32(np.sqrt(2 * np.pi * axial_px * lateral_px))
    scatterers[0] += specular
    for part in scatterers:
        near = cv2.GaussianBlur(part, (0, 0), sigmaX=lateral_px, sigmaY=axial_px)
        # A second blur of the same width makes the pulse sqrt(2) wider and its energy sqrt(2) lower.
        far = cv2.GaussianBlur(near, (0, 0), sigmaX=lateral_px, sigmaY=0.01) * np.float32(2**0.25)
        part[:] = near + depth * (far - near)
    return np.asarray(cv2.magnitude(*scatterers), np.float32)


def _draw(label, seed, height, width, lesions):
    """The image and a list of its masks, one a lesion; one empty mask for a normal image."""
    if label not in CLASSES:
        raise ValueError(f"`label` must be one of {CLASSES}. Received: label={label!r}")
    rng = np.random.default_rng((seed, CLASSES.index(label)))
    tissue = _bend(rng, _flat_tissue(rng, height // 2, width // 2), height, width)
    masks = [np.zeros((height, width), np.uint8)]
    if label != "normal":
        masks = [_lesion_mask(label, rng, height, width, slot, lesions) for slot in range(lesions)]
        for mask in masks:
            tissue = _with_lesion(label, rng, mask, *tissue)
    return _scan(rng, *tissue), masks


def _flat_tissue(rng, height, width):
    """A healthy breast in layers: maps `(height, width)` of echo (dB), sheets (linear), attenuation (dB / height)."""
    shape = height, width
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    # === Layers, each with a wavy boundary ===
    thickness = LAYER_THICKNESS * rng.uniform([0.7, 0.3, 0.3, 0.3, 0.4], [1.2, 1.7, 1.7, 1.7, 1.6])
    waves = np.stack([_noise(rng, (1, width), 1, 7)[0] for _ in thickness])
    waves *= np.float32([0.002, 0.03, 0.04, 0.02, 0.02])[:, None]
    layer = sum((depth > boundary).astype(np.uint8) for boundary in np.cumsum(thickness)[:, None] + waves)
    layer_echo = rng.normal(LAYER_ECHO_DB, LAYER_ECHO_SPREAD_DB).astype(np.float32)
    # === Texture: streaks along the layers, and dark fat lobules in the gland, which resemble lesions ===
    echo = layer_echo[layer] + 2 * _noise(rng, shape, 8, 5)
    echo += rng.uniform(1.5, 4) * _noise(rng, shape, 45, 18) + rng.uniform(1, 4) * _noise(rng, shape, 70, 50)
    lobules = _noise(rng, shape, 14, 10) - rng.uniform(0.6, 2)
    echo += (layer == 2) * np.clip(-30 * lobules, layer_echo[1] - layer_echo[2], 0)
    # === Sheets: septa round the lobules, finer strands, fibres along the muscle, fascia between the layers ===
    septa, upright = _sheets(_noise(rng, shape, 16, 6), 0.7)
    strands, _ = _sheets(_noise(rng, shape, 45, 12), 0.5)
    fibres, _ = _sheets(_noise(rng, shape, 60, 4), 0.5)
    patches = np.exp(0.9 * _noise(rng, shape, 24, 14) - 1)  # no sheet is bright all along
    sheets = SEPTA[layer] * septa + STRANDS[layer] * strands + FIBRES[layer] * fibres
    sheets[1:] += layer[1:] != layer[:-1]
    sheets *= np.minimum(patches, 2)
    sheets[0] = 1  # where the sound enters the skin
    # === Attenuation: the layers, septa along the beam, and bad contact between probe and skin ===
    contact = np.clip(_noise(rng, (1, width), 1, 7) - rng.uniform(0.5, 2), 0, 1)
    attenuation = LAYER_ATTENUATION_DB[layer] + 40 * upright * (layer < 3) + 140 * contact * (depth < 0.1)
    return echo, sheets, attenuation


def _bend(rng, maps, height, width):
    """The maps at full size, with their flat layers bent by one smooth shift, which grows from 0 at the skin."""
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)
    tilt = np.float32(rng.normal(0, 0.12)) * (columns - 0.5)
    bent = rows + np.minimum(rows * 3, 1) * (tilt + np.float32(0.03) * _noise(rng, (height, width), 3, 4))
    scale = np.float32(maps[0].shape) - 1
    grid = np.repeat(columns[None] * scale[1], height, axis=0), bent * scale[0]
    return [cv2.remap(values, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for values in maps]


def _lesion_mask(label, rng, height, width, slot, slots):
    """uint8 `(height, width)`: one filled outline, completely inside strip `slot` of `slots` equal strips."""
    benign = label == "benign"
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    # Radius as a Fourier series: two gentle waves for a lobulated margin, many steep ones for an angular margin.
    orders = np.arange(2, 4 if benign else 20)[:, None]
    waves = rng.normal(0, 0.08 if benign else rng.uniform(0.12, 0.25), orders.shape) * (2 / orders)
    log_radius = np.sum(waves * np.cos(orders * angle + rng.uniform(0, 2 * np.pi, orders.shape)), axis=0)
    if not benign:
        spicules = rng.uniform(0, 2 * np.pi, (rng.integers(0, 8), 1))
        log_radius += np.sum(0.25 * np.exp((np.cos(angle - spicules) - 1) * 150), axis=0)
    tall = np.exp(rng.normal(np.log(0.58 if benign else 0.85), 0.25))  # height over width
    turn = rng.normal(0, 0.2)
    points = np.exp(log_radius + 1j * angle)
    points = (points.real + 1j * tall * points.imag) * np.exp(1j * turn)
    outline = np.stack([points.real, points.imag], axis=1).astype(np.float32)
    outline -= outline.min(axis=0)
    # === Scale to the wanted area, then smaller if it does not fit ===
    area = LESION_AREA[label] * np.exp(rng.normal(0, 1 if benign else 0.7)) * height * width
    outline *= np.sqrt(area / cv2.contourArea(outline))
    room = 0.94 * np.array([width / slots, 0.75 * height])
    outline *= min(1, *(room / outline.max(axis=0)))
    corner = (room - outline.max(axis=0)) * [rng.uniform(), rng.beta(1.3, 2)]
    corner += [(slot + 0.03) * width / slots, 0.06 * height]
    outline += corner
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [np.round(outline).astype(np.int32)], 1)


def _with_lesion(label, rng, mask, echo, sheets, attenuation):
    """The three maps with a lesion in place of the tissue under `mask`."""
    benign = label == "benign"
    body = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), rng.uniform(0.8, 2) if benign else rng.uniform(1.5, 6))
    tall = float(np.mean(mask.any(axis=1)))  # the lesion's height as a fraction of the image's
    host = cv2.mean(echo, mask)[0]
    if benign:
        cyst = rng.uniform() < 0.35
        inside = -45 if cyst else host - rng.uniform(4, 19) + 2 * _noise(rng, mask.shape, 30, 20)
        # The capsule reflects where it faces the beam; where it runs along the beam, it refracts sound away.
        upright, facing = (np.abs(cv2.Sobel(body, cv2.CV_32F, dx, 1 - dx, scale=1 / 4)) for dx in (1, 0))
        loss = -rng.normal(8, 5) / tall * body + rng.uniform(0, 200) * upright
        rim = rng.uniform(0.1, 0.7) * facing * np.exp(0.7 * _noise(rng, mask.shape, 12, 12))
    else:
        inside = host - rng.uniform(0, 10) + rng.uniform(2, 6) * _noise(rng, mask.shape, 20, 16)
        halo = cv2.GaussianBlur(body, (0, 0), 0.03 * len(mask)) * (1 - body)
        echo = echo + rng.uniform(0, 45) * halo
        loss = rng.normal(13, 9) / tall * body
        rim = rng.uniform(0, 0.12) * sheets * body  # strands that the tumour has not replaced yet
    rest = 1 - body
    return rest * echo + body * inside, rest * sheets + rim, rest * attenuation + loss


def _scan(rng, echo, sheets, attenuation):
    """uint8 `(height, width)`: the machine's image of the three maps."""
    height, width = echo.shape
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    # The beam is a few millimetres wide, so the edges of shadows are soft.
    loss = cv2.GaussianBlur(np.cumsum(attenuation, axis=0) / height, (0, 0), sigmaX=0.012 * width, sigmaY=0.01)
    focus = 4 * np.exp(-(((depth - rng.uniform(0.2, 0.6)) / 0.25) ** 2))
    gain = rng.normal(0, 2) - rng.uniform(5, 25) * depth**2
    beam = _linear(gain + focus - loss)
    # Sheets are slightly rough: a part of their echo speckles like tissue.
    received = envelope(beam * (_linear(echo) + sheets), rng, specular=beam * sheets * SPECULAR)
    # Compounding of several views reduces speckle; electronic noise hides weaker echoes.
    received = cv2.GaussianBlur(received, (0, 0), sigmaX=1.1, sigmaY=0.7) + _linear(np.float32(NOISE_DB))
    grey = 255 + 255 / DYNAMIC_RANGE_DB * (20 * np.log10(received) - WHITE_DB)
    return np.clip(grey, 0, 255).astype(np.uint8)


def _linear(level_db):
    return np.exp(level_db * np.float32(np.log(10) / 20))


def _noise(rng, shape, rows, columns):
    """Smooth random field of about unit variance, float32 of `shape`, with `rows x columns` bumps."""
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _sheets(field, width_px):
    """Thin curved sheets along a smooth field's zero crossings, as two maps in [0, 1]: facing the beam, and upright."""
    across, along = (cv2.Sobel(field, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) ** 2 for dx in (1, 0))
    slope = across + along
    slope += 0.1 * slope.mean()  # no wide blots where the field is flat
    lines = np.exp(-(field**2) / (slope * np.float32(width_px**2))) / slope
    return lines * along, lines * across
