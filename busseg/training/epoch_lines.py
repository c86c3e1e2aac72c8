"""The lines of a training: one an epoch on stderr, and one at the end with the scores of the validation part."""

import time
from collections.abc import Mapping, Sequence

import keras

from busseg.storage.progress import bars

# Column of `history.csv`, title, digits, width.
_COLUMNS = (
    ("loss", "loss", 4, 10),
    ("label_accuracy", "accuracy", 3, 9),
    ("mask_lesion_dice", "Dice", 3, 6),
    ("val_loss", "val loss", 4, 12),
    ("val_label_accuracy", "accuracy", 3, 9),
    ("val_mask_lesion_dice", "Dice", 3, 6),
)
_SCORES = {
    "val_label_accuracy": "accuracy",
    "val_label_auc": "AUC",
    "val_mask_lesion_dice": "lesion Dice",
    "val_mask_clean_normal_rate": "normal images left clean",
}


class EpochLines(keras.callbacks.Callback):
    """Prints one line an epoch to stderr, under a line of titles; in a terminal also a bar of the epoch's batches.

    A context manager: the bar ends with the context, also where training is interrupted. Lines have at most 80 columns
    with a title of up to 8.

    Args:
        epochs: Number of epochs of the training.
        title: Text before each line, such as "fold 3".
        shown: Whether to print at all.
    """

    def __init__(self, epochs: int, title: str = "", *, shown: bool = True):
        super().__init__()
        self.epochs, self.shown = epochs, shown
        self._prefix = f"{title}  " if title else ""
        self._titled = False
        self._bars = bars(shown=shown, transient=True)

    def __enter__(self):
        self._bars.start()
        return self

    def __exit__(self, *_):
        self._bars.stop()

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.monotonic()
        self._bar = self._bars.add_task(f"{self._prefix}epoch {epoch + 1}/{self.epochs}", total=self.params["steps"])

    def on_train_batch_end(self, batch, logs=None):
        self._bars.advance(self._bar)

    def on_epoch_end(self, epoch, logs=None):
        self._bars.remove_task(self._bar)
        if not self.shown:
            return
        # Not at the start: an error of the first epoch stands alone.
        if not self._titled:
            self._print(_titles(logs))
            self._titled = True
        self._print(_epoch_line(epoch + 1, self.epochs, time.monotonic() - self._began, logs))

    def _print(self, line):
        self._bars.console.print(self._prefix + line, soft_wrap=True, highlight=False, markup=False)


def _titles(logs):
    return "  epoch   time" + "".join(f"{title:>{width}}" for name, title, _, width in _COLUMNS if name in logs)


def _epoch_line(epoch, epochs, seconds, logs):
    cells = [f"{logs[name]:#{width}.{digits}g}" if "loss" in name else f"{logs[name]:{width}.{digits}f}"
             for name, _, digits, width in _COLUMNS if name in logs]  # fmt: skip
    return f"{f'{epoch}/{epochs}':>7} {f'{seconds:.0f} s':>6}" + "".join(cells)


def format_validation(history: Sequence[Mapping], images: int) -> str:
    """One line on the model that a run keeps: its epoch, and the scores of that epoch on the validation part.

    Args:
        history: Sequence of dicts, one an epoch, as `fit` returns it.
        images: Number of images of the validation part.
    """
    if "val_loss" not in history[0]:
        return f"The model is that of the last epoch, {len(history)}: there was no validation part to score"
    best = min(history, key=lambda row: row["val_loss"])
    scores = ", ".join(f"{title} {best[name]:.3f}" for name, title in _SCORES.items() if name in best)
    return f"Validation, {images} images, by which epoch {best['epoch']} of {len(history)} was chosen: {scores}"
