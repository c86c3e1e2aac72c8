"""BUSI from Kaggle to a folder."""

import shutil
from pathlib import Path

from busseg.data import find_samples
from busseg.data.claims import claim
from busseg.data.files import replacing

BUSI = "aryashah2k/breast-ultrasound-images-dataset"
BUSI_PAGE = f"https://www.kaggle.com/datasets/{BUSI}"
BUSI_VERSION = 1
BUSI_IMAGES = 780


def download_busi(folder):
    """Download BUSI from Kaggle. No Kaggle account is needed.

    The archive goes to the cache of kagglehub, which resumes a download that broke off; once it is unpacked there and
    found complete, the images are copied to `folder`, all of them or none.

    Args:
        folder: Path of a folder that is empty or does not exist yet.

    Returns:
        The folder as a `Path`, for `find_samples`.

    Raises:
        ImportError: If kagglehub is not installed.
        FileExistsError: If the folder holds something, or is a file.
        BlockingIOError: If another process downloads to it.
        OSError: If Kaggle cannot be reached, or a file cannot be written.
        ValueError: If what came is not BUSI as published.
    """
    folder = Path(folder).resolve()
    _refuse_others(folder)
    with claim(folder, "an empty folder", lambda folder: True):
        downloaded = _fetch(folder)
        _check(downloaded)
        with replacing(folder) as temporary:
            shutil.copytree(downloaded, temporary)
            _refuse_others(folder)  # that came meanwhile
    return folder


def _refuse_others(folder):
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"Expected an empty folder for BUSI, found a file: {folder}")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"Expected an empty folder for BUSI, found files in it: {folder}")


def _fetch(folder):
    try:
        import kagglehub
    except ImportError as error:
        raise ImportError('Expected kagglehub, found it is not installed: pip install "busseg[download]"') from error
    try:
        # The version is named, so that everyone gets the same images, and a copy in the cache needs no network.
        return Path(kagglehub.dataset_download(f"{BUSI}/versions/{BUSI_VERSION}"))
    except Exception as error:  # kagglehub's own errors share no base class
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise OSError(
            f"Expected to download BUSI from Kaggle, found that it failed. Try again, or get the archive by hand from "
            f"{BUSI_PAGE} and unpack it to {folder} ({cause})"
        ) from error


def _check(downloaded):
    try:
        found = len(find_samples(downloaded))
    except FileNotFoundError as error:
        raise ValueError(f"{error}. It is not BUSI as published; delete {downloaded} and try again") from error
    if found != BUSI_IMAGES:
        raise ValueError(
            f"Expected the {BUSI_IMAGES} images of BUSI, found {found}; delete it and try again: {downloaded}"
        )
