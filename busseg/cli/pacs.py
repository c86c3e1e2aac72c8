"""The verbs for a PACS: dicomweb and listen."""

import signal
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from busseg.cli.inference import Model, RequireRegion
from busseg.cli.program import app, load_predictor, out_option
from busseg.cli.terminal import complain, say
from busseg.storage.progress import track

Captures = Annotated[
    bool, typer.Option("--secondary-capture", help="Also store the overlays, one a frame, as secondary captures.")
]
Certificate = Annotated[Path | None, typer.Option("--cert", help="PEM file with busseg's certificate, for TLS.")]
Key = Annotated[Path | None, typer.Option("--key", help="PEM file with the key of --cert, if it is another file.")]
Authorities = Annotated[
    Path | None, typer.Option("--ca", help="PEM file with the authorities that sign the others' certificates.")
]


@app.command()
def dicomweb(
    url: Annotated[
        str, typer.Argument(help="Address of the DICOMweb service, such as https://pacs.example/dicom-web.")
    ],
    study: Annotated[str, typer.Option(help="Study Instance UID.")],
    series: Annotated[str | None, typer.Option(help="Series Instance UID, for the images of one series alone.")] = None,
    model: Model = Path("best"),
    secondary_capture: Captures = False,
    ca: Authorities = None,
    cert: Certificate = None,
    key: Key = None,
    require_region: RequireRegion = False,
) -> None:
    """Predict the ultrasound images of a study in a PACS, and store SEG and SR there.

    The same study again stores nothing twice. For access, set BUSSEG_DICOMWEB_TOKEN to a bearer token, or
    BUSSEG_DICOMWEB_LOGIN to user:password.

    Example: busseg dicomweb http://localhost:8042/dicom-web --study 1.2.840.113619.2.21
    """
    from busseg.pacs.addresses import check_uid
    from busseg.pacs.answers import Answerer
    from busseg.pacs.dicomweb import answer_images, find_images, open_server

    check_uid(study, "Study Instance UID")
    series is None or check_uid(series, "Series Instance UID")
    server = open_server(url, ca, cert, key)
    answerer = Answerer(load_predictor(model), secondary_capture, require_region)
    images, stored = find_images(server, study, series)
    count = failed = 0
    for outcome in track(answer_images(server, study, images, stored, answerer), "Predicting", len(images)):
        if outcome.error:
            failed += 1
            complain(f"skipped: {outcome.error}: {outcome.uid}")
        elif outcome.answer:
            count += outcome.stored
            for warning in outcome.answer.warnings:
                complain(f"warning: {warning}: {outcome.uid}")
            if not outcome.answer.files:
                complain(f"no SEG or SR is stored: {outcome.uid}")
    say(f"Stored {count} objects for {len(images)} images")
    if failed:
        complain(f"{failed} of {len(images)} images have no results")
        raise typer.Exit(1)


@app.command()
def listen(
    out: Annotated[Path, out_option("Folder of the queue: images that wait, and results that are not sent.")],
    send_to: Annotated[str, typer.Option(help="Node that gets the results: AE@HOST:PORT.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any that is free.")] = 11112,
    host: Annotated[str, typer.Option(help="Address of this machine to listen on; 0.0.0.0 is all of them.")] = (
        "127.0.0.1"
    ),
    ae_title: Annotated[str, typer.Option(help="AE title of this node; those who call another are rejected.")] = (
        "BUSSEG"
    ),
    allow: Annotated[
        list[str] | None, typer.Option(help="AE title that may send images; repeat it for more. All may by default.")
    ] = None,
    model: Model = Path("best"),
    secondary_capture: Captures = False,
    cert: Certificate = None,
    key: Key = None,
    ca: Authorities = None,
    send_tls: Annotated[bool, typer.Option("--send-tls", help="Send the results with TLS, too.")] = False,
    require_region: RequireRegion = False,
) -> None:
    """Receive ultrasound as a DICOM node, and send SEG and SR to another node, until Ctrl-C.

    An image is on the disk before it is acknowledged. A start after a kill or a power cut continues the queue.

    Example: busseg listen --out queue --send-to PACS@192.0.2.1:104
    """
    from busseg.pacs.addresses import Node, check_title, is_loopback, parse_node
    from busseg.pacs.answers import Answerer
    from busseg.pacs.listener import Settings, listen
    from busseg.pacs.tls import Pem
    from busseg.storage.claims import check_folder
    from busseg.storage.run_folder import QUEUE

    if not is_loopback(host) and not (allow or (cert and ca)):
        line = "Expected --allow, or --cert and --ca, for a --host that other machines reach, found none"
        raise ValueError(f"{line}: {host}")
    node = Node(check_title(ae_title), host, port)
    allowed = tuple(map(check_title, allow or ()))
    settings = Settings(node, parse_node(send_to), allowed, Pem(cert, key, ca), send_tls)
    check_folder(out, QUEUE)  # before a model is loaded
    answerer = Answerer(load_predictor(model), secondary_capture, require_region)
    # `kill`, as by service managers, ends it as Ctrl-C does. An exception could be lost in a library's callback.
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, _: stop.set())
    listen(out, answerer, settings, _log, lambda listening: _log(f"listening as {listening}"), stop)
    sys.exit(128 + signal.SIGTERM)  # it returns for no other reason


def _log(line: str) -> None:
    say(f"{datetime.now().isoformat(timespec='seconds')} {line}")
    sys.stdout.flush()
