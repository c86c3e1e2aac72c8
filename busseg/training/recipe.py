"""A recipe: all settings of a training on one page."""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import tomli_w

from busseg.data.augmentation import AUGMENTATIONS
from busseg.data.readers.breakhis import MAGNIFICATIONS
from busseg.data.task import Task
from busseg.models.encoders import ENCODERS
from busseg.models.normalization import NORMALIZATIONS
from busseg.models.unet import DECODERS
from busseg.storage.files import write_text
from busseg.training.batches import BALANCES
from busseg.training.losses import LABEL_LOSSES, MASK_LOSSES

_PACKAGED = files("busseg.training") / "recipes"

_RENAMED = {"mirrored": "flip_tta", "reconciled": "mask_follows_class", "folded": "fold_batch_norm"}  # since 0.1.0

_CHOICES = {
    "task": tuple(Task),
    "encoder": ENCODERS,
    "decoder": DECODERS,
    "normalization": NORMALIZATIONS,
    "augmentation": AUGMENTATIONS,
    "augment_on": ("auto", "cpu", "device"),
    "balance": BALANCES,
    "mask_loss": MASK_LOSSES,
    "label_loss": LABEL_LOSSES,
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
}


@dataclass(frozen=True)
class Recipe:
    """All settings of a training. The defaults are those of the recipe `card`, a plain U-Net, Dice + MAE and its
    augmentation, but for how it draws images and how fast it learns.

    The settings are described where they are used: those of the network in `models.unet.build_unet` (for histology in
    `models.classifier.build_classifier`, which has no decoder and no mask) and `models.serving`, those of the data in
    `training.batches.Batches`, those of the losses in `training.losses`.
    """

    task: str = "ultrasound"  # or for histology: "histology", benign or malignant, or "subtypes", one of eight

    # === Network ===
    image_size: int = 128  # each doubling costs four times the compute
    encoder: str = "plain"
    weights: str = "none"  # or "imagenet", or the path of a file
    width: int = 16  # two million parameters; the original's 64 costs sixteen times the compute
    depth: int = 4  # four skips, as in the original U-Net
    decoder: str = "concat"
    frozen: int = 0  # levels of the encoder, from the finest, that keep their initial weights
    frozen_depthwise: bool = False  # the same for the kernels of all the encoder's depthwise convolutions
    fold_batch_norm: bool = False
    dropout: float = 0.5  # of the pooled features, by which the label head overfits easily
    normalization: str = "batch"
    attention_gates: bool = False
    cbam: bool = False
    flip_tta: bool = False  # whether the trained model predicts the mean over an image and its mirror image
    mask_follows_class: bool = False  # whether its mask is scaled to agree with its class

    # === Data ===
    augmentation: str = "card"
    augment_on: str = "auto"  # "cpu", or "device": the GPU that trains; "auto" chooses it with JAX where it can
    magnification: int = 0  # of histology images to train on; 0 trains on all
    balance: str = "none"
    balance_power: float = 0.0  # "sampling" draws sources and classes in proportion to this power of their sizes
    normals_drawn: float = 1.0  # "sampling" multiplies the frequency of normal images by it
    lesion_free: float = 0.0  # share of lesion images that are replaced by a crop beside the lesion, as normals
    grey_transfer: float = 0.0  # share of images that get the grey values of another source
    validation: bool = True  # whether the validation part selects the epoch; if not, it is trained on

    # === Losses ===
    mask_loss: str = "dice"
    mask_weight: float = 1.0
    label_loss: str = "mae"
    label_weight: float = 1.0

    # === Optimisation ===
    epochs: int = 80
    batch_size: int = 16  # enough for steady batch statistics
    learning_rate: float = 1e-3  # the peak, reached after the warm-up; a cosine brings it to zero
    head_epochs: int = 0  # first epochs in which the encoder is not trained
    encoder_rate: float = 1.0  # the encoder's learning rate, as a share of it; smaller for a pretrained one
    warmup_epochs: int = 3
    weight_decay: float = 0.01  # decoupled, as in AdamW
    patience: int = 80  # epochs without a better validation loss before training stops
    precision: str = "float32"  # or "mixed_bfloat16", "mixed_float16" where the hardware is made for it
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # An integer is accepted as a float; a bool, an int to Python, is not.
            allowed = (float, int) if field.type is float else field.type
            if not isinstance(value, allowed) or (isinstance(value, bool) and field.type is not bool):
                raise ValueError(f"`{field.name}` must be of type {field.type.__name__}. Received: {value!r}")
        for name in ("image_size", "normals_drawn", "epochs", "batch_size", "learning_rate", "patience"):
            if not getattr(self, name) > 0:  # nan is not
                raise ValueError(f"`{name}` must be > 0. Received: {getattr(self, name)}")
        for name in ("frozen", "mask_weight", "label_weight", "head_epochs", "encoder_rate", "warmup_epochs",
                     "weight_decay", "seed"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be >= 0. Received: {getattr(self, name)}")
        for name in ("balance_power", "lesion_free", "grey_transfer"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1]. Received: {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"`seed` must be < 2 ** 32. Received: {self.seed}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}. Received: {getattr(self, name)!r}")
        histology = Task(self.task).is_histology
        if self.augmentation == "stain" and not histology:
            raise ValueError('`augmentation = "stain"` is for the histology tasks. Received: task="ultrasound"')
        if self.magnification not in (0, *(MAGNIFICATIONS if histology else ())):
            allowed = ", ".join(map(str, MAGNIFICATIONS))
            raise ValueError(
                f"`magnification` must be 0, or for histology one of {allowed}. Received: {self.magnification}"
            )
        if histology and (self.flip_tta or self.mask_follows_class):
            raise ValueError(f"`flip_tta` and `mask_follows_class` are for ultrasound. Received: task={self.task!r}")

    def save(self, path: str | Path) -> None:
        """Write the recipe as TOML."""
        write_text(path, tomli_w.dumps(dataclasses.asdict(self)))


def load_recipe(name: str | Path, epochs: int | None = None) -> Recipe:
    """Load a recipe. Settings that it lacks have their defaults.

    Args:
        name: Name of a recipe of the package, such as "card", or path of a TOML file.
        epochs: Number of epochs, instead of the recipe's.

    Returns:
        A `Recipe`.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If the file is not TOML, has an unknown key, or a value out of its range.
    """
    packaged = sorted(path.name.removesuffix(".toml") for path in _PACKAGED.iterdir())
    path = _PACKAGED / f"{name}.toml" if name in packaged else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a TOML file or one of {', '.join(packaged)}, found no such recipe: {name}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"Expected TOML, found something else ({error}): {path}") from error
    known = [field.name for field in dataclasses.fields(Recipe)]
    for key in values:
        if key in _RENAMED:
            raise ValueError(f"Key {key!r} is now named {_RENAMED[key]!r}. In the recipe: {path}")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise ValueError(f"Unknown key {key!r}; {hint} In the recipe: {path}")
    try:
        return Recipe(**values | ({} if epochs is None else {"epochs": epochs}))
    except ValueError as error:
        raise ValueError(f"{error} In the recipe: {path}") from error
