"""The engines that run an exported network; `benchmarks.inference` times them.

A folder holds the network in each format, and for each batch size the images and Keras' answers.
"""

from pathlib import Path

import numpy as np

from benchmarks.measuring import noise
from busseg.imaging.threads import count_cores
from busseg.storage.extras import import_openvino

# The name that Keras writes for each format.
EXPORTS = {
    "SavedModel": ("tf_saved_model", "saved_model"),
    "ONNX Runtime": ("onnx", "model.onnx"),
    "OpenVINO": ("openvino", "model.xml"),
    "LiteRT": ("litert", "model.tflite"),
}
# The package that runs it, and the maker below.
ENGINES = {
    "Keras": ("keras", "run_keras"),
    "SavedModel": ("tensorflow", "run_saved_model"),
    "ONNX Runtime": ("onnxruntime", "run_onnxruntime"),
    "OpenVINO": ("openvino", "run_openvino"),
    "LiteRT": ("ai_edge_litert", "run_litert"),
}


def export(folder, size, network, batches):
    """A worker's maker: fills the folder. Returns the network's multiply-adds, and the error of each failed format."""
    import keras

    from benchmarks.models import build, count_multiply_adds

    keras.utils.set_random_seed(0)
    model = build(image_size=size, **network)
    model.save(Path(folder) / "model.keras")
    signature = [keras.InputSpec(shape=(None, size, size, 1), dtype="float32", name="image")]
    failed = {}
    for name, (kind, file) in EXPORTS.items():
        try:
            model.export(str(Path(folder) / file), format=kind, input_signature=signature, verbose=False)
        except Exception as error:  # each converter has its own errors; the others continue
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    for batch in batches:
        image = noise(size, batch)[0][..., None]
        answers = {name: np.asarray(values) for name, values in model.predict_on_batch(image).items()}
        np.savez(Path(folder) / f"{batch}.npz", image=image, **answers)
    return {"failed": failed, "forward, G": sum(count_multiply_adds(model).values()) / 1e9}, None


def compared(folder, batch, predict):
    """A maker's answer: the largest difference from Keras' probabilities, and the work of predicting the batch.

    Args:
        folder: Made by `export`.
        batch: Number of images.
        predict: Function from `(batch, size, size, 1)` to two arrays, mask and label in any order.
    """
    held = np.load(Path(folder) / f"{batch}.npz")
    image = held["image"]
    answers = {"mask" if answer.ndim == 4 else "label": np.asarray(answer) for answer in predict(image)}
    differences = [np.abs(answers[name] - held[name]).max() for name in ("mask", "label")]
    return {"difference": float(max(differences))}, lambda: predict(image)


def run_keras(folder, batch):
    import keras

    model = keras.models.load_model(Path(folder) / "model.keras", compile=False)
    return compared(folder, batch, lambda image: list(model.predict_on_batch(image).values()))


def run_saved_model(folder, batch):
    import tensorflow as tf

    model = tf.saved_model.load(str(Path(folder) / "saved_model"))
    answer = model.signatures["serving_default"]  # held by `model`, so both are kept
    return compared(folder, batch, lambda image: [v.numpy() for v in answer(image=tf.constant(image)).values()])


def run_onnxruntime(folder, batch):
    from busseg.inference.runtimes import load

    run, _, _ = load(Path(folder) / "model.onnx")
    return compared(folder, batch, lambda image: list(run(image).values()))


def run_openvino(folder, batch):
    # Or else it computes in bfloat16 where the processor can, and answers a little otherwise.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = import_openvino().Core().compile_model(Path(folder) / "model.xml", "CPU", options)
    return compared(folder, batch, lambda image: list(model(image).values()))


def run_litert(folder, batch):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(Path(folder) / "model.tflite"), num_threads=count_cores())
    (entry,) = (details["index"] for details in interpreter.get_input_details())
    size = interpreter.get_input_details()[0]["shape"][1]
    interpreter.resize_tensor_input(entry, (batch, size, size, 1))
    interpreter.allocate_tensors()
    exits = [details["index"] for details in interpreter.get_output_details()]

    def predict(image):
        interpreter.set_tensor(entry, image)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in exits]

    return compared(folder, batch, predict)
