import keras
import numpy as np
import pytest

from busseg.training.metrics import CleanNormalRate, LesionDice, LesionIoU

SIDE = 8
EMPTY = np.zeros((SIDE, SIDE, 1), np.float32)
METRICS = [LesionDice, LesionIoU, CleanNormalRate]


def square(side, top=0, left=0, value=1.0):
    mask = EMPTY.copy()
    mask[top : top + side, left : left + side] = value
    return mask


def score(metric, y_true, y_pred, **options):
    """The metric over a list of true masks and one of predictions."""
    metric.update_state(np.stack(y_true), np.stack(y_pred), **options)
    return float(metric.result())


# === One image ===
@pytest.mark.parametrize(
    ("y_true", "y_pred", "dice", "iou"),
    [
        (square(4), square(4), 1, 1),
        (square(4), square(2), 8 / 20, 4 / 16),  # 4 pixels of 16
        (square(2), square(4), 8 / 20, 4 / 16),
        (square(4), square(4, left=2), 16 / 32, 8 / 24),
        (square(2), square(2, top=4), 0, 0),
        (square(4), EMPTY, 0, 0),  # missed
        (square(1), square(SIDE), 2 / 65, 1 / 64),
    ],
)
def test_dice_and_iou_of_one_lesion(y_true, y_pred, dice, iou):
    assert score(LesionDice(), [y_true], [y_pred]) == pytest.approx(dice)
    assert score(LesionIoU(), [y_true], [y_pred]) == pytest.approx(iou)


def test_mask_of_0_and_255_scores_what_the_same_of_0_and_1_does():
    y_true, y_pred = square(4, value=255), square(2)
    assert score(LesionDice(), [y_true], [y_pred]) == pytest.approx(8 / 20)
    assert score(LesionIoU(), [y_true], [y_pred]) == pytest.approx(4 / 16)


@pytest.mark.parametrize(
    ("y_pred", "clean"), [(EMPTY, 1), (square(1), 0), (square(SIDE, value=0.49), 1), (square(SIDE), 0)]
)
def test_normal_image_is_clean_without_one_marked_pixel(y_pred, clean):
    assert score(CleanNormalRate(), [EMPTY], [y_pred]) == clean


@pytest.mark.parametrize(
    ("threshold", "dice", "iou", "clean"),
    [
        (0.2, 1, 1, 0),
        (0.25, 1, 1, 0),  # at the threshold is lesion
        (0.3, 8 / 20, 4 / 16, 0),  # the 2 x 2 at 0.75 remain of the 4 x 4
        (0.8, 0, 0, 1),
    ],
)
def test_pixels_at_or_above_the_threshold_are_lesion(threshold, dice, iou, clean):
    y_pred = np.maximum(square(4, value=0.25), square(2, value=0.75))
    assert score(LesionDice(threshold), [square(4)], [y_pred]) == pytest.approx(dice)
    assert score(LesionIoU(threshold), [square(4)], [y_pred]) == pytest.approx(iou)
    assert score(CleanNormalRate(threshold), [EMPTY], [y_pred]) == clean


# === Many images ===
TRUE = [square(4), EMPTY, square(4), EMPTY, square(2)]
PREDICTED = [square(4), square(1), square(2), EMPTY, EMPTY]
MEANS = [
    (LesionDice, (1 + 8 / 20 + 0) / 3),  # the two without a lesion do not count
    (LesionIoU, (1 + 4 / 16 + 0) / 3),
    (CleanNormalRate, 1 / 2),  # nor do here the three with one
]


@pytest.mark.parametrize(("metric", "expected"), MEANS)
def test_mean_is_over_the_images_that_count(metric, expected):
    assert score(metric(), TRUE, PREDICTED) == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "expected"), MEANS)
@pytest.mark.parametrize("first", [1, 2, 4])
def test_two_batches_score_as_one(metric, expected, first):
    metric = metric()
    score(metric, TRUE[:first], PREDICTED[:first])
    assert score(metric, TRUE[first:], PREDICTED[first:]) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_reset_forgets_what_was_seen(metric):
    metric = metric()
    score(metric, TRUE, PREDICTED)
    metric.reset_state()
    assert float(metric.result()) == 0
    assert score(metric, [square(2), EMPTY], [square(2), EMPTY]) == 1


@pytest.mark.parametrize(("metric", "y_true"), [(LesionDice, EMPTY), (LesionIoU, EMPTY), (CleanNormalRate, square(4))])
def test_score_is_0_where_no_image_counts(metric, y_true):
    assert score(metric(), [y_true], [y_true]) == 0


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (LesionDice, (1 * 1 + 3 * 8 / 20) / (1 + 3 + 1)),
        (LesionIoU, (1 * 1 + 3 * 4 / 16) / (1 + 3 + 1)),
        (CleanNormalRate, (2 * 0 + 6 * 1) / (2 + 6)),
    ],
)
def test_sample_weights_weigh_the_images_that_count(metric, expected, shape):
    weights = np.float32([1, 2, 3, 6, 1]).reshape(shape)
    assert score(metric(), TRUE, PREDICTED, sample_weight=weights) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float64"])
@pytest.mark.parametrize(("metric", "expected"), MEANS)
def test_true_masks_may_be_of_any_type(metric, expected, dtype):
    assert score(metric(), [mask.astype(dtype) for mask in TRUE], PREDICTED) == pytest.approx(expected)


# === Under Keras ===
@pytest.mark.parametrize("metric", METRICS)
def test_metric_is_rebuilt_from_its_configuration(metric):
    rebuilt = keras.metrics.deserialize(keras.metrics.serialize(metric(threshold=0.3, name="mine")))
    assert type(rebuilt) is metric
    assert (rebuilt.threshold, rebuilt.name) == (0.3, "mine")


def test_names_are_those_of_the_history():
    assert [metric().name for metric in METRICS] == ["lesion_dice", "lesion_iou", "clean_normal_rate"]


def test_compiled_metrics_score_alike_before_and_after_saving(tmp_path):
    image = keras.Input((SIDE, SIDE, 1))
    mask = keras.layers.Identity(name="mask")(image)
    model = keras.Model(image, {"mask": mask})
    model.compile(loss={"mask": "mse"}, metrics={"mask": [LesionDice(0.4), LesionIoU(0.4), CleanNormalRate(0.4)]})
    model.save(tmp_path / "model.keras")
    for candidate in (model, keras.models.load_model(tmp_path / "model.keras")):
        scores = candidate.evaluate(
            0.4 * np.stack(PREDICTED), {"mask": np.stack(TRUE)}, batch_size=2, verbose=0, return_dict=True
        )
        found = {name.removeprefix("mask_"): value for name, value in scores.items() if name != "loss"}
        assert found == {metric().name: pytest.approx(expected) for metric, expected in MEANS}
