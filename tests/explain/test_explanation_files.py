import keras
import numpy as np
import pytest

from busseg.data.tissue import draw_tissue
from busseg.explain.files import HEATS, explain_files, open_model
from busseg.imaging.images import read_image, write_image
from busseg.inference.inputs import find_inputs
from busseg.inference.overlay import draw_legend
from busseg.inference.predictor import Predictor
from busseg.models.classifier import build_classifier
from busseg.models.unet import build_unet
from busseg.storage.files import read_csv


@pytest.fixture
def scans(tmp_path):
    """A folder with a scan, a broken file and a scan in a subfolder."""
    random = np.random.default_rng(0)
    write_image(tmp_path / "scans/a.png", random.integers(0, 256, (24, 32), np.uint8))
    (tmp_path / "scans/b.png").write_text("hello")
    write_image(tmp_path / "scans/s/c.png", random.integers(0, 256, (30, 20), np.uint8))
    return tmp_path / "scans"


@pytest.fixture(scope="module")
def unet():
    keras.utils.set_random_seed(0)
    return build_unet(32, width=4, depth=2)


def written(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_image_has_heat_maps_and_a_row_and_a_broken_one_its_error(scans, unet, tmp_path):
    out, inputs = tmp_path / "out", find_inputs([scans])
    rows = list(explain_files(Predictor(unet), unet, inputs, out))
    ends = (*(f"{name}.png" for name in HEATS), "heat.npz")
    assert written(out) == {"explanations.csv", *(f"{name}_{end}" for name in ("a", "s/c") for end in ends)}
    assert [row["error"].partition(",")[0] for row in rows] == ["", "Expected an image or a video", ""]
    assert read_csv(out / "explanations.csv") == rows
    mask = Predictor(unet).predict(scans / "a.png").mask
    with np.load(out / "a_heat.npz") as heats:
        assert set(heats) == set(HEATS)
        for name, heat in heats.items():
            assert (heat.shape, heat.dtype) == ((24, 32), np.float32)
            above = np.maximum(heat, 0)
            assert float(rows[0][f"{name}_in_lesion"]) == pytest.approx(above[mask > 0].sum() / above.sum(), abs=1e-6)
        assert float(rows[0]["occlusion_peak"]) == pytest.approx(heats["occlusion"].max(), abs=1e-6)
        heat = heats["occlusion"]
    drawn = read_image(out / "a_occlusion.png", colour=True)
    legend = draw_legend(
        heat, f"{rows[0]['label']} {Predictor(unet).predict(scans / 'a.png').confidence:.2f}   occlusion", 32
    )
    np.testing.assert_array_equal(drawn[:-24], legend)
    assert drawn.shape == (len(legend) + 24, 32, 3)


def test_a_former_explanation_of_another_model_is_replaced(scans, unet, tmp_path):
    out, inputs = tmp_path / "out", find_inputs([scans])
    list(explain_files(Predictor(unet), unet, inputs, out))
    rows = list(explain_files(Predictor(unet), None, inputs, out))
    assert written(out) == {
        "explanations.csv",
        *(f"{n}_{end}" for n in ("a", "s/c") for end in ("occlusion.png", "heat.npz")),
    }
    assert len(read_csv(out / "explanations.csv")) == len(rows) == 3
    with np.load(out / "a_heat.npz") as heats:
        assert list(heats) == ["occlusion"]


def test_images_of_an_explanation_are_no_inputs_and_a_folder_of_other_files_is_refused(scans, unet, tmp_path):
    list(explain_files(Predictor(unet), None, find_inputs([scans / "a.png"]), scans / "explained"))
    assert {path.name for path in find_inputs([scans])} == {"a.png", "b.png", "c.png"}
    with pytest.raises(FileExistsError, match=r"^Expected an empty folder or one with explanations\.csv, found other"):
        list(explain_files(Predictor(unet), None, find_inputs([scans / "a.png"]), scans))


def test_of_histology_the_class_alone_is_explained(tmp_path):
    model = build_classifier(64, encoder="plain", width=4, depth=2)
    model.save(tmp_path / "tissue.keras")
    write_image(tmp_path / "a.png", draw_tissue("malignant", 100, 0, 0, height=64, width=80))
    predictor, network = open_model(tmp_path / "tissue.keras")
    [row] = explain_files(predictor, network, find_inputs([tmp_path / "a.png"]), tmp_path / "out")
    assert written(tmp_path / "out") == {
        "explanations.csv", "a_heat.npz", "a_occlusion.png", "a_grad_cam_label.png",
    }  # fmt: skip
    assert row["label"] in ("benign", "malignant")
    assert row["lesion_fraction"] == row["occlusion_in_lesion"] == ""


def test_only_a_keras_model_has_a_network():
    predictor, network = open_model("small")
    assert predictor.image_size == 160
    assert network is None


def test_of_dicom_the_region_is_explained_and_what_stands_around_it_stays_dark(write_scan, unet, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 50), np.uint8)
    path, out = write_scan(tmp_path / "s/clip.dcm", frames, region=(10, 5, 32, 24)), tmp_path / "out"
    rows = list(explain_files(Predictor(unet), unet, find_inputs([path]), out))
    assert [(row["file"], row["frame"], row["error"]) for row in rows] == [(str(path), 1, ""), (str(path), 2, "")]
    with np.load(out / "clip_frame002_heat.npz") as heats:
        assert heats["occlusion"].shape == (40, 50)
        inside = np.zeros((40, 50), bool)
        inside[5:29, 10:42] = True
        assert heats["grad_cam_label"][inside].any()
        assert not heats["grad_cam_label"][~inside].any()


def test_each_region_of_a_dual_screen_is_explained_in_its_place(unet, write_scan, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 68), np.uint8)
    path = write_scan(tmp_path / "dual.dcm", pixels, (0, 0, 32, 32), others=[(1, (36, 0, 32, 32))])
    (row,) = explain_files(Predictor(unet), unet, find_inputs([path]), tmp_path / "out", require_region=True)
    assert row["error"] == ""
    with np.load(tmp_path / "out/dual_heat.npz") as heats:
        for heat in heats.values():
            assert heat.shape == (40, 68)
            assert not heat[32:].any()
            assert not heat[:, 32:36].any()
        left, right = heats["occlusion"][:32, :32], heats["occlusion"][:32, 36:]
        assert left.any()
        assert right.any()
        assert not np.array_equal(left, right)


def test_scan_without_a_region_is_explained_with_a_warning_or_refused(unet, write_scan, tmp_path):
    path = write_scan(tmp_path / "a.dcm", np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8))
    (row,) = explain_files(Predictor(unet), None, find_inputs([path]), tmp_path / "out")
    assert (row["error"], row["warning"][:17]) == ("", "whole frame shown")
    (row,) = explain_files(Predictor(unet), None, find_inputs([path]), tmp_path / "out", require_region=True)
    assert row["error"].startswith("Expected a DICOM file with a usable region, found that no region is marked")
