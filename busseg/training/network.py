"""The network of a recipe, and its losses, metrics and optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from busseg.data.sample import LABEL, MASK
from busseg.data.task import Task
from busseg.models.classifier import build_classifier
from busseg.models.unet import build_unet
from busseg.training.losses import LABEL_LOSSES, MASK_LOSSES
from busseg.training.metrics import CleanNormalRate, LesionDice, LesionIoU
from busseg.training.optimizer import SlowEncoderAdamW
from busseg.training.recipe import Recipe


def build_model(recipe: Recipe) -> keras.Model:
    """Build the network of a recipe, with initial weights."""
    task = Task(recipe.task)
    settings = {
        "classes": len(task.classes),
        "weights": None if recipe.weights == "none" else recipe.weights,
        **{
            name: getattr(recipe, name)
            for name in ("image_size", "encoder", "width", "depth", "frozen", "frozen_depthwise", "fold_batch_norm",
                         "dropout", "normalization", "cbam")
        },
    }  # fmt: skip
    with precision(recipe.precision):
        if not task.has_mask:
            return build_classifier(**settings)
        return build_unet(**settings, decoder=recipe.decoder, attention_gates=recipe.attention_gates)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """A context in which Keras has a dtype policy, such as "mixed_float16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int) -> None:
    """Compile a network by a recipe: losses with their weights, metrics, Adam with warm-up and cosine."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    learning_rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(1, recipe.epochs * steps_per_epoch - warmup),
    )
    optimizer = SlowEncoderAdamW(
        recipe.encoder_rate, recipe.head_epochs * steps_per_epoch,
        learning_rate=learning_rate, weight_decay=recipe.weight_decay,
    )  # fmt: skip
    losses, weights = {LABEL: LABEL_LOSSES[recipe.label_loss]()}, {LABEL: recipe.label_weight}
    auc = keras.metrics.AUC(multi_label=True, num_labels=len(Task(recipe.task).classes), name="auc")
    metrics = {LABEL: ["accuracy", auc]}
    if MASK in model.output:
        losses[MASK], weights[MASK] = MASK_LOSSES[recipe.mask_loss](), recipe.mask_weight
        metrics[MASK] = [LesionDice(), LesionIoU(), CleanNormalRate()]
    # Weighted, because the label of a sample without one has weight 0, and so has an image that pads a batch.
    model.compile(optimizer, losses, weights, weighted_metrics=metrics)


def create_state(model: keras.Model) -> None:
    """Create the variables of a compiled model's optimizer, losses and metrics. Otherwise Keras does so when it trains.

    With TensorFlow it would then build the graph of a step twice, which takes seconds. With other backends it would
    draw a batch for it, and pass what the threads have prepared since, of the epoch before, to the first epoch.

    Args:
        model: Compiled `keras.Model` with a dict of outputs.
    """
    model.optimizer.build(model.trainable_variables)
    nothing = {name: keras.ops.zeros((1, *output.shape[1:])) for name, output in model.output.items()}
    model.compute_loss(None, nothing, nothing)
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()
