"""The queue of a DICOM node, as folders on disk. A kill at any moment loses no image and answers none twice.

An image moves from state to state, and each move is one rename:

    received/UID.dcm    arrived, and acknowledged to its sender
    to_send/UID/        predicted; its results that the other node has not acknowledged
    answered/UID        done: a text file with the identity of the model; the image and the results are deleted
    failed/UID.dcm      could not be predicted; or failed/UID/, could not be sent. failed/UID.txt says why

UID is the SOP Instance UID of the image. A state is written before the former one is removed, so a kill between the two
leaves both; the later one counts.
"""

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from busseg.pacs.addresses import is_uid
from busseg.storage.files import replacing, write_text
from busseg.storage.run_folder import QUEUE

_STATES = ("received", "to_send", "answered", "failed")


class Queue:
    """The queue in a folder that the caller has claimed; see `claims.claim_folder`. Its methods may run in threads.

    Args:
        folder: Path of the folder.
        identity: `Answerer.identity`, by which images that another model answered are answered again.
    """

    def __init__(self, folder: Path, identity: str):
        self._received, self._to_send, self._answered, self._failed = (folder / state for state in _STATES)
        self._identity = identity
        self._lock = threading.Lock()  # for the moves
        for state in _STATES:
            (folder / state).mkdir(mode=0o700, exist_ok=True)  # for this user alone: patients' images
        write_text(folder / QUEUE.marker, '{"queue": "busseg listen"}\n')
        for path in self.received():
            if self._results(path.stem).exists():  # killed between two states
                path.unlink()

    def add(self, uid: str, content: bytes) -> bool:
        """Write an image to the disk, unless it waits or is answered. Returns whether it is new.

        Args:
            uid: Its SOP Instance UID; see `addresses.is_uid`.
            content: Bytes of a DICOM file.

        Raises:
            OSError: If it cannot be written.
        """
        with self._lock:
            path = self._image(uid)
            if path.exists() or self._results(uid).exists() or self._is_answered(uid):
                return False
            with replacing(path) as temporary:
                temporary.write_bytes(content)
            self._forget_failure(uid)
            return True

    def received(self) -> list[Path]:
        """Paths of the images to predict, `UID.dcm`, in the order of their arrival."""
        images = (path for path in self._received.glob("*.dcm") if is_uid(path.stem))
        return sorted(images, key=lambda path: path.stat().st_mtime_ns)

    def to_send(self) -> list[Path]:
        """Paths of the folders of results to send, `UID`, in the order of their prediction."""
        folders = (path for path in self._to_send.iterdir() if is_uid(path.name) and path.is_dir())
        return sorted(folders, key=lambda path: path.stat().st_ctime_ns)

    def keep_results(self, uid: str, files: Iterable[Path]) -> None:
        """Move the results of an image here, and remove the image."""
        with self._lock:  # until both are done, so that the results are not sent before
            with replacing(self._results(uid)) as folder:
                folder.mkdir()
                for file in files:
                    shutil.move(file, folder / file.name)
            self._image(uid).unlink(missing_ok=True)

    def finish(self, uid: str) -> None:
        """Note that all results of an image are sent."""
        with self._lock:
            write_text(self._answered / uid, self._identity)
            shutil.rmtree(self._results(uid))

    def fail(self, uid: str, reason: str) -> None:
        """Set an image aside that cannot be predicted, or whose results cannot be sent."""
        with self._lock:
            self._forget_failure(uid)
            write_text(self._failed / f"{uid}.txt", f"{reason}\n")
            for path in (self._image(uid), self._results(uid)):
                if path.exists():
                    path.replace(self._failed / path.name)

    def _image(self, uid):
        return self._received / f"{uid}.dcm"

    def _results(self, uid):
        return self._to_send / uid

    def _is_answered(self, uid):
        path = self._answered / uid
        return path.exists() and path.read_text(encoding="utf-8") == self._identity

    def _forget_failure(self, uid):
        for path in (self._failed / f"{uid}.dcm", self._failed / f"{uid}.txt"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._failed / uid, ignore_errors=True)
