"""Reader of the output of `busseg predict --json-lines`, for `busseg convert`: predictions are no ground truth."""

from pathlib import Path

from busseg.data.sample import CLASSES, Fault, Sample
from busseg.imaging.annotations import predictions
from busseg.storage.files import blaming
from busseg.storage.run_folder import PREDICTION, PREDICTION_LINES


def recognises(root: str | Path) -> bool:
    """Whether a folder is an output of `busseg predict`."""
    return (Path(root) / PREDICTION.marker).is_file()


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """List the predicted images of a folder.

    Args:
        root: Path of the folder.

    Returns:
        `(samples, faults)`: the list of `Sample`, in the order of the file, whose masks are the predicted contours,
        whose `label` is the predicted class and whose attribute `score` is its probability; and a list of
        `(kind, path, error)` of kind "unreadable", one a file: clips, whose frames no other format holds.

    Raises:
        FileNotFoundError: If there are no JSON lines.
        ValueError: If they are broken, or not of breast ultrasound.
    """
    path = Path(root) / PREDICTION_LINES
    if not path.is_file():
        raise FileNotFoundError(f"Expected {path.name}, found none; run busseg predict with --json-lines: {root}")
    samples: list[Sample] = []
    faults: dict[Path, Fault] = {}
    with blaming(path, "predictions of breast ultrasound"):
        for number, line in enumerate(predictions.read(path), 1):
            if "error" in line:
                continue
            image = Path(line["file"])
            if line["frame"] is not None:
                error = f"Expected an image, found frame {line['frame']} of a clip or DICOM file: {image}"
                faults.setdefault(image, ("unreadable", image, ValueError(error)))
                continue
            if line["label"] not in CLASSES:
                raise ValueError(f"Expected a class of {', '.join(CLASSES)}, found {line['label']!r}: {path}")
            samples.append(_to_sample(path, number, line, image))
    return samples, list(faults.values())


def _to_sample(path, number, line, image):
    return Sample(
        name=image.name,
        image=image,
        masks=(path / str(number),) if line["contours"] else (),
        label=line["label"],
        group=image.name,
        attributes={"score": str(line["probabilities"][line["label"]])},
    )
