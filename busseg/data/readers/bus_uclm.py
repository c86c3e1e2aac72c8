"""Reader of BUS-UCLM folders.

BUS-UCLM: Vallez et al., "BUS-UCLM: Breast ultrasound lesion segmentation dataset", Scientific Data 12:242 (2025),
https://doi.org/10.1038/s41597-025-04562-3
"""

from pathlib import Path

from busseg.data.readers.tables import list_table
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.images import is_image

TABLE = "INFO.csv"


def recognises(root: str | Path) -> bool:
    """Whether a folder holds the table of BUS-UCLM."""
    return (Path(root) / TABLE).is_file() and (Path(root) / "images").is_dir()


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of BUS-UCLM by its table.

    Layout: `root/INFO.csv`, `root/images/XXXX_NNN.png` and `root/masks/XXXX_NNN.png`. A mask is green where a lesion
    is benign, red where it is malignant, and all black for a normal image; both colours are lesion.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name. The group is the patient, `XXXX`.

    Raises:
        FileNotFoundError: If the table, an image's mask or a mask's image is missing, or there are no images.
        ValueError: If the table lacks an image, names one twice, or names one that is missing.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.list_table`."""
    root = Path(root)

    def to_sample(row):
        name = next(iter(row.values()))
        patient = name.partition("_")[0]
        return Sample(
            name=name,
            image=root / "images" / name,
            masks=(root / "masks" / name,),
            label=row["Label"].lower(),
            group=patient,
            attributes={"patient": patient},
        )

    images, masks = ([path for path in (root / name).glob("*") if is_image(path)] for name in ("images", "masks"))
    return list_table(root / TABLE, ("Label",), to_sample, images, masks, delimiter=";")
