import pytest

from busseg.data.splits import grouped_splits
from busseg.experiments import crossval
from busseg.training import fit as fitting
from busseg.training.epoch_lines import EpochLines, format_validation
from busseg.training.recipe import Recipe

LOGS = {
    "label_accuracy": 0.65, "label_auc": 0.8, "label_loss": 0.2, "loss": 0.8234, "mask_lesion_dice": 0.785,
    "mask_loss": 0.6, "val_label_accuracy": 0.6034, "val_loss": 0.8541, "val_mask_lesion_dice": 0.764,
}  # fmt: skip


def lines_of(capfd, logs, epochs=14, title="", shown=True):
    """The lines on stderr of two epochs."""
    with EpochLines(epochs, title, shown=shown) as lines:
        lines.set_params({"steps": 3})
        for epoch in (epochs - 2, epochs - 1):
            lines.on_epoch_begin(epoch)
            lines.on_train_batch_end(0)
            lines.on_epoch_end(epoch, logs)
    done = capfd.readouterr()
    assert done.out == ""
    return done.err.splitlines()


def test_epoch_is_one_line_under_its_titles(capfd):
    titles, *epochs = lines_of(capfd, LOGS)
    assert titles.split() == ["epoch", "time", "loss", "accuracy", "Dice", "val", "loss", "accuracy", "Dice"]
    assert [line.split() for line in epochs] == [
        [epoch, "0", "s", "0.8234", "0.650", "0.785", "0.8541", "0.603", "0.764"] for epoch in ("13/14", "14/14")
    ]
    assert len({len(line) for line in (titles, *epochs)}) == 1  # columns end below their titles


def test_lines_fit_80_columns_however_large_the_loss_and_the_number_of_epochs(capfd):
    logs = LOGS | {"loss": 123456.7, "val_loss": 1e30}
    lines = lines_of(capfd, logs, epochs=1000, title="fold 12")
    assert all(line.startswith("fold 12  ") and len(line) <= 80 for line in lines)
    assert "1.235e+05" in lines[-1]
    assert "1.000e+30" in lines[-1]


def test_columns_without_values_are_left_out(capfd):
    titles, *_ = lines_of(capfd, {"loss": 1.0, "label_accuracy": 0.5})  # histology, no validation part
    assert titles.split() == ["epoch", "time", "loss", "accuracy"]


def test_process_that_does_not_keep_the_run_prints_nothing(capfd):
    assert lines_of(capfd, LOGS, shown=False) == []


def test_fit_prints_nothing_but_its_lines(capfd, phantom_samples, tmp_path, without_graphs):
    recipe = Recipe(image_size=32, width=4, depth=1, epochs=2, batch_size=32)
    capfd.readouterr()
    fitting.fit(recipe, grouped_splits(phantom_samples)[0], tmp_path / "run", title="fold 3")
    done = capfd.readouterr()
    assert done.out == ""
    assert [line.split()[:3] for line in done.err.splitlines()] == [
        ["fold", "3", "epoch"], ["fold", "3", "1/2"], ["fold", "3", "2/2"],
    ]  # fmt: skip


def test_cross_validation_names_the_fold_in_each_line(monkeypatch, phantom_samples, tmp_path):
    def stop(*_, title, **__):
        raise InterruptedError(title)

    monkeypatch.setattr(fitting, "fit", stop)
    with pytest.raises(InterruptedError, match=r"^fold 0$"):
        crossval.cross_validate(phantom_samples, tmp_path / "out", Recipe(), folds=2)


def test_validation_line_has_the_scores_of_the_epoch_that_was_chosen():
    history = [
        {"epoch": number, "val_loss": loss, "val_label_accuracy": number / 10, "val_mask_lesion_dice": number / 4}
        for number, loss in ((1, 0.9), (2, 0.5), (3, 0.7))
    ]
    assert format_validation(history, 62) == (
        "Validation, 62 images, by which epoch 2 of 3 was chosen: accuracy 0.200, lesion Dice 0.500"
    )


def test_validation_line_says_that_there_is_no_validation_part():
    line = format_validation([{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.5}], 0)
    assert line == "The model is that of the last epoch, 2: there was no validation part to score"
