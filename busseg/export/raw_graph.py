"""A network with its pre- and postprocessing as one TensorFlow graph, for images of any size."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from busseg.data.sample import LABEL, MASK, THRESHOLD

if TYPE_CHECKING:
    import keras
    from tensorflow.types.experimental import PolymorphicFunction as Function

# Of red, green and blue, in 65536ths: the luma of ITU-R BT.601 as Pillow computes it, exact in float32.
_LUMA = (19595, 38470, 7471)


def raw_function(model: "keras.Model") -> "Function":
    """Build the function from an image of any size to outputs of its size, of TensorFlow operations alone.

    It computes what `Predictor.predict` does, so serving it needs no code of busseg.

    Args:
        model: `keras.Model` of busseg, on TensorFlow.

    Returns:
        A `tf.function` of `image`, `(height, width, channels)` uint8: grey, one channel, or RGB, three. Further
        channels, such as transparency, are ignored. A histology model takes RGB alone. It returns a dict of fields of a
        `Prediction`: `probabilities`, `(classes,)`; for ultrasound `mask`, `(height, width)` uint8, 0 or 1, and
        `probability_map`, `(height, width)`; and the scalars `uncertainty` and `ood_score`, if the model has them.
    """
    import tensorflow as tf

    size, channels = model.input_shape[2:]

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.uint8, name="image")])
    def answer(image):
        return _at_native_size(tf.shape(image)[:2], model(_square(image, size, channels), training=False), size)

    return answer


def functions_around(size: int, channels: int, outputs: Mapping[str, tuple]) -> "tuple[Function, Function]":
    """Build the pre- and postprocessing of `raw_function`, for a non-Keras network.

    Args:
        size: Side of the network's square in pixels.
        channels: Channels of the square.
        outputs: Dict from the names of the network's outputs to their shapes.

    Returns:
        `(before, after)`: a `tf.function` from the `image` to the `square`, a batch of one, and the `shape` of the
        image; and one from that shape and the network's outputs to the outputs of `raw_function`.
    """
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.uint8, name="image")])
    def before(image):
        return {"square": _square(image, size, channels), "shape": tf.shape(image)[:2]}

    names = list(outputs)
    specs = [tf.TensorSpec((1, *outputs[name][1:]), tf.float32, name=f"network_{name}") for name in names]

    @tf.function(input_signature=[tf.TensorSpec((2,), tf.int32, name="shape"), *specs])
    def after(shape, *values):
        return _at_native_size(shape, dict(zip(names, values)), size)

    return before, after


def _square(image, size, channels):
    """The network's input, `(1, size, size, channels)`, of an image of any size."""
    import tensorflow as tf

    shape = tf.shape(image)[:2]
    pixels = tf.cast(image[..., :3], tf.float32)
    if channels == 1:
        pixels = _grey(pixels)[..., None]
    pixels = tf.ensure_shape(pixels, (None, None, channels))
    rows, columns = (_to_square(shape, axis, size) for axis in (0, 1))
    return tf.round(tf.einsum("ih,jw,hwc->ijc", rows, columns, pixels))[None]


def _at_native_size(shape, outputs, size):
    """The outputs of `raw_function`, from those of the network for a batch of one."""
    import tensorflow as tf

    outputs = {name: values[0] for name, values in outputs.items()}
    answers = {"probabilities": outputs.pop(LABEL)}
    if MASK in outputs:
        rows, columns = (_to_native(shape, axis, size) for axis in (0, 1))
        lesion = tf.einsum("yi,xj,ij->yx", rows, columns, outputs.pop(MASK)[..., 0])
        answers |= {"probability_map": lesion, "mask": tf.cast(lesion >= THRESHOLD, tf.uint8)}
    return answers | outputs


def _grey(pixels):
    """Luma of RGB; a single channel unchanged."""
    import tensorflow as tf

    one = tf.shape(pixels)[2] == 1
    weights = tf.where(one, tf.constant([65536.0, 0, 0]), tf.constant(_LUMA, tf.float32))[: tf.shape(pixels)[2]]
    return tf.floor((tf.linalg.matvec(pixels, weights) + 32768) / 65536)


def _placement(shape, axis, size):
    """Place of an axis of the image in the square: `(start, length)`, as in `images.fit_to_square`."""
    import tensorflow as tf

    sides = tf.cast(shape, tf.float64)
    length = tf.maximum(tf.round(sides[axis] * size / tf.reduce_max(sides)), 1)
    return tf.floor((size - length) / 2), length


def _to_square(shape, axis, size):
    """Weights of the image's pixels along an axis for the square's: `(size, side)`; 0 in the border."""
    import tensorflow as tf

    start, length = _placement(shape, axis, size)
    side = tf.cast(shape[axis], tf.float64)
    old, new = tf.range(side)[None, :], tf.range(size, dtype=tf.float64)[:, None] - start
    step = side / length
    overlap = tf.minimum((new + 1) * step, old + 1) - tf.maximum(new * step, old)
    area = tf.maximum(overlap, 0) / step
    weights = tf.where(size < tf.reduce_max(shape), area, _linear(old, new, step, side))
    return tf.cast(tf.where((new >= 0) & (new < length), weights, 0), tf.float32)


def _to_native(shape, axis, size):
    """Weights of the square's pixels along an axis for the image's: `(side, size)`."""
    import tensorflow as tf

    start, length = _placement(shape, axis, size)
    side = tf.cast(shape[axis], tf.float64)
    old, new = tf.range(size, dtype=tf.float64)[None, :] - start, tf.range(side)[:, None]
    return tf.cast(_linear(old, new, length / side, length), tf.float32)


def _linear(old, new, step, length):
    import tensorflow as tf

    centre = tf.clip_by_value((new + 0.5) * step - 0.5, 0, length - 1)
    return tf.maximum(1 - tf.abs(centre - old), 0)
