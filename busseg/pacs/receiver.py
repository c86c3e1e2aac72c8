"""A DICOM node that receives ultrasound: it writes each image to the queue before it acknowledges it.

References:
    DICOM PS3.4, annex A Verification, annex B Storage; B.2.3 the statuses of C-STORE
"""

import errno
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from ssl import SSLContext
from typing import TYPE_CHECKING, cast

from busseg.imaging.dicom import SOP_CLASSES
from busseg.imaging.dicom_pixels import read_header
from busseg.pacs.addresses import is_uid
from busseg.pacs.queue import Queue

if TYPE_CHECKING:
    from pynetdicom.transport import ThreadedAssociationServer

_SILENT_S = 30  # a peer that stops within a message is cut off
_IDLE_S = 120  # so is one that keeps an association open without a message
_VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO
_MOST = 20  # associations at a time; others are asked to try again
# What pydicom and its plugins decode; no video, and nothing deflated.
_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
)  # fmt: skip
_SUCCESS, _OUT_OF_RESOURCES, _DOES_NOT_MATCH, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000


def start_receiver(
    queue: Queue,
    title: str,
    address: tuple[str, int],
    report: Callable[[str], None],
    allowed: Sequence[str] = (),
    tls: SSLContext | None = None,
) -> "ThreadedAssociationServer":
    """Start to receive, in threads of their own; see `stop_receiver`.

    Args:
        queue: The `Queue` that takes the images.
        title: The node's AE title. Associations that call another are rejected.
        address: `(host, port)` to listen on; port 0 takes any that is free.
        report: Function that takes one line for each image.
        allowed: AE titles that may call; all if empty. Anybody may claim a title: TLS alone proves who calls.
        tls: The TLS of all connections; None for none.

    Returns:
        The server, whose `server_address` has the port.

    Raises:
        OSError: If the port is taken, or the address is of another machine.
    """
    from pynetdicom import AE, evt

    entity = AE(ae_title=title)
    entity.require_called_aet, entity.require_calling_aet = True, list(allowed)
    entity.maximum_associations = _MOST
    entity.acse_timeout = entity.dimse_timeout = _SILENT_S
    entity.network_timeout = _IDLE_S
    entity.add_supported_context(_VERIFICATION)
    for sop_class in SOP_CLASSES:
        entity.add_supported_context(sop_class, _TRANSFER_SYNTAXES)
    handlers: list[evt.EventHandlerType] = [
        (evt.EVT_CONN_OPEN, _limit_silence),
        (evt.EVT_C_STORE, partial(_store, queue, report)),
    ]
    host, port = address
    try:
        server = entity.start_server((host, port), block=False, ssl_context=tls, evt_handlers=handlers)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise OSError(f"Expected an address of this machine to listen on, found {host}") from error
        raise OSError(f"Expected a free port, found {port} ({error.strerror}); choose another with --port") from error
    return cast("ThreadedAssociationServer", server)  # None if it blocked


def stop_receiver(server: "ThreadedAssociationServer") -> None:
    """End a server and its associations. An image that is not acknowledged yet is sent again by its sender."""
    server.shutdown()
    for association in server.active_associations:
        if association.is_established:
            association.abort()
        else:
            association.dul.kill_dul()  # pynetdicom raises if an association is aborted before it is requested


def _limit_silence(event):
    event.assoc.dul.socket.socket.settimeout(_SILENT_S)


def _store(queue, report, event):
    """Take the image of a C-STORE; return its status."""
    uid, sender = str(event.request.AffectedSOPInstanceUID), event.assoc.requestor.ae_title
    if not is_uid(uid):
        report(f"refused an image without a UID from {sender}")
        return _CANNOT_UNDERSTAND
    content = event.encoded_dataset()
    try:
        header = read_header(BytesIO(content), ("SOPInstanceUID", "SOPClassUID"))
        named = (str(header.SOPInstanceUID), str(header.SOPClassUID))
    except Exception:  # pydicom raises any error for broken content, and its text may quote a patient's data
        report(f"refused {uid} from {sender}: not DICOM that can be read")
        return _CANNOT_UNDERSTAND
    if named != (uid, str(event.request.AffectedSOPClassUID)):
        report(f"refused {uid} from {sender}: it is another image")
        return _DOES_NOT_MATCH
    try:
        new = queue.add(uid, content)
    except OSError as error:
        report(f"refused {uid} from {sender}: {error.strerror or type(error).__name__}")
        return _OUT_OF_RESOURCES
    report(f"received {uid} from {sender}" + ("" if new else ", again"))
    return _SUCCESS
