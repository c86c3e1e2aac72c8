"""Breast-ultrasound classification and lesion segmentation with one U-Net.

What most users need can be imported from here, such as `busseg.Predictor`; see `__all__`. Each name loads its module
when it is first used, so `import busseg` is fast. `import busseg`, before Keras or after it, registers busseg's layers,
so that `keras.models.load_model` loads its models.
"""

import importlib
import sys
from importlib.machinery import PathFinder

__version__ = "0.1.0"

# Public name -> its module and its name there.
_PUBLIC = {
    "Predictor": ("busseg.inference.predictor", "Predictor"),
    "Prediction": ("busseg.inference.prediction", "Prediction"),
    "Failure": ("busseg.inference.prediction", "Failure"),
    "find_samples": ("busseg.data", "find_samples"),
    "samples": ("busseg.data.sample_images", "samples"),
    "Recipe": ("busseg.training.recipe", "Recipe"),
    "load_recipe": ("busseg.training.recipe", "load_recipe"),
    "build_unet": ("busseg.models.unet", "build_unet"),
    "build_classifier": ("busseg.models.classifier", "build_classifier"),
    "train": ("busseg.experiments.train", "train_model"),
    "evaluate": ("busseg.experiments.score", "score_model"),
    "cross_validate": ("busseg.experiments.crossval", "cross_validate"),
}
__all__ = sorted(_PUBLIC)

# What Keras must know of to load our models. None of them imports another.
_REGISTERING = (
    "busseg.models.attention",
    "busseg.models.upsampling",
    "busseg.training.losses",
    "busseg.training.metrics",
    "busseg.training.optimizer",
)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'busseg' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__():
    return sorted({*globals(), *__all__})


class _AfterKeras:
    """Finds Keras for whoever imports it, and imports ours right after, for Keras alone takes seconds to start."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target) if name == "keras" else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register
        return spec


def _register():
    for name in _REGISTERING:
        importlib.import_module(name)


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras)
