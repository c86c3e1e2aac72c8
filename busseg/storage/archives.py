"""Metadata inside `.keras` and `.tflite` files, both of which are zip archives."""

import json
import zipfile
from pathlib import Path

METADATA = "busseg.json"


def add_metadata(path: str | Path, metadata: dict) -> None:
    """Add metadata, as JSON, to a `.keras` or `.tflite` file that has none yet."""
    with zipfile.ZipFile(path, "a") as archive:  # behind the network, where LiteRT keeps such files
        archive.writestr(METADATA, json.dumps(metadata))
