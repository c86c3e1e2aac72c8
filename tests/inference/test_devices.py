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


@pytest.mark.parametrize(
    ("choice", "known"), [({"device": "tpu"}, "auto, cpu, gpu"), ({"precision": "int8"}, "float32, bfloat16")]
)
def test_unknown_device_or_precision_is_refused(choice, known):
    ((name, value),) = choice.items()
    with pytest.raises(ValueError, match=rf"^`{name}` must be one of {known}. Received: {name}='{value}'"):
        Predictor("small", **choice)


@pytest.mark.parametrize("choice", [{"device": "cpu"}, {"precision": "bfloat16"}])
def test_device_or_precision_of_a_format_that_takes_none_is_refused(echo_model, tmp_path, choice):
    shutil.copy(PACKAGED["small"], tmp_path / "small.tflite")
    ((name, value),) = choice.items()
    for model in (tmp_path / "small.tflite", echo_model):
        with pytest.raises(ValueError, match=rf"^Expected an ONNX file .* for {name} {value}, found another: "):
            Predictor(model, **choice)
