"""What the page keeps, and for how long: files until they are answered, packed results in memory until others come."""

import re
import secrets
import shutil
import stat
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager, suppress
from pathlib import Path

FORGOTTEN_S = 600  # an upload that nobody asked about until then, for its page was closed, is not waited for
_CLOSING_S = 10
_RESULTS = 4


class Uploads:
    """Uploaded files, each in a folder of its own: the same file of two people is two files, and each may go.

    Args:
        folder: Path of a folder that holds nothing else.
    """

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.closed = False
        self._answering, self._answered = 0, threading.Condition()

    def keep(self, name, stream):
        """Store a file until it is answered.

        Args:
            name: What its user calls it. Letters that mean something in paths or HTML are replaced.
            stream: Binary file object.

        Returns:
            The path of the stored file.
        """
        path = self.folder / secrets.token_hex(16) / safe_name(name)
        path.parent.mkdir()
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        return path

    def find(self, path):
        """The upload that a client names.

        Args:
            path: What the client sent as the path of a file: of any type.

        Returns:
            Its `Path`: a regular file in a folder of this folder, reached by no link.

        Raises:
            ValueError: If it is anything else, such as a URL, a pipe, or a file of this machine. It is not opened.
        """
        with suppress(OSError, ValueError):  # no such file; a name that no file can have
            named = Path(path if isinstance(path, str | Path) else "")
            found = named.resolve(strict=True)
            if found == named and found.parent.parent == self.folder and stat.S_ISREG(found.lstat().st_mode):
                return found
        raise ValueError("Expected an uploaded file, found something else")

    def delete(self, paths):
        """Delete uploads; what else is named stays."""
        for path in paths:
            with suppress(ValueError):
                shutil.rmtree(self.find(path).parent, ignore_errors=True)

    @contextmanager
    def until_answered(self, paths):
        """Let a block have uploaded files; delete them when it ends, whatever comes of it.

        Raises:
            ValueError: If one of them is no upload; the others are deleted.
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
                if left.is_file():  # Gradio's file component makes an empty one whenever it hands on another
                    left.unlink(missing_ok=True)
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()

    def while_open(self, rows):
        """Yield the rows of a long answer, until the uploads are closed.

        Raises:
            ValueError: Then.
        """
        for row in rows:
            if self.closed:
                raise ValueError("Expected a page that goes on, found that it ends")
            yield row

    def close(self):
        """End long answers, and wait for a while until nobody works on an upload, so that the folder can go."""
        self.closed = True
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, _CLOSING_S)

    def size(self):
        """Bytes of all that waits to be asked about."""
        size = 0
        for folder in self.folder.iterdir():
            with suppress(FileNotFoundError, NotADirectoryError):  # answered meanwhile; an empty file of Gradio's
                size += sum(path.stat().st_size for path in folder.iterdir())
        return size

    def forget(self):
        """Delete what nobody asked about for `FORGOTTEN_S`."""
        for former in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if former.stat().st_mtime < time.time() - FORGOTTEN_S:
                    shutil.rmtree(former, ignore_errors=True)

    def without_folders(self, text):
        """A text that names uploads as their users do, not by where they are kept."""
        return re.sub(rf"{re.escape(str(self.folder))}[\\/][0-9a-f]{{32}}[\\/]", "", text)


class Results:
    """Packed results in memory, the last few of them: what a link on the page downloads, for its client alone."""

    def __init__(self):
        self._packed = OrderedDict()

    def keep(self, packed, client):
        """Store the bytes of a client and return the secret that names them."""
        token = secrets.token_urlsafe(16)
        self._packed[token] = (client, packed)
        while len(self._packed) > _RESULTS:
            self._packed.popitem(last=False)
        return token

    def get(self, token, client):
        """The bytes that a secret names, or None if there are none or they are another client's."""
        owner, packed = self._packed.get(token, (client, None))
        return packed if owner == client else None


def safe_name(name):
    """A file's name without folders, and without letters that mean something in paths or in HTML."""
    return re.sub(r"[^\w .()+,@-]", "_", Path(name.replace("\\", "/")).name).strip(" .")[-120:] or "file"
