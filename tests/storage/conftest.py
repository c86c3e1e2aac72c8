import pytest


@pytest.fixture(scope="session")
def names():
    """Function that lists what a folder holds, by name."""
    return lambda folder: sorted(path.name for path in folder.iterdir())
