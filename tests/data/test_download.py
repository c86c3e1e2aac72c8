import hashlib
import shutil
import sys
import zipfile
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest

from busseg.data import download, find_samples
from busseg.data.download import HOMES, download_dataset

download_busi = partial(download_dataset, "busi")
BUSI_PAGE = HOMES["busi"].page
COUNTS = {"benign": 437, "malignant": 210, "normal": 133}  # 780 in all


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """What Kaggle's archive unpacks to, names only: pairing reads no pixels."""
    root = tmp_path_factory.mktemp("cache") / "1"
    for label, count in COUNTS.items():
        folder = root / "Dataset_BUSI_with_GT" / label
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / f"{label} ({number}).png").touch()
            (folder / f"{label} ({number})_mask.png").touch()
    (root / "Dataset_BUSI_with_GT" / ".DS_Store").touch()
    return root


@pytest.fixture
def kaggle(monkeypatch):
    """Stand-in for the network: `kaggle(reply)` makes Kaggle answer with a folder or an error. Returns the calls."""
    calls = []

    def answer(reply):
        def dataset_download(handle):
            calls.append(handle)
            if isinstance(reply, BaseException):
                raise reply
            return str(reply)

        monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download))
        return calls

    return answer


@pytest.mark.parametrize("exists", [True, False])
def test_folder_holds_all_of_busi(kaggle, archive, tmp_path, exists):
    calls = kaggle(archive)
    folder = tmp_path / "data" / "busi"
    if exists:
        folder.mkdir(parents=True)
    assert download_busi(folder) == folder
    assert calls == ["aryashah2k/breast-ultrasound-images-dataset/versions/1"]
    samples = find_samples(folder)
    assert {label: sum(s.label == label for s in samples) for label in COUNTS} == COUNTS
    assert {sample.image.parents[1] for sample in samples} == {folder / "Dataset_BUSI_with_GT"}
    assert [path.name for path in folder.parent.iterdir()] == ["busi"]  # no temporary folder stays


def test_folder_may_be_relative(kaggle, archive, tmp_path, monkeypatch):
    kaggle(archive)
    monkeypatch.chdir(tmp_path)
    assert download_busi("busi") == tmp_path / "busi"
    assert len(find_samples("busi")) == 780


def test_folder_with_files_is_refused_before_any_download(kaggle, archive, tmp_path):
    calls = kaggle(archive)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="empty folder"):
        download_busi(tmp_path)
    with pytest.raises(FileExistsError, match="found a file"):
        download_busi(tmp_path / "notes.txt")
    assert calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("error", [ConnectionError("no\nroute"), RuntimeError("no\nroute"), ValueError("no\nroute")])
def test_failed_download_is_one_line_that_names_the_page_and_leaves_nothing(kaggle, tmp_path, error):
    kaggle(error)
    with pytest.raises(OSError, match="no route") as raised:
        download_busi(tmp_path / "busi")
    message = str(raised.value)
    assert "\n" not in message
    assert BUSI_PAGE in message
    assert str(tmp_path / "busi") in message
    assert list(tmp_path.iterdir()) == []


def test_failed_download_of_the_real_kagglehub_is_an_os_error(tmp_path, monkeypatch):
    pytest.importorskip("kagglehub")
    # Nothing listens on port 9 of this machine, so every request is refused at once.
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(OSError, match=r"kaggle\.com/datasets"):
        download_busi(tmp_path / "busi")
    assert not (tmp_path / "busi").exists()


def test_incomplete_archive_is_refused(kaggle, archive, tmp_path):
    broken = tmp_path / "cache"
    shutil.copytree(archive, broken)
    normal = broken / "Dataset_BUSI_with_GT" / "normal"
    (normal / "normal (1).png").unlink()
    (normal / "normal (1)_mask.png").unlink()
    kaggle(broken)
    with pytest.raises(ValueError, match=r"780 images of BUSI, found 779.*cache"):
        download_busi(tmp_path / "busi")
    shutil.rmtree(normal)
    with pytest.raises(ValueError, match=r"780 images of BUSI, found 647; delete .*cache and try again"):
        download_busi(tmp_path / "busi")
    assert not (tmp_path / "busi").exists()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_copy_that_stops_half_way_leaves_nothing(kaggle, archive, tmp_path, monkeypatch, error):
    def copytree(source, target):
        target.mkdir()
        (target / "half").touch()
        raise error

    kaggle(archive)
    monkeypatch.setattr(download.shutil, "copytree", copytree)
    with pytest.raises(type(error)):
        download_busi(tmp_path / "busi")
    assert list(tmp_path.iterdir()) == []


def test_missing_kagglehub_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # Python's way to say: cannot be imported
    with pytest.raises(ImportError, match=r'pip install "busseg\[download\]"'):
        download_busi(tmp_path / "busi")
    assert list(tmp_path.iterdir()) == []


# === From a web server ===
class Server(BaseHTTPRequestHandler):
    """Answers with `files`, a dict from path to bytes; of what is in `broken` only the first half comes."""

    files, broken, agents = {}, set(), set()

    def do_GET(self):
        Server.agents.add(self.headers["User-Agent"])
        body = self.files.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path in self.broken else body or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine, which `Server.files` fills."""
    monkeypatch.setattr(Server, "files", {})
    monkeypatch.setattr(Server, "broken", set())
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def busbra_zip(tmp_path_factory):
    """The bytes of an archive of BUS-BRA's shape, of two images; names only."""
    path = tmp_path_factory.mktemp("zip") / "BUSBRA.zip"
    rows = ["ID,Case,Histology,Pathology,BIRADS,Device,Side"]
    with zipfile.ZipFile(path, "w") as archive:
        for side in ("left", "right"):
            archive.writestr(f"BUSBRA/Images/bus_0001-{side[0]}.png", b"")
            archive.writestr(f"BUSBRA/Masks/mask_0001-{side[0]}.png", b"")
            rows.append(f"bus_0001-{side[0]},1,fibroadenoma,benign,2,GE,{side}")
        archive.writestr("BUSBRA/bus_data.csv", "\n".join(rows))
    return path.read_bytes()


@pytest.fixture
def home(monkeypatch, server, busbra_zip):
    """Function that gives BUS-BRA a home on `server`, with other fields if given."""

    def settle(**fields):
        Server.files.setdefault("/BUSBRA.zip?download=1", busbra_zip)
        md5 = hashlib.md5(busbra_zip).hexdigest()
        files = ((f"{server}/BUSBRA.zip?download=1", md5),)
        monkeypatch.setitem(HOMES, "busbra", replace(HOMES["busbra"], **({"images": 2, "files": files} | fields)))

    return settle


def test_archive_is_fetched_checked_and_unpacked(home, tmp_path):
    home()
    folder = download_dataset("busbra", tmp_path / "data" / "busbra")
    assert folder == tmp_path / "data" / "busbra"
    assert [path.name for path in folder.iterdir()] == ["BUSBRA"]  # the archive itself does not stay
    assert [sample.label for sample in find_samples(folder)] == ["benign"] * 2
    assert [path.name for path in folder.parent.iterdir()] == ["busbra"]
    assert Server.agents == {"busseg"}


def test_table_and_archive_of_breast_come_to_one_folder(server, monkeypatch, tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="needs busseg[excel]")
    book = openpyxl.Workbook()
    book.active.append(
        ["CaseID", "Image_filename", "Mask_tumor_filename", "Pixel_size", "BIRADS", "Diagnosis", "Classification"]
    )
    book.active.append([45, "case045.png", None, 0.0075, 1, "not applicable", "normal"])
    table, images = tmp_path / "table.xlsx", tmp_path / "images.zip"
    book.save(table)
    with zipfile.ZipFile(images, "w") as archive:
        archive.writestr("BrEaST-Lesions_USG-images_and_masks/case045.png", b"")
    names = [address.rpartition("/")[2] for address, _ in HOMES["breast"].files]
    for name, path in zip(names, (table, images), strict=True):
        Server.files[f"/{name}"] = path.read_bytes()
    files = tuple((f"{server}/{name}", None) for name in names)
    monkeypatch.setitem(HOMES, "breast", replace(HOMES["breast"], images=1, files=files))
    (sample,) = find_samples(download_dataset("breast", tmp_path / "breast"))
    assert (sample.name, sample.label, sample.pixel_mm) == ("case045.png", "normal", 0.075)


def test_breast_without_openpyxl_is_refused_before_any_download(server, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    monkeypatch.setitem(HOMES, "breast", replace(HOMES["breast"], files=((f"{server}/a.xlsx", None),)))
    with pytest.raises(ImportError, match=r'pip install "busseg\[excel\]"'):
        download_dataset("breast", tmp_path / "breast")
    assert list(tmp_path.iterdir()) == []


def test_download_that_breaks_off_or_is_not_there_names_the_page_and_leaves_nothing(home, server, tmp_path):
    home()
    Server.broken.add("/BUSBRA.zip?download=1")
    with pytest.raises(OSError, match=r"^Expected to download BUS-BRA, .*zenodo.* received \d+ of \d+ bytes"):
        download_dataset("busbra", tmp_path / "busbra")
    Server.files.clear()
    with pytest.raises(OSError, match=r"^Expected to download BUS-BRA, .*HTTP Error 404"):
        download_dataset("busbra", tmp_path / "busbra")
    assert list(tmp_path.iterdir()) == []


def test_other_bytes_than_published_are_refused(home, server, tmp_path):
    home(files=((f"{server}/BUSBRA.zip?download=1", HOMES["busbra"].files[0][1]),))
    with pytest.raises(ValueError, match=r"^Expected a file with the MD5 sum 1f8b2be6476d58fc97bfb5e5a1ea9bab, found "):
        download_dataset("busbra", tmp_path / "busbra")
    home(files=((f"{server}/BUSBRA.zip?download=1", None),))
    Server.files["/BUSBRA.zip?download=1"] = b"moved"
    with pytest.raises(ValueError, match=r"^Expected a zip archive, found something else"):
        download_dataset("busbra", tmp_path / "busbra")
    assert list(tmp_path.iterdir()) == []


def test_dataset_with_too_few_images_is_refused(home, tmp_path):
    home(images=1875)
    with pytest.raises(ValueError, match=r"^Expected the 1875 images of BUS-BRA, found 2$"):
        download_dataset("busbra", tmp_path / "busbra")
    assert list(tmp_path.iterdir()) == []


def test_every_home_has_a_licence_a_citation_and_addresses_that_are_encrypted():
    for home in HOMES.values():
        assert home.licence
        assert "https://doi.org/" in home.citation
        assert all(address.startswith("https://") for address in (home.page, *(file for file, _ in home.files)))
