"""The tasks of a model: which images it takes, and what it predicts of them."""

from enum import StrEnum

from busseg.data.sample import CLASSES


class Task(StrEnum):
    """What a model predicts. A task equals its name, the text in recipes and in model files: `Task("ultrasound")`.

    Attributes: `classes`, in the order of the model's outputs.

    Raises:
        ValueError: If no task has the name.
    """

    classes: tuple[str, ...]

    ULTRASOUND = "ultrasound", CLASSES
    HISTOLOGY = "histology", ("benign", "malignant")
    SUBTYPES = (
        "subtypes",
        (
            "adenosis",
            "fibroadenoma",
            "phyllodes_tumor",
            "tubular_adenoma",
            "ductal_carcinoma",
            "lobular_carcinoma",
            "mucinous_carcinoma",
            "papillary_carcinoma",
        ),
    )

    def __new__(cls, name: str, classes: tuple[str, ...] = ()) -> "Task":
        task = str.__new__(cls, name)
        task._value_, task.classes = name, classes
        return task

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"`task` must be one of {', '.join(cls)}. Received: {value!r}")

    @property
    def is_histology(self) -> bool:
        """Whether the images show histology, not ultrasound. Only ultrasound is read from DICOM and clips."""
        return self is not Task.ULTRASOUND

    @property
    def channels(self) -> int:
        """Channels of an image: 1, grey, or 3, RGB."""
        return 3 if self.is_histology else 1

    @property
    def has_mask(self) -> bool:
        """Whether a model also segments the lesion."""
        return not self.is_histology

    @property
    def protocol(self) -> str:
        """Name of the protocol for reliable figures; see `protocols.make_splits`."""
        return "patient" if self.is_histology else "grouped"
