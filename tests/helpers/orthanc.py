"""An Orthanc, the archive of Debian's packages ``orthanc`` and ``orthanc-dicomweb``, on free ports of this machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MISSING = (
    None
    if shutil.which("Orthanc") and PLUGIN.exists()
    else "Orthanc is not installed: apt-get install orthanc orthanc-dicomweb"
)
"""Why there can be no Orthanc; None where there can."""

AE_TITLE = "ARCHIVE"
_PATIENCE = 60.0
"""Seconds for the program to start and to end."""


@dataclass(frozen=True)
class Archive:
    """A running archive: its ports on 127.0.0.1, and what ends it."""

    http: int
    dicom: int
    stop: Callable[[], None]

    @property
    def web(self) -> str:
        """The address of its DICOMweb service."""
        return f"http://127.0.0.1:{self.http}/dicom-web"


@contextmanager
def orthanc(folder: Path, **settings: Any) -> Iterator[Archive]:
    """Run an empty Orthanc whose files lie in a folder; ``settings`` add to its configuration or replace it."""
    http, dicom = _free_port(), _free_port()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": AE_TITLE,
        "RemoteAccessAllowed": False,
        "DicomAlwaysAllowStore": True,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **settings,
    }
    folder.mkdir(exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        program = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)

    def stop() -> None:
        program.terminate()
        try:
            program.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()

    try:
        _await(program, (http, dicom), folder / "orthanc.log")
        yield Archive(http, dicom, stop)
    finally:
        stop()


def _await(program: subprocess.Popen[bytes], ports: tuple[int, ...], log: Path) -> None:
    """Wait until both ports answer."""
    end = time.monotonic() + _PATIENCE
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert program.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
