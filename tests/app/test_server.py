import base64
import io
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from PIL import Image

from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.data.task import Task
from busseg.inference.predictor import Predictor

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def client(server, new_client):
    """A program that asks."""
    return new_client(server)


def ask(client, path, *arguments):
    from gradio_client import handle_file

    return client.predict(handle_file(path), *arguments, api_name="/predict")


def mask_of(result):
    content = np.frombuffer(base64.b64decode(result["mask"].partition(",")[2]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED)


# === Programs ===
@pytest.mark.parametrize("label", CLASSES)
def test_programs_are_told_class_and_mask(client, scans, label):
    result, expected = ask(client, scans[label]), Predictor("best").predict(scans[label])
    assert (result["file"], result["label"], result["warning"]) == (f"{label}.png", label, None)
    np.testing.assert_array_equal(mask_of(result), expected.mask * 255)
    assert list(result["probabilities"].values()) == pytest.approx(list(expected.probabilities), abs=1e-4)


def test_programs_move_the_threshold_of_their_own_answer(server, scans, new_client):
    first, second = new_client(server), new_client(server)
    ask(first, scans["benign"])
    ask(second, scans["malignant"])
    moved = first.predict(0.9, api_name="/threshold")
    assert (moved["file"], moved["threshold"]) == ("benign.png", 0.9)
    expected = Predictor("best").predict(scans["benign"]).probability_map >= 0.9
    assert moved["lesion_px"] == expected.sum()


@pytest.mark.parametrize("wrong", ["text", "huge"])
def test_programs_get_errors_in_one_line(client, foul, wrong, refused):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as refusal:
        ask(client, foul[wrong])
    assert refusal.value.message == refused[wrong]


def test_question_without_an_answer_before_is_refused(server, new_client):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="Expected an image that is still kept, found none; drop it again"):
        new_client(server).predict(0.3, api_name="/threshold")


def test_programs_get_frames_and_segmentation_of_dicom(server, phantom_clip, new_client):
    pydicom, client = pytest.importorskip("pydicom"), new_client(server)
    assert (ask(client, phantom_clip)["frames"], client.predict(3, api_name="/frame")["frame"]) == (3, 3)
    made = client.predict(api_name="/segmentation")
    assert made["file"] == "clip_frame_3_seg.dcm"
    written = pydicom.dcmread(io.BytesIO(base64.b64decode(made["segmentation"].partition(",")[2])))
    assert written.Modality == "SEG"


def test_programs_get_no_segmentation_of_what_is_not_like_breast_ultrasound(server, clip, new_client):
    from gradio_client.exceptions import AppError

    client = new_client(server)
    assert ask(client, clip)["warning"] == "not like breast ultrasound; nearly one grey"
    with pytest.raises(
        AppError, match=r"^Expected a breast ultrasound, found an image not like breast ultrasound: clip\.dcm$"
    ):
        client.predict(api_name="/segmentation")


def test_programs_are_answered_frames_of_a_clip_that_is_no_dicom(server, new_client, tmp_path):
    first, *others = (Image.fromarray(draw_phantom("malignant", seed=seed)[0]) for seed in (1, 2, 3))
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others)
    client = new_client(server)
    result = ask(client, tmp_path / "clip.gif")
    assert (result["frames"], result["label"], result["warning"]) == (3, "malignant", None)
    assert (result["clip"]["label"], result["clip"]["frames"]) == ("malignant", [1, 2, 3])
    third = client.predict(3, api_name="/frame")
    expected = Predictor("best").predict(np.asarray(others[-1]))
    np.testing.assert_array_equal(mask_of(third) // 255, expected.mask)


def test_programs_get_the_overlay(server, scans, new_client):
    client = new_client(server)
    ask(client, scans["benign"])
    made = client.predict(api_name="/overlay")
    assert made["file"] == "benign_overlay.png"
    assert made["overlay"].startswith("data:image/png;base64,")


@pytest.mark.slow
def test_scan_without_a_region_is_refused_by_a_server_that_requires_one(running, write_scan, new_client, tmp_path):
    from gradio_client.exceptions import AppError

    path = write_scan(tmp_path / "a.dcm", draw_phantom("benign", 1)[0])
    (tmp_path / "temporary").mkdir()
    with running(tmp_path / "temporary", "--require-region") as server, pytest.raises(AppError) as refusal:
        ask(new_client(server), path)
    expected = "Expected a DICOM file with a usable region, found that no region is marked: a.dcm"
    assert refusal.value.message == expected


def test_programs_get_a_table_and_a_zip_of_many(server, client, scans, foul, refused):
    from gradio_client import handle_file

    paths = [*scans.values(), foul["text"]]
    result = client.predict([handle_file(path) for path in paths], api_name="/batch")
    assert [row["label"] for row in result["rows"]] == [*CLASSES, ""]
    assert result["rows"][-1]["error"] == refused["text"]
    assert [bool(thumbnail) for thumbnail in result["thumbnails"]] == [True, True, True, False]
    with urlopen(server.address + result["zip"]) as answer:
        names = zipfile.ZipFile(io.BytesIO(answer.read())).namelist()
    assert {"predictions.csv", "benign_mask.png", "benign_overlay.png"} <= set(names)


def test_the_same_file_of_many_at_once_is_answered_to_all(server, scans, new_client):
    clients = [new_client(server) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        result = list(pool.map(lambda client: [ask(client, scans["benign"])["label"] for _ in range(3)], clients))
    assert result == [["benign"] * 3] * 4


def test_nothing_is_left_of_what_was_answered(server, client, scans):
    ask(client, scans["benign"])
    assert server.left() == []


def test_endpoints_for_programs_have_names_and_the_rest_is_hidden(client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {
        "/predict", "/threshold", "/frame", "/explain", "/overlay", "/segmentation", "/batch",
    }  # fmt: skip


def test_wrong_questions_are_errors(server, scans):
    for wrong in ([server.uploaded(scans["benign"]), 2], [], ["text", "text"], [{}, {}]):
        assert server.ask("/gradio_api/run/predict", {"data": wrong})[0] == 500


@pytest.mark.slow
def test_programs_are_told_where_the_model_looks(client, scans):
    ask(client, scans["malignant"])
    result = client.predict(api_name="/explain")
    assert result["label"] == "malignant"
    assert result["drop"] > 0
    assert result["heat"].startswith("data:image/png;base64,")


# === Beginning and end ===
def test_port_that_is_taken_is_told(echo):
    from busseg.app.server import serve

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"Expected a free port, found {port} \(.*\); choose another with --port"):
            serve(echo, port)


def test_host_that_others_reach_demands_a_password(echo):
    from busseg.app.server import serve

    with pytest.raises(ValueError, match=r"Expected a password, since other machines reach 0\.0\.0\.0, found none"):
        serve(echo, 0, host="0.0.0.0")
    with pytest.raises(ValueError, match="Expected a password of at least 8 letters, found 7"):
        serve(echo, 0, host="0.0.0.0", password="1234567")
    with pytest.raises(OSError, match=r"Expected a name or address of this machine, found nowhere\.invalid"):
        serve(echo, 0, host="nowhere.invalid", password="12345678")


def test_model_of_tissue_is_refused(echo):
    from busseg.app.server import serve

    histology = SimpleNamespace(task=Task.HISTOLOGY)
    with pytest.raises(
        ValueError, match="Expected a model of ultrasound, which the page shows, found one of histology"
    ):
        serve(histology, 0)
