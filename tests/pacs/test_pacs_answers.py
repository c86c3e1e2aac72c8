import numpy as np
import pytest

from busseg.inference.predictor import Predictor

pydicom = pytest.importorskip("pydicom", reason="needs busseg[dicom]")
pytest.importorskip("highdicom", reason="needs busseg[dicom]")

from busseg.pacs.answers import Answerer  # noqa: E402


def uids(files, keyword="SOPInstanceUID"):
    return {str(pydicom.dcmread(file)[keyword].value) for file in files}


def test_results_have_the_uids_that_are_expected(answerer, study, tmp_path):
    answer = answerer.answer(study.paths[0], tmp_path / "out")
    assert [file.name for file in answer.files] == ["result_seg.dcm", "result_sr.dcm"]
    assert uids(answer.files) == answerer.expected_uids(study.uids[0])


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_same_image_again_has_the_same_uids_and_another_has_others(answerer, study, tmp_path, keyword):
    first, again, other = (
        uids(answerer.answer(study.paths[number], tmp_path / str(place)).files, keyword)
        for place, number in enumerate((0, 0, 1))
    )
    assert first == again
    assert (len(first), first & other) == (2, set())


def test_uids_differ_by_model_and_by_threshold(answerer, study):
    others = [Answerer(Predictor("best")), Answerer(Predictor("small", threshold=0.3))]
    found = [one.expected_uids(study.uids[0]) for one in (answerer, *others)]
    assert len(set.union(*found)) == 6  # SEG and SR of three


def test_each_frame_of_a_clip_has_an_overlay_on_request(answerer, study, tmp_path, write_scan):
    image = pydicom.dcmread(study.paths[0]).pixel_array
    path = write_scan(tmp_path / "clip.dcm", np.stack([image, image]), (0, 0, *image.shape[::-1]))
    answer = Answerer(answerer.predictor, captures=True).answer(path, tmp_path / "out")
    assert [file.name for file in answer.files] == [
        "result_seg.dcm", "result_sr.dcm", "result_frame001_overlay.dcm", "result_frame002_overlay.dcm",
    ]  # fmt: skip
    uid = pydicom.dcmread(path).SOPInstanceUID
    assert uids(answer.files) == Answerer(answerer.predictor, captures=True).expected_uids(uid, 2)


def test_image_that_is_no_breast_ultrasound_has_no_files(answerer, study, tmp_path):
    answer = answerer.answer(study.paths[-1], tmp_path / "out")
    assert answer.files == []
    assert any("not like breast ultrasound" in warning for warning in answer.warnings)


def test_broken_image_is_one_line_without_its_path(answerer, study, tmp_path):
    path = tmp_path / "broken.dcm"
    path.write_bytes(study.paths[0].read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"^Expected [^/]*$"):
        answerer.answer(path, tmp_path / "out")


def test_fault_in_one_image_is_one_line_without_its_text(answerer, study, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("Muster^Eva")

    monkeypatch.setattr(answerer.predictor, "try_batch", fail)
    with pytest.raises(ValueError, match=r"^Expected an image that can be predicted, found another \(KeyError\)$"):
        answerer.answer(study.paths[0], tmp_path / "out")


def test_model_without_a_hash_is_refused(answerer, monkeypatch):
    monkeypatch.setattr(Predictor, "identity", None)
    with pytest.raises(ValueError, match=r"^Expected a model that is one file, for its SHA-256, found another: small$"):
        Answerer(answerer.predictor)
