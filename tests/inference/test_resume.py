from pathlib import Path

import numpy as np
import pytest

from busseg.imaging.images import write_image
from busseg.inference.batch import predict_files
from busseg.inference.inputs import find_inputs
from busseg.inference.predictor import Predictor
from busseg.storage.files import read_csv


def put(folder, *names):
    """Write an image to each of the names; the n-th is all grey value n."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.full((32, 32), number, np.uint8))


@pytest.fixture
def scans(tmp_path):
    put(tmp_path, *(f"s/{number:03}.png" for number in range(100)))
    return find_inputs([tmp_path / "s"])


def test_stopped_prediction_keeps_its_rows_and_resume_adds_the_rest(
    names, tmp_path, echo_model, scans, counting, four_threads
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    expected = list(predict_files(Predictor(echo_model), scans, whole, json_lines=True))
    with pytest.raises(KeyboardInterrupt):
        list(predict_files(counting(echo_model, most=64), scans, out, json_lines=True))
    done = read_csv(out / "predictions.csv")
    assert 0 < len(done) <= 64
    assert [row["file"] for row in done] == [str(path) for path in scans][: len(done)]
    for row in done:
        assert (out / f"{scans[Path(row['file'])]}_overlay.png").exists()
    second = counting(echo_model)
    rows = list(predict_files(second, scans, out, resume=True, json_lines=True))
    assert second.asked == 100 - len(done)
    assert [{key: str(value) for key, value in row.items()} for row in rows] == read_csv(whole / "predictions.csv")
    assert len(expected) == len(rows)
    assert names(out) == names(whole)
    for name in names(whole):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_row_cut_short_and_one_with_an_error_are_done_again(tmp_path, echo_model, counting):
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").write_text("hello")
    inputs = find_inputs([tmp_path / f"{name}.png" for name in "abc"])
    list(predict_files(Predictor(echo_model), inputs, tmp_path / "out"))
    table = tmp_path / "out/predictions.csv"
    whole = table.read_text()
    table.write_text(whole[:-5])  # ... "0,0.00"
    put(tmp_path, "b.png")
    predictor = counting(echo_model)
    rows = list(predict_files(predictor, inputs, tmp_path / "out", resume=True))
    assert predictor.asked == 2
    assert [bool(row["error"]) for row in rows] == [False, False, False]
    assert sorted(row["file"] for row in read_csv(table)) == [str(path) for path in inputs]


def test_line_that_is_missing_or_cut_short_is_made_again(tmp_path, echo_model, scans, counting):
    out = tmp_path / "out"
    list(predict_files(Predictor(echo_model), scans, out, json_lines=True))
    whole = (out / "predictions.jsonl").read_text()
    (out / "predictions.jsonl").write_text(whole[:-9])
    again = counting(echo_model)
    list(predict_files(again, scans, out, resume=True, json_lines=True))
    assert again.asked == 1
    assert (out / "predictions.jsonl").read_text() == whole


def test_what_was_not_asked_for_before_is_made_and_what_is_no_longer_true_goes(tmp_path, echo_model, scans, counting):
    out = tmp_path / "out"
    list(predict_files(Predictor(echo_model), scans, out, json_lines=True))
    again = counting(echo_model)
    list(predict_files(again, scans, out, resume=True, probability_maps=True))
    assert again.asked == 100
    assert (out / "007_probability.png").exists()
    assert not (out / "predictions.jsonl").exists()


def test_nothing_is_left_to_do_for_a_prediction_that_is_done(tmp_path, echo_model, scans, counting):
    list(predict_files(Predictor(echo_model), scans, tmp_path / "out"))
    before = (tmp_path / "out/predictions.csv").read_text()
    again = counting(echo_model)
    assert len(list(predict_files(again, scans, tmp_path / "out", resume=True))) == 100
    assert again.asked == 0
    assert (tmp_path / "out/predictions.csv").read_text() == before


def test_only_a_few_images_are_ahead(names, tmp_path, echo_model, scans, counting, four_threads):
    predictor = counting(echo_model)
    rows = predict_files(predictor, scans, tmp_path / "out")
    next(rows)
    rows.close()
    assert predictor.asked < 100
    assert len(names(tmp_path / "out")) < 2 * 100
    (row,) = read_csv(tmp_path / "out/predictions.csv")
    assert row["file"] == str(next(iter(scans)))
