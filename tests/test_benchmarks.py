import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # the benchmarks are run from the clone's root; no package holds them

measuring, reporting, models, ladder, cold_start, run = (
    import_module(f"benchmarks.{name}") for name in ("measuring", "reporting", "models", "ladder", "cold_start", "run")
)

# === Command lines ===

RUN_HELP = (
    "import runpy, sys\n"
    "sys.argv = ['{name}', '--help']\n"
    "try: runpy.run_module('benchmarks.{name}', run_name='__main__')\n"
    "except SystemExit as done: code = done.code\n"
    "print('heavy:', sorted(sys.modules.keys() & {{'tensorflow', 'keras', 'torch', 'albumentations'}}), code)"
)


@pytest.mark.parametrize("name", [*run.SCRIPTS, "run"])
def test_help_of_each_script_has_an_example_and_loads_nothing_heavy(name):
    done = subprocess.run(
        [sys.executable, "-c", RUN_HELP.format(name=name)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.endswith("heavy: [] 0\n"), done.stderr
    assert f"Example: python -m benchmarks.{name}" in done.stdout


def test_every_verb_is_started_from_cold():
    from busseg.cli import app

    verbs = {command.callback.__name__ for command in app.registered_commands}
    # As fast as the net or another program, and never at an end.
    assert verbs - {"dicomweb", "download", "listen", "page"} <= cold_start.VERBS.keys()


# === Timing ===


def test_two_things_are_timed_in_turns_and_compared_pair_by_pair():
    order = []

    def seconds(name, values):
        return lambda: order.append(name) or values.pop(0)

    times = measuring.time_in_turns(seconds("a", [2, 4, 6]), seconds("b", [1, 1, 2]), repeats=3)
    assert "".join(order) == "abbaab"
    assert times == {"first": [2, 4, 6], "second": [1, 1, 2], "gain": [2 / 1, 4 / 1, 6 / 2]}
    assert measuring.spread(times["gain"]) == {"median": 3, "min": 2, "max": 4}


def test_worker_builds_once_and_tells_the_mean_time_of_its_work(tmp_path):
    (tmp_path / "made.py").write_text(
        "import os, time\n"
        "def make(word):\n"
        "    print('not an answer')\n"
        "    return {'word': word, 'set': os.environ['SET'], 'unset': 'HOME' in os.environ}, lambda: time.sleep(0.02)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "SET": "1", "HOME": None}
    with measuring.Worker("made:make", {"word": "echo"}, environment) as worker:
        assert worker.facts == {"word": "echo", "set": "1", "unset": False}
        start = time.perf_counter()
        mean = worker.time(5)
        assert 5 * 0.02 <= 5 * mean <= time.perf_counter() - start


def test_worker_that_fails_says_why():
    command = [sys.executable, "-c", "raise SystemExit('no disk')"]
    with pytest.raises(RuntimeError, match="no disk"):
        measuring.in_fresh_process("benchmarks.cold_start:run", {"command": command})


def test_peak_memory_is_that_of_the_command():
    def peak(code):
        command = [sys.executable, "-c", code]
        facts = measuring.in_fresh_process("benchmarks.cold_start:run", {"command": command})
        return facts["peak memory, MB"]

    assert peak("bytearray(200_000_000)") - peak("pass") == pytest.approx(200, abs=60)


# === Tables ===


def test_table_is_aligned_and_leaves_lists_to_json():
    rows = [
        {"network": "plain", "images/s": {"median": 12.34, "min": 9.0, "max": 120.4}, "all": [1, 2]},
        {"network": "fast", "note": "skipped"},
    ]
    assert reporting.format_table(rows).splitlines() == [
        "network  images/s       note",
        "plain    12.3 [9, 120]",
        "fast                    skipped",
    ]


# === Multiply-adds ===


def conv(**options):
    import keras

    return keras.layers.Conv2D(4, 3, padding="same", **options)


def depthwise(**options):
    import keras

    return keras.layers.DepthwiseConv2D(3, padding="same", **options)


def separable():
    import keras

    return keras.layers.SeparableConv2D(4, 3, padding="same")


def transposed():
    import keras

    return keras.layers.Conv2DTranspose(4, 2, strides=2)


def dense():
    import keras

    return keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)])


def count(*layers):
    """Multiply-adds of layers one after the other, on an image of 8 x 8 pixels and 2 channels."""
    import keras

    image = x = keras.Input((8, 8, 2))
    for layer in layers:
        x = layer(x)
    model = keras.Model(image, x)
    return model, models.count_multiply_adds(model)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (conv, {}, 8 * 8 * 4 * (3 * 3 * 2)),
        (conv, {"strides": 2}, 4 * 4 * 4 * (3 * 3 * 2)),
        (conv, {"groups": 2}, 8 * 8 * 4 * (3 * 3 * 1)),
        (depthwise, {}, 8 * 8 * 2 * (3 * 3)),
        (depthwise, {"strides": 2}, 4 * 4 * 2 * (3 * 3)),
        (separable, {}, 8 * 8 * 2 * (3 * 3) + 8 * 8 * 4 * 2),
        (transposed, {}, 8 * 8 * 2 * (2 * 2 * 4)),
        (dense, {}, 2 * 5),  # also that layers of a nested model are counted
    ],
)
def test_multiply_adds_of_a_layer(make, options, expected):
    _, counts = count(make(**options))
    assert sum(counts.values()) == expected


def test_multiply_adds_inside_a_layer_of_ours_are_counted_under_its_name():
    from busseg.models.attention import CBAM

    _, counts = count(CBAM(reduction=1, kernel_size=3, name="attention"))
    # Two dense layers of 2 x 2, each called for the average and the maximum, and a convolution of two maps.
    assert sum(counts.values()) == 4 * (2 * 2) + 8 * 8 * (3 * 3 * 2)
    assert {name for name, _ in counts} == {"attention"}


def test_a_step_costs_three_passes_and_fewer_where_frozen():
    first, last = conv(), depthwise()
    first.trainable = last.trainable = False
    model, counts = count(first, depthwise(), last)
    assert models.describe(model, counts)["step, G"] * 1e9 == pytest.approx(
        1 * 8 * 8 * 4 * (3 * 3 * 2) + 3 * 8 * 8 * 4 * (3 * 3) + 2 * 8 * 8 * 4 * (3 * 3)
    )


def test_counting_leaves_the_network_as_it_was():
    model, _ = count(conv())
    before = model(np.ones((1, 8, 8, 2)))
    assert models.count_multiply_adds(model) == models.count_multiply_adds(model)
    assert not any("call" in vars(layer) for layer in model.layers)
    np.testing.assert_array_equal(model(np.ones((1, 8, 8, 2))), before)


# === The ladder ===


def test_ladder_leads_from_the_bottom_to_the_top_one_setting_at_a_time():
    rungs = list(ladder.ladder())
    assert rungs[0][1] == ladder.BOTTOM
    assert rungs[-1][1] == ladder.TOP
    assert ladder.PREDICTED.keys() == {name for name, _, _ in rungs[1:]}


# === Calibration at a hospital left out ===
calibrate = import_module("benchmarks.calibrate")


def hospital(shift, images=2000, seed=0):
    """Labels, probabilities and groups; a third is malignant; the log-odds of malignant are moved by `shift`."""
    random = np.random.default_rng(seed)
    labels = np.where(np.arange(images) % 3 == 0, 2, 1)
    p_malignant = 1 / (1 + np.exp(-random.normal(np.where(labels == 2, 2 + shift, -2 + shift), 1.5)))
    probabilities = np.stack([np.full(images, 1e-6), 1 - p_malignant, p_malignant], axis=1)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True), np.array([str(i) for i in range(images)])


def test_scans_are_drawn_with_malignant_ones_by_their_share():
    labels = hospital(0)[0]
    drawn = calibrate.draw(labels, 21, seed=0)
    assert len(set(drawn)) == 21
    assert np.sum(labels[drawn] == 2) == 7
    assert set(drawn) != set(calibrate.draw(labels, 21, seed=1))


def test_calibration_brings_a_shifted_hospital_nearer_to_its_sensitivity():
    labels, probabilities, _ = hospital(0)
    table = calibrate.tabulate_thresholds(probabilities[labels == 2, 2])
    draws = [calibrate.run_draw(hospital(-1.5, seed=1), table, 0.9, 40, seed) for seed in range(5)]
    before, after = (np.mean([abs(one[way]["sensitivity"] - 0.9) for one in draws]) for way in ("before", "calibrated"))
    assert before > 0.1
    assert after < 0.8 * before
    same = [calibrate.run_draw(hospital(0, seed=1), table, 0.9, 40, seed) for seed in range(5)]
    assert np.mean([abs(one["calibrated"]["sensitivity"] - 0.9) for one in same]) < 0.05


def test_images_of_the_drawn_patients_are_not_scored():
    labels, probabilities, _ = hospital(0, images=60)
    pairs = np.array([str(i // 2) for i in range(60)])  # two views a patient
    table = calibrate.tabulate_thresholds(probabilities[labels == 2, 2])
    drawn = calibrate.draw(labels, 20, seed=0)
    rest = ~np.isin(pairs, pairs[drawn])
    found = calibrate.run_draw((labels, probabilities, pairs), table, 0.9, 20, seed=0)["before"]
    threshold = np.sort(probabilities[labels == 2, 2])[2]  # 18 of 20 reach it
    assert found["specificity"] == np.mean(probabilities[rest & (labels != 2), 2] < threshold)


# === The order of a review ===
review = import_module("benchmarks.review")


def test_scores_of_a_review_are_compared_by_the_share_of_pairs_in_order(monkeypatch):
    monkeypatch.setattr(review, "DRAWS", 100)  # an interval of fewer draws, of which this looks at the sign alone
    wrong = np.array([True, False, True, False])
    scores = {"uncertainty": np.array([0.1, 0.2, 0.4, 0.3]), "perfect": np.array([0.8, 0.1, 0.9, 0.2])}
    found = review.measure(wrong, scores, [np.array([0, 1]), np.array([2, 3])])
    # Of four pairs of a wrong and a right image, 0.4 is above both, and 0.1 above neither.
    assert (found["uncertainty"]["auc"], found["perfect"]["auc"]) == (2 / 4, 1)
    assert found["uncertainty"]["gain"] == (0, 0)
    assert found["perfect"]["gain"][0] >= 0


# === The class of a clip ===
clips = import_module("benchmarks.clips")


def test_rules_that_pool_a_clip_are_scored_by_their_class():
    seen_late = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0, 0.2, 0.8]])  # the lesion is in one frame of three
    means = {name: rule(seen_late).argmax() for name, rule in clips.RULES.items()}
    assert means == {"mean": 0, "mean of logarithms": 1, "maximum": 0, "mean with lesion": 2}
    one = clips.score(clips.RULES["mean with lesion"], [("malignant", seen_late), ("benign", seen_late)])
    assert (one["accuracy"], one["by_class"]) == (1 / 2, {"benign": 0, "malignant": 1})
    np.testing.assert_allclose(one["log_loss"], -(np.log(0.8) + np.log(0.2)) / 2)
