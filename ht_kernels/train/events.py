"""The log that TensorBoard shows: the numbers of each epoch, as records in a file of events."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ht_kernels.files import append_whole, make_folder


class EventLog:
    """Writes numbers to a new file of events in ``folder``, which is made if missing.

    torch's SummaryWriter writes in a thread of its own, which on a full disk leaves half a record behind.

    Args:
        folder: the folder that TensorBoard is shown.
        first: the first epoch that will be added. If an earlier run was killed, it may have written events of epochs
            that are run again; TensorBoard hides them, because this file says that a run started here.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        make_folder(folder)
        self._path = folder / f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        start = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=first, session_log=start))

    def add(self, epoch: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of an epoch, by name.

        Raises:
            InputError: the file cannot be written.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._append(Event(step=epoch, summary=Summary(value=values)))

    def _append(self, *events: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        content = io.BytesIO()
        writer = RecordWriter(content)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        append_whole(self._path, content.getvalue(), "the log for TensorBoard")
