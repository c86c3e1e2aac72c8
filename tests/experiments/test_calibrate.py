import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from busseg.data.fingerprints import fingerprint_samples, read_fingerprints
from busseg.data.sample import CLASSES
from busseg.data.tissue import write_tissue
from busseg.experiments.calibrate import (
    TEMPERATURE_SPREAD,
    calibrate,
    find_labelled,
    fit_thresholds,
    format_calibration,
    judge_by_others,
)
from busseg.imaging.images import write_image
from busseg.inference.metadata import read_metadata
from busseg.inference.operating_point import adapt_thresholds, find_operating_point, tabulate_thresholds
from busseg.inference.predictor import Predictor
from busseg.inference.runtimes import load_keras
from busseg.models.classifier import build_classifier
from busseg.storage.archives import add_metadata
from busseg.training.calibration import apply_temperature, fit_temperature

pytestmark = pytest.mark.usefixtures("without_graphs")
TABLE = tabulate_thresholds(np.linspace(0.01, 0.9, 100))


def probabilities_of(predictor, samples):
    return np.stack([one.probabilities for one in predictor.predict_batch([sample.image for sample in samples])])


# === A model ===
@pytest.fixture(scope="module")
def calibrated(tiny_run, tiny_exports, phantom_samples, tmp_path_factory, graphless):
    """Dict from `run` and `onnx` to what `calibrate` returns of `tiny_run` in both formats, and the path it wrote."""
    folder, made = tmp_path_factory.mktemp("calibrated"), {}
    with graphless():
        for kind, source, name in (("run", tiny_run, "mine.keras"), ("onnx", tiny_exports["onnx"], "mine.onnx")):
            made[kind] = (*calibrate(Predictor(source), phantom_samples, folder / name), folder / name)
    return made


@pytest.mark.parametrize("kind", ["run", "onnx"])
def test_model_changes_by_the_temperature_alone(tiny_run, tiny_exports, phantom_samples, calibrated, kind):
    source = Predictor(tiny_run if kind == "run" else tiny_exports["onnx"])
    found, failures, path = calibrated[kind]
    assert failures == []
    assert (found["images"], found["groups"]) == ({"normal": 10, "benign": 10, "malignant": 10}, 30)
    before = probabilities_of(source, phantom_samples)
    true = np.array([CLASSES.index(sample.label) for sample in phantom_samples])
    assert found["temperature"] == pytest.approx(fit_temperature(before, true, TEMPERATURE_SPREAD), rel=1e-4)
    assert abs(found["temperature"] - 1) > 0.01

    images = [sample.image for sample in phantom_samples[::4]]
    pairs = zip(source.predict_batch(images), Predictor(path).predict_batch(images), strict=True)
    for old, new in pairs:
        powers = old.probabilities ** (1 / found["temperature"])
        np.testing.assert_allclose(new.probabilities, powers / powers.sum(), atol=1e-5)
        np.testing.assert_allclose(new.probability_map, old.probability_map, atol=1e-6)
        assert new.label == old.label


def test_both_formats_are_calibrated_alike(calibrated):
    found = [calibrated[kind][0] for kind in ("run", "onnx")]
    assert found[0]["temperature"] == pytest.approx(found[1]["temperature"], rel=1e-3)
    tables = [one["operating_points"] for one in found]
    assert tables[0]["thresholds"] == pytest.approx(tables[1]["thresholds"], rel=1e-3)
    assert {"task", "classes", "busseg"} <= read_metadata(calibrated["run"][2]).keys()


def test_thresholds_are_those_of_scans_judged_by_others(tiny_exports, phantom_samples, calibrated):
    found, _, path = calibrated["onnx"]
    before = probabilities_of(Predictor(tiny_exports["onnx"]), phantom_samples).astype(float)
    true = np.array([CLASSES.index(sample.label) for sample in phantom_samples])
    groups = np.array([sample.group for sample in phantom_samples])
    judged = judge_by_others(before, true, groups)
    p_malignant, others = judged[true == 2, 2], judged[true != 2, 2]
    expected = tabulate_thresholds(p_malignant)["thresholds"]
    assert found["operating_points"]["thresholds"] == pytest.approx(expected, rel=1e-4)
    assert read_metadata(path)["operating_points"] == found["operating_points"]
    point = find_operating_point(found["operating_points"], 0.9)
    assert found["at"][0.9]["threshold"] == point.threshold == pytest.approx(np.sort(p_malignant)[1], rel=1e-4)
    # Of twenty, one may lie at the threshold.
    assert found["at"][0.9]["specificity"] == pytest.approx(np.mean(others < point.threshold), abs=0.051)
    assert Predictor(path, sensitivity=0.9).operating_point == point
    text = format_calibration(found)
    assert "30 scans of 30 groups: 10 benign, 10 malignant, 10 normal" in text
    assert f"{point.low:.2f} to {point.high:.2f}" in text


def test_thresholds_of_the_model_are_moved_and_not_forgotten(tiny_run, phantom_samples, calibrated, tmp_path):
    path = tmp_path / "before.keras"
    load_keras(tiny_run).save(path)
    add_metadata(path, {"operating_points": TABLE})
    found, _ = calibrate(Predictor(path), phantom_samples, tmp_path / "mine.keras")
    scans = np.unique(calibrated["run"][0]["operating_points"]["thresholds"])  # all ten differ
    expected = adapt_thresholds(TABLE, found["temperature"], scans)
    assert found["operating_points"]["images"] == expected["images"]
    assert found["operating_points"]["thresholds"] == pytest.approx(expected["thresholds"])
    assert read_metadata(path) == {"operating_points": TABLE}


def test_scans_are_known_to_the_model_that_says_what_it_learnt_from(tiny_run, phantom_samples, calibrated, tmp_path):
    known = read_fingerprints(read_metadata(tiny_run), tiny_run)
    expected = np.concatenate([known, fingerprint_samples(phantom_samples)])
    np.testing.assert_array_equal(read_fingerprints(read_metadata(calibrated["run"][2]), "mine"), expected)

    path = tmp_path / "silent.keras"
    load_keras(tiny_run).save(path)
    calibrate(Predictor(path), phantom_samples, tmp_path / "silent_too.keras")
    assert read_fingerprints(read_metadata(tmp_path / "silent_too.keras"), "silent") is None


def test_model_is_calibrated_again_as_if_once(phantom_samples, calibrated, tmp_path):
    first, _, path = calibrated["onnx"]
    second, _ = calibrate(Predictor(path), phantom_samples, tmp_path / "two.onnx")
    assert first["temperature"] != pytest.approx(1, abs=0.01)
    assert second["temperature"] == pytest.approx(1, abs=abs(first["temperature"] - 1))
    assert Predictor(tmp_path / "two.onnx").predict(phantom_samples[0].image).label in CLASSES


def test_onnx_file_is_calibrated_without_keras(tiny_exports, phantom_folder, tmp_path):
    code = """
import sys
from busseg.experiments.calibrate import calibrate, find_labelled
from busseg.inference.predictor import Predictor

model, folder, out = sys.argv[1:]
calibrate(Predictor(model), find_labelled([folder]), out)
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    paths = tiny_exports["onnx"], phantom_folder, tmp_path / "mine.onnx"
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.onnx").exists()


# === Scans that judge each other ===
def test_scan_is_judged_by_others_alone():
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet(np.ones(3), 12), random.integers(0, 3, 12)
    groups = np.array([*"aabbccddeeff"])
    judged = judge_by_others(probabilities, labels, groups)
    other = labels.copy()
    other[:2] = (labels[:2] + 1) % 3  # group a
    changed = judge_by_others(probabilities, other, groups)
    np.testing.assert_array_equal(changed[:2], judged[:2])
    assert (changed[2:] != judged[2:]).any(axis=1).all()
    expected = apply_temperature(probabilities[:2], fit_temperature(probabilities[2:], labels[2:], TEMPERATURE_SPREAD))
    np.testing.assert_allclose(judged[:2], expected)


def test_many_groups_are_judged_in_fifty_folds():
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet(np.ones(3), 300), random.integers(0, 3, 300)
    judged = judge_by_others(probabilities, labels, np.arange(300))
    logs = np.log(probabilities), np.log(judged)
    temperatures = (logs[0][:, 0] - logs[0][:, 1]) / (logs[1][:, 0] - logs[1][:, 1])
    assert len(set(temperatures.round(9))) == 50


def test_model_without_thresholds_gets_those_of_the_scans():
    scans = [0.2, 0.4, 0.8]
    assert fit_thresholds(None, 2, scans) == tabulate_thresholds(scans)
    assert fit_thresholds(TABLE, 2, scans) == adapt_thresholds(TABLE, 2, scans)


# === What is found in a folder ===
def put(path, value=0):
    write_image(path, np.full((8, 8), value, np.uint8))


def test_scans_need_neither_masks_nor_every_class(tmp_path):
    for label in ("benign", "malignant"):
        for number in range(3):
            put(tmp_path / f"a/{label}/{number}.png")
    for number in range(2):
        put(tmp_path / f"b/images/{number}.png")
    (tmp_path / "b/labels.csv").write_text("file,label,group\n0.png,benign,anna\n1.png,malignant,anna\n")
    samples = find_labelled([tmp_path / "a", tmp_path / "b"])
    assert [sample.label for sample in samples] == ["benign"] * 3 + ["malignant"] * 3 + ["benign", "malignant"]
    assert len({sample.group for sample in samples}) == 6 + 1


def test_patients_of_two_folders_are_others(tmp_path):
    for folder in "ab":
        put(tmp_path / folder / "images/1.png")
        (tmp_path / folder / "labels.csv").write_text("file,label,group\n1.png,benign,1\n")
    assert len({sample.group for sample in find_labelled([tmp_path / "a", tmp_path / "b"])}) == 2


def test_folder_counts_once(tmp_path):
    put(tmp_path / "a/benign/1.png")
    with pytest.raises(ValueError, match=r"^Expected each dataset folder once, found one twice: "):
        find_labelled([tmp_path / "a", tmp_path / "a/../a"])


def test_table_with_an_unknown_class_is_refused(tmp_path):
    put(tmp_path / "images/1.png")
    (tmp_path / "labels.csv").write_text("file,label\n1.png,cyst\n")
    with pytest.raises(ValueError, match=r"^Expected a label of normal, benign, malignant, found 'cyst' for '1.png'"):
        find_labelled([tmp_path])


def test_folder_of_tissue_is_refused(tmp_path):
    write_tissue(tmp_path / "tissue", patients=1)
    with pytest.raises(ValueError, match=r"^Expected ultrasound, found a dataset of histology: "):
        find_labelled([tmp_path / "tissue"])


# === What is refused ===
def fails(predictor, samples, out, message, error=ValueError):
    with pytest.raises(error, match=message):
        calibrate(predictor, samples, out)
    assert not out.exists()


@pytest.fixture(scope="module")
def tiny(tiny_exports):
    return Predictor(tiny_exports["onnx"])


def test_too_few_scans_are_refused(tiny, phantom_samples, tmp_path):
    few = phantom_samples[6:13]
    fails(tiny, few, tmp_path / "a.onnx", r"^Expected at least 8 labelled scans, found 7; 20 are enough$")
    broken = replace(phantom_samples[0], image=tmp_path / "none.png")
    message = r"^Expected at least 8 labelled scans, found 7 \(1 could not be read\); 20 are enough$"
    fails(tiny, [*few, broken], tmp_path / "a.onnx", message)


def test_scans_of_one_kind_are_refused(tiny, phantom_samples, tmp_path):
    message = r"^Expected scans of at least two groups that are {}, found {}$"
    fails(tiny, phantom_samples[:10], tmp_path / "a.onnx", message.format("malignant", 0))
    fails(tiny, phantom_samples[10:20], tmp_path / "a.onnx", message.format("not malignant", 0))
    one_patient = [replace(sample, group="anna") for sample in phantom_samples[10:20]]
    fails(tiny, [*phantom_samples[:10], *one_patient], tmp_path / "a.onnx", message.format("malignant", 1))


@pytest.mark.parametrize("kind", ["run", "onnx"])
def test_name_that_ends_otherwise_than_the_model_is_refused(tiny_run, tiny_exports, phantom_samples, tmp_path, kind):
    source, out, suffix = {
        "run": (tiny_run, "a.onnx", ".keras"),
        "onnx": (tiny_exports["onnx"], "a.keras", ".onnx"),
    }[kind]
    message = rf"^Expected the name of a file that ends in \{suffix}, as the model's, found another: .*{out}$"
    fails(Predictor(source), phantom_samples, tmp_path / out, message)


@pytest.mark.parametrize("format", ["saved_model", "litert", "openvino"])
def test_other_formats_are_refused_with_what_to_do(tiny_exports, phantom_samples, tmp_path, format):
    message = r"^Expected a model in Keras or ONNX \(calibrate that, and export it to other formats\), found another"
    fails(Predictor(tiny_exports[format]), phantom_samples, tmp_path / "a.onnx", message)


def test_model_of_tissue_is_refused(phantom_samples, tmp_path):
    build_classifier(image_size=32, depth=2, encoder="plain", width=4).save(tmp_path / "tissue.keras")
    message = r"^Expected a model of ultrasound, found one of histology: "
    fails(Predictor(tmp_path / "tissue.keras"), phantom_samples, tmp_path / "a.keras", message)


def test_file_that_is_there_is_not_replaced(tiny, phantom_samples, tmp_path):
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^Expected a new file .*, found one: .*a.onnx$"):
        calibrate(tiny, phantom_samples, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "mine"


def test_model_whose_probabilities_are_none_of_a_softmax_leaves_no_file(echo_file, phantom_samples, tmp_path):
    message = r"^Expected a model whose probabilities follow a temperature, found a difference of "
    fails(Predictor(echo_file), phantom_samples, tmp_path / "a.keras", message)


def test_foreign_and_broken_images_are_named_and_left_out(tiny, phantom_samples, tmp_path):
    class Wary(type(tiny)):
        """A predictor for which the first image is out of distribution."""

        def predict_batch(self, images):
            pairs = zip(super().predict_batch(images), images)
            return [replace(one, ood_score=2.0 if np.all(image == 7) else 0.5) for one, image in pairs]

    put(tmp_path / "far.png", 7)
    (tmp_path / "broken.png").write_bytes(b"")
    names = ("far.png", "broken.png")
    strange = [replace(phantom_samples[0], name=name, image=tmp_path / name) for name in names]
    found, failures = calibrate(Wary(tiny.path), [*strange, *phantom_samples], tmp_path / "a.onnx")
    assert sum(found["images"].values()) == 30
    errors = {failure["file"]: failure["error"] for failure in failures}
    assert errors["broken.png"] == f"Expected an image, found an empty file (0 bytes): {tmp_path / 'broken.png'}"
    assert errors["far.png"] == (
        f"Expected a scan in distribution, found one not like breast ultrasound: {tmp_path / 'far.png'}"
    )
