"""A network and all that stands around it as one graph: an image as it is in, answers at its native size out."""

from busseg.data.sample import LABEL, MASK
from busseg.inference.predictor import THRESHOLD

# Of red, green and blue, in 65536ths: the luma of ITU-R BT.601 as Pillow computes it, exact in float32.
_LUMA = (19595, 38470, 7471)


def raw_function(model):
    """Build the function from an image of any size to its answers at native size, in TensorFlow's operations alone.

    It does what `Predictor.predict` does, so that who serves it needs no code of ours.

    Args:
        model: `keras.Model` of busseg, on TensorFlow.

    Returns:
        A `tf.function` of `image`, `(height, width, channels)` uint8: grey values, one channel, or RGB, three. What
        follows the third, transparency, is passed over. A model of tissue takes RGB alone. It gives a dict of what a
        `Prediction` tells: `probabilities`, `(classes,)`, and of scans `mask`, `(height, width)` uint8, 0 or 1, and
        `probability_map`, `(height, width)`; and `uncertainty` and `ood_score`, scalars, of a model that tells them.
    """
    import tensorflow as tf

    size, channels = model.input_shape[2:]

    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.uint8, name="image")])
    def answer(image):
        return _at_native_size(tf.shape(image)[:2], model(_square(image, size, channels), training=False), size)

    return answer


def functions_around(size, channels, outputs):
    """Build the two halves of `raw_function`, for a network that is not of Keras to stand between.

    Args:
        size: Side of the network's square in pixels.
        channels: Of its square.
        outputs: Dict from the names of the network's outputs to their shapes.

    Returns:
        `(before, after)`: a `tf.function` from the `image` to the `square`, a batch of one, and the `shape` of the
        image; and one from that and the network's outputs to the answers.
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
    """The answers of `raw_function`, from those of the network for a batch of one."""
    import tensorflow as tf

    outputs = {name: values[0] for name, values in outputs.items()}
    answers = {"probabilities": outputs.pop(LABEL)}
    if MASK in outputs:
        rows, columns = (_to_native(shape, axis, size) for axis in (0, 1))
        lesion = tf.einsum("yi,xj,ij->yx", rows, columns, outputs.pop(MASK)[..., 0])
        answers |= {"probability_map": lesion, "mask": tf.cast(lesion >= THRESHOLD, tf.uint8)}
    return answers | outputs


def _grey(pixels):
    """Luma of RGB, and a single channel as it is."""
    import tensorflow as tf

    one = tf.shape(pixels)[2] == 1
    weights = tf.where(one, tf.constant([65536.0, 0, 0]), tf.constant(_LUMA, tf.float32))[: tf.shape(pixels)[2]]
    return tf.floor((tf.linalg.matvec(pixels, weights) + 32768) / 65536)


def _placement(shape, axis, size):
    """Where an axis of the image lies in the square: `(start, length)`, as `images.fit_to_square` places it."""
    import tensorflow as tf

    sides = tf.cast(shape, tf.float64)
    length = tf.maximum(tf.round(sides[axis] * size / tf.reduce_max(sides)), 1)
    return tf.floor((size - length) / 2), length


def _to_square(shape, axis, size):
    """How much each pixel along an axis counts for each of the square's: `(size, side)`; none for the border's."""
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
    """How much each of the square's pixels along an axis counts for each of the image's: `(side, size)`."""
    import tensorflow as tf

    start, length = _placement(shape, axis, size)
    side = tf.cast(shape[axis], tf.float64)
    old, new = tf.range(size, dtype=tf.float64)[None, :] - start, tf.range(side)[:, None]
    return tf.cast(_linear(old, new, length / side, length), tf.float32)


def _linear(old, new, step, length):
    import tensorflow as tf

    centre = tf.clip_by_value((new + 0.5) * step - 0.5, 0, length - 1)
    return tf.maximum(1 - tf.abs(centre - old), 0)
