import os
from pathlib import Path

import pytest

from busseg.data.busi import find_samples
from busseg.data.phantom import write_phantoms

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory):
    """A folder shaped like BUSI with ten phantoms a class, to be read only. Numbers 10 have two masks."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, per_class=10)
    return folder


@pytest.fixture(scope="session")
def phantom_samples(phantom_folder):
    """The thirty samples of `phantom_folder`: ten benign, ten malignant, ten normal, in this order."""
    return find_samples(phantom_folder)


@pytest.fixture(scope="session")
def busi_folder():
    """The real BUSI folder: the one `BUSSEG_BUSI` names, or the first found in its usual places."""
    places = (os.environ.get("BUSSEG_BUSI"), REPOSITORY.parent / "shared/data/busi", REPOSITORY / "data/busi")
    for place in places:
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("needs BUSI; see data/README.md")
