"""What an export may differ by. The float64 answer is the arbiter where float32 alone loses more than 1e-4."""

import numpy as np
import pytest

from busseg.export import check as export_check
from busseg.export.check import largest_difference


def answer(*probability_map, **others):
    probability_map = probability_map or (0.0,)
    return {"probability_map": np.array([probability_map]), **{name: np.array(value) for name, value in others.items()}}


@pytest.fixture
def compare(monkeypatch):
    """`_compare` of what an export, its source and the source in float64 say of one image."""

    def run(found, source, exact):
        monkeypatch.setattr(export_check, "in_precision", lambda source, dtype: "exact")
        monkeypatch.setattr(export_check, "Predictor", lambda model: model)
        outputs = {"source": [source], "exact": [exact]}
        monkeypatch.setattr(export_check, "_outputs", lambda predictor, images: outputs[predictor])
        return export_check._compare("source", [None], [found], "float32", "out.onnx")

    return run


@pytest.mark.parametrize(
    ("found", "source", "exact", "accepted"),
    [
        (0.30009, 0.3, 0.2, True),  # 9e-5 apart, which is not asked further
        (0.3003, 0.3, 0.30005, True),  # 2.5e-4 from the exact, of which the source is 5e-5: ten times that are 5e-4
        (0.3008, 0.3, 0.30005, False),  # 7.5e-4
        (0.3002, 0.3, 0.3, False),  # the source is right
        (0.3002, 0.3, 0.30015, True),  # nearer to the exact than the source is
        (0.32, 0.3, 0.309, False),  # 0.011, above `MOST`
        (np.nan, 0.3, 0.3, False),
        (np.nan, np.nan, np.nan, False),
    ],
)
def test_export_may_be_ten_times_as_far_from_the_exact_answer_as_its_source(compare, found, source, exact, accepted):
    ends = [answer(number) for number in (found, source, exact)]
    if accepted:
        assert compare(*ends) == pytest.approx(abs(found - source))
    else:
        with pytest.raises(ValueError, match=r"^Expected the export to answer as its source, .* of .*: out\.onnx$"):
            compare(*ends)


def test_pixels_at_the_threshold_may_be_in_the_mask_or_not():
    """Of the four pixels of the mask one is at the threshold: the mean over them may differ by a quarter."""
    exact = answer(0.9, 0.9, 0.9, 0.50001, 0.1, uncertainty=0.2)
    found = answer(0.9, 0.9, 0.9, 0.49999, 0.1, uncertainty=0.1)
    assert largest_difference([found], [exact], 1e-4) == pytest.approx(2e-5)
    assert largest_difference([found], [exact]) == pytest.approx(0.1)
    far = found | {"uncertainty": np.array(0.2 - 0.25 - 0.01)}
    assert largest_difference([far], [exact], 1e-4) == pytest.approx(0.01)


def test_large_ood_score_is_compared_by_its_share():
    assert largest_difference([answer(ood_score=50.5)], [answer(ood_score=50.0)]) == pytest.approx(0.01)  # 0.5 / 50
    assert largest_difference([answer(ood_score=0.6)], [answer(ood_score=0.5)]) == pytest.approx(0.1)
