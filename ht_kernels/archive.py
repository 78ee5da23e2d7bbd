"""Archives that DICOM files are stored to when a run has written them: by C-STORE (PS3.4 B) or DICOMweb (PS3.18 10.5).

An address is ``dicom://[CALLING@]HOST:PORT/CALLED``, with the AE titles of this program and of the archive, or
``dicomweb+http://[USER:PASSWORD@]HOST[:PORT]/PATH``, or the same with ``https``. No message has the password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from ht_kernels.errors import InputError, reason
from ht_kernels.packages import import_package

from .bounded_http import bounded_session

CALLING = "HT_KERNELS"
"""The AE title of this program where an address names none."""

_CONNECT, _ANSWER = 10, 60
"""Seconds to wait for a connection and what is asked beforehand, and for the answer to a file."""

_VERIFICATION = "1.2.840.10008.1.1"
_SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
"""Little endian, with explicit value representations and without: our files are in the first."""

_FORMS = "expected dicom://HOST:PORT/AE_TITLE, dicomweb+http://HOST:PORT/PATH or dicomweb+https://HOST/PATH"


class Archive(Protocol):
    """A place for DICOM files. ``name`` is its address without a password."""

    name: str

    def check(self, classes: Sequence[str]) -> None:
        """Ask the archive whether it answers, and takes files of these SOP classes if it tells.

        Raises:
            InputError: a package is missing, or the archive does not answer, or refuses.
        """

    def store(self, files: Sequence[Path]) -> None:
        """Store files.

        Raises:
            InputError: one is not in the archive; it says which and why.
        """


def archive(address: str) -> Archive:
    """The archive at an address; nothing is sent yet.

    Raises:
        InputError: the address is none of an archive.
    """
    parts = _split(address)
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme == "dicom":
        return _ByStore(name, parts)
    return _ByWeb(name, parts)


def _split(address: str) -> SplitResult:
    start, _, rest = address.rpartition("@")  # all before the last @ may be a password
    shown = f"...@{rest}" if start else address
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"the archive {shown!r} is no address, {_FORMS}") from error
    known = parts.scheme in ("dicom", "dicomweb+http", "dicomweb+https")
    if not known or not host or port == 0 or parts.query or parts.fragment or not (rest and address.isprintable()):
        raise InputError(f"the archive {shown!r} is no address, {_FORMS}")
    if parts.scheme == "dicom":
        if port is None:
            raise InputError(f"the archive {shown!r} names no port, {_FORMS}")
        if parts.password is not None:
            raise InputError(f"the archive {shown!r} came with a password, and C-STORE has none: leave it out")
        titles = {"archive": parts.path.strip("/"), "caller": parts.username or CALLING}
        for whose, title in titles.items():
            text = unquote(title)
            if not 1 <= len(text.strip()) <= 16 or "\\" in text or not (text.isascii() and text.isprintable()):
                raise InputError(
                    f"the AE title of the {whose} is {text!r}, and 1 to 16 characters of ASCII make one: {_FORMS}"
                )
    return parts


class _ByStore:
    """An archive that takes C-STORE."""

    def __init__(self, name: str, parts: SplitResult) -> None:
        self.name = name
        self._host, self._port = parts.hostname, parts.port
        self._called, self._calling = unquote(parts.path.strip("/")), unquote(parts.username or CALLING)

    def check(self, classes: Sequence[str]) -> None:
        link = self._connect([_VERIFICATION, *classes], _CONNECT)
        taken = [str(context.abstract_syntax) for context in link.accepted_contexts]
        self._send(link, link.send_c_echo, "C-ECHO")
        for each in classes:
            if each not in taken:
                raise InputError(f"the archive {self.name} does not take files of {_class_name(each)}")

    def store(self, files: Sequence[Path]) -> None:
        from pydicom import dcmread

        for file in files:
            dataset = dcmread(file)
            link = self._connect([dataset.SOPClassUID], _ANSWER)
            self._send(link, partial(link.send_c_store, dataset), f"C-STORE of {file}")

    def _connect(self, classes: Sequence[str], patience: int) -> Any:
        """An association for SOP classes, in the syntax of files or the one that every archive knows (PS3.5 10.1)."""
        pynetdicom = import_package("pynetdicom", "the archive needs pynetdicom", "pynetdicom")
        entity = pynetdicom.AE(self._calling)
        entity.connection_timeout = _CONNECT
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = patience
        for each in classes:
            entity.add_requested_context(each, _SYNTAXES)
        try:
            link = entity.associate(self._host, self._port, ae_title=self._called)
        except OSError as error:  # the host has no address
            raise InputError(f"the archive {self.name} cannot be found: {error.strerror or reason(error)}") from error
        if link.is_established:
            return link
        if link.is_rejected:
            said = link.acceptor.primitive
            raise InputError(
                f"the archive {self.name} refuses the connection: {said.reason_str}; it was called {self._called!r}, "
                f"and this program called itself {self._calling!r}"
            )
        if link.rejected_contexts:
            kinds = ", ".join(map(_class_name, classes))
            raise InputError(f"the archive {self.name} does not take files of {kinds}")
        raise InputError(f"the archive {self.name} does not answer by C-STORE: check its host and port")

    def _send(self, link: Any, request: Callable[[], Any], what: str) -> None:
        """Send a request, end the association, and refuse an answer that is no success, with or without a warning."""
        try:
            answer = request()
        except (RuntimeError, ValueError) as error:  # the association has ended, or the file does not fit it
            raise InputError(f"the archive {self.name} did not take {what}: {reason(error)}") from error
        finally:
            link.release()
        status = answer.get("Status")
        if status is None:
            raise InputError(f"the archive {self.name} gave no answer to {what}")
        if status != 0 and status >> 12 != 0xB:  # PS3.7 annex C: Bxxx are warnings
            words = f": {answer.get('ErrorComment')}" if answer.get("ErrorComment") else ""
            raise InputError(f"the archive {self.name} answered {what} with status {status:04X}{words}")


class _ByWeb:
    """An archive that takes DICOMweb."""

    def __init__(self, name: str, parts: SplitResult) -> None:
        self.name = name
        place = parts.netloc.rpartition("@")[2]
        self._url = f"{parts.scheme.partition('+')[2]}://{place}{parts.path.rstrip('/')}"
        self._user = unquote(parts.username) if parts.username is not None else None
        self._password = unquote(parts.password or "")

    def check(self, classes: Sequence[str]) -> None:
        self._ask("search for studies", lambda client: client.search_for_studies(limit=1), _CONNECT)

    def store(self, files: Sequence[Path]) -> None:
        from pydicom import dcmread

        for file in files:
            dataset = dcmread(file)
            answer = self._ask(f"store {file}", partial(_store, dataset=dataset), _ANSWER)
            stored = [item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or []]
            if dataset.SOPInstanceUID not in stored:
                failed = [item.get("FailureReason") for item in answer.get("FailedSOPSequence") or []]
                why = f"failure reason {failed[0]:04X}" if failed and failed[0] is not None else "it does not say why"
                raise InputError(f"the archive {self.name} did not take {file}: {why}")

    def _ask(self, what: str, request: Callable[[Any], Any], patience: int) -> Any:
        web = import_package("dicomweb_client", "the archive needs dicomweb-client", "dicomweb-client")
        requests = import_package("requests", "the archive needs requests", "requests")
        session = bounded_session(patience)
        if self._user is not None:
            session.auth = (self._user, self._password)
        client = web.DICOMwebClient(self._url, session=session, timeout=(_CONNECT, patience))
        client.set_http_retry_params(retry=False)  # it would wait for half a minute, and log tracebacks
        try:
            return request(client)
        except requests.HTTPError as error:
            answer = error.response
            hints = {401: "; check the user and the password", 403: "; check the user", 404: "; check the path"}
            raise InputError(
                f"the archive {self.name} answered {answer.status_code} {answer.reason} to: "
                f"{what}{hints.get(answer.status_code, '')}"
            ) from error
        except requests.TooManyRedirects as error:
            raise InputError(
                f"the archive {self.name} sends the request on to another address, to which nothing was sent: name the "
                "address that the archive has"
            ) from error
        except requests.exceptions.SSLError as error:
            certificate = "CERTIFICATE_VERIFY_FAILED" in str(error)
            hint = "; REQUESTS_CA_BUNDLE names a file of certificates to trust" if certificate else ""
            raise InputError(f"the archive {self.name} cannot be reached by TLS: {_cause(error)}{hint}") from error
        except ValueError as error:  # what came is no JSON
            raise InputError(f"the archive {self.name} gave no answer of DICOMweb: check the path") from error
        except requests.RequestException as error:
            raise InputError(f"the archive {self.name} does not answer: {_cause(error)}") from error
        finally:
            session.close()


def _store(client: Any, dataset: Any) -> Any:
    return client.store_instances([dataset])


def _cause(error: BaseException) -> str:
    """The innermost cause of an error of requests, without the address that comes before it."""
    inner: Any = error
    while True:
        deeper = [each for each in (getattr(inner, "reason", None), *inner.args) if isinstance(each, BaseException)]
        if not deeper:
            return re.sub(r"^<?\S*(Connection|Pool)[^)>]*[)>]: ", "", reason(inner))
        inner = deeper[0]


def _class_name(uid: str) -> str:
    from pydicom.uid import UID

    return UID(uid).name
