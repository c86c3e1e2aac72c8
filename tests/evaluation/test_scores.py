"""Scores of masks and of sets of images against scikit-learn, MedPy and their definitions."""

import numpy as np
import pytest
from medpy.metric import binary as medpy
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.metrics import jaccard_score, precision_recall_fscore_support

from busseg.data.sample import CLASSES
from busseg.evaluation.scores import (
    NSD_TOLERANCE_PX,
    calibration,
    class_scores,
    image_values,
    mask_scores,
    overlap_scores,
    point_scores,
)


def mask(*pixels):
    """A mask of 4 x 5 with the pixels (row, column) set."""
    values = np.zeros((4, 5), np.uint8)
    for pixel in pixels:
        values[pixel] = 1
    return values


# === One mask: overlap ===
ROW = mask((1, 0), (1, 1), (1, 2), (1, 3))


@pytest.mark.parametrize(
    ("y_pred", "dice", "iou", "sensitivity", "precision"),
    [
        (ROW, 1, 1, 1, 1),
        (mask((1, 0), (1, 1)), 2 * 2 / (4 + 2), 2 / 4, 2 / 4, 1),  # half of it
        (mask((1, 2), (1, 3), (1, 4), (2, 4)), 2 * 2 / (4 + 4), 2 / 6, 2 / 4, 2 / 4),  # half of it, half beside it
        (np.ones((4, 5), np.uint8), 2 * 4 / (4 + 20), 4 / 20, 1, 4 / 20),
        (mask((0, 0)), 0, 0, 0, 0),  # a lesion seen where none is
        (mask(), 0, 0, 0, 0),  # missed
    ],
)
def test_scores_of_a_lesion(y_pred, dice, iou, sensitivity, precision):
    scores = overlap_scores(ROW, y_pred)
    assert scores == {
        "dice": pytest.approx(dice),
        "iou": pytest.approx(iou),
        "sensitivity": pytest.approx(sensitivity),
        "precision": pytest.approx(precision),
        "clean": None,
        "true_px": 4,
        "predicted_px": int(y_pred.sum()),
    }


@pytest.mark.parametrize(("y_pred", "clean"), [(mask(), True), (mask((3, 4)), False)])
def test_without_a_lesion_only_cleanness_is_told(y_pred, clean):
    assert overlap_scores(mask(), y_pred) == {
        "dice": None,
        "iou": None,
        "sensitivity": None,
        "precision": None,
        "clean": clean,
        "true_px": 0,
        "predicted_px": int(y_pred.sum()),
    }


def test_mask_scores_are_overlap_and_distances():
    scores = mask_scores(ROW, mask((1, 0), (1, 1)))
    assert scores == overlap_scores(ROW, mask((1, 0), (1, 1))) | {
        name: scores[name] for name in ("hd95_px", "assd_px", "nsd")
    }


def test_values_of_255_count_as_1():
    assert mask_scores(ROW * 255, mask((1, 0)) * 255) == mask_scores(ROW, mask((1, 0)))


def test_scores_are_plain_numbers():
    assert {type(value) for value in mask_scores(ROW, ROW).values()} == {float, int, type(None)}


# === One mask: distances ===
def outline(mask):
    """Elements of the outline between pixels: their places, and their lengths as marching squares draws them."""
    padded = np.pad(mask > 0, 1)
    places, lengths = [], []
    for i in range(padded.shape[0] - 1):
        for j in range(padded.shape[1] - 1):
            (a, b), (c, d) = padded[i : i + 2, j : j + 2]
            inside = int(a) + int(b) + int(c) + int(d)
            if 0 < inside < 4:
                places.append((i, j))
                # A corner is cut off diagonally; two corners that touch, both; a side is straight.
                lengths.append(np.sqrt(0.5) if inside != 2 else 2 * np.sqrt(0.5) if a == d else 1)
    return np.array(places), np.array(lengths)


def distances_by_definition(y_true, y_pred):
    """HD95, ASSD and NSD, spelt out."""
    (true, true_lengths), (predicted, predicted_lengths) = outline(y_true), outline(y_pred)
    between = cdist(true, predicted)
    directed = [(between.min(axis=1), true_lengths), (between.min(axis=0), predicted_lengths)]

    def keeps_within(distances, lengths):
        for distance in np.unique(distances):
            if lengths[distances <= distance].sum() / lengths.sum() >= 0.95 - 1e-12:
                return distance

    total = true_lengths.sum() + predicted_lengths.sum()
    return {
        "hd95_px": max(keeps_within(*one) for one in directed),
        "assd_px": sum(np.sum(distances * lengths) for distances, lengths in directed) / total,
        "nsd": sum(lengths[distances <= NSD_TOLERANCE_PX].sum() for distances, lengths in directed) / total,
    }


def pixels(*slices, shape=(24, 30)):
    """A mask with rectangles."""
    values = np.zeros(shape, np.uint8)
    for rectangle in slices:
        values[rectangle] = 1
    return values


BLOCK = pixels(np.s_[8:16, 10:20])
PAIRS = {
    "identical": (BLOCK, BLOCK),
    "shifted": (BLOCK, pixels(np.s_[10:18, 10:20])),
    "single pixels": (pixels(np.s_[3, 4]), pixels(np.s_[20, 25])),
    "same single pixel": (pixels(np.s_[3, 4]), pixels(np.s_[3, 4])),
    "pixel in a lesion": (BLOCK, pixels(np.s_[12, 14])),
    "pixels that touch by a corner": (pixels(np.s_[3, 4], np.s_[4, 5]), pixels(np.s_[3, 5], np.s_[4, 4])),
    "touching the border": (pixels(np.s_[:6, :7]), pixels(np.s_[:9, :5])),
    "opposite corners": (pixels(np.s_[:3, :3]), pixels(np.s_[-3:, -3:])),
    "full image": (pixels(np.s_[:, :]), pixels(np.s_[:, :])),
    "full prediction": (BLOCK, pixels(np.s_[:, :])),
    "full lesion": (pixels(np.s_[:, :]), BLOCK),
    "disjoint": (BLOCK, pixels(np.s_[0:4, 22:28])),
    "side by side": (BLOCK, pixels(np.s_[8:16, 20:24])),
    "several components": (pixels(np.s_[2:6, 2:6], np.s_[15:20, 20:28]), pixels(np.s_[3:6, 2:8], np.s_[10:12, 1:3])),
    "one of two components": (pixels(np.s_[2:6, 2:6], np.s_[15:20, 20:28]), pixels(np.s_[2:6, 2:6])),
    "ring and its filling": (BLOCK - pixels(np.s_[10:14, 12:18]), BLOCK),
    "line": (pixels(np.s_[5, :]), pixels(np.s_[:, 5])),
}


def blobs(seed):
    """Two overlapping masks of smooth outline, each with a lesion or several."""
    random = np.random.default_rng(seed)
    shape = random.integers(20, 44, 2)
    common = gaussian_filter(random.standard_normal(shape), random.uniform(3, 6))
    common /= common.std()
    masks = []
    for _ in range(2):
        own = gaussian_filter(random.standard_normal(shape), random.uniform(2, 5))
        values = common + random.uniform(0, 1) * own / own.std()
        masks.append((values > np.quantile(values, random.uniform(0.6, 0.97))).astype(np.uint8))
    return masks


@pytest.mark.parametrize("name", PAIRS)
def test_distances_of_edge_cases_follow_their_definition(name):
    scores = mask_scores(*PAIRS[name])
    for score, expected in distances_by_definition(*PAIRS[name]).items():
        assert scores[score] == pytest.approx(expected), score


def test_distances_of_200_random_masks_follow_their_definition():
    for seed in range(200):
        masks = blobs(seed)
        scores = mask_scores(*masks)
        for score, expected in distances_by_definition(*masks).items():
            assert scores[score] == pytest.approx(expected), (seed, score)


def test_distances_of_200_random_masks_are_near_those_of_medpy():
    # MedPy measures from the outermost pixels of a mask, not from the line around it, and weights them all alike. So
    # where one piece is 5 % of an outline, its distance counts for one library and not for the other: HD95 is held
    # against a band of percentiles. MedPy's own hd95 pools both directions; here each has its own.
    surface_distances = getattr(medpy, "__surface_distances")
    off = []
    for seed in range(200):
        masks = blobs(seed)
        scores = mask_scores(*masks)
        assert scores["assd_px"] == pytest.approx(medpy.assd(*masks), abs=1)
        directed = [surface_distances(one, other) for one, other in (masks, masks[::-1])]
        low, middle, high = (max(np.percentile(one, level) for one in directed) for level in (92, 95, 98))
        assert low - 1 <= scores["hd95_px"] <= high + 1
        off.append(abs(scores["hd95_px"] - middle))
    assert np.median(off) < 0.5
    assert np.mean(np.array(off) <= 1.5) > 0.9


def test_overlap_of_200_random_masks_and_of_edge_cases_is_that_of_scikit_learn():
    for masks in [*PAIRS.values(), *map(blobs, range(200))]:
        true, predicted = (mask.ravel() for mask in masks)
        scores = mask_scores(*masks)
        precision, recall, f1, _ = precision_recall_fscore_support(true, predicted, average="binary")
        assert [scores[name] for name in ("precision", "sensitivity", "dice")] == pytest.approx([precision, recall, f1])
        assert scores["iou"] == pytest.approx(jaccard_score(true, predicted))


def test_two_squares_side_by_side_by_hand():
    # Outlines of 2 x 2 pixels, each with 4 straight elements of length 1 and 4 corners of sqrt(1/2), 3 columns apart:
    # the left column (one side, two corners) is 3 from the other outline, and so on.
    scores = mask_scores(pixels(np.s_[4:6, 4:6]), pixels(np.s_[4:6, 7:9]))
    column, middle = 1 + 2 * np.sqrt(0.5), 2  # lengths of an outer column of elements, and of the middle one
    assert scores["hd95_px"] == 3
    assert scores["assd_px"] == pytest.approx((3 * column + 2 * middle + 1 * column) / (2 * column + middle))
    assert scores["nsd"] == 1


@pytest.mark.parametrize(
    ("apart", "expected"), [(NSD_TOLERANCE_PX, 1), (NSD_TOLERANCE_PX + 1, 0.5), (NSD_TOLERANCE_PX + 2, 0)]
)
def test_nsd_counts_an_outline_up_to_its_tolerance(apart, expected):
    # Two lines of pixels across the image: the far side of each is `apart` from the other's outline, the near 1 less.
    assert mask_scores(pixels(np.s_[4, :]), pixels(np.s_[4 + apart, :]))["nsd"] == pytest.approx(expected)


@pytest.mark.parametrize("name", PAIRS)
def test_distances_do_not_depend_on_which_mask_is_true(name):
    one, other = (mask_scores(*masks) for masks in (PAIRS[name], PAIRS[name][::-1]))
    assert [one[score] for score in ("hd95_px", "assd_px", "nsd")] == pytest.approx(
        [other[score] for score in ("hd95_px", "assd_px", "nsd")]
    )


def test_place_in_the_image_does_not_change_distances():
    one, other = blobs(0)
    far = [np.pad(mask, ((100, 7), (3, 200))) for mask in (np.pad(one, 1), np.pad(other, 1))]
    here = mask_scores(np.pad(one, 1), np.pad(other, 1))
    assert mask_scores(*far) == here


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_missed_lesion_has_no_distance():
    scores = mask_scores(BLOCK, pixels())
    assert (scores["hd95_px"], scores["assd_px"], scores["nsd"], scores["dice"]) == (None, None, 0, 0)


@pytest.mark.parametrize("y_pred", [pixels(), BLOCK])
def test_without_a_lesion_there_is_no_outline_to_be_near(y_pred):
    scores = mask_scores(pixels(), y_pred)
    assert (scores["hd95_px"], scores["assd_px"], scores["nsd"], scores["dice"]) == (None, None, None, None)


# === A set of images ===
def scored(y_true, y_pred, label=None, probabilities=(0.2, 0.5, 0.3)):
    """A row as an evaluation makes it, of masks of 4 x 5."""
    return {
        **mask_scores(y_true, y_pred),
        "label": label,
        "error": None,
        "width_px": 5,
        "height_px": 4,
        "pixel_mm": 0.5,
        **{f"p_{name}": p for name, p in zip(CLASSES, probabilities, strict=True)},
    }


ROWS = [
    scored(ROW, ROW, "benign"),  # Dice 1, IoU 1
    scored(ROW, mask((1, 0), (1, 1)), "malignant"),  # Dice 2/3, IoU 1/2
    scored(ROW, mask(), "benign", (0.9, 0.1, 0)),  # missed, and no pixel to have a distance
    scored(ROW, mask((3, 4)), "malignant", (0.1, 0.2, 0.7)),  # missed too, though something was marked
    scored(mask(), mask(), "normal", (0.6, 0.2, 0.2)),
    scored(mask(), mask((0, 0), (0, 1), (0, 2)), "normal"),
]


def test_scores_of_a_set_by_hand():
    scores = point_scores(ROWS)
    half = mask_scores(ROW, mask((1, 0), (1, 1)))
    elsewhere = mask_scores(ROW, mask((3, 4)))
    expected = {
        "dice": (1 + 2 / 3) / 4,
        "dice_median": (2 / 3 + 0) / 2,
        "iou": 1.5 / 4,
        "iou_median": 0.25,
        "sensitivity": 1.5 / 4,
        "precision": 2 / 4,  # of 1, 1, 0, 0
        "precision_median": (1 + 0) / 2,
        "hd95_px": (0 + half["hd95_px"]) / 2,  # of the two lesions found
        "assd_px": (0 + half["assd_px"]) / 2,
        "assd_px_median": (0 + half["assd_px"]) / 2,
        "hd95_mm": 0.5 * (0 + half["hd95_px"]) / 2,
        "assd_mm": 0.5 * (0 + half["assd_px"]) / 2,
        "nsd": (1 + half["nsd"] + 0 + elsewhere["nsd"]) / 4,  # of all lesions
        "missed_rate": 2 / 4,
        "clean_normal_rate": 1 / 2,
        "false_alarm_px": (0 + 3) / 2,
        "false_alarm_fraction": 3 / 20 / 2,
        "class_dice": ((1 + 0) / 2 + (2 / 3 + 0) / 2 + (1 + 0) / 2) / 3,
        "accuracy": 3 / 6,  # the first, the fourth and the fifth
        "balanced_accuracy": 1 / 2,
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_older_rows_without_the_precision_of_a_missed_lesion_score_as_new_ones():
    older = [row | {"precision": row["precision"] if row["predicted_px"] else None} for row in ROWS]
    assert [row["precision"] for row in older] == [1, 1, None, 0, None, None]
    assert point_scores(older) == point_scores(ROWS)


def test_distances_in_mm_are_those_of_the_images_with_a_scale():
    half = mask_scores(ROW, mask((1, 0), (1, 1)))
    rows = [ROWS[0] | {"pixel_mm": None}, ROWS[1] | {"pixel_mm": 0.2}, ROWS[2]]  # found, found, missed
    scores = point_scores(rows)
    assert scores["hd95_px"] == pytest.approx((0 + half["hd95_px"]) / 2)
    assert scores["hd95_mm"] == pytest.approx(0.2 * half["hd95_px"])
    assert scores["assd_mm"] == pytest.approx(0.2 * half["assd_px"])
    assert point_scores(rows[:1])["hd95_mm"] is None


def test_scores_of_classes_are_those_of_all_labelled_rows():
    labels = [row["label"] for row in ROWS]
    probabilities = [[row[f"p_{label}"] for label in CLASSES] for row in ROWS]
    expected = class_scores(labels, probabilities) | calibration(labels, probabilities)
    names = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "malignant_auc", "ece", "brier")
    for rows in (ROWS, [*ROWS, scored(ROW, ROW)]):
        scores = point_scores(rows)
        assert [scores[name] for name in names] == pytest.approx([expected[name] for name in names])


def test_means_of_the_values_of_images_are_the_scores():
    scores, values = point_scores(ROWS), image_values(ROWS)
    assert {name: np.nanmean(each) for name, each in values.items()} == pytest.approx(
        {name: scores[name] for name in values}
    )


def test_rows_with_an_error_are_left_out():
    assert point_scores([*ROWS, {"label": "benign", "error": "broken"}]) == point_scores(ROWS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [[], [scored(mask(), mask())]])
def test_without_lesions_and_labels_there_is_no_score_of_them(rows):
    scores = point_scores(rows)
    defined = {"clean_normal_rate": 1, "false_alarm_px": 0, "false_alarm_fraction": 0} if rows else {}
    assert {name: score for name, score in scores.items() if score is not None} == defined
    assert scores.keys() == point_scores(ROWS).keys()


def test_lesion_without_a_class_of_its_own_counts_by_its_mask():
    # An image called benign whose mask is empty: left clean, it scores 1, as a normal image does.
    assert point_scores([scored(mask(), mask(), "benign"), scored(ROW, mask(), "benign")])["class_dice"] == 0.5


def test_scores_are_plain_floats():
    assert {type(score) for score in point_scores(ROWS).values()} == {float}
