"""Results for a study of a DICOMweb server: find its ultrasound images, predict them, store what the server lacks.

References:
    DICOM PS3.18, 10.6 Search (QIDO-RS), 10.4 Retrieve (WADO-RS), 10.5 Store (STOW-RS)
"""

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from busseg.imaging.dicom import SOP_CLASSES
from busseg.imaging.dicom_pixels import import_pydicom
from busseg.pacs.addresses import is_loopback, is_uid
from busseg.pacs.answers import Answer, Answerer
from busseg.pacs.tls import Pem, client_context
from busseg.storage.extras import import_extra

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from requests import Session

TOKEN, LOGIN = "BUSSEG_DICOMWEB_TOKEN", "BUSSEG_DICOMWEB_LOGIN"  # names of variables
_TIMEOUT_S = (10, 120)  # to connect; for a server that says nothing meanwhile
_ORIGINAL = (("application/dicom", "*"),)  # as the server keeps it, in any transfer syntax
_CLASS, _INSTANCE, _SERIES, _FRAMES = "00080016", "00080018", "0020000E", "00280008"


class Server(NamedTuple):
    """A DICOMweb server: its address, and the client and the session that ask it."""

    url: str
    client: "DICOMwebClient"
    session: "Session"


class Image(NamedTuple):
    """An ultrasound image of a study, by its SOP Instance UID."""

    uid: str
    series: str
    frames: int


class Outcome(NamedTuple):
    """What became of an image: how many results were stored, and the `Answer`.

    `answer` is None if the server had all results, or with an error: one line, without the image's name.
    """

    uid: str
    stored: int = 0
    answer: Answer | None = None
    error: str | None = None


def open_server(
    url: str,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Server:
    """A DICOMweb server. Nothing is asked yet.

    The variable `BUSSEG_DICOMWEB_TOKEN` is a bearer token; `BUSSEG_DICOMWEB_LOGIN`, as user:password, is for servers
    with HTTP Basic. Both travel over https alone, or to this machine.

    Args:
        url: Address of the service, such as https://pacs.example/dicom-web.
        ca: Path of a PEM file with the authorities that may sign the server's certificate; the system's by default.
        certificate: Path of a PEM file with a certificate for this client.
        key: Path of a PEM file with the certificate's key.
        environment: Mapping from the names of variables to their values.

    Raises:
        ValueError: If it is no such address, a secret is malformed or would travel unencrypted, or there is a key
            without certificate.
        OSError: If a file is missing or is not PEM.
        ImportError: If dicomweb-client is missing.
    """
    web = import_extra("dicomweb_client", "dicomweb-client for DICOMweb", "pacs", url)
    import_pydicom(url)
    parts = _split(url)
    if parts.username or parts.password:
        raise ValueError(f"Expected a URL without a password, found one with it; set {LOGIN} instead")
    if key and not certificate:
        raise ValueError("Expected --cert beside --key, found none")
    client_context(Pem(certificate, key, ca))  # requests names no file that it cannot load
    # Their logs quote the server and print traces; every error becomes one line below.
    for package in ("dicomweb_client", "retrying", "urllib3"):
        logging.getLogger(package).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="dicomweb_client")
    session = _session(environment, ca)
    if session.auth and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"Expected https for a token or a login, found http: {url}")
    session.cert = (str(certificate), str(key)) if certificate and key else certificate and str(certificate)
    # A body is sent as a whole, because one that is sent in chunks cannot be sent again.
    options = {"session": session, "timeout": _TIMEOUT_S, "chunk_size": 2**40, "permissive_uid": True}
    client = web.DICOMwebClient(url.rstrip("/"), **options)
    client.set_http_retry_params(retry=False)  # see `_be_patient`
    return Server(url, client, session)


def _split(url):
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # a port or an IPv6 address that is none
        pass
    found = "another with a user in it" if "@" in url else repr(url)  # and perhaps a password
    raise ValueError(f"Expected a URL of http or https, found {found}")


def _session(environment, ca):
    import requests
    from requests.auth import HTTPBasicAuth

    session = requests.Session()
    if ca:  # with each request, because requests prefers the variable REQUESTS_CA_BUNDLE to the session's own value
        session.request = partial(session.request, verify=str(ca))
    if token := environment.get(TOKEN):
        if not re.fullmatch("[!-~]+", token):
            raise ValueError(f"Expected ASCII characters without blanks in {TOKEN}, found others")
        session.auth = lambda request: request.headers.update(Authorization=f"Bearer {token}") or request
    elif login := environment.get(LOGIN):
        user, colon, password = login.encode().partition(b":")
        if not colon:
            raise ValueError(f"Expected user:password in {LOGIN}, found no colon")
        session.auth = HTTPBasicAuth(user, password)
    return session


def find_images(server: Server, study: str, series: str | None = None) -> tuple[list[Image], set[str]]:
    """Find the ultrasound images of a study.

    Args:
        server: The `Server`.
        study: Study Instance UID.
        series: Series Instance UID, to find the images of this series alone.

    Returns:
        `(images, stored)`: list of `Image`, sorted by series and UID; and the SOP Instance UIDs of all objects of the
        study, results of former runs among them.

    Raises:
        OSError: If the server does not answer.
        ValueError: If it refuses, or the study has no such image.
    """
    found: dict[str, dict] = {}
    with _asking(server, f": {server.url}"):
        while page := server.client.search_for_instances(study, offset=len(found), fields=["NumberOfFrames"]):
            new = {str(_value(item, _INSTANCE)): item for item in page}
            if new.keys() <= found.keys():  # a server that knows no pages
                break
            found |= new
        images = [
            Image(uid, str(_value(item, _SERIES)), int(_value(item, _FRAMES) or 1))
            for uid, item in found.items()
            if _value(item, _CLASS) in SOP_CLASSES and is_uid(uid) and series in (None, _value(item, _SERIES))
        ]
    if not images:
        raise ValueError(f"Expected ultrasound images, found none among {len(found)} objects: {series or study}")
    _be_patient(server.session)  # only now: a wrong address fails at once
    return sorted(images, key=lambda image: (image.series, image.uid)), set(found)


def answer_images(
    server: Server, study: str, images: Iterable[Image], stored: set[str], answerer: Answerer
) -> Iterator[Outcome]:
    """Predict images of a study, and store the results that the server lacks.

    An image that cannot be retrieved, predicted or stored gives an `Outcome` with an error, and the next one follows.

    Args:
        server: The `Server`.
        study: Study Instance UID.
        images: Iterable of `Image`; see `find_images`.
        stored: SOP Instance UIDs of the objects that the server has; those of new results are added.
        answerer: An `Answerer`.

    Yields:
        An `Outcome` for each image.

    Raises:
        OSError: If the server does not answer for a minute, or the disk is full.
    """
    for image in images:
        with tempfile.TemporaryDirectory(prefix="busseg-") as folder:
            try:
                yield _answer(server, study, image, stored, answerer, Path(folder))
            except ValueError as error:
                yield Outcome(image.uid, error=str(error))


def _answer(server, study, image, stored, answerer, folder):
    import pydicom

    if answerer.expected_uids(image.uid, image.frames) <= stored:
        return Outcome(image.uid)
    path = folder / "image.dcm"
    with _asking(server):
        source = server.client.retrieve_instance(study, image.series, image.uid, media_types=_ORIGINAL)
        if (source.SOPInstanceUID, source.StudyInstanceUID) != (image.uid, study):
            raise ValueError("Expected the image that was asked for, found another")
        source.save_as(path, enforce_file_format=True)
    answer = answerer.answer(path, folder / "results")
    count = 0
    for file in answer.files:
        result = pydicom.dcmread(file)
        if result.SOPInstanceUID not in stored:
            with _asking(server):
                response = server.client.store_instances([result], study)
            if response.get("FailedSOPSequence"):
                reason = response.FailedSOPSequence[0].get("FailureReason", 0)
                raise ValueError(f"Expected a server that stores results, found a refusal (0x{reason:04X})")
            stored.add(result.SOPInstanceUID)
            count += 1
    return Outcome(image.uid, count, answer)


# === The server ===


def _value(item, tag):
    """The value of an attribute in an answer to a search; None if it is missing."""
    values = item.get(tag, {}).get("Value") or [None]
    return values[0]


def _be_patient(session: "Session") -> None:
    """Repeat requests for about a minute, such as while the server starts again.

    Storing may be repeated, too: a server drops an object whose UID it has.
    """
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    busy = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
    patience = Retry(
        total=None, connect=9, read=3, status=9, redirect=3, other=0, backoff_factor=0.2, backoff_max=20,
        status_forcelist=busy, allowed_methods=None, raise_on_status=False,
    )  # fmt: skip
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=patience))


@contextmanager
def _asking(server, name=""):
    """Turn the errors of a request into one line that ends with `name`, without the text of the server or of a file.

    Raises:
        ConnectionError: If the server does not answer.
        ValueError: If it refuses, or its answer cannot be read.
    """
    import requests

    try:
        yield
    except (requests.ConnectionError, requests.Timeout) as error:
        kind = type(error).__name__
        line = f"Expected a DICOMweb server that answers, found none ({kind}): {server.url}"
        raise ConnectionError(line) from error
    except requests.HTTPError as error:
        code = error.response.status_code
        phrase = responses.get(code, "an unknown status")
        raise ValueError(f"Expected a DICOMweb server that consents, found {code} {phrase}{name}") from error
    except Exception as error:  # pydicom raises any error for broken content, and its text may quote a patient's data
        ours = isinstance(error, ValueError) and str(error).startswith("Expected ")
        if ours or (isinstance(error, OSError) and error.errno):
            raise
        kind = type(error).__name__
        raise ValueError(f"Expected DICOM that can be read, found other content ({kind}){name}") from error
