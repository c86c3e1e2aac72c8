"""What stands beside the network in a `.keras` or `.tflite` file, both of which are zip archives."""

import json
import zipfile

METADATA = "busseg.json"


def add_metadata(path, metadata):
    """Add to a `.keras` or `.tflite` file, which has none yet, what it is to tell of itself."""
    with zipfile.ZipFile(path, "a") as archive:  # where LiteRT has such files: behind the network
        archive.writestr(METADATA, json.dumps(metadata))
