"""Reader of folders with an export of CVAT, "CVAT for images 1.1".

Layout: https://docs.cvat.ai/docs/dataset_management/formats/xml_format/
"""

from pathlib import Path

from busseg.data.facts import check_categories, find_label, find_split, label_by_areas
from busseg.data.readers.tables import compare_with_files
from busseg.data.sample import CLASSES, Fault, Sample, without_faults
from busseg.imaging.annotations import cvat
from busseg.imaging.images import is_image
from busseg.storage.files import blaming

TABLE = "annotations.xml"


def recognises(root: str | Path) -> bool:
    """Whether a folder holds an export of CVAT."""
    return (Path(root) / TABLE).is_file() and cvat.recognises(Path(root) / TABLE)


def find_samples(root: str | Path) -> list[Sample]:
    """Find the images of a CVAT export, with their polygons and masks.

    Layout: `root/annotations.xml`, and the images in `root/images` or `root`. The class of an image is its tag normal,
    benign or malignant, or else that of its areas' labels: malignant if one is, else benign if one is.

    Args:
        root: Path of the folder.

    Returns:
        List of `Sample`, sorted by name, with their `split`, the subset of a CVAT project.

    Raises:
        FileNotFoundError: If an image, a mask or a file of the layout is missing.
        ValueError: If the file is broken, or has boxes or labels of other areas than lesions.
    """
    return without_faults(*list_samples(root))


def list_samples(root: str | Path) -> tuple[list[Sample], list[Fault]]:
    """The samples as `find_samples` lists them, and all faults; see `tables.compare_with_files`."""
    root = Path(root)
    table = root / TABLE
    try:
        with blaming(table, "an export of CVAT"):
            found = cvat.read(table)
            check_categories({name for image in found.values() for name in image.labels}, table)
    except (OSError, ValueError) as error:
        return [], [("bad_label", table, error)]
    images = {path: path.relative_to(root) for path in root.rglob("*") if is_image(path) and path.is_file()}
    samples = [_to_sample(root, table, key, image) for key, image in found.items()]
    return compare_with_files(table, samples, images, ())


def _to_sample(root, table, key, image):
    places = [root / "images" / image.name, root / "images" / image.subset / image.name, root / image.name]
    place = next((place for place in places if place.is_file()), places[0])
    tags = [tag.lower() for tag in image.tags if tag.lower() in CLASSES]
    split = find_split(image.subset)
    return Sample(
        name=image.name,
        image=place,
        masks=(table / key,),
        label=find_label(tags[0]) if tags else label_by_areas(image.labels, image.labels),
        group=image.name,
        attributes={"split": split} if split else {},
    )
