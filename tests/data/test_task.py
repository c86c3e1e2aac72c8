import json

import pytest
import tomli_w

from busseg.data import find_samples
from busseg.data.task import Task


def test_task_is_the_text_of_its_name_in_files_and_messages():
    task = Task("subtypes")
    assert task is Task.SUBTYPES
    assert (task, f"{task}", json.dumps(task), tomli_w.dumps({"task": task})) == (
        "subtypes", "subtypes", '"subtypes"', 'task = "subtypes"\n',
    )  # fmt: skip


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"^`task` must be one of ultrasound, histology, subtypes\. Received: 'photos'$"
    ):
        Task("photos")


def test_ultrasound_is_grey_with_masks_and_histology_rgb_without():
    facts = {str(task): (task.channels, task.has_mask, task.protocol, len(task.classes)) for task in Task}
    assert facts == {
        "ultrasound": (1, True, "grouped", 3),
        "histology": (3, False, "patient", 2),
        "subtypes": (3, False, "patient", 8),
    }


def test_unknown_task_is_refused_before_a_folder_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"^`task` must be one of ultrasound"):
        find_samples(tmp_path / "missing", task="photos")
