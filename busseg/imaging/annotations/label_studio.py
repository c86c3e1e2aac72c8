"""Exports of Label Studio, JSON: brush masks, polygons, and choices for whole images.

Reference:
    https://labelstud.io/guide/task_format
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from busseg.imaging.annotations.parsed import check_shape, parse_once, read_any_json
from busseg.imaging.annotations.runs import from_label_studio
from busseg.imaging.polygons import check_polygon, fill_polygons

_NO_AREAS = ("rectanglelabels", "rectangle", "ellipselabels", "ellipse", "keypointlabels", "keypoint")


class Task(NamedTuple):
    """One image of an export: the `data` of its task, its `choices`, the `labels` of its areas, and the `areas`,
    results as in the file. `annotated` says whether a person submitted an annotation.
    """

    data: dict
    choices: tuple[str, ...]
    labels: tuple[str, ...]
    areas: tuple[dict, ...]
    annotated: bool


def recognises(path: Path) -> bool:
    """Whether a JSON file is a list of Label Studio's tasks."""
    content = parse_once(read_any_json, path)
    return isinstance(content, list) and bool(content) and all(isinstance(t, dict) and "data" in t for t in content)


def read(path: Path) -> dict[str, Task]:
    """The tasks of an export, by their ids, or by their places in the list, from 1, where they have none.

    The latest annotation of a task counts; those that were cancelled do not.

    Raises:
        KeyError, TypeError, ValueError: If it is no export.
    """
    return parse_once(_parse, path)


def _parse(path):
    return {str(task.get("id", place)): _to_task(task, path) for place, task in enumerate(read_any_json(path), 1)}


def _to_task(task, path):
    valid = [one for one in task.get("annotations", ()) if not one.get("was_cancelled")]
    results = max(valid, key=lambda one: one.get("updated_at") or "")["result"] if valid else []
    areas, labels, choices = [], [], []
    for result in results:
        kind, value = result["type"], result["value"]
        if kind in _NO_AREAS:
            raise ValueError(f"Expected brush masks and polygons, found {kind} in task {task.get('id')}: {path}")
        if kind == "choices":
            choices += value["choices"]
        elif "rle" in value or "points" in value:
            areas.append(result)
            labels += value.get("brushlabels") or value.get("polygonlabels") or []
    return Task(task["data"], tuple(choices), tuple(labels), tuple(areas), bool(valid))


def draw(path: Path, key: str) -> NDArray[np.uint8]:
    """The union of a task's brush masks and polygons, array `(height, width)`, uint8, 0 or 1."""
    areas = read(path)[key].areas
    height, width = check_shape(areas[0]["original_height"], areas[0]["original_width"])
    mask = np.zeros((height, width), np.uint8)
    for area in areas:
        value = area["value"]
        if "rle" in value:
            mask |= from_label_studio(value["rle"], (height, width))
        else:
            percent = check_polygon([number for point in value["points"] for number in point])
            mask |= fill_polygons([percent * (width / 100, height / 100)], mask.shape)
    return mask
