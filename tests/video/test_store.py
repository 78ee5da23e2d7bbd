"""DICOM results in an archive, Orthanc, by C-STORE and DICOMweb: read back, and what is said where that fails."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from helpers.clips import TINY, frames, write_dicom
from helpers.dicom import calibrated_clip, patient
from helpers.orthanc import AE_TITLE, MISSING, Archive, orthanc
from helpers.tls import certificate, tls_before
from ht_kernels import bounded_http
from ht_kernels.archive import archive
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.video.dicom_seg import write_segmentation

pytest.importorskip("highdicom")
pynetdicom = pytest.importorskip("pynetdicom")
web = pytest.importorskip("dicomweb_client")
needs_orthanc = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
pytestmark = pytest.mark.timeout(180)

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
SECRET, QUOTED = "p@ss/word", "p%40ss%2Fword"


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with orthanc(tmp_path_factory.mktemp("archive")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive that asks for a password and for its AE title."""
    settings = {"AuthenticationEnabled": True, "RegisteredUsers": {"me": SECRET}, "DicomCheckCalledAet": True}
    with orthanc(tmp_path_factory.mktemp("guarded"), **settings) as running:
        yield running


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_dicom(tmp_path / "clip.dcm", np.stack(frames()), FrameTime="40", **patient(PatientID="1"))


@pytest.fixture
def segmentation(tmp_path: Path, clip: Path) -> Path:
    """A Segmentation whose frames do not end at whole bytes of it, of a clip."""
    masks = list(np.random.default_rng(0).integers(0, 3, (5, 48, 64), dtype=np.uint8))
    write_segmentation(tmp_path / "seg.dcm", clip, masks, ("background", "lesion", "cyst"))
    return tmp_path / "seg.dcm"


def addresses(running: Archive) -> dict[str, str]:
    return {"C-STORE": f"dicom://127.0.0.1:{running.dicom}/{AE_TITLE}", "DICOMweb": f"dicomweb+{running.web}"}


def fetched(running: Archive, uid: str) -> Dataset:
    """The data set of an instance as the archive gives it."""
    place = f"http://127.0.0.1:{running.http}"
    request = urllib.request.Request(f"{place}/tools/lookup", uid.encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = [item["ID"] for item in json.load(answer)]
    assert len(found) == 1
    with urllib.request.urlopen(f"{place}/instances/{found[0]}/file", timeout=30) as answer:
        return dcmread(io.BytesIO(answer.read()))


@needs_orthanc
@pytest.mark.parametrize("way", ["C-STORE", "DICOMweb"])
def test_what_is_stored_is_read_back_the_same(way: str, open_to_all: Archive, segmentation: Path, clip: Path) -> None:
    place = archive(addresses(open_to_all)[way])
    place.check([SEGMENTATION])
    place.store([segmentation])
    sent = dcmread(segmentation)
    came = fetched(open_to_all, sent.SOPInstanceUID)
    assert came == sent and np.array_equal(came.pixel_array, sent.pixel_array) and sent.pixel_array.any()
    uids = sent.StudyInstanceUID, sent.SeriesInstanceUID, sent.SOPInstanceUID
    again = web.DICOMwebClient(open_to_all.web).retrieve_instance(*uids)
    assert again.PixelData == sent.PixelData and again.SegmentSequence == sent.SegmentSequence


@needs_orthanc
def test_the_command(open_to_all: Archive, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways in one run; the settings have the addresses, without the password."""
    by_store, by_web = addresses(open_to_all).values()
    by_store = by_store.replace("//", "//SCANNER@")
    words = ["--store", by_store, "--store", by_web.replace("//", f"//me:{QUOTED}@")]
    out = tmp_path / "out"
    assert main(["stream", str(clip), "--dicom-seg", *words, "--output", str(out), *TINY]) == 0
    said = capsys.readouterr()
    assert said.out.count("stored segmentation.dcm to dicom") == 2
    sent = dcmread(out / "segmentation.dcm")
    assert fetched(open_to_all, sent.SOPInstanceUID) == sent
    settings = (out / "settings.yaml").read_text()
    assert f'store: ["{by_store}", "{by_web}"]' in settings and f"{said}{settings}".find("ss%2Fw") == -1


@needs_orthanc
def test_a_report_goes_along(open_to_all: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, out = calibrated_clip(tmp_path / "clip.dcm"), tmp_path / "out"
    words = ["--store", addresses(open_to_all)["C-STORE"], "--output", str(out), *TINY]
    assert main(["stream", str(clip), "--dicom-seg", "--dicom-sr", *words]) == 0
    assert "stored 2 DICOM files to dicom://" in capsys.readouterr().out
    report, segmentation = (dcmread(out / name) for name in ("measurements.dcm", "segmentation.dcm"))
    assert fetched(open_to_all, report.SOPInstanceUID) == report
    assert fetched(open_to_all, segmentation.SOPInstanceUID) == segmentation
    assert main(["stream", str(clip), "--dicom-sr", *words, "--overwrite"]) == 0
    assert "stored measurements.dcm to dicom://" in capsys.readouterr().out


@needs_orthanc
def test_an_archive_that_is_gone_at_the_end(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are there, the status and a sentence say that they are not in the archive."""
    from ht_kernels.video import dicom_seg

    real, out = dicom_seg.write_segmentation, tmp_path / "out"
    with orthanc(tmp_path / "archive") as running:
        words = [word for address in addresses(running).values() for word in ("--store", address)]
        stop = running.stop

        def write(*args: object, **options: object) -> None:
            stop()
            real(*args, **options)

        monkeypatch.setattr(dicom_seg, "write_segmentation", write)
        assert main(["stream", str(clip), "--dicom-seg", *words, "--output", str(out), *TINY]) == 2
    said = capsys.readouterr()
    assert "stored" not in said.out and (out / "settings.yaml").exists() and (out / "report.json").exists()
    assert "not stored: the archive dicom://" in said.err and "; the archive dicomweb+http://" in said.err
    assert f"On disk there is {out / 'segmentation.dcm'}" in said.err and "Traceback" not in said.err
    assert dcmread(out / "segmentation.dcm").NumberOfFrames == 5


@needs_orthanc
def test_archives_are_asked_before_the_work(
    open_to_all: Archive, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for address, message in {
        f"dicom://127.0.0.1:{closed_port()}/A": "does not answer by C-STORE: check its host and port",
        f"dicomweb+http://127.0.0.1:{closed_port()}/dicom-web": "does not answer: .*Connection refused",
        f"dicomweb+{open_to_all.web}-other": "answered 404 Not Found to: search for studies; check the path",
        f"dicomweb+http://127.0.0.1:{open_to_all.http}/system": "check the path",
        f"dicomweb+{open_to_all.web.replace('http', 'https')}": "cannot be reached by TLS: .*wrong version number",
    }.items():
        words = ["stream", str(clip), "--dicom-seg", "--store", address, "--output", str(tmp_path / "out"), *TINY]
        assert main(words) == 2
        assert re.search(message, capsys.readouterr().err), address
    assert not (tmp_path / "out").exists()


@needs_orthanc
def test_an_archive_that_takes_no_segmentations(open_to_all: Archive) -> None:
    with pytest.raises(InputError, match=r"does not take files of Secondary Capture Image Storage \(Retired\)|99\.99"):
        archive(addresses(open_to_all)["C-STORE"]).check([SEGMENTATION, "1.2.840.10008.99.99"])


@needs_orthanc
def test_passwords_and_titles(
    guarded: Archive, segmentation: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = f"dicomweb+{guarded.web}"
    known = plain.replace("//", f"//me:{QUOTED}@")
    archive(known).check([SEGMENTATION])
    archive(known).store([segmentation])
    for wrong in (plain, known.replace("word", "wurd")):
        for ask in (lambda place: place.check([SEGMENTATION]), lambda place: place.store([segmentation])):
            with pytest.raises(InputError, match=r"answered 401 Unauthorized to: .*; check the user and") as caught:
                ask(archive(wrong))
            assert "ss%2F" not in str(caught.value) and "me:" not in str(caught.value)
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    archive(plain).check([SEGMENTATION])
    with pytest.raises(InputError, match=r"Called AE title not recognised; it was called 'OTHER', and this .* 'ME'"):
        archive(f"dicom://ME@127.0.0.1:{guarded.dicom}/OTHER").check([SEGMENTATION])


@needs_orthanc
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_certificates(guarded: Archive, segmentation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, key = certificate(tmp_path)
    with tls_before(guarded.http, made, key) as port:
        place = archive(f"dicomweb+https://me:{QUOTED}@127.0.0.1:{port}/dicom-web")
        with pytest.raises(InputError, match=r"by TLS: .*REQUESTS_CA_BUNDLE names a file of certificates") as caught:
            place.check([SEGMENTATION])
        assert SECRET not in str(caught.value) and QUOTED not in str(caught.value)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made))
        place.check([SEGMENTATION])
        place.store([segmentation])


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], int]]:
    """Servers that give one answer to everything; the call of the fixture starts one and gives its port."""
    servers = []

    def serve(status: int, content: bytes, **headers: str) -> int:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(content)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # the other end may have read enough
                    self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *words: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1].server_address[1]

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, b"<html>", "gave no answer of DICOMweb: check the path"),
        (500, b"", "answered 500 Internal Server Error to: search for studies$"),
        (403, b"", "answered 403 Forbidden to: search for studies; check the user"),
    ],
)
def test_what_is_no_archive(answering: Callable[[int, bytes], int], status: int, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        archive(f"dicomweb+http://127.0.0.1:{answering(status, content)}/x").check([SEGMENTATION])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [42752]}}]}}', "failure reason A700"),
        (b"{}", "it does not say why"),
    ],
)
def test_an_archive_that_takes_no_file(
    answering: Callable[[int, bytes], int], content: bytes, message: str, segmentation: Path
) -> None:
    """It answers with success, and with no list of what it stored."""
    with pytest.raises(InputError, match=f"did not take .*seg.dcm: {message}"):
        archive(f"dicomweb+http://127.0.0.1:{answering(200, content)}/x").store([segmentation])


@pytest.mark.parametrize(
    ("status", "takes", "message"),
    [
        (0xA700, SEGMENTATION, "answered C-STORE of .*seg.dcm with status A700$"),
        (0xB000, SEGMENTATION, None),  # stored, with some elements changed
        (0x0000, "1.2.840.10008.5.1.4.1.1.6.1", "does not take files of Segmentation Storage$"),
    ],
)
def test_what_c_store_answers(status: int, takes: str, message: str | None, segmentation: Path) -> None:
    entity = pynetdicom.AE()
    entity.add_supported_context(takes)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, lambda event: status)]
    )
    try:
        place = archive(f"dicom://127.0.0.1:{server.socket.getsockname()[1]}/A")
        with pytest.raises(InputError, match=message) if message else nullcontext():
            place.store([segmentation])
    finally:
        server.shutdown()


def test_an_archive_that_knows_the_default_syntax_only(segmentation: Path) -> None:
    """Which is all that an archive must know: values without their representations."""
    came = []

    def keep(event: Any) -> int:
        came.append(event.dataset)
        return 0

    entity = pynetdicom.AE()
    entity.add_supported_context(SEGMENTATION, "1.2.840.10008.1.2")
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, keep)])
    try:
        place = archive(f"dicom://127.0.0.1:{server.socket.getsockname()[1]}/A")
        place.check([SEGMENTATION])
        place.store([segmentation])
    finally:
        server.shutdown()
    sent = dcmread(segmentation)
    assert came[0].PixelData == sent.PixelData and came[0].SegmentSequence == sent.SegmentSequence


def test_what_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ht_kernels.archive._CONNECT", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = f"127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(InputError, match="does not answer by C-STORE"):
            archive(f"dicom://{place}").check([SEGMENTATION])
        with pytest.raises(InputError, match="does not answer: Read timed out"):
            archive(f"dicomweb+http://{place}").check([SEGMENTATION])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:104", "is no address, expected dicom://HOST:PORT/AE_TITLE"),
        ("http://pacs/dicom-web", "is no address"),
        ("dicomweb+http:///dicom-web", "is no address"),
        ("dicomweb+http://pacs:99999/x", "is no address"),
        ("dicomweb+http://pacs/x?user=1", "is no address"),
        ("dicom://pacs/A", "names no port"),
        ("dicom://pacs:0/A", "is no address"),
        ("dicom://pacs:104", "AE title of the archive is ''"),
        ("dicom://pacs:104/SEVENTEEN_LETTERS", "AE title of the archive is 'SEVENTEEN_LETTERS'"),
        ("dicom://A%5CB@pacs:104/A", "AE title of the caller is"),
        ("dicom://me:hidden@pacs:104/A", "came with a password, and C-STORE has none"),
        ("http://me:hidden@pacs/x", "is no address"),
        ("dicomweb+http://me:hid/den@pacs/x", "is no address"),
        ("dicomweb+http://me:hidden@pacs:x/x", "is no address"),
    ],
)
def test_addresses_that_are_none(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        archive(address)
    assert "hid" not in str(caught.value)


def test_names_have_no_password() -> None:
    assert archive("dicomweb+https://me:hidden@pacs:8/a/b/").name == "dicomweb+https://pacs:8/a/b/"
    assert archive("dicom://ME@[::1]:104/A").name == "dicom://[::1]:104/A"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_nothing_is_sent_where_an_archive_points(
    answering: Callable[..., int], status: int, segmentation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results name a patient, and the user named one address."""
    asked = []
    monkeypatch.setattr(BaseHTTPRequestHandler, "parse_request", _noting(asked))
    elsewhere = answering(200, b"{}")
    place = archive(f"dicomweb+http://127.0.0.1:{answering(status, b'', Location=f'http://127.0.0.1:{elsewhere}/y')}/x")
    for act in (lambda: place.check([SEGMENTATION]), lambda: place.store([segmentation])):
        with pytest.raises(InputError, match="sends the request on to another address, to which nothing was sent"):
            act()
    assert len(asked) == 2 and all(path.startswith("/x/") for path in asked)


def _noting(asked: list[str]) -> Callable[[Any], bool]:
    real = BaseHTTPRequestHandler.parse_request

    def parse(self: Any) -> bool:
        good = real(self)
        asked.append(self.path)
        return good

    return parse


def test_an_answer_without_end_is_given_up(
    answering: Callable[..., int], segmentation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = archive(f"dicomweb+http://127.0.0.1:{answering(200, bytes(bounded_http.MOST_BYTES + 1))}/x")
    with pytest.raises(InputError, match=f"its answer has more than {bounded_http.MOST_BYTES} bytes"):
        place.store([segmentation])
    times = iter(range(0, 10**6, 100))
    monkeypatch.setattr(bounded_http, "time", SimpleNamespace(monotonic=lambda: next(times)))
    place = archive(f"dicomweb+http://127.0.0.1:{answering(200, b'{}')}/x")
    with pytest.raises(InputError, match="its answer does not end"):
        place.store([segmentation])
