"""Names and addresses of a DICOM network: UIDs, AE titles, nodes."""

import ipaddress
import re
import socket
from typing import NamedTuple

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_TITLE = r"[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?"  # 1 to 16 ASCII letters, no backslash, no blank at an end
_NODE = re.compile(rf"(?P<title>{_TITLE})@(?P<host>\[[0-9a-fA-F:]+\]|[^@:\[\]]+):(?P<port>[0-9]{{1,5}})")


class Node(NamedTuple):
    """A DICOM node of the network: its AE title, and where it listens."""

    title: str
    host: str
    port: int

    def __str__(self):
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"


def is_uid(text: str) -> bool:
    """Whether a text is a UID: digits and dots, at most 64. Such a text is also safe as the name of a file."""
    return len(text) <= 64 and bool(_UID.fullmatch(text))


def check_uid(text: str, what: str) -> str:
    """Return a UID unchanged; a ValueError names what it should be."""
    if not is_uid(text):
        raise ValueError(f"Expected a {what} of digits and dots, found {text!r}")
    return text


def check_title(text: str) -> str:
    """Return an AE title unchanged; a ValueError says what one is."""
    if not re.fullmatch(_TITLE, text):
        raise ValueError(f"Expected an AE title of 1 to 16 letters, found {text!r}")
    return text


def parse_node(text: str) -> Node:
    """Read a node that is written as AE@HOST:PORT.

    Raises:
        ValueError: If it is written in another way.
    """
    match = _NODE.fullmatch(text)
    if not match or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"Expected a node as AE@HOST:PORT, such as PACS@192.0.2.1:104, found {text!r}")
    return Node(match["title"], match["host"].strip("[]"), int(match["port"]))


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine alone.

    Raises:
        OSError: If there is no such name.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OSError(f"Expected the name or address of a machine, found {host} ({error.strerror})") from error
    return all(ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback for *_, address in found)
