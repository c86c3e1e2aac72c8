"""Download datasets from their publishers to a folder."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen
from zipfile import BadZipFile, ZipFile

from busseg.data import find_samples
from busseg.data.readers.tables import import_openpyxl
from busseg.storage.claims import claim
from busseg.storage.files import replacing

BUSI = "aryashah2k/breast-ultrasound-images-dataset"
BUSI_VERSION = 1
_TIMEOUT_S = 60
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Home:
    """A dataset's publication.

    Args:
        title: Name of the dataset.
        images: Number of its images.
        page: Address of its page.
        licence: The licence that its page states.
        citation: The citation that its authors ask for.
        files: `(address, MD5 sum)` of each file, a zip archive or a table; the sum is None if the publisher states
            none. Empty for BUSI, which kagglehub downloads.
    """

    title: str
    images: int
    page: str
    licence: str
    citation: str
    files: tuple[tuple[str, str | None], ...] = ()


HOMES = {
    "busi": Home(
        title="BUSI",
        images=780,
        page=f"https://www.kaggle.com/datasets/{BUSI}",
        licence="CC0",
        citation="Al-Dhabyani et al., Data in Brief 28:104863 (2020), https://doi.org/10.1016/j.dib.2019.104863",
    ),
    "busbra": Home(
        title="BUS-BRA",
        images=1875,
        page="https://zenodo.org/records/8231412",
        licence="its LICENSE.txt: use, change and pass on, keep the notice, cite the paper",
        citation="Gómez-Flores et al., Medical Physics 51:3110-3123 (2024), https://doi.org/10.1002/mp.16812",
        files=(
            (
                "https://zenodo.org/records/8231412/files/BUSBRA.zip?download=1",
                "1f8b2be6476d58fc97bfb5e5a1ea9bab",
            ),
        ),
    ),
    "breast": Home(
        title="BrEaST",
        images=256,
        page="https://www.cancerimagingarchive.net/collection/breast-lesions-usg",
        licence="CC BY 4.0",
        citation="Pawłowska et al., Scientific Data 11:148 (2024), https://doi.org/10.1038/s41597-024-02984-z, "
        "and the collection, https://doi.org/10.7937/9WKK-Q141",
        files=tuple(
            (f"https://www.cancerimagingarchive.net/wp-content/uploads/{name}", None)
            for name in (
                "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx",
                "BrEaST-Lesions_USG-images_and_masks-Dec-15-2023.zip",
            )
        ),
    ),
    "bus_uclm": Home(
        title="BUS-UCLM",
        images=683,
        page="https://data.mendeley.com/datasets/7fvgj4jsp7",
        licence="stated in two ways, CC BY 4.0 and non-commercial (CC BY-NC): ask its authors before you share a model",
        citation="Vallez et al., Scientific Data 12:242 (2025), https://doi.org/10.1038/s41597-025-04562-3",
        files=(("https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/7fvgj4jsp7-1.zip", None),),
    ),
}


def download_dataset(name: str, folder: str | Path, progress: Callable[[Iterable], Iterable] = iter) -> Path:
    """Download a dataset, all of it or nothing. No account is needed.

    kagglehub keeps BUSI's archive in its cache, and resumes an interrupted download.

    Args:
        name: One of `HOMES`.
        folder: Path of a folder that is empty or does not exist yet.
        progress: Function that wraps an iteration, for a progress bar over each file; kagglehub has its own.

    Returns:
        The folder as a `Path`, for `find_samples`.

    Raises:
        ImportError: If kagglehub, for BUSI, or openpyxl, for BrEaST, is not installed.
        FileExistsError: If the folder holds files, or is a file.
        BlockingIOError: If another process downloads to it.
        OSError: If the publisher cannot be reached, or a file cannot be written.
        ValueError: If there is no such dataset to download, or the files are not as published.
    """
    if name == "udiat":
        raise ValueError(
            "Expected a dataset with a public download, found udiat, which its authors send: see data/README.md"
        )
    if name not in HOMES:
        raise ValueError(f"Expected a dataset of {', '.join(HOMES)}, found {name!r}")
    home, folder = HOMES[name], Path(folder).resolve()
    _refuse_others(home, folder)
    with claim(folder, "an empty folder", lambda folder: True), replacing(folder) as temporary:
        if name == "busi":
            cached = _fetch_busi(home, folder)
            _check(home, cached, f"; delete {cached} and try again")
            shutil.copytree(cached, temporary)
        else:
            if any(address.endswith(".xlsx") for address, _ in home.files):
                import_openpyxl(folder)  # fails before the download, not after it
            temporary.mkdir()
            for address, md5 in home.files:
                _fetch(home, address, md5, temporary, folder, progress)
            _check(home, temporary)
        _refuse_others(home, folder)  # files that another program has written meanwhile
    return folder


def _refuse_others(home, folder):
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"Expected an empty folder for {home.title}, found a file: {folder}")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"Expected an empty folder for {home.title}, found files in it: {folder}")


def _fetch_busi(home, folder):
    try:
        import kagglehub
    except ImportError as error:
        raise ImportError('Expected kagglehub, found it is not installed: pip install "busseg[download]"') from error
    try:
        # A named version gives everyone the same images, and a copy in the cache needs no network.
        return Path(kagglehub.dataset_download(f"{BUSI}/versions/{BUSI_VERSION}"))
    except Exception as error:  # kagglehub's own errors share no base class
        raise _unreachable(home, folder, error) from error


def _fetch(home, address, md5, target, folder, progress):
    """Download one file to the folder `target`, and unpack it if it is an archive."""
    path = target / address.rpartition("/")[2].partition("?")[0]
    digest = hashlib.md5(usedforsecurity=False)
    try:
        request = Request(address, headers={"User-Agent": "busseg"})
        # The address is one of HOMES, never a user's, so it cannot name a file of this machine.
        with urlopen(request, timeout=_TIMEOUT_S) as reply:  # nosec B310
            expected = reply.length
            with path.open("wb") as file:
                for chunk in progress(iter(partial(reply.read, _CHUNK), b"")):
                    digest.update(chunk)
                    file.write(chunk)
        if expected not in (None, path.stat().st_size):
            raise ConnectionError(f"received {path.stat().st_size} of {expected} bytes")
    except OSError as error:
        raise _unreachable(home, folder, error) from error
    if md5 and digest.hexdigest() != md5:
        raise ValueError(f"Expected a file with the MD5 sum {md5}, found {digest.hexdigest()}: {address}")
    if path.suffix == ".zip":
        try:
            with ZipFile(path) as archive:
                archive.extractall(target)
        except BadZipFile as error:
            raise ValueError(f"Expected a zip archive, found something else ({error}): {address}") from error
        path.unlink()


def _unreachable(home, folder, error):
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return OSError(
        f"Expected to download {home.title}, found a failure. Try again, or download it by hand from {home.page} and "
        f"unpack it to {folder} ({cause})"
    )


def _check(home, downloaded, remedy=""):
    try:
        found = len(find_samples(downloaded))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"Expected {home.title} as published, found a fault{remedy} ({error})") from error
    if found != home.images:
        raise ValueError(f"Expected the {home.images} images of {home.title}, found {found}{remedy}")
