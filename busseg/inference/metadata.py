"""Metadata of a stored model: JSON, which each format stores in its own way."""

import json
import zipfile
from pathlib import Path

from busseg.storage.archives import METADATA
from busseg.storage.extras import import_openvino
from busseg.storage.run_folder import MODEL


def read_metadata(path: str | Path) -> dict:
    """Read the metadata of a stored model.

    Args:
        path: Path of a run's folder, a `.keras`, `.onnx` or `.tflite` file, or a folder of SavedModel or OpenVINO.

    Returns:
        Dict; {} for a model without metadata.

    Raises:
        ImportError: If its runtime is not installed, for a format that only the runtime reads.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        file = path / "assets.extra" / METADATA
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    elif (path / "model.xml").is_file():
        text = _of_openvino(path)
    elif path.suffix == ".onnx":
        text = _of_onnx(path)
    else:
        text = _of_archive(path / MODEL if path.is_dir() else path)
    return json.loads(text or "{}")


def _of_archive(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read(METADATA) if METADATA in archive.namelist() else ""


def _of_onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # quarter of the time
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map.get("busseg", "")


def _of_openvino(path):
    network = import_openvino().Core().read_model(path / "model.xml")
    return network.get_rt_info("busseg").astype(str) if "busseg" in network.get_rt_info() else ""
