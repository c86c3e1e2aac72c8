import subprocess
import sys
import threading

import numpy as np
import pytest

from busseg.data.phantom import draw_phantom
from busseg.data.sample import CLASSES
from busseg.inference.concurrency import one_thread_an_image
from busseg.inference.predictor import Predictor


def test_several_images_are_computed_at_once_and_in_order():
    both_compute = threading.Barrier(2)

    def run_single(batch):
        both_compute.wait(timeout=10)
        return {"label": 10 * batch}

    made_for = []

    def make_single(threads):
        made_for.append(threads)
        return run_single

    run = one_thread_an_image(lambda batch: {"label": -batch}, make_single, threads=2)
    for _ in range(2):
        np.testing.assert_array_equal(run(np.arange(4.0)[:, None])["label"], [[0], [10], [20], [30]])
    assert made_for == [2]


def test_single_image_is_computed_by_all_threads():
    run = one_thread_an_image(lambda batch: {"label": -batch}, lambda threads: pytest.fail("was made"), threads=2)
    np.testing.assert_array_equal(run(np.ones((1, 1)))["label"], [[-1]])


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_answer_does_not_depend_on_the_other_images_of_the_batch(tiny_exports, format, threads):
    images = [draw_phantom(label, seed=5)[0] for label in CLASSES]
    predictor = Predictor(tiny_exports[format], threads=threads)
    together = predictor.predict_batch(images)
    for image, prediction in zip(images, together, strict=True):
        alone = predictor.predict(image)
        np.testing.assert_array_equal(prediction.probability_map, alone.probability_map)
        np.testing.assert_array_equal(prediction.probabilities, alone.probabilities)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_first_images_of_a_process_may_come_at_once(tiny_exports, format):
    code = f"""
import sys
import numpy as np
from busseg.inference.predictor import Predictor

predictor = Predictor({str(tiny_exports[format])!r}, threads=4)
sys.setswitchinterval(1e-6)  # the threads take turns as often as can be
assert len(predictor.predict_batch([np.zeros((40, 50), np.uint8)] * 4)) == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
