import dataclasses
from importlib.resources import files

import pytest

from busseg.models.encoders import ENCODERS
from busseg.training.losses import LABEL_LOSSES, MASK_LOSSES
from busseg.training.network import build_model
from busseg.training.recipe import Recipe, load_recipe

PACKAGED = sorted(path.name.removesuffix(".toml") for path in (files("busseg.training") / "recipes").iterdir())
UNUSUAL = Recipe(
    image_size=64, encoder="efficientnet_lite0", weights="my encoder.weights.h5", width=8, depth=3, decoder="add",
    frozen=1, frozen_depthwise=True, fold_batch_norm=True, dropout=0.25, normalization="group", attention_gates=True,
    cbam=True, flip_tta=True, mask_follows_class=True, augmentation="scanner", balance="sampling", balance_power=0.5,
    augment_on="device", lesion_free=0.2,
    grey_transfer=0.3, normals_drawn=0.5, validation=False, mask_loss="bce_dice",
    mask_weight=2.5, label_loss="focal", label_weight=0.5, epochs=7, batch_size=4, learning_rate=3e-4, head_epochs=1,
    encoder_rate=0.1, warmup_epochs=0, weight_decay=0.0, patience=2, precision="mixed_bfloat16", seed=11,
)  # fmt: skip


@pytest.fixture
def toml(tmp_path):
    """Writes a text to a TOML file, and returns its path."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# === Loading ===
def test_card_is_the_defaults_but_for_its_draws_and_its_learning_rate():
    assert load_recipe("card") == Recipe(balance="sampling", balance_power=0.25, learning_rate=2e-3, warmup_epochs=1)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_recipe_loads_and_builds(name):
    recipe = load_recipe(name)
    build_model(dataclasses.replace(recipe, weights="none"))
    assert recipe.warmup_epochs < recipe.epochs


def test_packaged_recipes_are_known():
    assert {"card", "demo", "light", "pretrained"} <= set(PACKAGED)


def test_demo_is_small():
    demo, card = load_recipe("demo"), load_recipe("card")
    # Compute grows with the pixels, the square of the width, and the epochs.
    costs = [r.image_size**2 * r.width**2 * r.epochs for r in (demo, card)]
    assert costs[0] * 20 < costs[1]


@pytest.mark.parametrize("recipe", [Recipe(), UNUSUAL, Recipe(task="subtypes", augmentation="stain")])
def test_saved_recipe_is_loaded_as_it_was(recipe, tmp_path):
    recipe.save(tmp_path / "recipe.toml")
    assert load_recipe(tmp_path / "recipe.toml") == recipe
    assert load_recipe(str(tmp_path / "recipe.toml")) == recipe


def test_unusual_differs_from_the_defaults_everywhere():
    shared = dataclasses.asdict(UNUSUAL).items() & dataclasses.asdict(Recipe()).items()
    assert shared == {("task", "ultrasound"), ("magnification", 0)}  # other tasks know no mirror image and no mask


def test_what_a_file_does_not_set_keeps_the_default(toml):
    assert load_recipe(toml("epochs = 3\n# a comment\nlearning_rate = 1")) == Recipe(epochs=3, learning_rate=1)
    assert load_recipe(toml("")) == Recipe()


def test_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3


# === Wrong files ===
def test_missing_recipe_names_the_packaged_ones(tmp_path):
    for name in ("kard", tmp_path / "none.toml", tmp_path):  # a folder is no recipe either
        with pytest.raises(FileNotFoundError) as error:
            load_recipe(name)
        expected = f"Expected a TOML file or one of {', '.join(PACKAGED)}, found no such recipe: {name}"
        assert str(error.value) == expected


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("learning_rat", "did you mean 'learning_rate'?"),
        ("Epochs", "did you mean 'epochs'?"),
        ("optimizer_of_choice", "known are task, image_size, "),
    ],
)
def test_unknown_key_names_the_nearest_known_one(toml, key, hint):
    path = toml(f"{key} = 3")
    with pytest.raises(ValueError, match="Unknown key") as error:
        load_recipe(path)
    assert str(error.value).startswith(f"Unknown key {key!r}; {hint}")
    assert str(error.value).endswith(f" In the recipe: {path}")


def test_table_is_an_unknown_key(toml):
    with pytest.raises(ValueError, match=r"^Unknown key 'network'; "):
        load_recipe(toml("[network]\nwidth = 4"))


@pytest.mark.parametrize("content", [b"epochs = ", b"epochs: 3", b"\xff\xfe\x00", b"a = " + b"[" * 5000])
def test_broken_toml_is_named(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^Expected TOML, found something else \(.+\): .*broken\.toml$"):
        load_recipe(path)


# === Wrong values ===
def test_seed_that_keras_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"^`seed` must be < 2 \*\* 32\. Received: 4294967296$"):
        Recipe(seed=2**32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 3.5}, "`epochs` must be of type int. Received: 3.5"),
        ({"epochs": "3"}, "`epochs` must be of type int. Received: '3'"),
        ({"epochs": True}, "`epochs` must be of type int. Received: True"),  # an int to Python
        ({"learning_rate": True}, "`learning_rate` must be of type float. Received: True"),
        ({"cbam": 1}, "`cbam` must be of type bool. Received: 1"),
        ({"balance": False}, "`balance` must be of type str. Received: False"),
        ({"augmentation": ["card"]}, "`augmentation` must be of type str. Received: ['card']"),
        ({"weights": False}, "`weights` must be of type str. Received: False"),
        ({"frozen": 0.5}, "`frozen` must be of type int. Received: 0.5"),
        ({"fold_batch_norm": 1}, "`fold_batch_norm` must be of type bool. Received: 1"),
    ],
)
def test_wrong_type_is_refused(wrong, message):
    with pytest.raises(ValueError, match="must be of type") as error:
        Recipe(**wrong)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("encoder", list(ENCODERS)),
        ("decoder", ["concat", "add"]),
        ("normalization", ["batch", "group", "none"]),
        ("augmentation", ["none", "card", "strong", "scanner", "stain"]),
        ("task", ["ultrasound", "histology", "subtypes"]),
        ("balance", ["none", "weights", "sampling"]),
        ("mask_loss", list(MASK_LOSSES)),
        ("label_loss", list(LABEL_LOSSES)),
        ("precision", ["float32", "mixed_bfloat16", "mixed_float16"]),
    ],
)
def test_unknown_choice_is_refused_with_the_known_ones(name, known):
    for value in known:
        Recipe(**({"task": "histology"} if value == "stain" else {}) | {name: value})
    with pytest.raises(ValueError, match=f"^`{name}` must be one of {', '.join(known)}. Received: 'other'$"):
        Recipe(**{name: "other"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"augmentation": "stain"}, "is for the histology tasks"),
        ({"magnification": 40}, "`magnification` must be 0, or for histology one of 40, 100, 200, 400. Received: 40"),
        ({"task": "histology", "magnification": 50}, "`magnification` must be 0, .* Received: 50"),
        ({"task": "histology", "flip_tta": True}, "are for ultrasound. Received: task='histology'"),
        ({"task": "subtypes", "mask_follows_class": True}, "are for ultrasound. Received: task='subtypes'"),
    ],
)
def test_choices_of_another_task_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)


@pytest.mark.parametrize("name", ["image_size", "normals_drawn", "epochs", "batch_size", "learning_rate", "patience"])
@pytest.mark.parametrize("value", [0, -1])
def test_number_that_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"^`{name}` must be > 0. Received: {value}$"):
        Recipe(**{name: value})


@pytest.mark.parametrize(
    "name", ["frozen", "mask_weight", "label_weight", "encoder_rate", "warmup_epochs", "weight_decay", "seed"]
)
def test_number_that_must_not_be_negative(name):
    Recipe(**{name: 0})
    with pytest.raises(ValueError, match=f"^`{name}` must be >= 0. Received: -1$"):
        Recipe(**{name: -1})


@pytest.mark.parametrize("name", ["balance_power", "lesion_free", "grey_transfer"])
def test_share_that_must_be_between_0_and_1(name):
    for value in (0, 0.5, 1):
        Recipe(**{name: value})
    for value in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"^`{name}` must be in \[0, 1\]. Received: {value}$"):
            Recipe(**{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "encoder_rate", "weight_decay", "mask_weight", "label_weight"])
def test_what_is_no_number_is_refused(toml, name):
    with pytest.raises(ValueError, match=f"^`{name}` must be >=? 0. Received: nan In the recipe: "):
        load_recipe(toml(f"{name} = nan"))


def test_wrong_value_in_a_file_names_the_file(toml):
    path = toml("epochs = 0")
    with pytest.raises(ValueError, match="epochs") as error:
        load_recipe(path)
    assert str(error.value) == f"`epochs` must be > 0. Received: 0 In the recipe: {path}"
