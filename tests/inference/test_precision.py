import numpy as np
import pytest

from busseg.data.phantom import draw_phantom
from busseg.data.task import Task
from busseg.inference.precision import check_precision, made_up_images
from busseg.inference.predictor import PACKAGED, Predictor
from busseg.inference.runtimes import load
from busseg.storage.extras import import_openvino

openvino = import_openvino()

BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bfloat16 = pytest.mark.skipif(not BFLOAT16, reason="needs a processor with AMX or AVX512-BF16")


@needs_bfloat16
def test_bfloat16_answers_nearly_as_float32():
    image = draw_phantom("malignant", seed=3)[0]
    exact, fast = (Predictor("small", precision=name).predict(image) for name in ("float32", "bfloat16"))
    assert fast.label == exact.label
    difference = np.abs(fast.probability_map - exact.probability_map)
    assert 0 < difference.mean() < 0.005  # not equal: it did compute in bfloat16


@needs_bfloat16
def test_identity_names_the_precision():
    exact, fast = (Predictor("small", precision=name).identity for name in ("float32", "bfloat16"))
    assert fast == f"{exact} bfloat16"


def test_processor_without_bfloat16_is_refused(monkeypatch):
    # A stand-in, because the processor cannot be changed.
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(ValueError, match=r"^Expected a processor with AMX or AVX512-BF16 .* found .* FP32, INT8$"):
        load(PACKAGED["small"], precision="bfloat16")


def test_bfloat16_on_a_gpu_is_refused():
    with pytest.raises(ValueError, match=r"^Expected the processor for precision bfloat16, found device gpu$"):
        load(PACKAGED["small"], device="gpu", precision="bfloat16")


@pytest.mark.parametrize(
    ("task", "count", "dimensions"), [("ultrasound", 3, 2), ("histology", 2, 3), ("subtypes", 2, 3)]
)
def test_images_of_the_check_are_those_of_the_task(task, count, dimensions):
    images = made_up_images(Task(task))
    assert [image.ndim for image in images] == [dimensions] * count


def test_same_answers_pass_the_check():
    predictor = Predictor("small")
    check_precision(predictor, predictor)


def test_other_masks_are_refused_with_their_dice():
    narrow, wide = (Predictor("small", threshold=threshold) for threshold in (0.99, 0.01))
    with pytest.raises(ValueError, match=r"^Expected the masks of float32, found a Dice of 0\.\d{3} with them in "):
        check_precision(narrow, wide)


def test_other_classes_are_refused_by_name():
    exact, reversed_classes = Predictor("small"), Predictor("small")
    reversed_classes.classes = exact.classes[::-1]
    with pytest.raises(ValueError, match=r"^Expected the class of float32, normal, found malignant in float32 on "):
        check_precision(reversed_classes, exact)
