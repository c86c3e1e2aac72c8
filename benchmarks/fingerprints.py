"""Distances in bits between the fingerprints of copies and of other images, and the time of a look-up.

DATA is BUSI's folder. Its images, without groups of several classes, are the training images of the shipped models and
count as known. They are changed in several ways and looked up; so are the images of other folders.

Example: python -m benchmarks.fingerprints data/busi data/stu data/busbra data/breast
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from busseg.data import find_samples
from busseg.data.fingerprints import MOST_BITS, differing_bits, fingerprint
from busseg.data.splits import train_on_all
from busseg.imaging.images import read_image
from busseg.inference.inputs import find_inputs


def jpeg(image, scale, quality):
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", resized, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def crop(image, share):
    rows, columns = (round(side * share) for side in image.shape)
    return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]


def frame(image, share):
    rows, columns = (round(side * share) for side in image.shape)
    return cv2.copyMakeBorder(image, rows, rows, columns, columns, cv2.BORDER_CONSTANT)


CHANGES = {
    "JPEG of quality 75 at half size": lambda image: jpeg(image, 0.5, 75),
    "JPEG of quality 10 at half size": lambda image: jpeg(image, 0.5, 10),
    "JPEG of quality 75 at a quarter": lambda image: jpeg(image, 0.25, 75),
    "mirrored, JPEG at half size": lambda image: jpeg(np.ascontiguousarray(image[:, ::-1]), 0.5, 75),
    "resized to 256 x 256": lambda image: cv2.resize(image, (256, 256)),
    "gamma 0.8 and 10 brighter": lambda image: np.clip(255 * (image / 255) ** 0.8 + 10, 0, 255).astype(np.uint8),
    "a line of text": lambda image: cv2.putText(image.copy(), "PATIENT 1234", (20, 40), 0, 1.0, 255, 2),
    "1 % cropped from each side": lambda image: crop(image, 0.01),
    "2 % cropped from each side": lambda image: crop(image, 0.02),
    "5 % cropped from each side": lambda image: crop(image, 0.05),
    "black frame of 10 % a side": lambda image: frame(image, 0.1),
}


def print_row(kind, bits):
    low, middle, high = np.quantile(bits, (0, 0.5, 1)).astype(int)
    known = np.mean(np.array(bits) <= MOST_BITS)
    print(f"{kind:34}{len(bits):7}{low:8}{middle:8}{high:8}{known:10.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="BUSI's folder, such as data/busi")
    parser.add_argument("others", type=Path, nargs="*", help="folders of other images")
    arguments = parser.parse_args()

    samples = train_on_all(find_samples(arguments.data)).train
    images = [read_image(sample.image) for sample in samples]
    start = time.process_time()
    known = np.stack([fingerprint(image) for image in images])
    print(f"{len(known)} fingerprints took {time.process_time() - start:.2f} s of CPU time")
    start = time.process_time()
    for image in images:
        differing_bits(known, image)
    print(f"to ask for as many took {time.process_time() - start:.2f} s of CPU time\n")

    print(f"{'bits that differ':34}{'images':>7}{'least':>8}{'median':>8}{'most':>8}{'known':>10}")
    for kind, change in CHANGES.items():
        print_row(kind, [differing_bits(one[None], change(image)) for one, image in zip(known, images)])
    members = defaultdict(list)
    for number, sample in enumerate(samples):
        members[sample.group].append(number)
    pairs = [(i, [j for j in group if j != i]) for group in members.values() if len(group) > 1 for i in group]
    print_row("published copies, nearest other", [differing_bits(known[others], images[i]) for i, others in pairs])
    strangers = [np.array([other.group != sample.group for other in samples]) for sample in samples]
    print_row("BUSI, other groups", [differing_bits(known[mine], image) for mine, image in zip(strangers, images)])
    for folder in arguments.others:
        print_row(str(folder), [differing_bits(known, read_image(path)) for path in find_images(folder)])


def find_images(folder):
    """The images of a dataset, without its masks; of any other folder all."""
    try:
        return [sample.image for sample in find_samples(folder)]
    except (OSError, ValueError):
        return find_inputs([folder])


if __name__ == "__main__":
    main()
