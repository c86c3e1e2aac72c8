import json

import keras
import pytest

from busseg.export.web import RUNTIME_VERSION, export_web
from busseg.inference.predictor import Predictor


@pytest.fixture
def runtime(tmp_path):
    """A folder like that of onnxruntime-web, whose files are empty."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / "dist" / name).touch()
    (folder / "package.json").write_text(json.dumps({"version": RUNTIME_VERSION}))
    return folder


def test_folder_holds_page_model_runtime_example_and_licences(names, tmp_path, tiny_exports, runtime):
    out = tmp_path / "page"
    assert export_web(tiny_exports["onnx"], out, runtime) <= 1e-4
    assert names(out) == [
        "example",
        "example/NOTICE",
        "example/image.png",
        "index.html",
        "model.json",
        "model.onnx",
        "page.js",
        "runtime",
        "runtime/LICENSE",
        "runtime/ThirdPartyNotices.txt",
        "runtime/ort-wasm-simd-threaded.wasm",
        "runtime/ort.wasm.bundle.min.js",
    ]
    assert "Permission is hereby granted" in (out / "runtime/LICENSE").read_text()
    description = Predictor(out / "model.onnx").description
    assert json.loads((out / "model.json").read_text()) == description | {"classes": ["normal", "benign", "malignant"]}


def test_page_says_once_that_it_is_no_medical_device(tmp_path, tiny_exports, runtime):
    export_web(tiny_exports["onnx"], tmp_path / "page", runtime)
    assert (tmp_path / "page/index.html").read_text().count("not a medical device") == 1


@pytest.mark.parametrize("missing", ["all", "dist/ort.wasm.bundle.min.mjs"])
def test_missing_runtime_gives_the_command_that_gets_it(names, tmp_path, tiny_exports, runtime, missing):
    if missing != "all":
        (runtime / missing).unlink()
    command = rf"npm pack onnxruntime-web@{RUNTIME_VERSION} && tar -xzf onnxruntime-web-{RUNTIME_VERSION}.tgz"
    with pytest.raises(FileNotFoundError, match=rf"found none; {command}, then --runtime package"):
        export_web(tiny_exports["onnx"], tmp_path / "page", None if missing == "all" else runtime)
    assert not (tmp_path / "page").exists()


def test_runtime_of_another_version_is_refused(tmp_path, tiny_exports, runtime):
    (runtime / "package.json").write_text('{"version": "1.2.0"}')
    with pytest.raises(ValueError, match=rf"Expected version {RUNTIME_VERSION}, found 1.2.0; npm pack .*package$"):
        export_web(tiny_exports["onnx"], tmp_path / "page", runtime)


def test_histology_is_refused(tmp_path, runtime):
    image = keras.Input((32, 32, 3))
    label = keras.layers.Dense(2, "softmax", name="label")(keras.layers.GlobalAveragePooling2D()(image))
    keras.Model(image, {"label": label}).save(tmp_path / "tissue.keras")
    with pytest.raises(ValueError, match=r"Expected a model of ultrasound, .* found one of histology: .*tissue.keras$"):
        export_web(tmp_path / "tissue.keras", tmp_path / "page", runtime)


def test_page_is_replaced_but_not_with_another_file_in_it(names, tmp_path, tiny_exports, runtime):
    out = tmp_path / "page"
    export_web(tiny_exports["onnx"], out, runtime)
    (out / "index.html").write_text("old")
    export_web(tiny_exports["onnx"], out, runtime)
    assert (out / "index.html").read_text() != "old"
    (out / "thesis.tex").touch()
    before = names(out)
    with pytest.raises(FileExistsError, match=r"a web page of busseg to replace, found something else: .*page$"):
        export_web(tiny_exports["onnx"], out, runtime)
    assert names(out) == before


def test_page_of_another_program_is_refused(tmp_path, tiny_exports, runtime):
    (tmp_path / "page").mkdir()
    (tmp_path / "page/index.html").write_text("mine")
    with pytest.raises(FileExistsError, match="found something else"):
        export_web(tiny_exports["onnx"], tmp_path / "page", runtime)
    assert (tmp_path / "page/index.html").read_text() == "mine"
