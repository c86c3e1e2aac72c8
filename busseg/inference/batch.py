"""Predict files and folders: masks, overlays and a table, whatever single files are like."""

import csv
from collections import Counter
from pathlib import Path

from busseg.data.busi import MASK_STEM
from busseg.data.files import claim_folder, write_csv
from busseg.data.images import is_image, read_image, write_image
from busseg.data.sample import CLASSES
from busseg.inference.overlay import draw_overlay

TABLE = "predictions.csv"
FIELDS = ("file", "label", *(f"p_{label}" for label in CLASSES), "lesion_px", "lesion_fraction", "error")
_BATCH = 16


def find_inputs(paths):
    """Find the image files that inputs name, and where their results go.

    Folders are searched with all their subfolders. Masks that lie beside their image (`NAME_mask.png` beside
    `NAME.png`) are passed over, for they are no scans, and so is what a former prediction wrote.

    Args:
        paths: Sequence of paths of files and folders.

    Returns:
        Dict from image path to the results' path without suffix, relative to the output folder.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no image.
        ValueError: If the results of two inputs would have one name.
    """
    found = {}
    for path in map(Path, paths):
        if path.is_dir():
            written = {table.parent for table in path.rglob(TABLE)}
            files = sorted(file for file in path.rglob("*") if file.is_file() and is_image(file))
            files = [file for file in files if not written & set(file.parents)]
            stems = {(file.parent, file.stem) for file in files}
            images = [file for file in files if not _is_mask(file, stems)]
            if not images:
                raise FileNotFoundError(f"Expected images in the folder, found none: {path}")
            found |= {image: image.relative_to(path) for image in images}
        elif path.exists():
            found[path] = Path(path.name)
        else:
            raise FileNotFoundError(f"Expected an image or a folder of images, found nothing: {path}")
    # x.png and x.jpg of one folder keep their suffixes, so that both have results.
    stems = Counter(target.with_suffix("") for target in found.values())
    targets = {image: t if stems[t.with_suffix("")] > 1 else t.with_suffix("") for image, t in found.items()}
    owners = {}
    for image, target in targets.items():
        if owners.setdefault(target, image) != image:
            raise ValueError(
                f"Expected inputs with different names, found two named {target}: {owners[target]}, {image}"
            )
    return targets


def _is_mask(file, stems):
    match = MASK_STEM.fullmatch(file.stem)
    return bool(match) and (file.parent, match["image"]) in stems


def predict_files(predictor, inputs, out, progress=iter):
    """Predict image files and write, for each, `NAME_mask.png` (0/255) and `NAME_overlay.png`, and one table of all.

    A file that cannot be read gets a row with its error, and the others go on.

    Args:
        predictor: A `Predictor`.
        inputs: Dict from image path to the results' path, as `find_inputs` gives it.
        out: Path of the output folder; a former `predictions.csv` there is replaced.
        progress: Function that wraps the iteration over batches of files, for a progress bar.

    Returns:
        List of dicts with `FIELDS`, one a file, as in `predictions.csv`.

    Raises:
        FileExistsError: If `out` holds other files than a former prediction.
        OSError: If the folder cannot be written.
    """
    out = claim_folder(out, TABLE)
    write_csv(out / TABLE, FIELDS, [])
    files = list(inputs.items())
    rows = []
    for start in progress(range(0, len(files), _BATCH)):
        some = files[start : start + _BATCH]
        images, failed = {}, {}
        for path, _ in some:
            try:
                images[path] = read_image(path)
            except (OSError, ValueError) as error:
                failed[path] = str(error)
        predictions = dict(zip(images, predictor.predict_batch(list(images.values())))) if images else {}
        for path, target in some:
            if path in failed:
                rows.append({"file": str(path), "error": failed[path]})
            else:
                write_image(out / f"{target}_mask.png", predictions[path].mask * 255)
                write_image(out / f"{target}_overlay.png", draw_overlay(images[path], predictions[path]))
                rows.append(_row(path, predictions[path]))
            # Row by row, so that what is done stays told when the rest is stopped.
            with (out / TABLE).open("a", newline="", encoding="utf-8") as table:
                csv.DictWriter(table, FIELDS, lineterminator="\n").writerow(rows[-1])
    return rows


def _row(path, prediction):
    probabilities = {f"p_{label}": f"{p:.6f}" for label, p in zip(CLASSES, prediction.probabilities)}
    return {
        "file": str(path),
        "label": prediction.label,
        **probabilities,
        "lesion_px": prediction.lesion_px,
        "lesion_fraction": f"{prediction.lesion_fraction:.6f}",
        "error": "",
    }
