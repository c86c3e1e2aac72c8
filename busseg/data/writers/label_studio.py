"""Write tasks of Label Studio with pre-annotations: a person corrects them, and `readers/label_studio.py` reads them.

Reference:
    https://labelstud.io/guide/predictions
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from busseg.data.facts import LESION, facts_of
from busseg.data.sample import CLASSES
from busseg.data.writers.item import Item
from busseg.imaging.annotations.runs import to_label_studio
from busseg.storage.files import write_text

TITLE = "Label Studio"
CARRIES = ("classes", "groups", "scales", "attributes", "splits", "folds")
TASKS, CONFIG = "tasks.json", "label_config.xml"
_CHOICES = "".join(f'<Choice value="{name}"/>' for name in CLASSES)
_CONFIG = f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="{LESION}" toName="image"><Label value="{LESION}"/></BrushLabels>
  <Choices name="class" toName="image" choice="single">{_CHOICES}</Choices>
</View>
"""


def add(folder: Path, item: Item, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict:
    """Write one image; returns its task."""
    name = f"images/{item.stem}.png"
    item.write_image(folder / name, image)
    height, width = mask.shape
    size = {"original_height": height, "original_width": width, "image_rotation": 0, "to_name": "image"}
    results = []
    if mask.any():
        value = {"format": "rle", "rle": to_label_studio(mask), "brushlabels": [LESION]}
        results.append({"id": f"{LESION}-1", "from_name": LESION, "type": "brushlabels", **size, "value": value})
    if item.sample.label:
        value = {"choices": [item.sample.label]}
        results.append({"id": "class-1", "from_name": "class", "type": "choices", **size, "value": value})
    prediction: dict[str, str | float | list[dict]] = {"model_version": "busseg", "result": results}
    if "score" in item.sample.attributes:
        prediction["score"] = float(item.sample.attributes["score"])
    data = {"image": f"/data/local-files/?d={name}", **facts_of(item.sample)}
    return {"data": data, "predictions": [prediction]}


def finish(folder: Path, items: Sequence[Item], tasks: Sequence[dict], size: int) -> list[str]:
    """Write the tasks and the configuration of the project."""
    write_text(folder / TASKS, json.dumps(tasks))
    write_text(folder / CONFIG, _CONFIG)
    return []
