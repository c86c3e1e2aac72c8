"""Synthetic histology images, for the examples and the tests of the histology task.

Haematoxylin stains the nuclei, eosin the background; the stains absorb light by the Beer-Lambert law. The classes
differ in the features that a pathologist checks first: benign nuclei are small, round, similar and separate; malignant
ones are large, irregular, of all sizes, and crowded. Each patient has her own stain and density of nuclei. Phantoms
exercise the toolkit; a score on them says nothing about patients.

References:
    Elston and Ellis, "Pathological prognostic factors in breast cancer", Histopathology 19(5), 1991: nuclear grading
    Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", Anal. Quant. Cytol. Histol.
    23(4), 2001: the two stains' colours
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from busseg.data.readers.breakhis import CLASSES, MAGNIFICATIONS
from busseg.imaging.images import write_image

# Optical density of the two stains in red, green and blue.
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29], np.float32), np.array([0.07, 0.99, 0.11], np.float32)
NUCLEUS_PX = {40: 2.5, 100: 4, 200: 7, 400: 12}  # radius of a benign nucleus at each magnification
CROWDED = 0.4  # share of nuclei in the most crowded malignant image


def draw_tissue(
    label: str, magnification: int, patient: int, number: int, height: int = 230, width: int = 350
) -> NDArray[np.uint8]:
    """Draw one histology image; the same arguments give the same pixels.

    Args:
        label: One of `breakhis.CLASSES`.
        magnification: One of `breakhis.MAGNIFICATIONS`.
        patient: Number of the patient, int >= 0; it determines stain and density of nuclei.
        number: Number of the image, int >= 0.
        height, width: Size of the image in pixels.

    Returns:
        Array `(height, width, 3)`, uint8, RGB.

    Raises:
        ValueError: If `label` or `magnification` has another value.
    """
    for name, value, allowed in (("label", label, CLASSES), ("magnification", magnification, MAGNIFICATIONS)):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={value!r}")
    malignant = label == "malignant"
    hers = np.random.default_rng((patient, CLASSES.index(label)))
    stain = hers.uniform((0.8, 0.35), (1.3, 0.65))  # how much of each
    share = hers.uniform(0.5, 1) * (CROWDED if malignant else 0.5 * CROWDED)
    rng = np.random.default_rng((patient, CLASSES.index(label), magnification, number))

    radius = NUCLEUS_PX[magnification] * (1.6 if malignant else 1.0)
    nuclei = np.zeros((height, width), np.float32)
    for _ in range(round(share * height * width / (np.pi * radius**2))):
        size = radius * np.exp(rng.normal(0, 0.35 if malignant else 0.08))
        longer = np.exp(rng.uniform(0, 0.6 if malignant else 0.15))
        place = rng.uniform(0, (width, height))
        dark = float(rng.uniform(0.5, 1.2) if malignant else rng.uniform(0.75, 0.95))
        box = (place.tolist(), (2 * size * longer, 2 * size / longer), float(rng.uniform(0, 180)))
        cv2.ellipse(nuclei, box, dark, -1, cv2.LINE_AA)
    fibres = cv2.GaussianBlur(rng.standard_normal((height, width), np.float32), (0, 0), 2 * radius, sigmaY=radius / 2)
    fibres = 1 + 0.25 * fibres / fibres.std()
    chromatin = 1 + 0.2 * rng.standard_normal((height, width), np.float32)
    density = np.multiply.outer(stain[0] * nuclei * chromatin, HAEMATOXYLIN)
    density += np.multiply.outer(stain[1] * np.maximum(fibres, 0) * (nuclei == 0), EOSIN)
    light = cv2.GaussianBlur(np.exp(-density), (0, 0), 0.7)
    return np.clip(245 * light + rng.normal(0, 2, light.shape), 0, 255).astype(np.uint8)


def write_tissue(
    root: str | Path, patients: int = 10, images: int = 5, progress: Callable[[Iterable], Iterable] = iter
) -> None:
    """Write a folder with the layout of BreaKHis, with synthetic adenosis and ductal carcinoma.

    Args:
        root: Path of the folder.
        patients: Number of patients per class, at most 1,000.
        images: Number of images of each patient at each magnification.
        progress: Function that wraps the iteration over the patients, for a progress bar.
    """
    made_up = {"benign": ("B_A", "adenosis", 1000), "malignant": ("M_DC", "ductal_carcinoma", 2000)}
    for label, patient in progress([(label, patient) for label in CLASSES for patient in range(patients)]):
        letters, subtype, first = made_up[label]
        slide = f"99-{first + patient}"
        for magnification in MAGNIFICATIONS:
            folder = Path(root) / label / "SOB" / subtype / f"SOB_{letters}_{slide}" / f"{magnification}X"
            for number in range(images):
                name = f"SOB_{letters}-{slide}-{magnification}-{number + 1:03}.png"
                write_image(folder / name, draw_tissue(label, magnification, patient, number))
