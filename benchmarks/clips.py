"""Rules that pool the frames of a clip to one class, on phantom clips in which the lesion comes into view or leaves.

Each rule makes class probabilities of those of the frames: their mean; the mean of their logarithms; their maximum, of
each class; and the mean over the frames that are not called normal, if these are at least a quarter. Prints the share
of the clips that get their class, of all and of each class, and the log loss.

Example: python -m benchmarks.clips --model small --clips 60
"""

import argparse

import numpy as np

from busseg.data.phantom import draw_clip
from busseg.data.sample import CLASSES
from busseg.inference.clips import pool_frames
from busseg.inference.predictor import Predictor
from busseg.storage.progress import track

STEPS_PX, NOISES = (6, 16, 30), (5, 15, 30)
FRAMES, FIRST_SEED = 12, 3000  # apart from the phantoms of tests and demo


def of_logarithms(p):
    return normalised(np.exp(np.log(np.maximum(p, 1e-7)).mean(axis=0)))


def of_maximum(p):
    return normalised(p.max(axis=0))


def of_frames_with_lesion(p):
    with_lesion = p.argmax(axis=1) > 0
    return p[with_lesion].mean(axis=0) if with_lesion.mean() >= 0.25 else p.mean(axis=0)


def normalised(p):
    return p / p.sum()


RULES = {
    "mean": pool_frames,
    "mean of logarithms": of_logarithms,
    "maximum": of_maximum,
    "mean with lesion": of_frames_with_lesion,
}


def predict(predictor, label, number):
    """Probabilities of the frames of one phantom clip, array `(frames, classes)`."""
    step_px, noise = STEPS_PX[number // 3 % 3], NOISES[number % 3]
    images, _ = draw_clip(label, FIRST_SEED + number, FRAMES, step_px, noise)
    return np.array([predictor.predict(image).probabilities for image in images])


def score(rule, clips):
    """The `accuracy`, that `by_class`, and `log_loss` of a rule, for clips `(label, probabilities)`."""
    labels = np.array([CLASSES.index(label) for label, _ in clips])
    pooled = np.array([rule(p) for _, p in clips])
    right = pooled.argmax(axis=1) == labels
    return {
        "accuracy": float(right.mean()),
        "by_class": {CLASSES[one]: float(right[labels == one].mean()) for one in np.unique(labels)},
        "log_loss": float(-np.log(np.maximum(pooled[np.arange(len(labels)), labels], 1e-7)).mean()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--clips", type=int, default=60, help="number of clips a class")
    arguments = parser.parse_args()
    predictor = Predictor(arguments.model)
    wanted = [(label, number) for label in CLASSES for number in range(arguments.clips)]
    clips = [(label, predict(predictor, label, number)) for label, number in track(wanted, "Predicting")]
    single = np.mean([(p.argmax(axis=1) == CLASSES.index(label)).mean() for label, p in clips])
    print(f"{len(clips)} clips of {FRAMES} frames; {single:.3f} of the frames get their class by themselves")
    for name, rule in RULES.items():
        one = score(rule, clips)
        classes = ", ".join(f"{label} {share:.2f}" for label, share in one["by_class"].items())
        print(f"{name:19} accuracy {one['accuracy']:.3f} ({classes}), log loss {one['log_loss']:.3f}")


if __name__ == "__main__":
    main()
