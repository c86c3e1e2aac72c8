import hashlib
import json

import numpy as np
import pytest

from busseg.inference.batch import predict_files
from busseg.inference.inputs import find_inputs
from busseg.inference.predictor import Predictor

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
highdicom = pytest.importorskip("highdicom", reason="needs busseg[dicom]")

REGION, SPACING_CM = (20, 10, 32, 32), (0.02, 0.01)  # a pixel is 0.2 mm wide and 0.1 mm high


@pytest.fixture
def clip(tmp_path, write_scan):
    """A clip of three frames: of 32 rows 8, 24 and 24 are white, so that `echo_model` says normal, benign, benign. The
    last frame has a second lesion of 4 by 2 pixels.
    """
    pixels = np.zeros((3, 50, 60), np.uint8)
    for frame, white in zip(pixels, (8, 24, 24)):
        frame[10 : 10 + white, 20:52] = 255
    pixels[2, 38:40, 30:34] = 255
    return write_scan(tmp_path / "s/clip.dcm", pixels, REGION, SPACING_CM)


def predict(model, path, out, **options):
    return list(predict_files(Predictor(model), find_inputs([path]), out, **options))


def values(group):
    return {item.name.meaning: item.value for item in group.get_measurements()}


def test_report_has_the_measurements_and_the_text_of_the_lines(tmp_path, echo_model, clip):
    rows = predict(echo_model, clip, tmp_path / "out", json_lines=True)
    lines = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    document = highdicom.sr.srread(tmp_path / "out/clip_sr.dcm")
    (normal,) = document.content.get_image_measurement_groups()
    assert normal.source_images[0].referenced_frame_numbers == [1]
    groups = document.content.get_planar_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == [
        "Frame 2, lesion 1", "Frame 3, lesion 1", "Frame 3, lesion 2",
    ]  # fmt: skip
    assert [len(line["lesions"]) for line in lines] == [0, 1, 2]
    for group, lesion in zip(groups, [*lines[1]["lesions"], *lines[2]["lesions"]], strict=True):
        found = values(group)
        assert found["Area"] == lesion["area_mm2"]
        assert [found["Long axis"], found["Short axis"]] == lesion["diameters_mm"]
    assert values(groups[1])["Area"] == 24 * 32 * 0.02
    assert values(groups[2])["Area"] == 4 * 2 * 0.02
    for row, group in zip(rows[1:], groups):
        sizes = values(group)
        assert (row["lesion_mm"], row["lesion_across_mm"]) == (
            f"{sizes['Long axis']:.2f}", f"{sizes['Short axis']:.2f}",
        )  # fmt: skip
        assert 100 * float(row["p_benign"]) == pytest.approx(sizes["Certainty of Impression"], abs=0.01)
    texts = [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"]
    for number, line in enumerate(lines, start=1):
        assert f"Frame {number}: {line['report']}".replace("²", "2") in texts


def test_rows_and_lines_carry_the_identifiers_of_the_file(tmp_path, echo_model, clip):
    rows = predict(echo_model, clip, tmp_path / "out", json_lines=True)
    source = pydicom.dcmread(clip)
    line = json.loads((tmp_path / "out/predictions.jsonl").read_text().splitlines()[2])
    for values in (*rows, line):
        assert values["study_instance_uid"] == source.StudyInstanceUID
        assert values["series_instance_uid"] == source.SeriesInstanceUID
        assert values["sop_instance_uid"] == source.SOPInstanceUID


def test_report_that_busseg_did_not_write_is_not_replaced(tmp_path, echo_model, clip):
    predict(echo_model, clip, tmp_path / "out")
    (tmp_path / "out/clip_sr.dcm").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^Expected a result of busseg to replace, found .*clip_sr\.dcm$"):
        predict(echo_model, clip, tmp_path / "out")
    assert (tmp_path / "out/clip_sr.dcm").read_text() == "mine"


def test_report_has_the_hash_of_a_model_that_is_a_file(tmp_path, echo_model, echo_file, clip):
    expected = hashlib.sha256(echo_file.read_bytes()).hexdigest()
    for model, recorded in ((echo_model, set()), (echo_file, {f"sha256={expected}"})):
        predict(model, clip, tmp_path / "out")
        document = pydicom.dcmread(tmp_path / "out/clip_sr.dcm")
        texts = {item.value for item in document.iterall() if item.keyword == "TextValue"}
        assert {text for text in texts if text.startswith("sha256=")} == recorded
