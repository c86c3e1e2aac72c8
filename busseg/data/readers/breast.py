"""Reader of BrEaST folders (Breast-Lesions-USG).

BrEaST: Pawłowska et al., "Curated benchmark dataset for ultrasound based breast lesion analysis", Scientific Data
11:148 (2024), https://doi.org/10.1038/s41597-024-02984-z
"""

from pathlib import Path

from busseg.data.readers.tables import list_table
from busseg.data.sample import Fault, Sample, without_faults
from busseg.imaging.images import is_image

TABLES = "BrEaST-Lesions-USG-clinical-data*.xlsx"
UNKNOWN = ("", "not applicable", "not available")
_ATTRIBUTES = {"patient": "CaseID", "birads": "BIRADS", "histology": "Diagnosis"}


def recognises(root: str | Path) -> bool:
    """Whether a folder holds the clinical table of BrEaST."""
    return any(Path(root).glob(TABLES))


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of BrEaST by its clinical table.

    Layout: `root/BrEaST-Lesions-USG-clinical-data-*.xlsx`, and in `root` or a folder in it the images `caseNNN.png`
    and the masks `caseNNN_tumor.png`.

    The lesion is only the tumour, to which the class belongs. The masks `caseNNN_otherN.png` mark other abnormal areas,
    beside, around or below the tumour. They are ignored, because the table gives no class for them. A normal image has
    no mask.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name, with the side of a pixel in mm if it is known. The group is the patient, who
        has one image.

    Raises:
        FileNotFoundError: If the table, an image's mask or a mask's image is missing, or there are no images.
        ImportError: If openpyxl is not installed.
        ValueError: If the table lacks an image, names one twice, or names one that is missing.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.list_table`."""
    root = Path(root)
    table = next(iter(sorted(root.glob(TABLES))), root / TABLES)
    files = [path for path in sorted(root.glob("**/case*")) if is_image(path)]
    folder = files[0].parent if files else root

    def to_sample(row):
        return Sample(
            name=row["Image_filename"],
            image=folder / row["Image_filename"],
            masks=tuple(folder / name for name in row["Mask_tumor_filename"].split("&") if name),
            label=row["Classification"],
            group=row["CaseID"],
            pixel_mm=None if row["Pixel_size"] in UNKNOWN else 10 * float(row["Pixel_size"]),
            attributes={name: row[column] for name, column in _ATTRIBUTES.items() if row[column] not in UNKNOWN},
        )

    columns = ("Image_filename", "Mask_tumor_filename", "Pixel_size", "Classification", *_ATTRIBUTES.values())
    images = [path for path in files if "_" not in path.stem]
    masks = [path for path in files if "_tumor" in path.stem]
    return list_table(table, columns, to_sample, images, masks)
