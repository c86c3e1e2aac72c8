import numpy as np
import pytest
from scipy.stats import beta

from busseg.inference.operating_point import (
    PLACE,
    SPREAD,
    STEPS,
    adapt_thresholds,
    find_operating_point,
    tabulate_thresholds,
)

TEN = [0.5, 0.1, 0.3, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0]


def log_odds(p):
    return np.log(np.divide(p, np.subtract(1, p)))


def test_table_is_json_that_rises_with_as_many_thresholds_as_steps():
    table = tabulate_thresholds(TEN)
    assert table["images"] == 10
    assert len(table["thresholds"]) == STEPS == 200
    assert {type(threshold) for threshold in table["thresholds"]} == {float}
    assert table["thresholds"] == sorted(table["thresholds"])


@pytest.mark.parametrize(
    ("sensitivity", "threshold"),
    [(0.99, 0.1), (0.91, 0.1), (0.9, 0.2), (0.85, 0.2), (0.8, 0.3), (0.5, 0.6)],  # 10, 10, 9, 9, 8 and 5 of 10 reach it
)
def test_threshold_is_the_highest_that_the_share_reaches(sensitivity, threshold):
    point = find_operating_point(tabulate_thresholds(TEN), sensitivity)
    assert (point.sensitivity, point.threshold) == (sensitivity, threshold)
    assert np.mean(np.array(TEN) >= threshold) >= sensitivity


@pytest.mark.parametrize("images", [7, 20, 333, 2000])
def test_tabulated_share_is_reached_on_the_images_themselves(images):
    probabilities = np.random.default_rng(images).beta(2, 1, images)
    table = tabulate_thresholds(probabilities)
    for sensitivity in (0.8, 0.9, 0.95, 0.975):
        reached = np.mean(probabilities >= find_operating_point(table, sensitivity).threshold)
        assert sensitivity <= reached <= sensitivity + 1 / images + 1 / STEPS


def test_interval_is_that_of_order_statistics():
    table = tabulate_thresholds(TEN)
    # The lowest of ten: all ten reach it by chance with share ** 10.
    point = find_operating_point(table, 0.95)
    assert (point.low, point.high) == pytest.approx((0.025 ** (1 / 10), 0.975 ** (1 / 10)))
    # The second lowest of ten: Beta(9, 2).
    point = find_operating_point(table, 0.9)
    assert (point.low, point.high) == pytest.approx(beta(9, 2).ppf([0.025, 0.975]))


def test_interval_holds_the_share_of_other_images_nineteen_times_in_twenty():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        point = find_operating_point(tabulate_thresholds(random.random(20)), 0.9)
        held += point.low <= 1 - point.threshold <= point.high  # of uniform probabilities, 1 - t reach t
    assert held / 400 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("sensitivity", [0, 1, -0.1, 1.5])
def test_sensitivity_of_none_or_all_is_refused(sensitivity):
    with pytest.raises(ValueError, match=rf"^Expected a sensitivity above 0 and below 1, found {sensitivity}$"):
        find_operating_point(tabulate_thresholds(TEN), sensitivity)


# === A clinic's own ===
def test_as_many_scans_as_the_table_counts_move_it_half_of_their_distance():
    table = tabulate_thresholds(np.full(200, 0.5))  # log-odds 0
    scans = np.full(PLACE, 1 / (1 + np.exp(-2)))  # log-odds 2
    moved = adapt_thresholds(table, 1, scans)
    assert moved["images"] == PLACE + PLACE
    places = np.arange(STEPS) / STEPS
    expected = np.where(places <= SPREAD / (SPREAD + PLACE), 1, 2)  # the table, now at 1, counts as SPREAD scans
    np.testing.assert_allclose(log_odds(moved["thresholds"]), expected)


def test_scans_that_lie_where_the_table_does_leave_it_there():
    table = tabulate_thresholds(np.full(200, 0.3))
    np.testing.assert_allclose(adapt_thresholds(table, 1, [0.3] * 5)["thresholds"], 0.3)


def test_temperature_divides_the_log_odds_of_the_table():
    table = tabulate_thresholds(np.linspace(0.01, 0.99, 200))
    cooled = adapt_thresholds(table, 2, [])
    np.testing.assert_allclose(log_odds(cooled["thresholds"]), log_odds(table["thresholds"]) / 2)


def test_table_of_few_images_counts_as_no_more():
    table = tabulate_thresholds([0.5] * 5)
    moved = adapt_thresholds(table, 1, np.full(5, 1 / (1 + np.exp(-2))))
    assert moved["images"] == 5 + 5
    np.testing.assert_allclose(log_odds(moved["thresholds"][0]), 1)  # half of 2, by five and five


def test_many_scans_make_the_table_their_own():
    table = tabulate_thresholds(np.random.default_rng(0).beta(1, 3, 500))
    scans = np.random.default_rng(1).beta(5, 1, 20_000)
    for sensitivity in (0.8, 0.95):
        threshold = find_operating_point(adapt_thresholds(table, 1, scans), sensitivity).threshold
        assert np.mean(scans >= threshold) == pytest.approx(sensitivity, abs=0.01)


def test_probabilities_of_none_and_all_have_log_odds_too():
    table = adapt_thresholds(tabulate_thresholds([0.0, 0.5, 1.0]), 1, [0.0, 1.0])
    assert np.isfinite(table["thresholds"]).all()
