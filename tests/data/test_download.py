import shutil
import sys
from types import SimpleNamespace

import pytest

from busseg.data import busi, download, find_samples
from busseg.data.download import BUSI_PAGE, download_busi

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
    assert samples == busi.find_samples(folder / "Dataset_BUSI_with_GT")
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
    with pytest.raises(ValueError, match=r"found no normal.*delete .*cache"):
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
