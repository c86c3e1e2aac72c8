"""Storage of the page: uploaded files until they are answered, and the last few packed results in memory."""

import re
import secrets
import shutil
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

FORGOTTEN_S = 600  # an upload without a request is deleted after this time, as when its page was closed
_CLOSING_S = 10
_RESULTS = 4


class Uploads:
    """Uploaded files, each in a folder of its own, so that two uploads of one file are two files.

    Args:
        folder: Path of a folder that holds nothing else.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        self.closed = False
        self._answering, self._answered = 0, threading.Condition()

    def keep(self, name: str, stream: BinaryIO) -> Path:
        """Store a file until it is answered.

        Args:
            name: The user's name of the file. Characters with a meaning in paths or HTML are replaced.
            stream: Binary file object.

        Returns:
            The path of the stored file.
        """
        path = self.folder / secrets.token_hex(16) / safe_name(name)
        path.parent.mkdir()
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        return path

    def find(self, path: object) -> Path:
        """The upload that a client names.

        Args:
            path: The value that the client sent as the path of a file, of any type.

        Returns:
            Its `Path`: a regular file in a folder of this folder, reached by no link.

        Raises:
            ValueError: If it is anything else, such as a URL, a pipe, or a file of this machine. It is not opened.
        """
        with suppress(OSError, ValueError):  # no such file, or an impossible name
            named = Path(path if isinstance(path, str | Path) else "")
            found = named.resolve(strict=True)
            if found == named and found.parent.parent == self.folder and stat.S_ISREG(found.lstat().st_mode):
                return found
        raise ValueError("Expected an uploaded file, found something else")

    def delete(self, paths: Iterable[object]) -> None:
        """Delete uploads. A path that is not an upload is ignored."""
        for path in paths:
            with suppress(ValueError):
                shutil.rmtree(self.find(path).parent, ignore_errors=True)

    @contextmanager
    def until_answered(self, paths: Iterable[object]) -> Iterator[None]:
        """Keep uploads during a block; delete them when it ends, also after an error.

        Raises:
            ValueError: If a path is not an upload; the uploads are deleted.
        """
        with self._answered:
            self._answering += 1
        try:
            for path in paths:
                self.find(path)
            yield
        finally:
            self.delete(paths)
            for left in self.folder.iterdir():
                if left.is_file():  # Gradio's file component creates an empty file for each file it passes on
                    left.unlink(missing_ok=True)
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()

    def while_open(self, rows: Iterable[dict]) -> Iterator[dict]:
        """Yield the rows of a long answer, until the uploads are closed.

        Raises:
            ValueError: If the uploads are closed.
        """
        for row in rows:
            if self.closed:
                raise ValueError("Expected a running server, found one that stops")
            yield row

    def close(self) -> None:
        """End long answers, and wait up to 10 s until no upload is in use, so that the folder can be deleted."""
        self.closed = True
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, _CLOSING_S)

    def size(self) -> int:
        """The size of all uploads in bytes."""
        size = 0
        for folder in self.folder.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError):  # just answered; an empty file of Gradio's
                size += sum(path.stat().st_size for path in folder.iterdir())
        return size

    def forget(self) -> None:
        """Delete uploads that are older than `FORGOTTEN_S`."""
        for former in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if former.stat().st_mtime < time.time() - FORGOTTEN_S:
                    shutil.rmtree(former, ignore_errors=True)

    def without_folders(self, text: str) -> str:
        """A text with the folders of uploads removed, so that it names files as their users do."""
        return re.sub(rf"{re.escape(str(self.folder))}[\\/][0-9a-f]{{32}}[\\/]", "", text)


class Results:
    """The last few packed results, in memory. A link on the page downloads them, for its own client only."""

    def __init__(self):
        self._packed = OrderedDict()

    def keep(self, packed: bytes, client: str) -> str:
        """Store the bytes of a client and return the secret that names them."""
        token = secrets.token_urlsafe(16)
        self._packed[token] = (client, packed)
        while len(self._packed) > _RESULTS:
            self._packed.popitem(last=False)
        return token

    def get(self, token: str, client: str) -> bytes | None:
        """The bytes that a secret names; None if they are gone or belong to another client."""
        owner, packed = self._packed.get(token, (client, None))
        return packed if owner == client else None


def safe_name(name: str) -> str:
    """A file's name without folders, and without characters that have a meaning in paths or HTML."""
    return re.sub(r"[^\w .()+,@-]", "_", Path(name.replace("\\", "/")).name).strip(" .")[-120:] or "file"
