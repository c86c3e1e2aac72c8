"""TLS for a DICOM node.

References:
    DICOM PS3.15, B.12 The BCP 195 Non-Downgrading TLS Secure Transport Connection Profile
"""

import ssl
from pathlib import Path
from typing import NamedTuple

_SILENT_S = 30  # a peer that stops within a handshake is cut off


class Pem(NamedTuple):
    """Paths of PEM files: the node's certificate and key, and the authorities that its peers' certificates need."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


class _LateContext(ssl.SSLContext):
    """A context whose handshake takes place at the first read, in the thread of its connection.

    pynetdicom wraps a connection in the thread that accepts all of them: a silent peer would keep out the others.
    """

    def wrap_socket(self, sock, *args, **options):
        sock.settimeout(_SILENT_S)
        return super().wrap_socket(sock, *args, **(options | {"do_handshake_on_connect": False}))


def server_context(pem: Pem) -> ssl.SSLContext | None:
    """The TLS of the connections that a node accepts; None without a certificate. With `ca`, peers need one, too.

    Raises:
        OSError: If a file is missing or is not PEM.
        ValueError: If there is a key without a certificate.
    """
    if pem.certificate is None:
        if pem.key:
            raise ValueError("Expected --cert beside --key, found none")
        return None
    context = _LateContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, pem)
    if pem.ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(pem: Pem) -> ssl.SSLContext:
    """The TLS of the connections that a node makes. Peers are verified by `ca`, or else by the system's authorities.

    Raises:
        OSError: If a file is missing or is not PEM.
    """
    context = ssl.create_default_context()
    _load(context, pem)
    return context


def _load(context, pem):
    for path in filter(None, pem):
        if not path.is_file():
            raise FileNotFoundError(f"Expected a PEM file, found none: {path}")
    try:
        if pem.certificate:
            context.load_cert_chain(pem.certificate, pem.key)
    except ssl.SSLError as error:
        raise OSError(f"Expected PEM files of a certificate and its key, found others: {pem.certificate}") from error
    try:
        if pem.ca:
            context.load_verify_locations(pem.ca)
    except ssl.SSLError as error:
        raise OSError(f"Expected a PEM file of authorities, found another: {pem.ca}") from error
