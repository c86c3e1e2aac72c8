import shutil

import numpy as np
import pytest

from busseg.data.phantom import draw_phantom
from busseg.inference.precision import check_precision
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


def test_bfloat16_on_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(openvino.Core, "available_devices", ["CPU", "GPU"])
    with pytest.raises(ValueError, match=r"^Expected the processor for precision bfloat16, found device gpu$"):
        load(PACKAGED["small"], device="gpu", precision="bfloat16")


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"^`precision` must be one of float32, bfloat16. Received: precision='int8'"):
        Predictor("small", precision="int8")


def test_precision_of_a_format_that_takes_none_is_refused(tmp_path):
    shutil.copy(PACKAGED["small"], tmp_path / "small.tflite")
    with pytest.raises(ValueError, match=r"^Expected an ONNX file .* for precision bfloat16, found another: .*tflite$"):
        Predictor(tmp_path / "small.tflite", precision="bfloat16")


def test_same_answers_pass_the_check():
    predictor = Predictor("small")
    check_precision(predictor, predictor)


def test_other_masks_are_refused_with_their_dice():
    narrow, wide = (Predictor("small", threshold=threshold) for threshold in (0.99, 0.01))
    with pytest.raises(ValueError, match=r"^Expected the answers of float32 on phantoms, found .* Dice of 0\.\d+ "):
        check_precision(narrow, wide)
