"""A model over frames in real time. The stages work in threads side by side; the caller takes what is to be shown.

Every frame of a file is shown, in order, with its own mask. A frame of a live source never waits for the model: it is
shown at once with the newest mask there is, and the model always takes the newest frame. A frame that is still on the
screen when the next mask is made is shown again with it. Where the model keeps pace with the source it is its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ht_kernels.errors import InputError, reason
from ht_kernels.logits import Logits
from ht_kernels.measurement import Measurement, measure
from ht_kernels.media.frames import Box, Frame, check_frame
from ht_kernels.media.scale import Scale, as_spacing
from ht_kernels.media.source import Source

from .channel import Channel, Closed
from .crop import AutoCrop, check_crop
from .latency import Histogram
from .limits import check_stale
from .live import LiveSource
from .model import FrameModel
from .overlay import Overlay, check_unfamiliar, in_words
from .placement import Placement
from .smooth import Smoother

if TYPE_CHECKING:
    from ht_kernels.deploy import FoldedHTCLIP, Session

STAGES = ("decode", "preprocess", "infer", "postprocess", "overlay", "sink")
"""What happens to a frame, in order; ``sink`` is what the caller does with it."""

_QUEUE = 2
"""Frames of a file that may wait between two stages."""

_NO_SIGNAL = 0.5
"""Seconds without a frame after which a live view says so."""

_GRACE = 5.0
"""Seconds that the last frames of a file may take after a stop."""

_PAUSE = 5.0
"""Seconds that a file played live waits at most between two frames, for a damaged file may state any times."""

_TICK = 0.1
"""Seconds after which the caller's thread looks again whether the stream was stopped."""


@dataclass(frozen=True)
class Shown:
    """One frame as shown.

    Attributes:
        index: number of the frame in the source, from 0.
        seconds: its time in the source, from 0.
        frame: as decoded.
        mask: class indices (H, W) uint8, or None where there is no valid mask; always None for classification.
        overlay: (H, W, 3) RGB.
        state: with a mask ``ok``, or ``late`` where it is an earlier frame's. Without a mask ``unfamiliar`` where the
            frame is unlike the training images, ``waiting`` where no mask was made yet, ``stale`` where the newest is
            too old, ``failed`` where the model failed, and ``no signal`` where no frame comes and the last is shown
            again.
        note: the line in the corner that explains the state; empty for a frame of a file with its own mask.
        age: seconds from when the frame was decoded to when its overlay was drawn.
        distance: how far the frame is from the training images; None where the model does not tell, or has not yet. For
            a live source, this and the next two are of the frame that the model saw last, which may be an earlier one.
        percentile: the share of validation images that are nearer, from 0 to 100.
        confidence: of the mask near its outline, from 0 to 1, as :func:`ht_kernels.confidence.mask_confidence` defines
            it, in the size of the model's images; None where no mask or no outline is shown. Smoothing does not change
            it. For classification it is the probability of the label.
        label: for classification, the name of the likeliest class; None where a mask would be None.
        probabilities: for classification, the probability of each class, (C,) float32; None where the label is.
        measurements: of the mask, of each class but the background; None without a mask, or where none were asked for.
        placement: when and where the frame was taken; None where its source does not say.
        mask_placement: the same of the frame that the mask was made of, which may be an earlier one; None where there
            is no mask, or the source does not say.
    """

    index: int
    seconds: float
    frame: Frame
    mask: NDArray[np.uint8] | None
    overlay: Frame
    state: str
    note: str
    age: float
    distance: float | None = None
    percentile: float | None = None
    confidence: float | None = None
    label: str | None = None
    probabilities: NDArray[np.float32] | None = None
    measurements: tuple[Measurement, ...] | None = None
    placement: Placement | None = None
    mask_placement: Placement | None = None

    def replaces(self, before: Shown | None) -> bool:
        """Whether this is the frame that was shown ``before``, with a newer mask."""
        return before is not None and self.index == before.index and self.state != "no signal"


@dataclass
class _Item:
    """A frame on its way; ``came`` is when it was decoded (``time.monotonic``), ``work`` the seconds spent on it."""

    index: int
    seconds: float
    came: float
    frame: Frame
    placement: Placement | None = None
    box: Box = field(default=Box(0, 0, 0, 0))
    pixels: NDArray[np.uint8] | None = None
    logits: Logits | None = None
    mask: NDArray[np.uint8] | None = None
    probabilities: NDArray[np.float32] | None = None
    distance: float | None = None
    unfamiliar: bool = False
    confidence: float | None = None
    measurements: tuple[Measurement, ...] | None = None
    failure: str | None = None
    work: float = 0.0


class Stream:
    """Runs a model over a source in real time. A stream is for one run.

    In ``for shown in stream.run(source)`` the time of the loop's body is reported as the stage ``sink``. A frame that
    the model fails on, or whose logits are not finite, is shown without a mask and with its state in the corner.

    What is said of masks holds for the labels of a classification, too, which are written into the upper left corner.

    Args:
        model: a folded model for segmentation or classification, or a session of one.
        live: play a file at its own speed, as a scanner would; cameras and addresses are live anyway.
        stale: seconds after which a mask is too old to be drawn over a live source.
        smooth: weight of the newest frame in the average of masks over time; None for no smoothing.
        crop: what the model sees of a frame: a box; or ``auto`` for the scan without the text around it, which some
            DICOM files state and which is otherwise found in the image; None for the whole frame.
        unfamiliar: what is drawn over a frame that is unlike the training images, as a calibrated model tells:
            ``withhold`` for nothing, or ``outline`` for a red outline. ``Shown.mask`` is None in either case.
        measure: for segmentation, measure each mask, and draw the diameters of each class.
        spacing: the side of a pixel in millimetres, or its width and height, for measurements; None for what a DICOM
            file says.

    Attributes:
        task: ``segmentation`` or ``classification``.
        class_names: of all classes; for segmentation the background comes first.
        live: whether the source is live, or a file played as if it were.
        measures: whether masks are measured.
        spacing: the size of a pixel in millimetres, where the user said it; else None.
        stopped: whether :meth:`stop` was called.

    Raises:
        InputError: the model is for another task, or classifies and ``measure`` is true, a number is out of range, or
            another argument is none of those above.
        TypeError: the model is neither a folded model nor a session.
    """

    def __init__(
        self,
        model: FoldedHTCLIP | Session,
        *,
        live: bool = False,
        stale: float = 0.25,
        smooth: float | None = None,
        crop: Box | Literal["auto"] | None = None,
        unfamiliar: Literal["withhold", "outline"] = "withhold",
        measure: bool = False,
        spacing: float | tuple[float, float] | None = None,
    ) -> None:
        check_stale(stale)
        self.spacing = None if spacing is None else as_spacing(spacing)
        self._scales: tuple[Scale, ...] = () if self.spacing is None else (Scale(None, self.spacing),)
        check_unfamiliar(unfamiliar)
        check_crop(crop)
        self._outline = unfamiliar == "outline"
        self._model = FrameModel(model)
        self.task, self.class_names = self._model.task, self._model.class_names
        if measure and self.task != "segmentation":
            raise InputError("measurements are of masks, and this model classifies whole frames: leave them out")
        self.measures = measure
        self._result = "mask" if self.task == "segmentation" else "label"
        self._overlay = Overlay(self.class_names)
        self._smoother = None if smooth is None else Smoother(smooth)
        self._auto_crop = AutoCrop() if crop == "auto" else None
        self._box = crop if isinstance(crop, Box) else None
        self._crop = Box(0, 0, 0, 0)
        self.live, self.stopped = live, False
        self._stale = stale
        self._failure: str | None = None
        self._latest: _Item | None = None
        self._stopping = False
        self._seconds = 0.0
        self._masks = 0
        self._seen = self._unfamiliar = 0
        self._drawn = self._taken = self._damaged = 0
        self._states: Counter[str] = Counter()
        self._labels: Counter[str | None] = Counter()
        self._latencies = {name: Histogram() for name in (*STAGES, "end_to_end", "frame_age", "mask_delay", "mask_age")}
        self._distances, self._confidences = Histogram(), Histogram()
        self._drops: dict[str, Channel[Any]] = {}
        self._threads: list[threading.Thread] = []
        self._source: Source | LiveSource | Iterable[Frame] = ()
        # The first run of a model also allocates memory and chooses kernels, which must not count as a frame's latency.
        self._model(np.zeros((1, 1, *self._model.size), dtype=np.uint8))

    def run(self, source: Source | LiveSource | Iterable[Frame]) -> Iterator[Shown]:
        """Give each frame as it is to be shown; one of a live source again when there is a newer mask.

        Raises:
            InputError: a file is damaged or empty, one of its frames is not uint8, the crop is not inside a frame, or
                the stream ran before.
            TypeError: ``source`` is the name of a file.
        """
        if isinstance(source, (str, Path)) or not isinstance(source, (LiveSource, Iterable)):
            came = f"the path {str(source)!r}" if isinstance(source, (str, Path)) else type(source).__name__
            raise TypeError(
                f"source must be a source or frames, got {came}: ht_kernels.video.open_source opens files, cameras and "
                "addresses"
            )
        if self._threads:
            raise InputError("this stream ran already, and a stream is for one run: make another for the next")
        self._source = source
        self.live = self.live or isinstance(source, LiveSource)
        if isinstance(source, Source):
            self._scales = self._scales or source.scales
        if self._auto_crop is not None and isinstance(source, Source) and source.scan is not None:
            self._auto_crop, self._box = None, source.scan
        if self._box is not None and isinstance(source, (Source, LiveSource)):
            self._box.of(np.empty(source.size, dtype=np.uint8))
        shown: Channel[Shown] = Channel(1 if self.live else _QUEUE, self.live)
        channels = self._start_live(source, shown) if self.live else self._start(source, shown)
        start = last = time.monotonic()
        before: Shown | None = None
        try:
            while not (self.live and self._stopping):
                try:
                    result = shown.get(_TICK)
                except TimeoutError:
                    if self._stopping and time.monotonic() - last > _GRACE:
                        break
                    continue
                except Closed:
                    break
                if before is not None and result.replaces(before):
                    self._states[before.state] -= 1
                    self._labels[before.label] -= 1
                self._states[result.state] += 1
                self._labels[result.label] += 1
                self._taken += before is None or result.index != before.index
                before = result
                given = time.monotonic()
                yield result
                last = time.monotonic()
                self._latencies["sink"].add(last - given)
                self._seconds = last - start
        finally:
            self._stopping = True
            if isinstance(source, LiveSource):
                source.close()
            for channel in (*channels, shown):
                channel.close(discard=True)
            deadline = time.monotonic() + _GRACE
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        if not (before or self.live or self.stopped):
            raise InputError("the clip has no frames")

    def stop(self) -> None:
        """End the run, after the frames of a file that are on their way. Threads and signal handlers may call this."""
        self.stopped = self._stopping = True

    def report(self) -> dict[str, Any]:
        """Frames, rates, states, drops, the part of the last frame that the model saw, and latencies in milliseconds.

        A frame that was shown several times counts once, with the state that it was shown with last. Only ``no signal``
        counts each time that it was shown, for it stands over a frame that was shown before. ``with_mask`` is how many
        of the frames were shown with a mask.

        ``drops`` of a live source are frames: ``decode`` and ``overlay`` those that a newer one replaced before they
        were drawn, ``sink`` those that were drawn and not taken by the caller, and ``model`` those that the model did
        not see, which may have been shown all the same.

        ``failure`` is why the model failed the last time, or None where it never did.

        ``damaged`` is what a live source gave that is no frame: packets that could not be decoded, and frames that are
        not uint8. What is amiss in a file is told by the ``warnings`` of its source once the stream has ended.

        Four latencies cover several stages, from when a frame was decoded to when an overlay was drawn. ``end_to_end``
        is the work on a frame of a file, without waits. ``frame_age`` has the waits between stages, too, up to the
        first overlay of a frame. For a live source ``mask_delay`` goes up to the first overlay with the mask of the
        frame, and ``mask_age`` up to every one, which may be of later frames.

        ``familiarity`` is None for a model that does not tell how far frames are from its training images. Otherwise it
        has the ``limit``, the median and the 95th percentile of the frames' distances, and ``unfamiliar``, the share of
        the frames that the model saw which are beyond the limit. ``confidence`` has the median and the 5th percentile
        of the masks that have an outline, or is None if there are none. Percentiles are at most 1 % too large.

        ``labels``, for classification alone, is how many frames got each class, by its name; a frame that was shown
        several times counts as for ``states``.
        """
        frames = sum(self._states.values())
        report: dict[str, Any] = {
            "frames": frames,
            "fps": round(frames / self._seconds, 2) if self._seconds else None,
            "masks_per_second": round(self._masks / self._seconds, 2) if self._seconds else None,
            "live": self.live,
            "states": dict(+self._states),
            "with_mask": self._states["ok"] + self._states["late"],
            "failure": self._failure,
            "familiarity": self._familiarity(),
            "confidence": self._confidences.summary(50, 5),
            "drops": {name: channel.drops for name, channel in self._drops.items()},
            "damaged": self._damaged,
            "crop": list(self._crop),
            "latency_ms": {name: times.milliseconds() for name, times in self._latencies.items() if times.count},
            "model": self._model.describe(),
            "backend": self._model.backend(),
        }
        if self.task == "classification":
            report["labels"] = {name: self._labels[name] for name in self.class_names}
        if self.live:
            report["drops"]["sink"] = self._drawn - self._taken
        if isinstance(self._source, LiveSource):
            report["reconnects"] = self._source.reconnects
            report["drops"]["decode"] = self._source.drops
            report["damaged"] += self._source.damaged
        return report

    def _familiarity(self) -> dict[str, Any] | None:
        scale, seen = self._model.familiarity, self._seen
        if scale is None:
            return None
        share = round(self._unfamiliar / seen, 4) if seen else None
        return {"limit": scale.limit, "distance": self._distances.summary(50, 95), "unfamiliar": share}

    def _start(self, source: Source | LiveSource | Iterable[Frame], shown: Channel[Shown]) -> list[Channel[Any]]:
        """Start the threads for a file, a chain in which each waits for the next; returns their channels."""
        decoded, prepared, finished = (Channel[_Item](_QUEUE) for _ in range(3))
        # Only one thread runs the model. Each that calls torch gets its own team of OpenMP threads, which spins after a
        # call, on cores that another team needs. The other stages compute in their own thread alone.
        stages = {"infer": self._infer, "postprocess": self._postprocess}
        self._thread(lambda: self._decode(_unplaced(_timed(source)), [decoded]), [], [decoded])
        self._thread(
            partial(self._work, {"preprocess": self._preprocess}, decoded, prepared.put), [decoded], [prepared]
        )
        self._thread(partial(self._work, stages, prepared, finished.put), [prepared], [finished])
        self._thread(lambda: self._show_all(finished, shown), [finished], [shown])
        return [decoded, prepared, finished]

    def _start_live(self, source: Source | LiveSource | Iterable[Frame], shown: Channel[Shown]) -> list[Channel[Any]]:
        """Start the threads for a live source, whose frames go to the screen and, without delaying it, to the model.

        One thread prepares a frame and runs the model: a frame that was prepared while the model was busy would be
        older than the newest, and would have taken the cores from it.
        """
        decoded, screen = (Channel[_Item](1, newest_wins=True) for _ in range(2))
        self._drops = {"model": decoded, "overlay": screen}
        stages = {"preprocess": self._preprocess, "infer": self._infer, "postprocess": self._postprocess}
        frames = source.placed() if isinstance(source, LiveSource) else _unplaced(_paced(_timed(source)))
        self._thread(lambda: self._decode(frames, [decoded, screen]), [], [decoded, screen])

        def keep(item: _Item) -> None:
            self._latest = item
            screen.nudge()

        self._thread(partial(self._work, stages, decoded, keep), [decoded], [])
        self._thread(lambda: self._show_live(screen, shown), [screen], [shown])
        return [decoded, screen]

    def _thread(self, work: Callable[[], None], inboxes: list[Channel[Any]], outboxes: list[Channel[Any]]) -> None:
        """Run ``work`` in a thread until a channel closes or it fails; then close both, the outboxes with the error."""

        def target() -> None:
            error: BaseException | None = None
            try:
                work()
            except Closed:
                pass
            except BaseException as caught:
                error = caught
            for channel in inboxes:
                channel.close(discard=True)
            for channel in outboxes:
                channel.close(error)

        thread = threading.Thread(target=target, daemon=True)  # one that hangs must not keep the process alive
        thread.start()
        self._threads.append(thread)

    def _decode(self, frames: Iterator[tuple[float, Frame, Placement | None]], outboxes: list[Channel[_Item]]) -> None:
        index = 0
        while not self._stopping:
            start = time.monotonic()
            decoded = next(frames, None)
            if decoded is None:
                return
            came = time.monotonic()
            if not self.live:  # decoding a live source is mostly waiting for the next frame
                self._latencies["decode"].add(came - start)
            seconds, frame, placement = decoded
            try:
                check_frame(frame, index)
            except InputError:
                if not self.live:
                    raise
                self._damaged += 1
                continue
            for outbox in outboxes:
                outbox.put(_Item(index, seconds, came, frame, placement))
            index += 1

    def _work(
        self, stages: Mapping[str, Callable[[_Item], None]], inbox: Channel[_Item], put: Callable[[_Item], None]
    ) -> None:
        while True:
            item = inbox.get()
            for name, work in stages.items():
                start = time.monotonic()
                if item.failure is None:
                    try:
                        work(item)
                    except Exception as error:  # whatever the model does, the frame goes on
                        self._failure = item.failure = reason(error)
                        item.mask = item.probabilities = item.measurements = None
                spent = time.monotonic() - start
                self._latencies[name].add(spent)
                item.work += spent
            put(item)

    def _preprocess(self, item: _Item) -> None:
        height, width = item.frame.shape[:2]
        item.box = self._auto_crop(item.frame) if self._auto_crop else self._box or Box(0, 0, width, height)
        self._crop = item.box
        item.pixels = self._model.preprocess(item.box.of(item.frame))

    def _infer(self, item: _Item) -> None:
        assert item.pixels is not None
        item.logits, item.distance = self._model(item.pixels)

    def _postprocess(self, item: _Item) -> None:
        assert item.logits is not None and item.pixels is not None
        logits, item.logits = item.logits, None
        if not np.isfinite(logits).all():
            raise InputError("its logits are not finite")
        scale = self._model.familiarity
        if scale is not None and item.distance is not None:
            if math.isfinite(item.distance):
                self._distances.add(item.distance)
            self._seen += 1
            item.unfamiliar = self._model.unfamiliar(item.distance)
            self._unfamiliar += item.unfamiliar
        if item.unfamiliar:
            if self._smoother is not None:
                self._smoother.forget()  # neither may this frame enter later masks, nor earlier ones live on behind it
        else:
            if self.task == "segmentation":
                item.confidence = self._model.mask_confidence(logits)
            if self._smoother is not None:
                logits = self._smoother(logits, item.pixels)
        if self.task == "segmentation":
            item.mask = self._model.mask(logits, item.frame, item.box)
            if self.measures and not item.unfamiliar:
                item.measurements = measure(item.mask, class_names=self.class_names, scales=self._scales_of(item))
        elif not item.unfamiliar:
            item.probabilities = self._model.probabilities(logits)
            item.confidence = float(item.probabilities.max())
        if item.confidence is not None:
            self._confidences.add(item.confidence)
        self._masks += not item.unfamiliar

    def _show_all(self, finished: Channel[_Item], shown: Channel[Shown]) -> None:
        while True:
            item = finished.get()
            if item.failure is not None:
                shown.put(self._draw(item, None, "failed", f"model failed: {item.failure}"))
            elif item.unfamiliar:
                shown.put(self._draw(item, item, "unfamiliar", self._why_unfamiliar(item)))
            else:
                shown.put(self._draw(item, item, "ok", ""))

    def _show_live(self, screen: Channel[_Item], shown: Channel[Shown]) -> None:
        item: _Item | None = None
        judged: _Item | None = None
        wait = _NO_SIGNAL
        while True:
            again = False
            try:
                item = screen.get(wait)
            except TimeoutError:
                again = True
            if item is None:
                continue
            latest, silence = self._latest, time.monotonic() - item.came
            if latest is not None and latest.index > item.index:
                latest = judged  # a quick model was before the screen: its mask is of a frame that comes next
            wait = max(0.0, _NO_SIGNAL - silence)  # a new mask does not put off what is said of the silence
            if again and silence >= _NO_SIGNAL:
                wait = _NO_SIGNAL
                shown.put(self._draw(item, None, "no signal", f"no signal for {silence:.1f} s{self._why_silent()}"))
            elif not again or latest is not judged:
                result = self._draw(item, *self._judge(item, latest))
                shown.put(result)
                if not again:
                    self._drawn += 1
                    self._latencies["frame_age"].add(result.age)
                made = result.mask is not None or result.label is not None
                if made and latest is not None and latest is not judged:
                    self._latencies["mask_delay"].add(item.came + result.age - latest.came)
                judged = latest

    def _judge(self, item: _Item, latest: _Item | None) -> tuple[_Item | None, str, str]:
        """For a frame of a live source: the frame whose result it gets, its state, and the line in the corner."""
        if latest is not None and latest.failure is not None:
            return None, "failed", f"model failed: {latest.failure}"
        if latest is None or latest.frame.shape[:2] != item.frame.shape[:2]:
            return None, "waiting", "waiting for the model"
        age = time.monotonic() - latest.came
        if age > self._stale:
            return None, "stale", f"no {self._result}: the newest is {1e3 * age:.0f} ms old"
        if latest.unfamiliar:
            return latest, "unfamiliar", self._why_unfamiliar(latest)
        if latest.index < item.index:
            return latest, "late", f"{self._result} of {1e3 * (item.came - latest.came):.0f} ms earlier"
        return latest, "ok", f"{self._result} of this frame"  # a line that came and went with every mask would flicker

    def _why_silent(self) -> str:
        trouble = self._source.trouble if isinstance(self._source, LiveSource) else ""
        return f": {trouble}" if trouble else ""

    def _scales_of(self, item: _Item) -> tuple[Scale, ...]:
        """The sizes of a frame's pixels: what the user said or the file says, or else the frame itself."""
        if self._scales or item.placement is None:
            return self._scales
        pixel = item.placement.pixel
        return () if pixel is None else (Scale(None, pixel),)

    def _why_unfamiliar(self, item: _Item) -> str:
        return self._model.why_unfamiliar(item.distance, self._outline and item.mask is not None)

    def _draw(self, item: _Item, seen: _Item | None, state: str, note: str) -> Shown:
        """Draw a frame with what the model made of ``seen``, the same frame or an earlier one."""
        start = time.monotonic()
        made = None if seen is None else seen.mask
        mask = None if state == "unfamiliar" else made
        probabilities = None if seen is None else seen.probabilities
        label = None if probabilities is None else self.class_names[int(probabilities.argmax())]
        words = "" if label is None or probabilities is None else in_words(label, float(probabilities.max()))
        measurements = None if seen is None else seen.measurements
        doubtful = made if self._outline else None
        overlay = self._overlay.draw(item.frame, mask, doubtful, words, note, measurements or ())
        end = time.monotonic()
        self._latencies["overlay"].add(end - start)
        if seen is not None and (mask is not None or label is not None):
            self._latencies["mask_age"].add(end - seen.came)
        if not self.live:
            self._latencies["frame_age"].add(end - item.came)
            self._latencies["end_to_end"].add(item.work + end - start)
        distance = None if seen is None else seen.distance
        scale = self._model.familiarity
        return Shown(
            item.index,
            item.seconds,
            item.frame,
            mask,
            overlay,
            state,
            note,
            end - item.came,
            distance,
            None if scale is None or distance is None else scale.percentile(distance),
            None if seen is None else seen.confidence,
            label,
            probabilities,
            measurements,
            item.placement,
            None if seen is None or mask is None else seen.placement,
        )


def _timed(source: Source | LiveSource | Iterable[Frame]) -> Iterator[tuple[float, Frame]]:
    if isinstance(source, (Source, LiveSource)):
        return source.timed()
    start = time.monotonic()
    return ((time.monotonic() - start, frame) for frame in source)


def _unplaced(frames: Iterator[tuple[float, Frame]]) -> Iterator[tuple[float, Frame, None]]:
    return ((seconds, frame, None) for seconds, frame in frames)


def _paced(frames: Iterator[tuple[float, Frame]]) -> Iterator[tuple[float, Frame]]:
    """Frames when their times come, but each after a wait of :data:`_PAUSE` at most."""
    start: float | None = None
    for seconds, frame in frames:
        start = time.monotonic() - seconds if start is None else start
        wait = start + seconds - time.monotonic()
        if not wait <= _PAUSE:
            start, wait = time.monotonic() + _PAUSE - seconds, _PAUSE
        time.sleep(max(0.0, wait))
        yield seconds, frame
