"""Explain files and folders: pictures and arrays of where a model looks, and a table."""

from itertools import tee
from pathlib import Path

import numpy as np

from busseg.explain.occlusion import occlusion
from busseg.imaging.images import write_image
from busseg.inference.frames import find_frames, predict_frame
from busseg.inference.overlay import draw_contour, draw_heat
from busseg.inference.predictor import Predictor
from busseg.inference.results import check_replaceable
from busseg.storage.claims import claim_folder
from busseg.storage.files import append_row, flush, replacing, write_csv
from busseg.storage.run_folder import EXPLANATION, EXPLANATIONS, MODEL

HEATS = ("occlusion", "grad_cam_label", "grad_cam_mask")
_ENDS = ("_heat.npz", *(f"_{name}.png" for name in HEATS))
_SHARES = tuple(f"{name}_in_lesion" for name in HEATS)
FIELDS = ("file", "frame", "label", "occlusion_peak", "lesion_fraction", *_SHARES, "warning", "error")


def open_model(model):
    """Open a model for `explain_files`.

    Args:
        model: As of `Predictor`.

    Returns:
        `(predictor, network)`: a `Predictor`, and its `keras.Model`, in float32; None of a model that is none of
        Keras.

    Raises:
        FileNotFoundError, ValueError: If there is no model of busseg at the path.
    """
    predictor, path = Predictor(model), Path(model)
    if path.suffix != ".keras" and not (path / MODEL).is_file():
        return predictor, None
    from busseg.inference.runtimes import in_precision, load_keras

    network = in_precision(load_keras(path), "float32")
    return Predictor(network), network


def explain_files(predictor, network, inputs, out, require_region=False):
    """Explain what a model tells of image and DICOM files.

    For each picture in them, `NAME_occlusion.png` and, of a Keras model, `NAME_grad_cam_label.png` and
    `NAME_grad_cam_mask.png` are written, the heat over the image with the outline of the predicted lesion; and
    `NAME_heat.npz`, the heats themselves under the names in `HEATS`, arrays `(height, width)` float32. There is one
    table of all, `explanations.csv`. Of DICOM, the B-mode region is explained, frame by frame; see `predict_files`. A
    file that cannot be read gets a row with its error, and the others go on. Of tissue, which has no mask, there is no
    heat of it.

    Args:
        predictor: A `Predictor`.
        network: The `keras.Model` it runs, or None, for which there is no Grad-CAM.
        inputs: Dict from image path to the results' path, as `find_inputs` gives it.
        out: Path of the output folder. A former `explanations.csv` there is replaced.
        require_region: Whether to refuse DICOM without a usable region; see `find_frames`.

    Yields:
        Dicts with `FIELDS`, one a picture in the order of `inputs`: among them `occlusion_peak`, the greatest drop of
        the probability (near 0, the picture is of nothing, for its colours span whatever values there are);
        `lesion_fraction`, the predicted lesion's share of the image; and of each heat the share that lies in it. They
        are alike where the heat knows nothing of the lesion. Where there is no lesion, or no heat above 0, the share is
        left empty.

    Raises:
        FileExistsError: If `out` holds other files than a former explanation, or one of them has a result's name.
        BlockingIOError: If another process writes there.
        OSError: If the folder cannot be written.
        ValueError: If the network is none that Grad-CAM knows.
    """
    with claim_folder(out, EXPLANATION) as out:
        frames = (frame for item in inputs.items() for frame in find_frames(*item, predictor.task, require_region))
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
            (out / f"{frame.target}{end}").unlink(missing_ok=True)  # of a former explanation, maybe by another model
        try:
            image = frame.read(predictor)
            prediction = predict_frame(predictor, frame, image)
        except (OSError, ValueError) as error:
            row["error"] = str(error)
        else:
            row |= _explain(predictor, network, frame, image, prediction, out / frame.target)
        # One by one, so that what is done stays told when the rest is stopped.
        append_row(out / EXPLANATIONS, FIELDS, row)
        yield row


def _explain(predictor, network, frame, image, prediction, target):
    """Write a picture's results; return what its row tells of them."""
    heats = [_heats(predictor, network, part, prediction) for part in frame.parts(image)]
    heats = {name: frame.joined([each[name] for each in heats]) for name in heats[0]}
    for name, heat in heats.items():
        picture = draw_heat(image, heat)
        if prediction.mask is not None:
            picture = draw_contour(picture, prediction.mask)
        write_image(f"{target}_{name}.png", picture)
    with replacing(f"{target}_heat.npz") as temporary:
        np.savez_compressed(temporary, **heats)
    row = {"label": prediction.label, "occlusion_peak": f"{heats['occlusion'].max():.6f}"}
    row["warning"] = prediction.warning or ""
    if prediction.mask is not None:
        row["lesion_fraction"] = f"{prediction.lesion_fraction:.6f}"
        row |= {f"{name}_in_lesion": _share(heat, prediction.mask) for name, heat in heats.items()}
    return row


def _heats(predictor, network, image, prediction):
    """Dict from those of `HEATS` that the model has to arrays like the image."""
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
