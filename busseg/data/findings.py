"""What an audit of a dataset can find: a row each."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A kind of finding: how it is counted, what to do about it, and whether it is no more than a note."""

    title: str
    advice: str
    note: bool = False


# The worst first.
FINDINGS = {
    "missing_folder": Finding(
        "folders missing or empty",
        "busseg cannot read the dataset before they are there.",
    ),
    "missing_class": Finding(
        "classes without an image",
        "A model of these images alone cannot learn the class, and no score here tells of it.",
    ),
    "unreadable": Finding(
        "unreadable files",
        "Fetch them again, or take them and their masks out.",
    ),
    "name_clash": Finding(
        "files named like another",
        "Masks are found by name without the suffix: rename one. Only the first was looked at.",
    ),
    "missing_mask": Finding(
        "images without a mask",
        "busseg cannot read the dataset before each image has one; a normal image has an empty one.",
    ),
    "orphan_mask": Finding(
        "masks without an image",
        "A wrong name, or a lost image. busseg cannot read the dataset before it is mended.",
    ),
    "bad_label": Finding(
        "faults in the table of labels",
        "busseg cannot read the dataset before they are mended.",
    ),
    "wrong_name": Finding(
        "files not named or placed as in BreaKHis",
        "busseg cannot read the dataset before they are mended: a name tells the class and the patient.",
    ),
    "two_subtypes": Finding(
        "slides that stand under two subtypes",
        "BreaKHis itself has one, 13412. Told apart by subtype, their patients are left out of splits.",
    ),
    "misaligned_mask": Finding(
        "masks of another size than their image",
        "No pixel of the mask can be trusted to lie on its tissue: mend them or take them out.",
    ),
    "empty_mask": Finding(
        "images without a lesion drawn, though not normal",
        "A model would learn that there is no lesion: draw it, or take the image out.",
    ),
    "lesion_on_normal": Finding(
        "normal images with a lesion drawn",
        "Either the class or the mask is wrong.",
    ),
    "label_conflict": Finding(
        "scans that stand under two classes",
        "No one knows their class. Leave them out, as <code>busseg split</code> does by itself.",
    ),
    "copies": Finding(
        "scans that are there more than once",
        "Keep the copies of a scan in one part of a split, or a model is tested on what it was trained with: "
        "<code>busseg split DATA --groups groups.csv</code>.",
    ),
    "copies_across": Finding(
        "scans that are in several sources",
        "With <code>--groups groups.csv</code> they stay in one part of a split of these folders, and out of "
        "training where the source of one is left out.",
    ),
    "colour_overlay": Finding(
        "images with colour in them",
        "Doppler or coloured marks. busseg reads them as grey.",
    ),
    "burned_in": Finding(
        "images with text, calipers or other marks",
        "A model may read the marks instead of the tissue, the more so if they are commoner in one class. Faint "
        "marks are passed over, and so is the maker's logo at the top left.",
    ),
    "several_masks": Finding(
        "images with several masks",
        "Their union is taken as the lesion.",
        note=True,
    ),
    "soft_mask": Finding(
        "masks with values between 0 and 255",
        "Values above 127 are taken as lesion.",
        note=True,
    ),
}
