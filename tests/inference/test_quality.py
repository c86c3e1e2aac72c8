import numpy as np
import pytest

from busseg.inference.quality import find_faint


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.arange(0, 256), None),
        (np.arange(0, 66), None),  # all but half a percent are up to 65
        (np.arange(0, 64), "very dark"),
        (np.arange(100, 116), "nearly one grey"),
        (np.arange(100, 118), None),
        (np.repeat([0, 90, 255], [500, 497, 3]), None),  # 0.3 percent of white are no more than marks
        (np.repeat([0, 40, 255], [500, 497, 3]), "very dark"),
        (np.repeat([0, 255], [997, 3]), "nearly one grey"),
    ],
)
def test_faint_image_is_described(values, found):
    assert find_faint(values.astype(np.uint8)[None]) == found
