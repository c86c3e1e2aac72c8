"""The names of all files and folders that busseg writes, by the kind of output folder that holds them."""

from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of output folder: the name of its marker file, and columns or keys that the marker must have."""

    marker: str
    names: tuple[str, ...]


# === A run: `busseg train` ===
RUN = Kind("environment.json", ("started", "backend", "packages"))
ENVIRONMENT = RUN.marker
MODEL = "model.keras"
RECIPE = "recipe.toml"
SPLITS = "splits.csv"
HISTORY = "history.csv"
CHECKPOINTS = "checkpoints"
LOGS = "logs"

# === An evaluation: `busseg evaluate` ===
EVALUATION = Kind("per_image.csv", ("file", "fold", "part", "group", "label", "predicted", "error"))
PER_IMAGE = EVALUATION.marker
SUMMARY = "summary.json"  # written last
ROBUSTNESS = "robustness.csv"
REPORT = "report.html"
MASKS = "masks"
FIGURES = "figures"

# === A cross-validation: `busseg crossval`. Each fold is a run that holds an evaluation. ===
CROSSVAL = Kind("crossval.json", ("protocol", "folds", "seed", "recipe"))
SETTINGS = CROSSVAL.marker


def fold_folder(out: Path, fold: int) -> Path:
    """Path of a fold's run in the folder `out` of a cross-validation."""
    return out / f"fold-{fold}"


def evaluation_folder(run: Path) -> Path:
    """Path of the evaluation in the folder of a fold's run or of a demo."""
    return run / "evaluation"


# === Models scored together: `busseg compare`, `busseg release` ===
COMPARISON = Kind("compare.json", ("models", "differences", "notes"))
COMPARISON_TABLE = "compare.csv"
RELEASE = Kind("release.json", ("temperature", "ood_limit"))
ONNX_MODEL = "model.onnx"

# === Results for single images: `busseg predict`, `busseg explain` ===
PREDICTION = Kind("predictions.csv", ("file", "label", "warning", "error"))
PREDICTIONS = PREDICTION.marker
PREDICTION_LINES = "predictions.jsonl"
PREDICTION_PARQUET = "predictions.parquet"
CLIPS, CLIP_LINES = "clips.csv", "clips.jsonl"
SEGMENTATION = "_seg.dcm"  # suffix of the results of a DICOM file
STRUCTURED_REPORT = "_sr.dcm"
OVERLAY_DICOM = "_overlay.dcm"
EXPLANATION = Kind("explanations.csv", ("file", "label", "occlusion_peak", "warning", "error"))
EXPLANATIONS = EXPLANATION.marker

# === A review of predictions: `busseg review` ===
REVIEW = Kind("review.csv", ("rank", "file", "reason", "score"))

# === The queue of a DICOM node: `busseg listen` ===
QUEUE = Kind("queue.json", ("queue",))

# === An audit: `busseg audit` ===
AUDIT = Kind("audit.json", ("data", "files", "groups", "findings"))
GROUPS = "groups.csv"
AUDIT_PAGE = "audit.html"

# === `busseg demo` ===
DEMO = Kind("demo.json", ("phantoms_per_class",))
