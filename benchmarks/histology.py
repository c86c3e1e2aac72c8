"""What a linear classifier of a few numbers of each slide image reaches on patients that are new to it (BreaKHis).

Four kinds of numbers:

- colour: mean and standard deviation of the CIELAB channels, six numbers, blind to all structure;
- efficientnet_lite0, efficientnet_lite2: mean and maximum of a feature map of the frozen ImageNet network, as the label
  head pools them;
- normalised: those of efficientnet_lite0 on images that all have the same mean and deviation of the CIELAB channels
  (Reinhard et al., 2001), so that little of the colour is left.

A logistic regression on standardised numbers. Level of the feature map, size of the image and strength of the penalty
are chosen in each fold by an inner cross-validation on the patients outside its test part. Each kind gets a folder with
`per_image.csv` and `summary.json`, as of `busseg crossval --repeats`, so that `busseg compare` takes it.

Folds: patient and random, as in `busseg crossval`; redrawn, by patient, stratified by the patients' classes alone, so
that each seed has other folds. By the protocol patient each fold also has its share of images, and another seed
exchanges only one or two of its patients.

The learning curve draws patients at random from those outside the test part of seven folds, of 23 patients 19 or 20;
`curve.csv` has the scores by number of patients.

Example: python -m benchmarks.histology data/breakhis100x --out runs/frozen
"""

import argparse
from collections import Counter
from pathlib import Path

import cv2
import joblib
import numpy as np

from busseg.data import find_samples
from busseg.data.protocols import repeat_splits
from busseg.data.splits import Split
from busseg.evaluation.pooling import count_leak
from busseg.evaluation.summary import sum_up, write_scores
from busseg.evaluation.table import fields
from busseg.imaging.images import fit_to_square, read_image
from busseg.storage.files import write_csv

CLASSES = ("benign", "malignant")
SIZES = (96, 224, 288)  # 288: about the native scale of images of 300 px
LEVELS = (0, 1, 2, 3, 4)  # at strides 2 to 32
PENALTIES = (1e-3, 1e-2, 1e-1)  # C of scikit-learn, the inverse of the penalty's strength
KINDS = {
    "colour": (None, False),
    "efficientnet_lite0": ("efficientnet_lite0", False),
    "efficientnet_lite2": ("efficientnet_lite2", False),
    "normalised": ("efficientnet_lite0", True),
}
# Mean and deviation of the CIELAB channels after normalisation, about those of the set.
MEAN, DEVIATION = np.float32([73, 15, -9]), np.float32([12, 8, 6])
PROTOCOLS = ("patient", "random", "redrawn")
CURVE = (5, 10, 15, 20)  # training patients
CURVE_FOLDS = 7


# === Numbers of an image ===
def to_lab(image):
    """CIELAB, float32 `(height, width, 3)`, of an RGB image, uint8."""
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def normalise(image):
    """The image with `MEAN` and `DEVIATION`: RGB, uint8, of the same shape."""
    lab = to_lab(image)
    mean, deviation = lab.mean(axis=(0, 1)), lab.std(axis=(0, 1))
    lab = (lab - mean) / np.maximum(deviation, 1e-6) * DEVIATION + MEAN
    return (np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1) * 255).astype(np.uint8)


def describe_colour(paths):
    """Array `(images, 6)`."""
    labs = [to_lab(read_image(path, colour=True)) for path in paths]
    return np.array([[*lab.mean(axis=(0, 1)), *lab.std(axis=(0, 1))] for lab in labs])


def describe_features(paths, encoder, size, normalised, batch=16):
    """Mean and maximum of each level of the frozen encoder: a list of arrays `(images, 2 * channels)`."""
    import keras

    from busseg.models.encoders import encode

    image = keras.Input((size, size, 3))
    maps = encode(image, encoder, weights="imagenet", fold_batch_norm=True)
    pools = (keras.layers.GlobalAveragePooling2D(), keras.layers.GlobalMaxPooling2D())
    model = keras.Model(image, [keras.layers.Concatenate()([pool(x) for pool in pools]) for x in maps])
    found = []
    for start in range(0, len(paths), batch):
        images = [read_image(path, colour=True) for path in paths[start : start + batch]]
        images = [fit_to_square(normalise(one) if normalised else one, size) for one in images]
        found.append([np.asarray(level) for level in model.predict_on_batch(np.stack(images).astype(np.float32))])
    keras.backend.clear_session()
    return [np.concatenate(level) for level in zip(*found)]


def candidates(paths, kind, cache):
    """Dict from `(size, level)` to the numbers of all images, array `(images, numbers)`."""
    encoder, normalised = KINDS[kind]
    if encoder is None:
        return {("", ""): describe_colour(paths)}
    describe = joblib.Memory(cache, verbose=0).cache(describe_features)
    return {
        (size, level): numbers
        for size in SIZES
        for level, numbers in enumerate(describe(paths, encoder, size, normalised))
    }


# === Classifier ===
def build(penalty):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), LogisticRegression(C=penalty, class_weight="balanced", tol=1e-3, max_iter=200)
    )


def choose(numbers, malignant, groups, seed):
    """The `(size, level)` and penalty of the largest AUC in an inner cross-validation by patient.

    Args:
        numbers: Dict from `(size, level)` to array `(images, numbers)`, of the images outside the test part.
        malignant: Array `(images,)`, bool.
        groups: Array `(images,)` of patients.
        seed: Integer.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(set(groups[malignant])), len(set(groups[~malignant])))
    folds = StratifiedGroupKFold(min(3, fewest), shuffle=True, random_state=seed)
    parts = list(folds.split(groups, malignant, groups))
    scores = {}
    for place, values in numbers.items():
        for penalty in PENALTIES:
            answers = np.zeros(len(groups))
            for inside, outside in parts:
                answers[outside] = (
                    build(penalty).fit(values[inside], malignant[inside]).predict_proba(values[outside])[:, 1]
                )
            scores[place, penalty] = roc_auc_score(malignant, answers)
    return max(scores, key=scores.get)


class Table:
    """The images as arrays: `malignant` and `groups`, and `numbers`, a dict from `(size, level)` to theirs."""

    def __init__(self, samples, numbers):
        self.samples, self.numbers = samples, numbers
        self.malignant = np.array([sample.label == "malignant" for sample in samples])
        self.groups = np.array([sample.group for sample in samples])
        self.places = {sample.name: place for place, sample in enumerate(samples)}

    def where(self, samples):
        return np.array([self.places[sample.name] for sample in samples])

    def choose(self, train, seed, groups):
        """The choice for a classifier of the images at the places `train`; see `choose`."""
        numbers = {place: values[train] for place, values in self.numbers.items()}
        return choose(numbers, self.malignant[train], groups[train], seed)

    def answer(self, train, test, choice):
        """`p_malignant` of the images at the places `test`, by a classifier of those at `train`."""
        place, penalty = choice
        fitted = build(penalty).fit(self.numbers[place][train], self.malignant[train])
        return fitted.predict_proba(self.numbers[place][test])[:, 1]

    def rows(self, test, p_malignant, repeat, fold, leaked):
        for place, p, known in zip(test, p_malignant, leaked):
            sample = self.samples[place]
            yield dict.fromkeys(fields(CLASSES)) | {
                "file": sample.name, "repeat": repeat, "fold": fold, "part": "test", "group": sample.group,
                "patient": sample.attributes["patient"], "label": sample.label, "predicted": CLASSES[int(p >= 0.5)],
                "p_benign": 1 - p, "p_malignant": p, "leaked": bool(known),
            }  # fmt: skip


def redraw(table, seed, folds=5):
    """Splits of folds by patient, stratified by the patients' classes; each fold without a validation part."""
    from sklearn.model_selection import StratifiedKFold

    patients, first = np.unique(table.groups, return_index=True)
    for _, tested in StratifiedKFold(folds, shuffle=True, random_state=seed).split(patients, table.malignant[first]):
        inside = np.isin(table.groups, patients[tested])
        test, train = (
            tuple(sample for sample, one in zip(table.samples, inside) if one == part) for part in (True, False)
        )
        yield Split(train, (), test)


def cross_validate(table, protocol, repeats, out, about):
    """Score one kind of numbers in repeated folds; write the folder `out`. Returns the summary and the choices."""
    if protocol == "redrawn":
        splits = [split for seed in range(repeats) for split in redraw(table, seed)]
    else:
        splits = repeat_splits(protocol, table.samples, 5, 0, repeats)
    # By the protocol random the inner folds are random, too: nothing there knows of patients.
    groups = np.arange(len(table.samples)) if protocol == "random" else table.groups
    rows, choices = [], Counter()
    for fold, split in enumerate(splits):
        train, test = table.where(split.train + split.validation), table.where(split.test)
        choice = table.choose(train, fold, groups)
        p_malignant = table.answer(train, test, choice)
        choices[choice] += 1
        leaked = np.isin(table.groups[test], table.groups[train])
        rows += table.rows(test, p_malignant, fold * repeats // len(splits), fold, leaked)
    about = about | {"protocol": protocol, "seed": 0, "repeats": repeats, "size": None}
    return write_scores(out, rows, **about, leak=count_leak(rows, splits, table.samples)), choices


def draw_patients(table, train, count, seed):
    """The places of the images of `count` patients among those of `train`, with their share of each class."""
    random = np.random.default_rng(seed)
    classes = [np.unique(table.groups[train][table.malignant[train] == label]) for label in (False, True)]
    benign = int(np.clip(round(count * len(classes[0]) / sum(map(len, classes))), 2, count - 2))
    drawn = [
        random.choice(one, min(number, len(one)), replace=False)
        for one, number in zip(classes, (benign, count - benign))
    ]
    return train[np.isin(table.groups[train], np.concatenate(drawn))]


def draw_curve(table, kind, repeats):
    """Rows of `curve.csv`: scores by the number of training patients.

    An inner cross-validation of so few patients chooses by chance, so one choice is made for all, on all patients: the
    curve is slightly too high.
    """
    everywhere = np.arange(len(table.samples))
    choice = table.choose(everywhere, 0, table.groups)
    print(f"{kind:20}the curve uses {choice}")
    splits = repeat_splits("patient", table.samples, CURVE_FOLDS, 0, repeats)
    for count in CURVE:
        rows, drawn = [], []
        for fold, split in enumerate(splits):
            everyone, test = table.where(split.train + split.validation), table.where(split.test)
            train = draw_patients(table, everyone, count, fold)
            drawn.append(len(set(table.groups[train])))
            p_malignant = table.answer(train, test, choice)
            rows += table.rows(test, p_malignant, fold * repeats // len(splits), fold, [False] * len(test))
        one = sum_up(rows)["parts"]["test"]
        row = {"kind": kind, "patients": count, "least": min(drawn), "most": max(drawn)}
        for level, scores in {"image": one, "patient": one["patients"]}.items():
            low, high = scores["intervals"]["malignant_auc"]
            row |= {f"{level}_auc": scores["scores"]["malignant_auc"], f"{level}_low": low, f"{level}_high": high}
        print(
            f"{kind:20}{count:3} patients ({min(drawn)} to {max(drawn)}): AUC {_with_interval(one, 'malignant_auc')}",
            flush=True,
        )
        yield row


def _with_interval(one, name):
    low, high = one["intervals"][name]
    return f"{one['scores'][name]:.3f} [{low:.3f}, {high:.3f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of BreaKHis")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--repeats", type=int, default=5, help="number of seeds")
    parser.add_argument("--curve", nargs="*", choices=KINDS, default=["colour", "efficientnet_lite0"])
    parser.add_argument("--cache", type=Path, help="folder to keep the features in, for the next start")
    arguments = parser.parse_args()
    samples = find_samples(arguments.data, "histology")
    paths, curve = [sample.image for sample in samples], []
    print(f"{len(samples)} images of {len({sample.group for sample in samples})} patients; {arguments.repeats} seeds")
    for kind in dict.fromkeys([*arguments.kinds, *arguments.curve]):
        table = Table(samples, candidates(paths, kind, arguments.cache))
        for protocol in arguments.protocols if kind in arguments.kinds else ():
            about = {"model": kind, "data": arguments.data.name}
            out = arguments.out / f"{kind}-{protocol}"
            summary, choices = cross_validate(table, protocol, arguments.repeats, out, about)
            one = summary["parts"]["test"]
            images, patients = (
                "  ".join(_with_interval(scores, name) for name in ("malignant_auc", "accuracy"))
                for scores in (one, one["patients"])
            )
            print(f"{kind:20}{protocol:9}AUC and accuracy by image {images}, by patient {patients}", flush=True)
            print(
                "  chosen, as (size, level, C):",
                *(f"{place} {count} x" for place, count in choices.most_common(4)),
                flush=True,
            )
        if kind in arguments.curve:
            curve += draw_curve(table, kind, arguments.repeats)
    if curve:
        write_csv(arguments.out / "curve.csv", tuple(curve[0]), curve)


if __name__ == "__main__":
    main()
