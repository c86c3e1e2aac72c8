"""Ends with 0 if the page or the DICOM node takes a connection, else with an error."""

import socket
import sys
from contextlib import closing


def is_open(port: int) -> bool:
    """Whether a server of this machine takes a connection within two seconds."""
    with closing(socket.socket()) as connection:
        connection.settimeout(2)
        return connection.connect_ex(("127.0.0.1", port)) == 0


ports = [int(port) for port in sys.argv[1:]] or [7860, 11112]  # those of `busseg app` and `busseg listen`
if not any(map(is_open, ports)):
    sys.exit(f"Expected a server on one of the ports {ports}, found none")
