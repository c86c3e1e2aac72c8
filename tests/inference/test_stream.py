from pathlib import Path

import numpy as np
import pytest

from busseg.imaging.images import write_image
from busseg.inference import stream
from busseg.inference.frames import Frame
from busseg.inference.prediction import Failure
from busseg.inference.stream import predict_stream


@pytest.fixture
def frames(tmp_path):
    """Forty frames: number i has the grey value 6 * i everywhere."""
    for i in range(40):
        write_image(tmp_path / f"{i:02}.png", np.full((32, 32), 6 * i, np.uint8))
    return [Frame(tmp_path / f"{i:02}.png", Path(f"{i:02}")) for i in range(40)]


def test_predictions_come_in_order_with_image_and_path(echo_predictor, frames):
    found = list(predict_stream(echo_predictor, frames))
    assert [prediction.path for prediction in found] == [frame.path for frame in frames]
    for i, prediction in enumerate(found):
        assert set(np.unique(prediction.image)) == {6 * i}
        assert prediction.probabilities[1] == pytest.approx(6 * i / 255, abs=1e-6)


def test_failure_stands_in_the_place_of_its_image(echo_predictor, frames):
    frames[3].path.write_bytes(b"")
    frames[20].path.unlink()
    found = list(predict_stream(echo_predictor, frames))
    assert [i for i, one in enumerate(found) if isinstance(one, Failure)] == [3, 20]
    assert (found[3].path, found[3].error) == (
        frames[3].path, f"Expected an image, found an empty file (0 bytes): {frames[3].path}",
    )  # fmt: skip
    assert found[20].error == f"Expected an image file, found nothing: {frames[20].path}"


def test_only_a_few_images_are_read_ahead(echo_predictor, frames, four_threads):
    predictions = predict_stream(echo_predictor, frames)
    assert len(echo_predictor.files_read) == 0
    next(predictions)
    # A batch that is done, three in work or next, of four each; and what `map_in_turn` reads ahead.
    assert len(echo_predictor.files_read) <= 4 * 4 + 16 + 1
    predictions.close()
    assert len(echo_predictor.files_read) < 40


def test_images_that_were_taken_leave_the_memory(echo_predictor, frames, four_threads):
    held = []
    for prediction in predict_stream(echo_predictor, frames):
        del prediction
        held.append(sum(pixels() is not None for pixels in echo_predictor.files_read))
    assert len(held) == 40
    assert max(held) <= 5 * 4 + 16 + 2  # as above, and a batch that is being filled
    assert held[-1] <= 2  # the last one, in the hands of two steps


def test_large_images_are_predicted_one_by_one(monkeypatch):
    """A batch is cut short where it holds `PIXELS_AHEAD`: here at the second of three images of 60 pixels each."""
    monkeypatch.setattr(stream, "PIXELS_AHEAD", 100)
    items = iter([stream.Item(number, np.zeros((6, 10), np.uint8)) for number in range(3)])
    assert [[item.frame for item in stream._batch(items)] for _ in range(3)] == [[0, 1], [2], []]
