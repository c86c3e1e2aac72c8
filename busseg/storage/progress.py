"""Progress on stderr: bars in a terminal, lines everywhere. stdout is for results."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

_T = TypeVar("_T")


def bars(*, shown: bool = True, transient: bool = False) -> Progress:
    """A `rich.progress.Progress` on stderr, which draws nothing where stderr is no terminal, such as a log file.

    Args:
        shown: Whether to draw bars at all.
        transient: Whether they vanish when done.
    """
    console = Console(stderr=True)
    shown = shown and (console.is_interactive or console.is_jupyter)
    # Rich prints stdout above its bars, on the console of the bars: right only if both are the same terminal.
    return Progress(console=console, transient=transient, disable=not shown, redirect_stdout=_is_terminal(sys.stdout))


def track(things: Iterable[_T], title: str, total: float | None = None, *, shown: bool = True) -> Iterator[_T]:
    """Iterate with a progress bar on stderr.

    Args:
        things: Iterable.
        title: Text before the bar.
        total: Number of things, where they have no length.
        shown: Whether to draw the bar at all.
    """
    with bars(shown=shown) as progress:
        yield from progress.track(things, total, description=title)


def note(line: str) -> None:
    """Print a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def _is_terminal(stream):
    return stream is not None and stream.isatty()
