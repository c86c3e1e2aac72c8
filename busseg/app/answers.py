"""What the page answers to one image, apart from how it is shown: no web, no files left."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from busseg.inference.occlusion import occlusion
from busseg.inference.overlay import draw_heat
from busseg.inference.predictor import THRESHOLD, UNREADABLE, Prediction


@dataclass(frozen=True)
class Answer:
    """A prediction, and what it takes to draw it and to move its threshold without another one.

    Args:
        name: Name of the file, without its folder.
        image: Array `(height, width)` uint8, grey.
        prediction: The `Prediction`, whose mask is that of the threshold.
        classes: Names of the classes, in the order of the prediction's probabilities.
        threshold: Lesion probability from which on a pixel is lesion.
    """

    name: str
    image: np.ndarray
    prediction: Prediction
    classes: tuple[str, ...]
    threshold: float = THRESHOLD

    @property
    def stem(self):
        """The name without its suffix, for files that tell of it."""
        return Path(self.name).stem


def answer_file(predictor, path, threshold=THRESHOLD):
    """Read an image file and predict it.

    Args:
        predictor: A `Predictor` of ultrasound.
        path: Path of an image file; see `images.read_image`.
        threshold: Lesion probability in `[0, 1]` from which on a pixel is lesion.

    Returns:
        An `Answer`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image that can be read, or the threshold is out of its range.
    """
    return answer_image(predictor, predictor.read(path), Path(path).name, threshold)


def answer_image(predictor, image, name, threshold=THRESHOLD):
    """Like `answer_file`, of an array `(height, width)` uint8 with a name."""
    return at_threshold(Answer(name, image, predictor.predict(image), predictor.classes), threshold)


def at_threshold(answer, threshold):
    """The same answer with the mask of another threshold; the network is not asked again."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"Expected a threshold in [0, 1], found {threshold}")
    mask = (answer.prediction.probability_map >= threshold).astype(np.uint8)
    return replace(answer, prediction=replace(answer.prediction, mask=mask), threshold=float(threshold))


def explain(predictor, answer):
    """Where a model looks; see `occlusion`.

    Args:
        predictor: The `Predictor` that gave the answer.
        answer: An `Answer`.

    Returns:
        Dict for JSON: `file`, `label`, `drop`, the most that its probability falls by when a place is covered, and
        `heat`, a PNG of native size as a `data:` address: the image, from blue, where covering makes the label likelier
        or changes it least, to yellow, where the drop is greatest.
    """
    label = answer.prediction.label
    drops = occlusion(predictor, answer.image, label)
    heat = png_address(draw_heat(answer.image, drops))
    return {"file": answer.name, "label": label, "drop": round(float(drops.max()), 6), "heat": heat}


def facts(answer):
    """What an answer says, as a dict for JSON.

    Returns:
        Dict with `file`, `label`, `probabilities` (class to number), `threshold`, `width` and `height` of the image,
        `lesion_px`, `lesion_fraction`, `box` (left, top, width, height in pixels, or None), `contours` (lists of x, y),
        `uncertainty`, `warning` (None, or that the image is none the model could read), and `mask`: a PNG of native
        size, 0/255, as a `data:` address.
    """
    prediction = answer.prediction
    height, width = answer.image.shape
    return {
        "file": answer.name,
        "label": prediction.label,
        "probabilities": {name: round(float(p), 6) for name, p in zip(answer.classes, prediction.probabilities)},
        "threshold": answer.threshold,
        "width": width,
        "height": height,
        "lesion_px": prediction.lesion_px,
        "lesion_fraction": round(prediction.lesion_fraction, 6),
        "box": prediction.box,
        "contours": [outline.tolist() for outline in prediction.contours],
        "uncertainty": None if prediction.uncertainty is None else round(prediction.uncertainty, 6),
        "warning": None if prediction.readable else UNREADABLE,
        "mask": png_address(prediction.mask * 255),
    }


def png_address(pixels):
    """An image as a `data:` address: PNG, every pixel as it is.

    Args:
        pixels: Array `(height, width)` grey or `(height, width, 3)` RGB, uint8.
    """
    _, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels)
    return address("image/png", png.tobytes())


def address(kind, content):
    """Bytes as a `data:` address, which a browser shows or saves without asking for anything."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
