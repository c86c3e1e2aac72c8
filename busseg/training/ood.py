"""Out-of-distribution detection: the Mahalanobis distance of an image's texture from the training images."""

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from busseg.data.sample import Sample
from busseg.models.serving import texture_features
from busseg.training.batches import Batches

_AUGMENTED = 4  # changed copies of each image: other gains, crops and noises are in distribution


def fit_ood(
    network: keras.Model, samples: Sequence[Sample], augmentation: str, seed: int = 0
) -> tuple[NDArray, NDArray]:
    """Fit mean and covariance of the training images' texture features, for Mahalanobis distances.

    Args:
        network: `keras.Model` of `build_unet`.
        samples: Sequence of `Sample`, the training images.
        augmentation: One of `AUGMENTATIONS`, the changes that keep an image in distribution.
        seed: Integer.

    Returns:
        Float32 arrays `mean`, `(features,)`, and `whitening`, `(features, features)`, for
        `models.serving.add_ood_score`. The median distance of the unchanged samples is 1.
    """
    texture = texture_features(network)
    plain = _features(texture, Batches(samples, network.input_shape[1], 32))
    changed = Batches(samples, network.input_shape[1], 32, augmentation=augmentation, seed=seed)
    epochs = [plain]
    for _ in range(_AUGMENTED):
        epochs.append(_features(texture, changed))
        changed.on_epoch_end()
    known = np.concatenate(epochs).astype(np.float64)
    spread = known.std(axis=0)
    spread += 1e-3 * spread.mean()  # an almost constant feature would dominate
    precision = LedoitWolf().fit((known - known.mean(axis=0)) / spread).precision_
    mean, whitening = known.mean(axis=0), np.linalg.cholesky(precision) / spread[:, None]
    whitening /= np.median(distances(plain, mean, whitening))
    return mean.astype(np.float32), whitening.astype(np.float32)


def measure_ood(network: keras.Model, samples: Sequence[Sample], mean: NDArray, whitening: NDArray) -> NDArray:
    """Distances of samples, array `(n,)`, by the result of `fit_ood`."""
    features = _features(texture_features(network), Batches(samples, network.input_shape[1], 32))
    return distances(features, mean, whitening)


def distances(features: NDArray, mean: NDArray, whitening: NDArray) -> NDArray:
    """Mahalanobis distances `(n,)` of features `(n, features)`."""
    return np.linalg.norm((features - mean) @ whitening, axis=1)


def _features(texture, batches):
    return np.concatenate([np.asarray(texture.predict_on_batch(batches[i][0])) for i in range(len(batches))])
