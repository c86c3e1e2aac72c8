"""Send the results in a queue to another DICOM node, and try again until it takes them."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING

from busseg.pacs.addresses import Node
from busseg.pacs.queue import Queue

if TYPE_CHECKING:
    from pynetdicom import Association

FIRST_S, LONGEST_S = 1, 60  # from one try to the next: doubled each time
_TRIES = 5  # of results that the node refuses
_POLL_S = 0.5
_CONNECT_S, _SILENT_S = 10, 30
_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
)


class Sender:
    """Sends results until it is stopped. A failed association costs a pause, and nothing else.

    Args:
        queue: The `Queue`.
        node: The `Node` that takes the results.
        title: The AE title of this node.
        report: Function that takes one line for each image and each failed association.
        tls: The TLS of the connections; None for none.
    """

    def __init__(
        self, queue: Queue, node: Node, title: str, report: Callable[[str], None], tls: SSLContext | None = None
    ):
        self._queue, self._node, self._title, self._report, self._tls = queue, node, title, report, tls
        self._refusals: Counter[str] = Counter()

    def run(self, stop: threading.Event) -> None:
        """Send what is in the queue, until `stop` is set."""
        pause_s = FIRST_S
        while not stop.is_set():
            try:
                taken = self._send_all(stop)
            except OSError as error:
                self._report(f"Expected a disk to write to, found {error.strerror}; trying again")
                taken = False
            if taken:
                pause_s = FIRST_S
                stop.wait(_POLL_S)
            else:
                stop.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_S)

    def _send_all(self, stop):
        """Send the results of each image. Returns whether the node took all of them."""
        folders = self._queue.to_send()
        for folder in folders:
            if not any(folder.iterdir()):  # out of distribution, or killed after the last was sent
                self._queue.finish(folder.name)
        folders = [folder for folder in folders if folder.exists()]
        if not folders:
            return True
        association = self._associate()
        if not association.is_established:
            self._report(f"Expected {self._node} to accept an association, found that it does not; trying again")
            return False
        taken = True
        for folder in folders:
            if stop.is_set() or not association.is_established:
                break
            taken &= self._send(association, folder)
        if association.is_established:
            association.release()
        else:
            self._report(f"Expected {self._node} to keep the association, found it ended; trying again")
            taken = False
        return taken

    def _associate(self) -> "Association":
        from pynetdicom import AE

        entity = AE(ae_title=self._title)
        entity.connection_timeout = _CONNECT_S
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _SILENT_S
        for sop_class in _SOP_CLASSES:
            entity.add_requested_context(sop_class)
        tls = (self._tls, self._node.host) if self._tls else None
        return entity.associate(self._node.host, self._node.port, ae_title=self._node.title, tls_args=tls)

    def _send(self, association, folder: Path) -> bool:
        """Send the results of an image. Returns whether the node took all of them."""
        for file in sorted(folder.iterdir()):
            status, reason = _store(association, file)
            if reason:
                self._note_refusal(folder.name, reason)
            if status is None or reason:
                return False
            file.unlink()
        self._queue.finish(folder.name)
        self._report(f"answered {folder.name}")
        return True

    def _note_refusal(self, uid, reason):
        self._refusals[uid] += 1
        if self._refusals[uid] < _TRIES:
            self._report(f"{self._node} refused a result of {uid} ({reason}); trying again")
        else:
            del self._refusals[uid]
            self._queue.fail(uid, f"{self._node} refused a result {_TRIES} times ({reason})")
            self._report(f"failed {uid}: {self._node} refused a result {_TRIES} times ({reason})")


def _store(association, file):
    """Send a file: `(status, reason)`. The status is None if the association failed, the reason that of a refusal."""
    try:
        status = association.send_c_store(file).get("Status")
    except ValueError:
        return 0, "it accepts no such objects"
    except RuntimeError:  # the association has ended
        return None, None
    if status is None:
        return None, None
    taken = status == 0 or status >> 12 == 0xB  # a warning: stored, although changed
    return status, None if taken else f"0x{status:04X}"
