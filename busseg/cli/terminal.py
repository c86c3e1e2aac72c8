"""Output to the terminal: any code page, readers that close early, and escaped control characters in names."""

import io
import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from busseg.storage.escaping import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def forgive_output() -> None:
    """Let no output end a run: characters that the code page lacks are escaped, and a closed pipe drops the output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            raw = _Output(stream.fileno(), "w", closefd=False)
            options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            forgiving = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", **options)
            setattr(sys, name, forgiving)


class _Output(io.FileIO):
    """A file whose reader may close it, as `head` does after ten lines; the writer continues."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def say(text: str) -> None:
    """Print lines, with the control characters of file names and file contents escaped."""
    print("\n".join(map(printable, text.split("\n"))))


def complain(line: str) -> None:
    """Print one line to stderr; see `say`."""
    _errors.print(f"busseg: {printable(line)}")
