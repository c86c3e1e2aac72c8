"""Recognition rates of a histology classifier, by image and by patient, as BreaKHis defines them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from busseg.data.readers.breakhis import MAGNIFICATIONS, parse_name
from busseg.evaluation.scores import scored


def recognition_rates(rows: Sequence[dict]) -> dict[str, dict]:
    """The recognition rates of a set of images of BreaKHis.

    A patient's score is the share of her images that are classified correctly. The patient-level rate is the mean of
    the patients' scores, so each patient has the same weight. BreaKHis counts a slide as a patient.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.

    Returns:
        Dict from `"all"`, from each magnification present (`"40"` to `"400"`) and from each subtype present to a dict
        of `images`, `patients`, and the rates `image_level` and `patient_level`, in `[0, 1]`.

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
            kinds[kind].append((name.slide, row["label"] == row["predicted"]))
    subtypes = sorted(kinds.keys() - {"all", *map(str, MAGNIFICATIONS)})
    order = ("all", *map(str, MAGNIFICATIONS), *subtypes)
    return {kind: _rates(kinds[kind]) for kind in order if kind in kinds}


def _rates(answers):
    of_patient = defaultdict(list)
    for slide, right in answers:
        of_patient[slide].append(right)
    return {
        "images": len(answers),
        "patients": len(of_patient),
        "image_level": float(np.mean([right for _, right in answers])),
        "patient_level": float(np.mean([np.mean(each) for each in of_patient.values()])),
    }


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
    lines = [f"{'recognition rate':22}{'patient':>9}{'image':>9}{'patients':>10}{'images':>8}"]
    for kind, one in rates.items():
        name = f"{kind}X" if kind.isdigit() else kind.replace("_", " ")
        lines.append(
            f"  {name:20}{one['patient_level']:9.3f}{one['image_level']:9.3f}{one['patients']:10}{one['images']:8}"
        )
    return "\n".join(lines)
