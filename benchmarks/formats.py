"""Results, size and speed of each format of `busseg export`, compared with the Keras model that it was written from.

Every image of DATA is predicted by the source and by each export: how many have the same class, how much of the masks
is the same pixel by pixel, the lesion Dice of each, and how long one image takes, timed in turns with the source. MODEL
is a `.keras` file, or folders of runs. Each run predicts only the test part of its fold, so that the Dice of all runs
is out of fold.

Example: python -m benchmarks.formats data/busi runs/best/fold-* --json formats.json
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measuring import Worker, spread, time_in_turns
from benchmarks.reporting import measure_and_report, parse_arguments

# Format, weights, and how its path ends.
EXPORTS = (
    ("saved_model", "float32", ""),
    ("onnx", "float32", ".onnx"),
    ("onnx", "float16", ".onnx"),
    ("onnx", "int8", ".onnx"),
    ("litert", "float32", ".tflite"),
    ("litert", "float16", ".tflite"),
    ("litert", "int8", ".tflite"),
    ("openvino", "float32", ""),
    ("openvino", "float16", ""),
)
QUICK = {"images": 6, "repeats": 2}


def measure(data, models, images=None, repeats=5):
    """Compare the formats.

    Args:
        data: Dataset folder.
        models: Paths of `.keras` files or runs' folders. Sizes and times are those of the first.
        images: Number of images a model is asked about; None asks about all.
        repeats: Number of turns of ten images each.

    Returns:
        List of rows, the source first.
    """
    from rich.progress import track

    answers_of, rows = {}, []
    for number, model in enumerate(models):
        samples = _samples(data, model)[:images]
        with tempfile.TemporaryDirectory() as folder:
            exported = _export(model, Path(folder))
            for name, path in track(exported.items(), f"Model {number + 1} of {len(models)}"):
                answers_of.setdefault(name, []).extend(_ask(path, samples))
            if number == 0:
                rows = _weigh_and_time(exported, repeats)
    for row, (name, answers) in zip(rows, answers_of.items(), strict=True):
        row |= _compare(answers_of["keras, float32"], answers) if name != "keras, float32" else {"images": len(answers)}
        row["lesion Dice"] = float(np.mean([one["dice"] for one in answers if one["dice"] is not None]))
        row["accuracy"] = float(np.mean([one["right"] for one in answers]))
    return rows


def _samples(data, model):
    from busseg.data import find_samples
    from busseg.data.splits import read_split

    samples, splits = find_samples(data), Path(model) / "splits.csv"
    return read_split(splits, samples).test if splits.is_file() else samples


def _export(model, folder):
    """Dict from the name of each export to its path, the source first."""
    from busseg.export.formats import FORMATS

    paths = {"keras, float32": Path(model) / "model.keras" if Path(model).is_dir() else Path(model)}
    for format, weights, end in EXPORTS:
        path = folder / f"{format}-{weights}{end}"
        FORMATS[format](model, path, **({"weights": weights} if weights != "float32" else {}))
        paths[f"{format}, {weights}"] = path
    return paths


def _ask(path, samples):
    """The result of a model for each sample: a dict of its class, its mask, and their scores."""
    from busseg.evaluation.scores import overlap_scores
    from busseg.imaging.images import read_image, read_mask
    from busseg.inference.predictor import Predictor

    predictor, answers = Predictor(path), []
    for sample in samples:
        prediction = predictor.predict(read_image(sample.image))
        lesion = read_mask(sample.masks, prediction.mask.shape)
        dice = overlap_scores(lesion, prediction.mask)["dice"] if lesion.any() else None
        answers.append(
            {
                "label": prediction.label,
                "mask": np.packbits(prediction.mask),
                "pixels": prediction.mask.size,
                "dice": dice,
                "right": prediction.label == sample.label,
            }
        )
    return answers


def _compare(source, answers):
    same = [
        1 - int(np.bitwise_count(a["mask"] ^ b["mask"]).sum()) / a["pixels"]
        for a, b in zip(source, answers, strict=True)
    ]
    return {
        "images": len(answers),
        "same class": sum(a["label"] == b["label"] for a, b in zip(source, answers)),
        "same pixels, %": 100 * float(np.mean(same)),
        "of the worst image, %": 100 * min(same),
    }


def _weigh_and_time(exported, repeats):
    (source, source_path), *others = exported.items()
    rows = []
    with Worker("benchmarks.formats:one_image", {"path": str(source_path)}) as keras:
        for name, path in others:
            with Worker("benchmarks.formats:one_image", {"path": str(path)}) as export:
                times = time_in_turns(lambda: keras.time(10), lambda: export.time(10), repeats)
            milliseconds = spread([1000 * s for s in times["second"]])
            rows.append(
                {"what": name, "MB": _size(path), "ms an image": milliseconds, "faster by": spread(times["gain"])}
            )
        first = spread([1000 * s for s in times["first"]])
    return [{"what": source, "MB": _size(source_path), "ms an image": first}, *rows]


def _size(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def one_image(path):
    """A worker's maker: one phantom, from its pixels to the answer at its size."""
    from busseg.data.phantom import draw_phantom
    from busseg.inference.predictor import Predictor

    predictor, (image, _) = Predictor(path), draw_phantom("malignant", seed=0)
    predictor.predict(image)
    return {}, lambda: predictor.predict(image)


def main():
    settings, path = parse_arguments(
        __doc__,
        QUICK,
        ("data", {"type": Path, "help": "dataset folder, such as data/busi"}),
        ("models", {"type": Path, "nargs": "+", "metavar": "MODEL", "help": ".keras files or runs' folders"}),
        ("--images", {"type": int, "help": "a model is asked about (all)"}),
        ("--repeats", {"type": int, "help": "turns of ten images (5)"}),
    )
    measure_and_report("formats", measure, settings, path)


if __name__ == "__main__":
    main()
