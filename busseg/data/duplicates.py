"""Which images are copies of each other."""

from functools import cache
from importlib.resources import files

from busseg.data.files import read_csv


@cache
def published_busi_groups():
    """The duplicate groups of BUSI.

    Returns:
        Dict from image stem, such as `benign (433)`, to group. 780 images, 587 groups, 8 of which cross classes.

    Reference:
        Pawłowska, Karwat and Żołek, "Letter to the Editor. Re: Dataset of breast ultrasound images" (2023),
        https://doi.org/10.1016/j.dib.2023.109247, with its supplement, https://doi.org/10.17632/k8t3gnx9h6.1,
        CC BY 4.0.
    """
    rows = read_csv(files("busseg.data") / "busi_groups.csv", required=("image", "group"))
    return {row["image"]: f"busi-{row['group']}" for row in rows}
