"""Reader of BUS-BRA folders.

BUS-BRA: Gómez-Flores et al., "BUS-BRA: A breast ultrasound dataset for assessing computer-aided diagnosis systems",
Medical Physics 51:3110-3123 (2024), https://doi.org/10.1002/mp.16812
"""

from pathlib import Path

from busseg.data.readers.tables import list_table
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.images import is_image

TABLE = "bus_data.csv"
_ATTRIBUTES = {"patient": "Case", "birads": "BIRADS", "histology": "Histology", "device": "Device", "side": "Side"}
# bus_0853-l and bus_0854-s show one lesion, as `busseg audit` finds.
_SAME_LESION = {"854": "853"}


def recognises(root: str | Path) -> bool:
    """Whether a folder holds the table of BUS-BRA."""
    return (Path(root) / TABLE).is_file()


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of BUS-BRA by its table.

    Layout: `root/bus_data.csv`, `root/Images/bus_NNNN-S.png` and `root/Masks/mask_NNNN-S.png`.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name. The group is the patient: most have two views, left and right. Cases 853 and
        854, whose images show one lesion, share a group.

    Raises:
        FileNotFoundError: If the table, an image's mask or a mask's image is missing, or there are no images.
        ValueError: If the table lacks an image, names one twice, or names one that is missing.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.list_table`."""
    root = Path(root)

    def to_sample(row):
        name = f"{row['ID']}.png"
        return Sample(
            name=name,
            image=root / "Images" / name,
            masks=(root / "Masks" / name.replace("bus", "mask", 1),),
            label=row["Pathology"],
            group=_SAME_LESION.get(row["Case"], row["Case"]),
            attributes={name: row[column] for name, column in _ATTRIBUTES.items() if row[column]},
        )

    columns = ("ID", "Pathology", *_ATTRIBUTES.values())
    images, masks = ([path for path in (root / name).glob("*") if is_image(path)] for name in ("Images", "Masks"))
    return list_table(root / TABLE, columns, to_sample, images, masks)
