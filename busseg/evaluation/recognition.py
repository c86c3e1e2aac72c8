"""How often a classifier of tissue is right: image by image, and patient by patient as BreaKHis has it."""

from collections import defaultdict

import numpy as np

from busseg.data.readers.breakhis import MAGNIFICATIONS, parse_name
from busseg.evaluation.scores import scored


def recognition_rates(rows):
    """The recognition rates of a set of images of BreaKHis.

    A patient's score is the share of her images that are told right; the patient-level rate is the mean of the
    patients' scores, so that each weighs the same however many images she has. BreaKHis counts a slide as a patient.

    Args:
        rows: Sequence of dicts, one an image; see `busseg.evaluation.table.fields`. Those with an error are left out.

    Returns:
        Dict of `all`; of each magnification, `"40"` to `"400"`, that is there; and of each subtype that is there. Each
        is a dict of `images`, `patients`, and the rates `image_level` and `patient_level`, in `[0, 1]`.

    Raises:
        ValueError: If an image is not named as in BreaKHis.

    Reference:
        Spanhol et al., "A Dataset for Breast Cancer Histopathological Image Classification", IEEE Transactions on
        Biomedical Engineering 63(7):1455-1462 (2016)
    """
    kinds = defaultdict(list)
    for row in scored(rows):
        tissue = parse_name(row["file"])
        for kind in ("all", str(tissue.magnification), tissue.subtype):
            kinds[kind].append((tissue.slide, row["label"] == row["predicted"]))
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


def magnification_matrix(rows_of):
    """Recognition rates of classifiers that were each trained at one magnification, at all of them.

    Args:
        rows_of: Dict from the magnification that was trained at to the rows of its evaluation at all.

    Returns:
        Array `(trained, 4)` of patient-level rates, a row a magnification of `rows_of`, a column one of
        `MAGNIFICATIONS`; NaN where there are no images.
    """
    rates = [recognition_rates(rows) for rows in rows_of.values()]
    nothing = {"patient_level": np.nan}
    return np.array([[one.get(str(tested), nothing)["patient_level"] for tested in MAGNIFICATIONS] for one in rates])


def format_recognition(rates):
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
