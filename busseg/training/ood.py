"""What is foreign to a network: how far an image lies from those that it was trained with."""

import numpy as np
from sklearn.covariance import LedoitWolf

from busseg.models.serving import texture_features
from busseg.training.batches import Batches

_AUGMENTED = 4  # changed copies of each image: other gains, crops and noises are not foreign


def fit_ood(network, samples, augmentation, seed=0):
    """Find where the features of known images lie, so that others can be told by their Mahalanobis distance.

    Args:
        network: `keras.Model` of `build_unet`.
        samples: Sequence of `Sample`, what the network was trained with.
        augmentation: One of `AUGMENTATIONS`, the changes that leave an image known.
        seed: Integer.

    Returns:
        Float32 arrays `mean`, `(features,)`, and `whitening`, `(features, features)`, for
        `models.serving.add_ood_score`. The median distance of the samples as they are is 1.
    """
    seen = texture_features(network)
    plain = _features(seen, Batches(samples, network.input_shape[1], 32))
    changed = Batches(samples, network.input_shape[1], 32, augmentation=augmentation, seed=seed)
    known = [plain]
    for _ in range(_AUGMENTED):
        known.append(_features(seen, changed))
        changed.on_epoch_end()
    known = np.concatenate(known).astype(np.float64)
    spread = known.std(axis=0)
    spread += 1e-3 * spread.mean()  # a feature that hardly moves would count for all
    precision = LedoitWolf().fit((known - known.mean(axis=0)) / spread).precision_
    mean, whitening = known.mean(axis=0), np.linalg.cholesky(precision) / spread[:, None]
    whitening /= np.median(distances(plain, mean, whitening))
    return mean.astype(np.float32), whitening.astype(np.float32)


def measure_ood(network, samples, mean, whitening):
    """The distances of samples, array `(n,)`, by what `fit_ood` has found."""
    features = _features(texture_features(network), Batches(samples, network.input_shape[1], 32))
    return distances(features, mean, whitening)


def distances(features, mean, whitening):
    """Mahalanobis distances `(n,)` of features `(n, features)`."""
    return np.linalg.norm((features - mean) @ whitening, axis=1)


def _features(seen, batches):
    return np.concatenate([np.asarray(seen.predict_on_batch(batches[i][0])) for i in range(len(batches))])
