"""Connections of the page's server: the address it listens on, and the timeouts of a client."""

import ipaddress
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10  # from a connection, or the first byte of a request, to the end of its headers
_SILENT_S = 60  # a peer that acknowledges nothing for this long is disconnected
# Names of options in `socket`, which not every system has.
_OPTIONS = {
    "TCP_KEEPIDLE": _SILENT_S,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": _SILENT_S * 1000,  # in ms
}


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a timeout for the headers of a request, which uvicorn itself does not limit."""

    _timer = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._time()

    def data_received(self, data):
        super().data_received(data)
        self._time()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self._stop()

    def _time(self):
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()  # a request is being answered; the reader of its body has its own timeout
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`, a name or an address.

    Raises:
        OSError: If there is no such name.
    """
    return all(ipaddress.ip_address(address[0]).is_loopback for _, address in _addresses(host, 0))


def listen(host: str, port: int) -> socket.socket:
    """A socket that already listens, so that its address can be opened at once.

    Args:
        host: Name or address of this machine.
        port: Number of the port; 0 takes any that is free.

    Raises:
        OSError: If the name is unknown, or the port is taken.
    """
    family, address = _addresses(host, port)[0]
    try:
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise OSError(f"Expected a free port, found {port} ({error.strerror}); choose another with --port") from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():  # connections inherit them
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listening


def _addresses(host, port):
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(f"Expected a name or address of this machine, found {host} ({error.strerror})") from error
    return [(family, address) for family, _, _, _, address in found]
