"""The kinds of findings of a dataset audit."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A kind of finding: its title, which follows a number, the advice, and whether it is only a note."""

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
        "A model of these images alone cannot learn the class, and no score here covers it.",
    ),
    "unreadable": Finding(
        "unreadable files",
        "Download them again, or remove them and their masks.",
    ),
    "name_clash": Finding(
        "files named like another",
        "Masks are found by name without the suffix: rename one. Only the first was examined.",
    ),
    "missing_mask": Finding(
        "images without a mask",
        "busseg cannot read the dataset before each image has one; a normal image has an empty one.",
    ),
    "orphan_mask": Finding(
        "masks without an image",
        "A wrong name, or a lost image. busseg cannot read the dataset before it is corrected.",
    ),
    "bad_label": Finding(
        "faults in the table of labels",
        "busseg cannot read the dataset before they are corrected.",
    ),
    "wrong_name": Finding(
        "files not named or placed as in BreaKHis",
        "busseg cannot read the dataset before they are corrected: a name gives the class and the patient.",
    ),
    "two_subtypes": Finding(
        "slides with two subtypes",
        "BreaKHis itself has one, 13412. With subtypes as classes, their patients are left out of splits.",
    ),
    "misaligned_mask": Finding(
        "masks of another size than their image",
        "No pixel of the mask can be trusted to lie on its tissue: correct or remove them.",
    ),
    "empty_mask": Finding(
        "images without a lesion drawn, though not normal",
        "A model would learn that there is no lesion: draw it, or remove the image.",
    ),
    "lesion_on_normal": Finding(
        "normal images with a lesion drawn",
        "Either the class or the mask is wrong.",
    ),
    "label_conflict": Finding(
        "scans with two classes",
        "Their class is unknown. Leave them out, as <code>busseg split</code> does by default.",
    ),
    "copies": Finding(
        "scans with several copies",
        "Keep the copies of a scan in one part of a split; otherwise a model is tested on images it was trained with: "
        "<code>busseg split DATA --groups groups.csv</code>.",
    ),
    "copies_across": Finding(
        "scans in several sources",
        "With <code>--groups groups.csv</code> they stay in one part of a split of these folders, and out of "
        "training when the source of one is left out.",
    ),
    "colour_overlay": Finding(
        "images with colour in them",
        "Doppler or coloured marks. busseg reads them as grey.",
    ),
    "burned_in": Finding(
        "images with text, calipers or other marks",
        "A model may learn from the marks instead of the tissue, especially if one class has more of them. Faint "
        "marks and the maker's logo at the top left are not detected.",
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
