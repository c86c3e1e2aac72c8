"""Score the detector of burned-in marks: on phantoms with drawn marks, and on images of BUSI checked by eye.

`burned_in.csv` names 208 images of BUSI, drawn at random, and whether text, a caliper, a pictogram or the frame of a
Doppler window is drawn into them. The maker's logo counts only where it reaches out of the top left corner, for nearly
every image has a scrap of it there. The thresholds were chosen on the first 112; the other 96 are the scoring part.
The top hat came last, after two wide bright edges in images of neither part had been taken for marks.

The same images, compressed and resized, show how well the detector works on images that were changed after the scan.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from busseg.data.burned_in import count_stroke_pixels, has_marks
from busseg.data.phantom import draw_phantom
from busseg.data.readers.busi import find_samples
from busseg.data.sample import CLASSES
from busseg.imaging.images import read_image
from busseg.storage.files import read_csv, write_text

PHANTOMS = 50  # a class
TEXTS = ("LT 3", "RT AXILLA", "LT UOQ C", "rt")


def jpeg(quality):
    return lambda image: cv2.imdecode(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))[1], 0)


def resized(scale):
    return lambda image: cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


CHANGES = {
    "as they are": lambda image: image,
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "3/4 the size": resized(0.75),
    "half the size": resized(0.5),
}


def draw_marks(image, rng):
    """A dict of copies of an image, each with one kind of mark at a random place, as scanners draw them."""
    height, width = image.shape
    row, column = int(rng.integers(60, height - 60)), int(rng.integers(60, width - 170))
    far = column + int(rng.integers(30, 110)), row + int(rng.integers(-40, 40))
    text, crosses, line = image.copy(), image.copy(), image.copy()
    cv2.putText(text, str(rng.choice(TEXTS)), (column, row), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 235, 2, cv2.LINE_8)
    for end in ((column, row), far):
        cv2.drawMarker(crosses, end, 235, cv2.MARKER_CROSS, 13, 2)
    steps = np.linspace((column, row), far, max(8, abs(far[0] - column) // 3)).round().astype(int)
    line[steps[:, 1], steps[:, 0]] = 235  # a dotted line, one pixel a dot
    return {"text": text, "calipers": crosses, "a dotted line alone": line}


def score_phantoms():
    """Dict from each kind of drawn mark to the share of phantoms in which marks are found."""
    found = {}
    for label in CLASSES:
        for seed in range(PHANTOMS):
            image, _ = draw_phantom(label, seed)
            drawn = {"nothing": image, **draw_marks(image, np.random.default_rng(seed))}
            for kind, marked in drawn.items():
                found.setdefault(kind, []).append(has_marks(marked))
    return {kind: float(np.mean(answers)) for kind, answers in found.items()}


def score_busi(data, rows):
    """The detector's scores on the images of `burned_in.csv`, by change and part: a list of dicts."""
    image_of = {sample.image.stem: sample.image for sample in find_samples(data)}
    images = [read_image(image_of[row["image"]]) for row in track(rows, "Reading images")]
    marked = np.array([row["marked"] == "1" for row in rows])
    scores = []
    for change, apply in CHANGES.items():
        answers = np.array([bool(has_marks(apply(image))) for image in images])
        for part in ("choosing", "scoring"):
            mine = np.array([row["part"] == part for row in rows])
            right, wrong = int((answers & marked & mine).sum()), int((answers & ~marked & mine).sum())
            counts = {"change": change, "part": part, "marked": int((marked & mine).sum()), "found": right}
            ratios = {"precision": right / max(right + wrong, 1), "recall": right / counts["marked"]}
            scores.append({**counts, "wrongly": wrong, **ratios})
    for row, image in zip(rows, images):
        if has_marks(image) != (row["marked"] == "1"):
            print(f"wrong: {row['image']}, marked {row['marked']}, {count_stroke_pixels(image)} pixels of strokes")
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="BUSI's folder, such as data/busi; phantoms alone without")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    found = {"phantoms": score_phantoms()}
    print(f"{PHANTOMS * len(CLASSES)} phantoms; share in which marks are found, by what is drawn:")
    for what, share in found["phantoms"].items():
        print(f"  {what:22}{share:.3f}")
    if arguments.data:
        rows = read_csv(Path(__file__).with_suffix(".csv"), required=("image", "part", "marked"))
        found["busi"] = score_busi(arguments.data, rows)
        print(f"\n{len(rows)} images of BUSI")
        print(f"{'':16}{'part':12}{'marked':>7}{'found':>7}{'wrongly':>8}  precision   recall")
        for one in found["busi"]:
            counts = "{change:16}{part:12}{marked:7}{found:7}{wrongly:8}".format(**one)
            print(f"{counts}{one['precision']:11.3f}{one['recall']:9.3f}")
    if arguments.out:
        write_text(arguments.out, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
