"""Images that a shipped model calls out of distribution: images of other things should be, and scans should not.

The other images are the sample photographs of scikit-image, scikit-learn and Matplotlib, and cut-outs of them; drawn
pages of text; noise; and blank or shaded frames. All are read as grey values, so colour is no clue. DATA are folders
of scans, each a row. The model's own training scans mean little here: `busseg release` reports the share of them that
is flagged out of fold.

Example: python -m benchmarks.unreadable data/stu --json unreadable.json
"""

from pathlib import Path

import numpy as np

from benchmarks.measuring import spread
from benchmarks.reporting import measure_and_report, parse_arguments

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cat", "cell", "checkerboard", "chelsea", "clock", "coffee", "coins", "colorwheel",
    "grass", "gravel", "horse", "hubble_deep_field", "immunohistochemistry", "logo", "microaneurysms", "moon", "page",
    "retina", "rocket", "text",
)  # fmt: skip
QUICK = {"count": 4}


def measure(data=(), count=16, model="best"):
    """Count what is flagged.

    Args:
        data: Sequence of folders of scans.
        count: Number of cut-outs, pages, noises and blank frames, each.
        model: Name of a model that ships, or path of another.

    Returns:
        List of rows.
    """
    from busseg.imaging.clips import read_picture
    from busseg.inference.inputs import find_inputs
    from busseg.inference.predictor import Predictor

    predictor = Predictor(model)
    random = np.random.default_rng(0)
    photographs = list(read_photographs())
    kinds = {
        "photographs": photographs,
        "cut-outs of them": [cut_out(photographs[i % len(photographs)], random) for i in range(count)],
        "pages of text": [draw_page(random) for _ in range(count)],
        "noise": [draw_noise(i, random) for i in range(count)],
        "blank frames": [draw_blank(i, random) for i in range(count)],
    }
    kinds |= {str(folder): [read_picture(path) for path in find_inputs([folder])] for folder in data}
    rows = []
    for kind, images in kinds.items():
        found = [p for i in range(0, len(images), 16) for p in predictor.predict_batch(images[i : i + 16])]
        flagged = sum(not prediction.in_distribution for prediction in found)
        scores = spread([prediction.ood_score for prediction in found])
        rows.append({"kind": kind, "images": len(found), "flagged": flagged, "ood_score": scores})
    return rows


def read_photographs():
    """The sample photographs that come inside packages, as grey values."""
    import cv2
    import matplotlib
    from skimage import data
    from sklearn.datasets import load_sample_images

    samples = Path(matplotlib.get_data_path()) / "sample_data"
    photographs = [getattr(data, name)() for name in PHOTOGRAPHS]
    photographs += load_sample_images().images
    photographs += [cv2.imread(str(path))[..., ::-1] for path in sorted(samples.glob("*.[jp][pn]g"))]
    for pixels in photographs:
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8:
            pixels = pixels.astype(float)
            pixels = np.uint8(255 * (pixels - pixels.min()) / np.ptp(pixels))
        yield cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels


def cut_out(image, random):
    """A quarter of an image."""
    height, width = image.shape
    top, left = random.integers(0, height // 2), random.integers(0, width // 2)
    return np.ascontiguousarray(image[top : top + height // 2, left : left + width // 2])


def draw_page(random):
    """A page of letters, dark on light or light on dark."""
    import cv2

    page = np.full((700, 500), random.choice([255, 235]), np.uint8)
    scale, step = random.uniform(0.4, 0.7), int(random.integers(14, 30))
    for y in range(30, 680, step):
        letters = [chr(random.integers(97, 123)) if random.random() > 0.16 else " " for _ in range(40)]
        cv2.putText(page, "".join(letters), (20, y), cv2.FONT_HERSHEY_SIMPLEX, scale, 0, 1, cv2.LINE_AA)
    return page if random.random() < 0.75 else 255 - page


def draw_noise(number, random):
    """Uniform, normal or Rayleigh noise, or blurred."""
    import cv2

    shape = (400 + 10 * number, 500)
    kinds = (
        lambda: random.uniform(0, 255, shape),
        lambda: random.normal(90, 40, shape),
        lambda: random.rayleigh(50, shape),
        lambda: 255 * cv2.GaussianBlur(random.random(shape), (0, 0), 1 + number / 4),
    )
    return np.clip(kinds[number % 4](), 0, 255).astype(np.uint8)


def draw_blank(number, random):
    """A frame of one grey value, shaded to one side, or with the faint noise of a screen."""
    grey, shape = min(255, 16 * number), (400, 500)
    kinds = (
        lambda: np.full(shape, grey),
        lambda: np.tile(np.linspace(0, 255, 500), (400, 1)),
        lambda: random.normal(grey, 2, shape),
        lambda: np.tile(np.linspace(0, grey, 400)[:, None], (1, 500)),
    )
    return np.clip(kinds[number % 4](), 0, 255).astype(np.uint8)


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "nargs": "*", "default": (), "help": "folders of scans"}),
        ("--count", {"type": int, "help": "cut-outs, pages, noises and blank frames, each (16)"}),
        ("--model", {"help": "name of one that ships, or path (best)"}),
    )
    measure_and_report("unreadable", measure, settings, path)


if __name__ == "__main__":
    main()
