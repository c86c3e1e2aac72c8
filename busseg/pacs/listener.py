"""`busseg listen`: a DICOM node that receives images, predicts them, and sends the results to another node."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from busseg.pacs.addresses import Node
from busseg.pacs.answers import Answerer
from busseg.pacs.queue import Queue
from busseg.pacs.receiver import start_receiver, stop_receiver
from busseg.pacs.sender import Sender
from busseg.pacs.tls import Pem, client_context, server_context
from busseg.storage.claims import claim_folder
from busseg.storage.extras import import_extra
from busseg.storage.files import hidden_folder
from busseg.storage.run_folder import QUEUE

_POLL_S = 0.2
_PAUSE_S = 10  # after an error of the system, such as a full disk


class Settings(NamedTuple):
    """How a node takes part in the network.

    Args:
        node: Its AE title and where it listens; port 0 takes any that is free.
        send_to: The node that takes the results.
        allowed: AE titles that may call; all if empty.
        pem: Its PEM files. With a certificate it listens with TLS alone.
        send_tls: Whether it also sends with TLS.
    """

    node: Node
    send_to: Node
    allowed: tuple[str, ...] = ()
    pem: Pem = Pem()
    send_tls: bool = False


def listen(
    out: Path,
    answerer: Answerer,
    settings: Settings,
    report: Callable[[str], None],
    started: Callable[[Node], None],
    stop: threading.Event | None = None,
) -> None:
    """Receive, predict and send, each in a thread, until `stop` is set, Ctrl-C, or an unexpected error.

    Args:
        out: Path of the folder of the queue; see `queue`. A former queue there is continued.
        answerer: An `Answerer`.
        settings: The `Settings`.
        report: Function that takes one line for each event: UIDs and AE titles, no patient's data and no class.
        started: Function that takes the `Node` once it listens.
        stop: Event that ends it. The image at work is finished; the others wait in the queue.

    Raises:
        FileExistsError: If the folder holds other files.
        BlockingIOError: If another process uses it.
        OSError: If the port is taken, or a PEM file is missing or broken.
        ValueError: If there is a key without a certificate, or an authority without TLS.
        ImportError: If pynetdicom is missing.
    """
    import_extra("pynetdicom", "pynetdicom for DICOM networks", "pacs", out)
    if settings.pem.ca and not settings.pem.certificate and not settings.send_tls:
        raise ValueError("Expected --cert, or --send-tls, beside --ca, found none")
    tls, send_tls = server_context(settings.pem), client_context(settings.pem) if settings.send_tls else None
    title, host, port = settings.node
    stop = stop or threading.Event()
    with claim_folder(out, QUEUE) as folder, ThreadPoolExecutor(2) as pool:
        queue = Queue(folder, answerer.identity)
        sender = Sender(queue, settings.send_to, title, report, send_tls)
        server = start_receiver(queue, title, (host, port), report, settings.allowed, tls)
        try:
            started(Node(title, host, server.server_address[1]))
            working = [pool.submit(sender.run, stop), pool.submit(_predict, queue, folder, answerer, report, stop)]
            wait(working, return_when=FIRST_COMPLETED)
        finally:
            stop.set()
            stop_receiver(server)
        for thread in working:
            thread.result()


def _predict(queue, folder, answerer, report, stop):
    """Predict the images of a queue, one at a time, until `stop` is set."""
    while not stop.wait(_POLL_S):
        try:
            for path in queue.received():
                if not stop.is_set():
                    _predict_image(queue, folder, answerer, report, path)
        except OSError as error:
            report(f"Expected a disk to write to, found {error.strerror}; trying again")
            stop.wait(_PAUSE_S)


def _predict_image(queue, folder, answerer, report, path):
    """Predict an image, or set it aside if it cannot be predicted."""
    uid = path.stem
    try:
        with hidden_folder(folder) as place:
            answer = answerer.answer(path, place / "results")
            queue.keep_results(uid, answer.files)
    except ValueError as error:
        queue.fail(uid, str(error))
        report(f"failed {uid}: {error}")
        return
    for warning in answer.warnings:
        report(f"warning: {warning}: {uid}")
    report(f"predicted {uid}: {len(answer.files)} objects to send")
