import shutil

import onnxruntime
import pytest

from busseg.inference.predictor import PACKAGED, Predictor
from busseg.inference.runtimes import load

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.fixture
def asked(monkeypatch):
    """Makes ONNX Runtime claim providers, and returns the list of those that it is asked for; it then uses the CPU.

    A stand-in, because no GPU can be expected where tests run.
    """
    session = onnxruntime.InferenceSession

    def claim(*available):
        wanted = []

        def start(path, options, providers):
            wanted.append(providers)
            return session(path, options, providers=[CPU])

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))
        monkeypatch.setattr(onnxruntime, "InferenceSession", start)
        return wanted

    return claim


@pytest.mark.parametrize(
    ("device", "available", "wanted"),
    [
        ("auto", [CUDA, CPU], [CUDA, CPU]),
        ("auto", [CPU], [CPU]),
        ("auto", ["AzureExecutionProvider", CPU], [CPU]),  # sends images away
        ("gpu", [CUDA, CPU], [CUDA, CPU]),
        ("cpu", [CUDA, CPU], [CPU]),
    ],
)
def test_provider_is_that_of_the_device(asked, device, available, wanted):
    providers = asked(*available)
    load(PACKAGED["small"], device=device)
    assert providers == [wanted]


def test_gpu_that_onnx_runtime_lacks_is_refused():
    with pytest.raises(ValueError, match=r"^Expected an ONNX Runtime that computes on a GPU, .* found one with .*CPU"):
        Predictor("small", device="gpu")


def test_unknown_device_is_refused():
    with pytest.raises(ValueError, match=r"^`device` must be one of auto, cpu, gpu. Received: device='tpu'"):
        Predictor("small", device="tpu")


def test_device_of_a_format_that_takes_none_is_refused(tmp_path):
    shutil.copy(PACKAGED["small"], tmp_path / "small.tflite")
    with pytest.raises(ValueError, match=r"^Expected an ONNX file .* for device cpu, found another: .*small.tflite$"):
        Predictor(tmp_path / "small.tflite", device="cpu")
