"""A static web page that runs a model in the viewer's browser, with ONNX Runtime Web."""

import json
import shutil
from pathlib import Path

import onnxruntime

from busseg.data.sample_images import SAMPLES, samples
from busseg.export.formats import export_onnx
from busseg.inference.predictor import Predictor
from busseg.storage.claims import claim
from busseg.storage.files import names_in, read_json, replacing, write_text

RUNTIME_VERSION = "1.30.0"  # of onnxruntime-web, with which the page is tested
_PAGE = Path(__file__).parent / "page"
# Files of onnxruntime-web -> their names in the page's folder. Some servers do not know that .mjs is JavaScript.
_RUNTIME = {
    "dist/ort.wasm.bundle.min.mjs": "runtime/ort.wasm.bundle.min.js",
    "dist/ort-wasm-simd-threaded.wasm": "runtime/ort-wasm-simd-threaded.wasm",
}
# The package of npm comes without them; that of Python is built from the same sources.
_LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
_MODEL = "model.json"
_OTHERS = {
    *("index.html", "page.js", "model.onnx"),
    *_RUNTIME.values(),
    *(f"runtime/{name}" for name in _LICENCES),
    *("example/image.png", "example/NOTICE"),
}


def export_web(
    model: str | Path, out: str | Path, runtime: str | Path | None = None, weights: str = "float32"
) -> float:
    """Export a model of ultrasound to a folder that any web server serves: a page that predicts images in the browser.

    The folder needs no network beyond its server, and the viewer's images stay in the browser. It prepares images as
    `Predictor.predict` does, and holds the model as ONNX, `model.onnx`.

    Args:
        model: See `export_onnx`.
        out: Path of the folder to write. A page of busseg there, without other files, is replaced.
        runtime: Path of the unpacked npm package onnxruntime-web, of `RUNTIME_VERSION`.
        weights: See `export_onnx`.

    Returns:
        The largest difference between the outputs of the ONNX file and of the source, on phantoms.

    Raises:
        FileNotFoundError: If there is no runtime.
        FileExistsError: If something else is at `out`.
        BlockingIOError: If another process writes there.
        OSError: If it cannot be written.
        ImportError: If a package of the extra `onnx` is not installed.
        ValueError: If the runtime has another version, the model is not one of ultrasound, or `export_onnx` refuses it.
    """
    out = Path(out)
    package = _find_runtime(runtime)
    predictor = Predictor(model)
    if not predictor.task.has_mask:
        raise ValueError(
            f"Expected a model of ultrasound, which the page shows, found one of {predictor.task}: {model}"
        )
    with claim(out, "a web page", _is_own_page), replacing(out) as temporary:
        shutil.copytree(_PAGE, temporary)
        difference = export_onnx(model, temporary / "model.onnx", weights=weights)
        write_text(temporary / _MODEL, json.dumps(predictor.description))
        (temporary / "runtime").mkdir()
        for file, name in _RUNTIME.items():
            shutil.copyfile(package / file, temporary / name)
        for name in _LICENCES:
            shutil.copyfile(Path(onnxruntime.__file__).parent / name, temporary / "runtime" / name)
        (temporary / "example").mkdir()
        malignant = next(sample for sample in samples() if sample.label == "malignant")
        shutil.copyfile(malignant.path, temporary / "example/image.png")
        shutil.copyfile(SAMPLES / "NOTICE", temporary / "example/NOTICE")
        return difference


def _find_runtime(folder):
    """The folder of onnxruntime-web, checked."""
    package = f"onnxruntime-web-{RUNTIME_VERSION}"
    fetch = f"npm pack onnxruntime-web@{RUNTIME_VERSION} && tar -xzf {package}.tgz, then --runtime package"
    if folder is None or not all((Path(folder) / file).is_file() for file in _RUNTIME):
        where = "" if folder is None else f": {folder}"
        raise FileNotFoundError(f"Expected the files of onnxruntime-web, found none; {fetch}{where}")
    version = read_json(Path(folder) / "package.json").get("version")
    if version != RUNTIME_VERSION:
        raise ValueError(f"Expected version {RUNTIME_VERSION}, found {version}; {fetch}: {folder}")
    return Path(folder)


def _is_own_page(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return folder.is_dir() and (not found or (found <= {_MODEL, *_OTHERS} and "busseg" in names_in(folder / _MODEL)))
