import shutil

import numpy as np
import onnx
import pytest

from busseg.export.formats import FORMATS, export_litert, export_onnx, export_openvino, export_saved_model
from busseg.inference.predictor import Predictor


@pytest.mark.parametrize("path", ["export", "new/folders/export"])
def test_folder_holds_the_saved_model_and_nothing_is_left_beside_it(names, tmp_path, echo_file, path):
    out = tmp_path / path
    export_saved_model(str(echo_file), str(out))
    assert {"saved_model.pb", "variables/variables.index"} <= set(names(out))
    assert names(out.parent)[0] == "export"
    assert {name.split("/")[0] for name in names(out.parent)} == {"export"}


def test_empty_folder_is_filled(tmp_path, echo_file):
    export_saved_model(echo_file, tmp_path)
    assert (tmp_path / "saved_model.pb").is_file()


def test_saved_model_is_replaced_as_a_whole(names, tmp_path, echo_file, tiny_exports):
    shutil.copytree(tiny_exports["saved_model"], tmp_path / "export")
    export_saved_model(echo_file, tmp_path / "export")
    np.testing.assert_allclose(
        Predictor(tmp_path / "export").predict(np.full((32, 32), 255, np.uint8)).probabilities, (0, 1, 0), atol=1e-6
    )
    assert {name.split("/")[0] for name in names(tmp_path)} == {"export"}


@pytest.mark.parametrize("format", ["saved_model", "openvino"])
def test_export_with_another_file_beside_it_is_refused_and_untouched(names, tmp_path, echo_file, tiny_exports, format):
    folder = shutil.copytree(tiny_exports[format], tmp_path / "export")
    (folder / "variables").mkdir(exist_ok=True)
    (folder / "variables" / "thesis.tex").touch()
    before = names(folder)
    with pytest.raises(FileExistsError, match=r"found something else: .*export$"):
        FORMATS[format](echo_file, folder)
    assert names(folder) == before


@pytest.mark.parametrize(("format", "marker"), [("saved_model", "assets.extra"), ("openvino", "model.xml")])
def test_model_of_another_program_is_refused_and_untouched(names, tmp_path, echo_file, tiny_exports, format, marker):
    folder = shutil.copytree(tiny_exports[format], tmp_path / "export")
    if (folder / marker).is_dir():
        shutil.rmtree(folder / marker)
    else:
        (folder / marker).write_bytes((folder / marker).read_bytes().replace(b"busseg", b"others"))
    before = names(folder)
    with pytest.raises(FileExistsError, match=r"found something else: .*export$"):
        FORMATS[format](echo_file, folder)
    assert names(folder) == before


def test_onnx_file_of_another_program_is_refused_unless_forced(tmp_path, echo_file, tiny_exports):
    out = tmp_path / "export.onnx"
    other = onnx.load(tiny_exports["onnx"])
    del other.metadata_props[:]
    onnx.save(other, out)
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match=r"something else \(--force replaces it\): .*export\.onnx$"):
        export_onnx(echo_file, out)
    assert out.read_bytes() == before
    export_onnx(echo_file, out, force=True)
    assert out.read_bytes() != before


@pytest.mark.parametrize("name", ["thesis.tex", "model.keras"])
def test_folder_with_something_else_is_refused_and_untouched(names, tmp_path, echo_file, name):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / name).touch()
    with pytest.raises(FileExistsError, match=r"^Expected a new name or a SavedModel .* something else: .*export$"):
        export_saved_model(echo_file, tmp_path / "export")
    assert names(tmp_path) == ["export", f"export/{name}"]


def test_file_in_place_of_the_folder_is_refused(tmp_path, echo_file):
    (tmp_path / "export").touch()
    with pytest.raises(FileExistsError, match=r"found something else: .*export$"):
        export_saved_model(echo_file, tmp_path / "export")


# === ONNX ===
def test_onnx_file_is_replaced_and_nothing_is_left_beside_it(names, tmp_path, echo_file, tiny_exports):
    out = tmp_path / "new/folders/export.onnx"
    export_onnx(str(echo_file), str(out))
    assert names(tmp_path) == ["new", "new/folders", "new/folders/export.onnx"]
    shutil.copy(tiny_exports["onnx"], out)
    export_onnx(echo_file, out)
    white = Predictor(out).predict(np.full((32, 32), 255, np.uint8))
    np.testing.assert_allclose(white.probabilities, (0, 1, 0), atol=1e-6)
    assert names(out.parent) == ["export.onnx"]


@pytest.mark.parametrize("content", [b"", b"my thesis", None], ids=["empty", "text", "folder"])
def test_what_is_no_onnx_file_is_refused_and_untouched(names, tmp_path, echo_file, content):
    out = tmp_path / "export.onnx"
    out.mkdir() if content is None else out.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"^Expected a new name or an ONNX file .*: .*export\.onnx$"):
        export_onnx(echo_file, out)
    assert names(tmp_path) == ["export.onnx"]
    assert out.is_dir() if content is None else out.read_bytes() == content


def test_name_without_onnx_is_refused(names, tmp_path, echo_file):
    with pytest.raises(ValueError, match=r"^Expected the name of a file that ends in \.onnx, found another: .*export$"):
        export_onnx(echo_file, tmp_path / "export")
    assert names(tmp_path) == []


# === LiteRT and OpenVINO ===
@pytest.mark.parametrize("content", [b"", b"my thesis", None], ids=["empty", "text", "folder"])
def test_what_is_no_litert_file_is_refused_and_untouched(names, tmp_path, echo_file, content):
    out = tmp_path / "export.tflite"
    out.mkdir() if content is None else out.write_bytes(content)
    with pytest.raises(FileExistsError, match=r"^Expected a new name or a LiteRT file .*: .*export\.tflite$"):
        export_litert(echo_file, out)
    assert names(tmp_path) == ["export.tflite"]
    assert out.is_dir() if content is None else out.read_bytes() == content


def test_name_without_tflite_is_refused(names, tmp_path, echo_file):
    with pytest.raises(ValueError, match=r"^Expected the name of a file that ends in \.tflite, found another: .*"):
        export_litert(echo_file, tmp_path / "export.lite")
    assert names(tmp_path) == []


def test_folder_with_something_else_than_openvino_is_refused_and_untouched(names, tmp_path, echo_file, tiny_exports):
    folder = shutil.copytree(tiny_exports["saved_model"], tmp_path / "export")
    before = names(folder)
    with pytest.raises(FileExistsError, match=r"^Expected a new name or an OpenVINO model .* else: .*export$"):
        export_openvino(echo_file, folder)
    assert names(folder) == before


@pytest.mark.parametrize("format", ["litert", "openvino"])
def test_export_is_replaced_and_nothing_is_left_beside_it(names, tmp_path, echo_file, tiny_exports, format):
    out = tmp_path / tiny_exports[format].name
    (shutil.copytree if out.suffix == "" else shutil.copy)(tiny_exports[format], out)
    FORMATS[format](echo_file, out)
    white = Predictor(out).predict(np.full((32, 32), 255, np.uint8))
    np.testing.assert_allclose(white.probabilities, (0, 1, 0), atol=1e-6)
    assert {name.split("/")[0] for name in names(tmp_path)} == {out.name}
