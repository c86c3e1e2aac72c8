"""Reader of folders of UDIAT's Dataset B.

UDIAT: Yap et al., "Automated Breast Ultrasound Lesions Detection Using Convolutional Neural Networks", IEEE Journal of
Biomedical and Health Informatics 22(4):1218-1226 (2018), https://doi.org/10.1109/JBHI.2017.2731873
"""

from pathlib import Path

from busseg.data.readers.tables import list_table
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.images import is_image

TABLE = "DatasetB.xlsx"


def recognises(root: str | Path) -> bool:
    """Whether a folder holds the table of UDIAT's Dataset B."""
    return (Path(root) / TABLE).is_file()


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of UDIAT's Dataset B by its table.

    Layout: `root/DatasetB.xlsx`, `root/original/NNNNNN.png` and `root/GT/NNNNNN.png`.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name. The table names no patients, so each image is its own group.

    Raises:
        FileNotFoundError: If the table, an image's mask or a mask's image is missing, or there are no images.
        ImportError: If openpyxl is not installed.
        ValueError: If the table lacks an image, names one twice, or names one that is missing.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.list_table`."""
    root = Path(root)

    def to_sample(row):
        name = f"{Path(row['Image']).stem:0>6}.png"  # a spreadsheet may have turned 000001 into 1
        return Sample(
            name=name,
            image=root / "original" / name,
            masks=(root / "GT" / name,),
            label=row["Type"].lower(),
            group=name,
        )

    images, masks = ([path for path in (root / name).glob("*") if is_image(path)] for name in ("original", "GT"))
    return list_table(root / TABLE, ("Image", "Type"), to_sample, images, masks)
