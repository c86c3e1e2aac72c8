import os
import subprocess
import sys

import pytest

from busseg.models.unet import build_unet
from busseg.training.network import compile_model
from busseg.training.recipe import Recipe

UNNEEDED = ("matplotlib", "pandas", "sklearn", "tensorflow", "torch")  # Keras starts sooner without them


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A compiled model with every layer, loss, metric and the optimizer of ours."""
    model = build_unet(None, width=1, depth=1, attention_gates=True, cbam=True)
    compile_model(model, Recipe(mask_loss="bce_dice"), steps_per_epoch=1)
    path = tmp_path_factory.mktemp("models") / "compiled.keras"
    model.save(path)
    return path


@pytest.mark.parametrize(
    "imports",
    [
        "import busseg, keras",
        "import keras, busseg",
        "import busseg.training.metrics, keras",
        pytest.param("import busseg.models.unet, keras", marks=pytest.mark.slow),  # Keras is within both alike
        "import busseg, importlib.util; importlib.util.find_spec('keras'); import keras",
    ],
)
def test_importing_busseg_is_all_that_keras_needs_to_load_a_model(path, imports):
    code = (
        f"import sys; sys.modules |= dict.fromkeys({UNNEEDED})\n"
        f"{imports}; print(type(keras.models.load_model(sys.argv[1]).optimizer).__name__)"
    )
    environment = os.environ | {"KERAS_BACKEND": "numpy"}  # any will do; this one starts in a quarter of the time
    done = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("SlowEncoderAdamW\n", 0), done.stderr


def test_importing_busseg_does_not_import_keras():
    code = "import sys, busseg; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
