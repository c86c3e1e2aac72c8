"""Breast-ultrasound classification and lesion segmentation with one U-Net.

To import busseg, before Keras or after, is enough for `keras.models.load_model` to load its models.
"""

import importlib
import sys
from importlib.machinery import PathFinder

__version__ = "0.1.0"

# What Keras must know of to load our models. None of them imports another.
_REGISTERING = (
    "busseg.models.attention",
    "busseg.models.upsampling",
    "busseg.training.losses",
    "busseg.training.metrics",
    "busseg.training.optimizer",
)


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
