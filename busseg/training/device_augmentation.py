"""Augmentation on the device that trains: the pipelines of `data.augmentation` for a whole batch, in Keras operations.

A GPU trains faster than the cores of its machine can augment. Here it does both. Choices and ranges are those of the
pipelines of the same names; pixels differ slightly, since one interpolation serves all of a pipeline's geometry, blurs
are matrix products, and grey values are rounded once, at the end.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

NUMBERS = 64  # uniform random numbers that a pipeline may use for one image

# The luminance table of JPEG, ITU-T T.81, Annex K.1.
_JPEG_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


class Draws:
    """The random numbers of a batch: each image has its own, and each method uses the next of them.

    Args:
        numbers: Tensor `(batch, NUMBERS)` of uniform numbers in `[0, 1)`.
        generator: `keras.random.SeedGenerator` for noise, which needs a number for each pixel.
    """

    def __init__(self, numbers, generator):
        self._numbers = ops.convert_to_tensor(numbers)
        self._used = 0
        self.generator = generator

    def uniform(self, low: float, high: float):
        """Tensor `(batch, 1, 1)` of numbers between `low` and `high`."""
        number = self._numbers[:, self._used, None, None]
        self._used += 1
        return low + (high - low) * number

    def normal(self, mean: float, deviation: float):
        """Tensor `(batch, 1, 1)` of normally distributed numbers."""
        return mean + deviation * 2**0.5 * ops.erfinv(self.uniform(-0.999999, 0.999999))

    def happens(self, probability: float):
        """Tensor `(batch, 1, 1)` of bool, true with the probability."""
        return self.uniform(0, 1) < probability

    def one_of(self, weights: Sequence[float], probability: float = 1.0) -> list:
        """For each choice a tensor `(batch, 1, 1)` of bool: one is true with the probability, drawn by the weights."""
        number, begin, chosen = self.uniform(0, 1), 0.0, []
        for weight in weights:
            end = begin + probability * weight / sum(weights)
            chosen.append((number >= begin) & (number < end))
            begin = end
        return chosen


def _none(image, mask, draw):
    return image, mask


def _card(image, mask, draw):
    _, contrast, brightness, flip, blur = draw.one_of([1, 1, 1, 1, 1])
    image = ops.where(contrast, _contrast(image, draw, 0.3, 0), image)
    image = ops.where(brightness, _contrast(image, draw, 0, 0.2), image)
    image, mask = (ops.where(flip, ops.flip(pixels, axis=2), pixels) for pixels in (image, mask))
    return _blurred(image, _gaussian(image, draw, blur)), mask


def _strong(image, mask, draw):
    image, mask = _warped(
        image, mask, draw, chance=0.7, scale=(0.8, 1.25), keep_ratio=False, shift=0.1, turn=15, shear=5
    )
    image = ops.where(draw.happens(0.5), _contrast(image, draw, 0.3, 0.2), image)
    image = ops.where(draw.happens(0.4), _gamma(image, draw, 0.7, 1.4), image)
    image = _blurred(image, _gaussian(image, draw, draw.happens(0.2)))
    image = _clip(image * ops.where(draw.happens(0.3), 1 + 0.2 * _field(image, draw), 1))
    return ops.where(_holes(image, draw), 0, image), mask


def _scanner(image, mask, draw):
    image, mask = _warped(
        image, mask, draw, chance=0.9, scale=(0.67, 1.5), keep_ratio=True, shift=0.15, turn=20, shear=8
    )
    contrast, gamma, curve, local = draw.one_of([1, 1, 0.5, 0.25], 0.8)
    image = ops.where(contrast, _contrast(image, draw, 0.4, 0.3), image)
    image = ops.where(gamma, _gamma(image, draw, 0.5, 2), image)
    image = ops.where(curve, _tone_curve(image, draw, 0.25), image)
    image = ops.where(local, _equalised(image), image)
    image = ops.where(draw.happens(0.3), _illuminated(image, draw, 0.05, 0.2), image)
    blur, sharpen, coarse, compress = draw.one_of([1, 0.5, 0.5, 0.5], 0.4)
    blurs = ops.where(coarse, _coarse(image, draw, 0.4, 0.8), _gaussian(image, draw, blur))
    image = ops.where(sharpen, _sharpened(image, draw), ops.where(compress, _compressed(image, draw, 25, 80), image))
    image = _blurred(image, blurs)
    speckle, noise = draw.one_of([1, 0.5], 0.4)
    image = image * ops.where(speckle, 1 + 0.25 * _field(image, draw), 1)
    normal = keras.random.normal(ops.shape(image), seed=draw.generator)
    image = _clip(image + ops.where(noise, 255 * draw.uniform(0.01, 0.05) * normal, 0))
    return ops.where(_holes(image, draw), 0, image), mask


DEVICE_AUGMENTATIONS: dict[str, Callable] = {"none": _none, "card": _card, "strong": _strong, "scanner": _scanner}


class DeviceAugmentation:
    """Random changes of a batch of images and masks, compiled once for the device.

    Args:
        name: One of `DEVICE_AUGMENTATIONS`.
    """

    def __init__(self, name: str):
        self._pipeline = DEVICE_AUGMENTATIONS[name]
        self._generator = keras.random.SeedGenerator(0)
        self._compiled = _compiled(self._change)

    def __call__(self, image, mask, numbers, seed):
        """Change images and their masks at random.

        Args:
            image: Tensor `(batch, size, size)` uint8, 0..255; the size a multiple of 8.
            mask: Tensor of the same shape, uint8, 0 or 1.
            numbers: Tensor `(batch, NUMBERS)` float32, uniform in `[0, 1)`.
            seed: Tensor `(2,)` uint32, for noise.

        Returns:
            `(image, mask)`, float32 of the shape `(batch, size, size, 1)`, 0..255 and 0 or 1. The same arguments give
            the same result.
        """
        return self._compiled(image, mask, numbers, seed)

    def _change(self, image, mask, numbers, seed):
        # A scope, because a compiled function may not change the generator's own state.
        with keras.StatelessScope(state_mapping=[(self._generator.state, seed)]):
            draw = Draws(numbers, self._generator)
            image, mask = self._pipeline(ops.cast(image, "float32"), ops.cast(mask, "float32"), draw)
        return ops.round(image)[..., None], mask[..., None]


def _compiled(function):
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    return function


# === Geometry ===


def _warped(image, mask, draw, *, chance, scale, keep_ratio, shift, turn, shear):
    """Flip, scale, rotate, shear and shift, and an elastic deformation; what lies outside is black."""
    size = image.shape[1]
    flip, moves, bends = draw.happens(0.5), draw.happens(chance), draw.happens(0.2)
    across = draw.uniform(*scale)
    down = across if keep_ratio else draw.uniform(*scale)
    angle, slant_x, slant_y = (ops.deg2rad(draw.uniform(-most, most)) for most in (turn, shear, shear))
    shift_x, shift_y = (draw.uniform(-shift, shift) * size for _ in "xy")

    # Of each pixel of the result, its place in the original: the inverse of shift, shear, rotation and scale.
    center, line = (size - 1) / 2, ops.arange(size, dtype="float32")
    bend_x, bend_y = (ops.where(bends, _displacement(image, draw), 0) for _ in "xy")
    x, y = line[None, None, :] + bend_x - center, line[None, :, None] + bend_y - center
    x_moved, y_moved = x - shift_x, y - shift_y
    tan_x, tan_y = ops.tan(slant_x), ops.tan(slant_y)
    x_moved, y_moved = (
        (x_moved - tan_x * y_moved) / (1 - tan_x * tan_y),
        (y_moved - tan_y * x_moved) / (1 - tan_x * tan_y),
    )
    x_moved, y_moved = (
        (ops.cos(angle) * x_moved - ops.sin(angle) * y_moved) / across,
        (ops.sin(angle) * x_moved + ops.cos(angle) * y_moved) / down,
    )
    x, y = ops.where(moves, x_moved, x), ops.where(moves, y_moved, y)
    x = ops.where(flip, -x, x)
    places = ops.stack([y + center, x + center], axis=1)

    def sampled(pixels, order):
        def one(arguments):
            return ops.image.map_coordinates(*arguments, order=order, fill_mode="constant")

        return ops.vectorized_map(one, (pixels, places))

    return sampled(image, 1), sampled(mask, 0)


def _displacement(image, draw, strength=40, sigma=6):
    """Smooth noise, in pixels: `(batch, size, size)`."""
    size = image.shape[1]
    noise = keras.random.normal(ops.shape(image), seed=draw.generator)
    noise = noise / ops.max(ops.abs(noise), axis=(1, 2), keepdims=True)
    return strength * _blurred(noise, _gaussian_matrix(size, sigma))


# === Grey values ===


def _clip(image):
    return ops.clip(image, 0, 255)


def _contrast(image, draw, contrast, brightness):
    return _clip(image * (1 + draw.uniform(-contrast, contrast)) + 255 * draw.uniform(-brightness, brightness))


def _gamma(image, draw, low, high):
    return 255 * (image / 255) ** draw.uniform(low, high)


def _tone_curve(image, draw, deviation):
    """A Bezier curve through black and white, with random heights of its two inner points."""
    low, high = (ops.clip(draw.normal(mean, deviation), 0, 1) for mean in (0.25, 0.75))
    t = image / 255
    return _clip(255 * (3 * (1 - t) ** 2 * t * low + 3 * (1 - t) * t**2 * high + t**3))


def _equalised(image):
    """Contrast-limited adaptive histogram equalisation, with the middle of the limits of the CPU's pipeline."""
    equalise = keras.layers.ContrastLimitedAdaptiveHistogramEqualization(clip_limit=2.0)
    return equalise(image[..., None])[..., 0]


def _illuminated(image, draw, low, high):
    """Brighter or darker towards one side."""
    size = image.shape[1]
    strength = draw.uniform(low, high) * ops.where(draw.happens(0.5), 1.0, -1.0)
    angle, line = ops.deg2rad(draw.uniform(0, 360)), ops.linspace(0.0, 1.0, size)
    ramp = ops.cos(angle) * line[None, None, :] + ops.sin(angle) * line[None, :, None]
    low, high = (limit(ramp, axis=(1, 2), keepdims=True) for limit in (ops.min, ops.max))
    return _clip(image * (1 + strength * (2 * (ramp - low) / (high - low) - 1)))


# === Sharpness ===


def _blurred(image, matrix):
    """Smooth rows and columns by a matrix `(batch, size, size)` or `(1, size, size)`."""
    return ops.matmul(ops.matmul(matrix, image), ops.transpose(matrix, (0, 2, 1)))


def _gaussian_matrix(size, sigma):
    line = ops.arange(size, dtype="float32")
    weights = ops.exp(-ops.square((line[None, :, None] - line[None, None, :]) / sigma) / 2)
    return weights / ops.sum(weights, axis=2, keepdims=True)


def _gaussian(image, draw, acts):
    """The matrix of a Gaussian blur where it acts, else one that changes nothing."""
    # A blur so narrow changes no pixel.
    return _gaussian_matrix(image.shape[1], ops.where(acts, draw.uniform(0.5, 1.5), 0.01))


def _coarse(image, draw, low, high):
    """The matrix of a coarser grid: down by the mean over each of its cells, up by linear interpolation."""
    size = image.shape[1]
    cells = ops.round(draw.uniform(low, high) * size)
    width = size / cells
    line = ops.arange(size, dtype="float32")
    cell, pixel = line[None, :, None], line[None, None, :]
    overlap = ops.minimum(pixel + 1, (cell + 1) * width) - ops.maximum(pixel, cell * width)
    down = ops.where(cell < cells, ops.maximum(overlap, 0) / width, 0)
    place = ops.clip((line[None, :, None] + 0.5) / width - 0.5, 0, cells - 1)
    up = ops.maximum(1 - ops.abs(place - line[None, None, :]), 0)
    return ops.matmul(up, down)


def _sharpened(image, draw):
    strength, lightness = draw.uniform(0.2, 0.5), draw.uniform(0.5, 1)
    line = ops.arange(image.shape[1])
    near = ops.cast(ops.abs(line[:, None] - line[None, :]) <= 1, "float32")[None]
    return _clip((1 - strength) * image + strength * ((9 + lightness) * image - _blurred(image, near)))


def _compressed(image, draw, low, high):
    """The loss of JPEG: cosine transforms of blocks of 8 x 8 px, rounded to the steps of a quality."""
    quality = ops.round(draw.uniform(low, high))
    percent = ops.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None]
    table = ops.convert_to_tensor(_JPEG_TABLE, "float32")[None, None, :, None, :]
    steps = ops.clip(ops.floor((table * percent[..., None] + 50) / 100), 1, 255)
    line = ops.arange(8, dtype="float32")
    cosine = ops.cos(line[:, None] * (2 * line[None, :] + 1) * (3.14159265 / 16)) / 2
    cosine = cosine * ops.where(line == 0, 2**-0.5, 1.0)[:, None]
    blocks = image.shape[1] // 8
    pixels = ops.reshape(image - 128, (-1, blocks, 8, blocks, 8))
    coefficients = ops.einsum("ij,bpjqk,lk->bpiql", cosine, pixels, cosine)
    coefficients = ops.round(coefficients / steps) * steps
    pixels = ops.einsum("ij,bpiql,lk->bpjqk", cosine, coefficients, cosine)
    return _clip(ops.reshape(pixels, ops.shape(image)) + 128)


# === Noise ===


def _field(image, draw):
    """A number in `[-1, 1]` for each pixel."""
    return keras.random.uniform(ops.shape(image), -1, 1, seed=draw.generator)


def _holes(image, draw, most=4, low=0.05, high=0.15, chance=0.2):
    """True inside of up to `most` rectangles of a random place and size."""
    size = image.shape[1]
    line = ops.arange(size, dtype="float32")
    count = ops.where(draw.happens(chance), ops.floor(draw.uniform(1, most + 1)), 0)
    hidden = ops.zeros(ops.shape(image), "bool")
    for number in range(most):
        inside = ops.broadcast_to(count > number, ops.shape(image))
        for axis in (line[None, None, :], line[None, :, None]):
            length = draw.uniform(low, high) * size
            begin = draw.uniform(0, 1) * (size - length)
            inside = inside & (axis >= begin) & (axis < begin + length)
        hidden = hidden | inside
    return hidden
