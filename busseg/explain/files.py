"""Explain files and folders: heat maps as images and arrays, and one table."""

from collections.abc import Iterator, Mapping
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from busseg.explain.occlusion import occlusion
from busseg.imaging.images import write_image
from busseg.inference.frames import Frame, find_frames, predict_frame
from busseg.inference.overlay import draw_contour, draw_heat, draw_legend
from busseg.inference.predictor import Predictor
from busseg.inference.quality import OUT_OF_DISTRIBUTION
from busseg.inference.results import check_replaceable
from busseg.storage.claims import claim_folder
from busseg.storage.files import append_row, flush, replacing, write_csv
from busseg.storage.run_folder import EXPLANATION, EXPLANATIONS, MODEL

if TYPE_CHECKING:
    import keras

HEATS = ("occlusion", "grad_cam_label", "grad_cam_mask")
_ENDS = ("_heat.npz", *(f"_{name}.png" for name in HEATS))
_SHARES = tuple(f"{name}_in_lesion" for name in HEATS)
FIELDS = ("file", "frame", "label", "occlusion_peak", "lesion_fraction", *_SHARES, "warning", "error")


def open_model(model: str | Path) -> tuple[Predictor, "keras.Model | None"]:
    """Open a model for `explain_files`.

    Args:
        model: Name or path of a model; see `Predictor`.

    Returns:
        `(predictor, network)`: a `Predictor`, and its `keras.Model` in float32, None for a non-Keras model.

    Raises:
        FileNotFoundError, ValueError: If there is no model of busseg at the path.
    """
    predictor, path = Predictor(model), Path(model)
    if path.suffix != ".keras" and not (path / MODEL).is_file():
        return predictor, None
    from busseg.inference.runtimes import in_precision, load_keras

    network = in_precision(load_keras(path), "float32")
    return Predictor(network), network


def explain_files(
    predictor: Predictor,
    network: "keras.Model | None",
    inputs: Mapping[Path, Path],
    out: str | Path,
    require_region: bool = False,
) -> Iterator[dict]:
    """Explain the predictions of image, video and DICOM files.

    For each image or frame it writes `NAME_occlusion.png` and, for a Keras model, `NAME_grad_cam_label.png` and
    `NAME_grad_cam_mask.png`: the heat map over the image with the outline of the predicted lesion, below a legend with
    the class and the colours; and `NAME_heat.npz`, the heat maps under the names in `HEATS`, arrays `(height, width)`
    float32. The table of all is `explanations.csv`. DICOM is cropped to its regions, and each is explained separately;
    see `predict_files`. A file that cannot be read gets a row with its error, and the run continues. A histology model
    has no mask and no heat map of it.

    Args:
        predictor: A `Predictor`.
        network: Its `keras.Model`, or None, without Grad-CAM.
        inputs: Dict from image path to the results' path, as `find_inputs` gives it.
        out: Path of the output folder. A former `explanations.csv` there is replaced.
        require_region: Whether to refuse DICOM without a usable region; see `find_frames`.

    Yields:
        Dicts with `FIELDS`, one per image in the order of `inputs`. `occlusion_peak` is the largest drop of the
        probability; if it is near 0, the heat map shows noise, since its colours span all its values.
        `lesion_fraction` is the predicted lesion's share of the image, and each `..._in_lesion` the share of a heat map
        inside the lesion; the two are equal where the heat is independent of the lesion. Without a lesion, or without
        heat above 0, the share is empty.

    Raises:
        FileExistsError: If `out` holds other files than a former explanation, or one of them has a result's name.
        BlockingIOError: If another process writes there.
        OSError: If the folder cannot be written.
        ValueError: If Grad-CAM does not support the network.
    """
    with claim_folder(out, EXPLANATION) as out:
        frames: Iterator[Frame] = (
            frame for item in inputs.items() for frame in find_frames(*item, predictor.task, require_region)
        )
        if (out / EXPLANATIONS).exists():
            ahead, frames = tee(frames)
            check_replaceable(out, (f"{frame.target}{end}" for frame in ahead for end in _ENDS))
        write_csv(out / EXPLANATIONS, FIELDS, [])
        yield from _explain_frames(predictor, network, frames, out)
        flush(out / EXPLANATIONS)


def _explain_frames(predictor, network, frames, out):
    for frame in frames:
        row = dict.fromkeys(FIELDS, "") | {"file": str(frame.path), "frame": frame.number or ""}
        for end in _ENDS:
            (out / f"{frame.target}{end}").unlink(missing_ok=True)  # of a former run, maybe with another model
        try:
            image = frame.read(predictor)
            prediction = predict_frame(predictor, frame, image)
        except (OSError, ValueError) as error:
            row["error"] = str(error)
        else:
            row |= _explain(predictor, network, frame, image, prediction, out / frame.target)
        # One by one, so that a stopped run keeps its rows.
        append_row(out / EXPLANATIONS, FIELDS, row)
        yield row


def _explain(predictor, network, frame, image, prediction, target):
    """Write the results of a frame; return their columns of its row."""
    heats = [_heats(predictor, network, part, prediction) for part in frame.parts(image)]
    heats = {name: frame.joined([each[name] for each in heats]) for name in heats[0]}
    known = f"{prediction.label} {prediction.confidence:.2f}"
    for name, heat in heats.items():
        text = f"{known if prediction.in_distribution else OUT_OF_DISTRIBUTION}   {name.replace('_', ' ')}"
        drawn = draw_heat(image, heat)
        if prediction.mask is not None:
            drawn = draw_contour(drawn, prediction.mask)
        write_image(f"{target}_{name}.png", np.vstack([draw_legend(heat, text, image.shape[1]), drawn]))
    with replacing(f"{target}_heat.npz") as temporary:
        np.savez_compressed(temporary, **heats)
    row = {"label": prediction.label, "occlusion_peak": f"{heats['occlusion'].max():.6f}"}
    row["warning"] = prediction.warning or ""
    if prediction.mask is not None:
        row["lesion_fraction"] = f"{prediction.lesion_fraction:.6f}"
        row |= {f"{name}_in_lesion": _share(heat, prediction.mask) for name, heat in heats.items()}
    return row


def _heats(predictor, network, image, prediction):
    """Dict from the `HEATS` that the model supports to arrays of the image's size."""
    heats = {"occlusion": occlusion(predictor, image, prediction.label)}
    if network is not None:
        from busseg.explain.grad_cam import grad_cam, mask_grad_cam

        heats["grad_cam_label"] = grad_cam(network, image, prediction.label)
        if prediction.mask is not None:
            heats["grad_cam_mask"] = mask_grad_cam(network, image)
    return heats


def _share(heat, mask):
    """The share of the heat above 0 that lies in a mask, as text."""
    heat = np.maximum(heat, 0)
    return f"{heat[mask > 0].sum() / heat.sum():.6f}" if mask.any() and heat.any() else ""
