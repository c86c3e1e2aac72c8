import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from busseg.inference.export import export_saved_model
from busseg.inference.predictor import Predictor, load_keras


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Runs where only TensorFlow is: loads the SavedModel, answers the batches of an .npz file, reports its signature.
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = {}
for name, batch in np.load(sys.argv[2]).items():
    for output, values in serve(image=tf.constant(batch)).items():
        answers[f"{name} {output}"] = values.numpy()
np.savez(sys.argv[3], **answers)
describe = lambda specs: {name: [spec.shape.as_list(), spec.dtype.name] for name, spec in specs.items()}
signature = serve.structured_input_signature[1], serve.structured_outputs
print(json.dumps({"signature": [describe(specs) for specs in signature], "busseg": "busseg" in sys.modules,
                  "keras": "keras" in sys.modules}))
"""


def test_saved_model_answers_as_its_source_where_there_is_no_busseg(tmp_path, tiny_run, tiny_saved_model):
    random = np.random.default_rng(0)
    batches = {str(n): random.uniform(0, 255, (n, 32, 32, 1)).astype(np.float32) for n in (1, 3)}
    np.savez(tmp_path / "batches.npz", **batches)
    done = subprocess.run(
        [sys.executable, "-c", SERVE, tiny_saved_model, tmp_path / "batches.npz", tmp_path / "answers.npz"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["busseg"] is False
    assert told["signature"] == [
        {"image": [[None, 32, 32, 1], "float32"]},
        {"mask": [[None, 32, 32, 1], "float32"], "label": [[None, 3], "float32"]},
    ]
    model = load_keras(tiny_run)
    with np.load(tmp_path / "answers.npz") as answers:
        for name, batch in batches.items():
            for output, expected in model.predict_on_batch(batch).items():
                np.testing.assert_allclose(answers[f"{name} {output}"], expected, atol=1e-5)


def test_largest_difference_on_phantoms_is_returned(tmp_path, echo_file):
    assert 0 <= export_saved_model(echo_file, tmp_path / "export") <= 1e-5


@pytest.mark.parametrize("path", ["export", "new/folders/export"])
def test_folder_holds_the_saved_model_and_nothing_is_left_beside_it(tmp_path, echo_file, path):
    out = tmp_path / path
    export_saved_model(str(echo_file), str(out))
    assert {"saved_model.pb", "variables/variables.index"} <= set(names(out))
    assert names(out.parent)[0] == "export"
    assert {name.split("/")[0] for name in names(out.parent)} == {"export"}


def test_empty_folder_is_filled(tmp_path, echo_file):
    export_saved_model(echo_file, tmp_path)
    assert (tmp_path / "saved_model.pb").is_file()


def test_saved_model_is_replaced_as_a_whole(tmp_path, echo_file, tiny_saved_model):
    shutil.copytree(tiny_saved_model, tmp_path / "export")
    (tmp_path / "export/assets/old.txt").parent.mkdir(exist_ok=True)
    (tmp_path / "export/assets/old.txt").touch()
    export_saved_model(echo_file, tmp_path / "export")
    np.testing.assert_allclose(
        Predictor(tmp_path / "export").predict(np.full((32, 32), 255, np.uint8)).probabilities, (0, 1, 0), atol=1e-6
    )
    assert "assets/old.txt" not in names(tmp_path / "export")
    assert {name.split("/")[0] for name in names(tmp_path)} == {"export"}


@pytest.mark.parametrize("name", ["thesis.tex", "model.keras"])
def test_folder_with_something_else_is_refused_and_untouched(tmp_path, echo_file, name):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / name).touch()
    with pytest.raises(FileExistsError, match=r"^Expected a new folder or a SavedModel .* something else: .*export$"):
        export_saved_model(echo_file, tmp_path / "export")
    assert names(tmp_path) == ["export", f"export/{name}"]


def test_file_in_place_of_the_folder_is_refused(tmp_path, echo_file):
    (tmp_path / "export").touch()
    with pytest.raises(FileExistsError, match=r"found something else: .*export$"):
        export_saved_model(echo_file, tmp_path / "export")


def test_missing_source_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none: .*gone\.keras$"):
        export_saved_model(tmp_path / "gone.keras", tmp_path / "export")
    assert names(tmp_path) == []


def test_foreign_source_leaves_nothing(tmp_path):
    keras = pytest.importorskip("keras")
    keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Flatten()]).save(tmp_path / "foreign.keras")
    with pytest.raises(ValueError, match=r"^Expected a model with the outputs .*: .*foreign\.keras$"):
        export_saved_model(tmp_path / "foreign.keras", tmp_path / "export")
    assert names(tmp_path) == ["foreign.keras"]


def test_full_disk_leaves_the_old_saved_model(tmp_path, echo_file):
    resource = pytest.importorskip("resource")
    export_saved_model(echo_file, tmp_path / "export")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # Like a disk that is full after 2000 bytes. Python ignores the signal that comes with it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(OSError, match=r"^The SavedModel cannot be written .*too large\): .*export$"):
            export_saved_model(echo_file, tmp_path / "export")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
