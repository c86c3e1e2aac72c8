"""What the page keeps, and for how long: files until they are answered, packed results in memory until others come."""

import re
import secrets
import shutil
import time
from collections import OrderedDict
from contextlib import contextmanager, suppress
from pathlib import Path

FORGOTTEN_S = 600  # an upload that nobody asked about until then, for its page was closed, is not waited for
_RESULTS = 4


class Uploads:
    """Uploaded files, each in a folder of its own: the same file of two people is two files, and each may go.

    Args:
        folder: Path of a folder that holds nothing else.
    """

    def __init__(self, folder):
        self.folder = Path(folder).resolve()

    def keep(self, name, stream):
        """Store a file until it is answered.

        Args:
            name: What its user calls it. Letters that mean something in paths or HTML are replaced.
            stream: Binary file object.

        Returns:
            The path of the stored file.
        """
        for former in self.folder.iterdir():
            with suppress(FileNotFoundError):  # answered meanwhile
                if former.stat().st_mtime < time.time() - FORGOTTEN_S:
                    shutil.rmtree(former, ignore_errors=True)
        path = self.folder / secrets.token_hex(16) / safe_name(name)
        path.parent.mkdir()
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        return path

    @contextmanager
    def until_answered(self, paths):
        """Let a block have uploaded files; delete them when it ends, whatever comes of it."""
        try:
            yield
        finally:
            for place in (Path(path).resolve().parent for path in paths):
                if place.parent == self.folder:  # never a folder of somebody's own, whoever names it
                    shutil.rmtree(place, ignore_errors=True)
            for left in self.folder.iterdir():
                if left.is_file():  # Gradio's file component makes an empty one whenever it hands on another
                    left.unlink(missing_ok=True)

    def without_folders(self, text):
        """A text that names uploads as their users do, not by where they are kept."""
        return re.sub(rf"{re.escape(str(self.folder))}[\\/][0-9a-f]{{32}}[\\/]", "", text)


class Results:
    """Packed results in memory, the last few of them: what a link on the page downloads."""

    def __init__(self):
        self._packed = OrderedDict()

    def keep(self, packed):
        """Store bytes and return the secret that names them."""
        token = secrets.token_urlsafe(16)
        self._packed[token] = packed
        while len(self._packed) > _RESULTS:
            self._packed.popitem(last=False)
        return token

    def get(self, token):
        """The bytes that a secret names, or None."""
        return self._packed.get(token)


def safe_name(name):
    """A file's name without folders, and without letters that mean something in paths or in HTML."""
    return re.sub(r"[^\w .()+,@-]", "_", Path(name.replace("\\", "/")).name).strip(" .")[-120:] or "file"
