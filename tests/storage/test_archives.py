import json
import zipfile

from busseg.storage.archives import METADATA, add_metadata


def test_metadata_stands_beside_what_the_archive_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    add_metadata(tmp_path / "model.keras", {"task": "ultrasound"})
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert archive.namelist() == ["config.json", METADATA]
        assert json.loads(archive.read(METADATA)) == {"task": "ultrasound"}
