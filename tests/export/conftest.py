import pytest


@pytest.fixture(scope="session")
def names():
    """Function that lists the files and folders in a folder and in those below it."""
    return lambda folder: sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
