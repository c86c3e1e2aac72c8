"""Recognition rates of a histology classifier, by image and by patient, as BreaKHis defines them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from busseg.data.readers.breakhis import MAGNIFICATIONS, parse_name
from busseg.evaluation.intervals import mean_intervals
from busseg.evaluation.scores import scored


def recognition_rates(rows: Sequence[dict]) -> dict[str, dict]:
    """The recognition rates of a set of images of BreaKHis.

    A patient's score is the share of her images that are classified correctly. The patient-level rate is the mean of
    the patients' scores, so each patient has the same weight. BreaKHis counts a slide as a patient.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.

    Returns:
        Dict from `"all"`, from each magnification present (`"40"` to `"400"`) and from each subtype present to a dict
        of `images`, `patients`, the rates `image_level` and `patient_level`, in `[0, 1]`, and their 95 % `intervals`,
        see `mean_intervals`; slides of one group are drawn together.

    Raises:
        ValueError: If an image is not named as in BreaKHis.

    Reference:
        Spanhol et al., "A Dataset for Breast Cancer Histopathological Image Classification", IEEE Transactions on
        Biomedical Engineering 63(7):1455-1462 (2016)
    """
    kinds = defaultdict(list)
    for row in scored(rows):
        name = parse_name(row["file"])
        for kind in ("all", str(name.magnification), name.subtype):
            kinds[kind].append((name.slide, row["group"], row["label"] == row["predicted"]))
    subtypes = sorted(kinds.keys() - {"all", *map(str, MAGNIFICATIONS)})
    order = ("all", *map(str, MAGNIFICATIONS), *subtypes)
    return {kind: _rates(kinds[kind]) for kind in order if kind in kinds}


def _rates(answers):
    of_patient = defaultdict(list)
    for slide, group, right in answers:
        of_patient[slide, group].append(right)
    levels = {
        "image_level": [(group, right) for _, group, right in answers],
        "patient_level": [(group, np.mean(each)) for (_, group), each in of_patient.items()],
    }
    rates = {name: np.array([rate for _, rate in each], dtype=float) for name, each in levels.items()}
    intervals = {
        name: mean_intervals([{"group": group} for group, _ in each], {name: rates[name]})[name]
        for name, each in levels.items()
    }
    means = {name: float(each.mean()) for name, each in rates.items()}
    return {"images": len(answers), "patients": len(of_patient), **means, "intervals": intervals}


def magnification_matrix(rows_of: Mapping[int, Sequence[dict]]) -> NDArray:
    """Recognition rates at all magnifications, of classifiers that were each trained at one magnification.

    Args:
        rows_of: Dict from the magnification of the training to the rows of the evaluation at all magnifications.

    Returns:
        Array `(trained, 4)` of patient-level rates, a row for each magnification of `rows_of`, a column for each of
        `MAGNIFICATIONS`; NaN where there are no images.
    """
    rates = [recognition_rates(rows) for rows in rows_of.values()]
    nothing = {"patient_level": np.nan}
    return np.array([[one.get(str(tested), nothing)["patient_level"] for tested in MAGNIFICATIONS] for one in rates])


def format_recognition(rates: dict[str, dict]) -> str:
    """Recognition rates as lines of text.

    Args:
        rates: Dict, as `recognition_rates` returns it.
    """
    lines = [f"{'recognition rate':22}{'patient':>22}{'image':>22}{'patients':>10}{'images':>8}"]
    for kind, one in rates.items():
        name = f"{kind}X" if kind.isdigit() else kind.replace("_", " ")
        levels = "".join(f"{_with_interval(one, level):>22}" for level in ("patient_level", "image_level"))
        lines.append(f"  {name:20}{levels}{one['patients']:10}{one['images']:8}")
    return "\n".join(lines)


def _with_interval(one, level):
    low, high = one["intervals"][level]
    return f"{one[level]:.3f} [{low:.3f}, {high:.3f}]"
