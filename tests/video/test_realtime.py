"""The real-time pipeline: order, states, faults, crop, smoothing, live view."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

import ht_kernels as ht
from helpers.clips import folded, frames, write_dicom, write_video
from helpers.dicom import compressed, jpeg
from helpers.small_towers import small_tower
from ht_kernels.cli import main, terminal
from ht_kernels.cli.terminal import summary
from ht_kernels.confidence import mask_confidence
from ht_kernels.deploy import FoldedHTCLIP, Session, export_onnx
from ht_kernels.errors import InputError
from ht_kernels.logits import log_probabilities, probabilities
from ht_kernels.media.preprocess import preprocess
from ht_kernels.video import LiveSource, Source, Stream, chart, open_source, record
from ht_kernels.video.channel import Channel, Closed
from ht_kernels.video.latency import Histogram
from ht_kernels.video.smooth import Smoother
from ht_kernels.video.stream import STAGES, Shown, _Item
from ht_kernels.video.view import View

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


def mixed(classes: int = 3) -> FoldedHTCLIP:
    """A model that finds more than one class in the test frames."""
    model = folded(classes)
    pixels = torch.from_numpy(np.stack(frames()))[:, None].float()
    pixels = torch.nn.functional.interpolate(pixels, model.image_size).to(torch.uint8)
    logits = model(pixels, output_size=model.grid)
    model.pyramid_bias.sub_(logits.transpose(0, 1).flatten(1).median(1).values)
    return model


def test_a_file_gives_every_frame_in_order(tmp_path: Path) -> None:
    model = folded()
    source = open_source(write_dicom(tmp_path / "a.dcm", np.stack(frames(12)), FrameTime="40"))
    stream = Stream(model)
    shown = list(stream.run(source))
    assert [s.index for s in shown] == list(range(12)) and {s.state for s in shown} == {"ok"}
    assert shown[3].seconds == pytest.approx(0.12)
    expected = list(Stream(Session.open(model, runtime="cpu")).run(source))
    assert sum(int((a.mask != b.mask).sum()) for a, b in zip(shown, expected, strict=True)) < 0.02 * 12 * 48 * 64
    report = stream.report()
    assert report["frames"] == 12 and report["states"] == {"ok": 12}
    for row in report["latency_ms"].values():
        assert 0 <= row["p50"] <= row["p95"] <= row["p99"] <= row["max"]


def test_live_shows_the_newest_and_never_waits_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(folded(), live=True, stale=0.2)
    slow = stream._model.__class__.__call__
    monkeypatch.setattr(stream._model.__class__, "__call__", lambda *a: (time.sleep(0.3), slow(*a))[1])

    def camera():
        for i in range(60):
            time.sleep(0.01)
            yield frames(1)[0] + np.uint8(i)

    shown = list(stream.run(camera()))
    assert [s.index for s in shown] == sorted(s.index for s in shown)
    assert len(shown) > 20 and max(s.age for s in shown) < 0.3
    report = stream.report()
    assert report["drops"]["model"] > 20 and report["states"]["waiting"] > 5


def in_turns(monkeypatch: pytest.MonkeyPatch, stream: Stream, count: int) -> tuple[Callable[[], Iterator], Callable]:
    """Frames and a model in turns: the model waits until a frame was shown, and the next frame for its mask.

    Returns the function that gives the frames, and the one to call with everything that the stream shows.
    """
    monkeypatch.setattr("ht_kernels.video.stream._NO_SIGNAL", 60.0)
    drawn, masked = threading.Semaphore(0), threading.Semaphore(0)
    model = stream._model.__class__.__call__
    monkeypatch.setattr(stream._model.__class__, "__call__", lambda *a: (drawn.acquire(timeout=20), model(*a))[1])

    def camera() -> Iterator:
        for frame in frames(count):
            yield frame
            masked.acquire(timeout=20)

    return camera, lambda shown: (masked if shown.state == "ok" else drawn).release()


def test_a_live_frame_is_shown_again_with_its_own_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shown = mixed(), []
    alone = next(iter(Stream(model).run([frames(2)[1]])))
    stream = Stream(model, live=True, stale=60)
    camera, see = in_turns(monkeypatch, stream, 3)
    for picture in stream.run(camera()):
        shown.append(picture)
        see(picture)
    assert [s.index for s in shown] == [0, 0, 1, 1, 2, 2]
    assert [s.state for s in shown] == ["waiting", "ok", "late", "ok", "late", "ok"]
    assert shown[3].replaces(shown[2]) and not shown[2].replaces(shown[1])
    assert shown[3].frame is shown[2].frame and shown[2].mask is shown[1].mask
    assert np.array_equal(shown[3].mask, alone.mask)
    report = stream.report()
    assert report["frames"] == 3 and report["states"] == {"ok": 3}
    assert 0 < report["latency_ms"]["mask_delay"]["p50"] <= report["latency_ms"]["mask_age"]["max"]


def test_a_frame_that_is_shown_again_is_recorded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = Stream(mixed(), live=True, stale=60)
    camera, see = in_turns(monkeypatch, stream, 3)
    source = Source(tmp_path / "camera", "video", None, 25.0, (48, 64), lambda: ((None, frame) for frame in camera()))
    run, written = stream.run, []
    monkeypatch.setattr(stream, "run", lambda given: (see(shown) or shown for shown in run(given)))
    report = record(source, stream, tmp_path / "out", watch=written.append)
    assert [(s.index, s.state) for s in written] == [(0, "ok"), (1, "ok"), (2, "ok")]
    assert len(list((tmp_path / "out/masks").iterdir())) == report["frames"] == 3
    with av.open(tmp_path / "out/overlay.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_a_frame_does_not_get_the_mask_of_the_next_as_its_own() -> None:
    stream = Stream(folded(), live=True, stale=60)
    frame, screen, shown = frames(1)[0], Channel[_Item](1), Channel[Shown](2)
    stream._latest = _Item(6, 0.2, time.monotonic(), frame, mask=np.ones_like(frame))  # the model was quick
    screen.put(_Item(5, 0.1, time.monotonic(), frame))
    screen.close()
    with pytest.raises(Closed):
        stream._show_live(screen, shown)
    first = shown.get(0)
    assert (first.index, first.state, first.mask) == (5, "waiting", None)


def test_a_new_mask_does_not_put_off_no_signal() -> None:
    stream, waits = Stream(folded(), live=True), []
    item = _Item(0, 0.0, time.monotonic() - 0.4, frames(1)[0])

    class Screen(Channel[_Item]):
        def get(self, timeout: float | None = None) -> _Item:
            waits.append(timeout)
            return item if len(waits) == 1 else super().get(0)

    screen = Screen(1)
    screen.close()
    with pytest.raises(Closed):
        stream._show_live(screen, Channel[Shown](1))
    assert waits[0] == 0.5 and waits[1] <= 0.1


def test_masks_that_are_all_too_old_are_spoken_of() -> None:
    stream = Stream(folded())
    list(stream.run(frames(2)))
    report = stream.report()
    assert "--stale" not in "".join(summary(report)) and report["failure"] is None
    assert "--stale SECONDS" in summary({**report, "states": {"ok": 1, "stale": 2}, "frames": 3})[-1]


def test_a_stream_is_for_one_run() -> None:
    stream = Stream(folded())
    list(stream.run(frames(1)))
    with pytest.raises(InputError, match="this stream ran already"):
        list(stream.run(frames(1)))


def test_arguments_of_a_stream_that_are_none() -> None:
    model = folded()
    for wrong, words in [
        ({"stale": "a"}, "stale must be above 0 seconds, got 'a'"),
        ({"stale": None}, "stale must be above 0 seconds, got None"),
        ({"smooth": "x"}, "at most 1, got 'x'"),
        ({"smooth": float("nan")}, "at most 1, got nan"),
    ]:
        with pytest.raises(InputError, match=words):
            Stream(model, **wrong)
    Stream(model, stale=np.float32(0.5), smooth=np.float64(0.5))
    for wrong, words in [
        ("x", "got str: ht_kernels.fold makes a folded model of HTCLIP.from_checkpoint"),
        (3, "got int"),
    ]:
        with pytest.raises(TypeError, match=f"model must be a folded model or a session, {words}"):
            Stream(wrong)
    unfolded = ht.HTCLIP(small_tower("timm"), bottleneck=8, reduce_dim=16, feature_layers=(0, 2))
    with pytest.raises(TypeError, match=r"got HTCLIP: ht_kernels.fold makes a folded model of it"):
        Stream(unfolded)
    with pytest.raises(TypeError, match=r"got the path 'a\.mp4': ht_kernels\.video\.open_source opens files"):
        next(Stream(model).run("a.mp4"))


def test_a_session_that_does_not_fit_a_clip_says_what_of_it(tmp_path: Path) -> None:
    model = folded()
    with pytest.raises(InputError, match=r"this session takes 2 to 4 at once: .* with a batch of 1"):
        Stream(Session.open(model, runtime="cpu", batch=(2, 2, 4)))
    with pytest.raises(InputError, match=r"this session takes 4 at once: .* with a batch of 1"):
        Stream(Session.open(model, runtime="cpu", batch=np.int64(4)))
    export_onnx(model, tmp_path / "rgb.onnx", channels=3)
    with pytest.raises(InputError, match="this one takes frames of 3 channels"):
        Stream(Session.open(tmp_path / "rgb.onnx", runtime="onnxruntime"))


@pytest.mark.parametrize("crop", [(0, 0, 5, 5), "whole"])
def test_a_crop_that_is_none(crop: object) -> None:
    with pytest.raises(InputError, match=r"crop is .*, expected auto, a Box"):
        Stream(folded(), crop=crop)


def test_frames_that_nobody_takes_are_dropped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(mixed(), live=True, stale=60)
    keep, masked = stream._postprocess, threading.Semaphore(0)
    monkeypatch.setattr(stream, "_postprocess", lambda item: (keep(item), masked.release()))

    def camera() -> Iterator:
        for frame in frames(12):
            yield frame
            masked.acquire(timeout=20)
            time.sleep(0.02)  # in which it is drawn again with its mask

    taken = {shown.index for shown in stream.run(camera()) if time.sleep(0.1) is None}
    drops = stream.report()["drops"]
    assert drops["sink"] > 0 and len(taken) + drops["overlay"] + drops["sink"] == 12


def test_a_failing_model_holds_no_frame_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(folded())
    calls = iter(range(99))
    model = stream._model.__class__.__call__

    def faulty(self, pixels):
        call = next(calls)
        if call == 1:
            raise RuntimeError("out of order")
        logits, distance = model(self, pixels)
        return logits * float("nan") if call == 2 else logits, distance

    monkeypatch.setattr(stream._model.__class__, "__call__", faulty)
    shown = list(stream.run(frames(4)))
    assert [s.state for s in shown] == ["ok", "failed", "failed", "ok"]
    assert "out of order" in shown[1].note and "not finite" in shown[2].note
    report = stream.report()
    assert report["failure"] == "its logits are not finite"
    assert summary(report)[-1] == "The model failed, the last time because: its logits are not finite"
    assert shown[1].mask is None and (shown[1].overlay[:10, :, 0] == shown[1].frame[:10]).all()


def test_sizes_and_colours_that_change(tmp_path: Path) -> None:
    gray = frames(2)
    color = np.repeat(frames(1, 64, 80)[0][..., None], 3, 2)
    shown = list(Stream(folded(), smooth=0.5, crop="auto").run([*gray, color, gray[0]]))
    assert [s.overlay.shape for s in shown] == [(48, 64, 3), (48, 64, 3), (64, 80, 3), (48, 64, 3)]
    assert {s.state for s in shown} == {"ok"}


def test_a_source_that_stalls() -> None:
    def source():
        yield frames(1)[0]
        time.sleep(1.5)

    states = [s.state for s in Stream(folded(), live=True).run(source())]
    assert "no signal" in states


def test_a_source_that_breaks(tmp_path: Path) -> None:
    encoded = [jpeg(frame) for frame in frames()]
    encoded[2] = encoded[2][:300]
    clip = compressed(tmp_path / "a.dcm", JPEGBaseline8Bit, encoded, np.stack(frames()))
    with pytest.raises(InputError, match=r"a\.dcm"):
        list(Stream(folded()).run(open_source(clip)))
    bad = [frames(1)[0], np.full((8, 8), np.nan, np.float32)]
    with pytest.raises(InputError, match="not finite"):
        list(Stream(folded()).run(bad))
    live = Stream(folded(), live=True)
    list(live.run([*bad, frames(1)[0]]))
    assert live.report()["damaged"] == 1


def test_stop(tmp_path: Path) -> None:
    stream = Stream(folded())
    seen = 0
    for shown in stream.run(frames(1)[0] for _ in range(10_000)):
        seen = shown.index
        if seen == 3:
            stream.stop()
    assert 3 <= seen < 30


def test_an_address_that_ends_is_opened_again(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    content = write_video(tmp_path / "a.mp4", 10).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = open_source(f"http://127.0.0.1:{server.server_port}/a.mp4")
    assert isinstance(source, LiveSource) and source.size == (48, 64)
    for _ in source:
        if source.reconnects >= 1:
            source.close()
    server.shutdown()
    with pytest.raises(InputError, match="cannot be opened"):
        open_source("http://user:secret@127.0.0.1:9/x")


def test_smoothing_forgets_at_a_cut() -> None:
    smooth, dark = Smoother(0.25), np.zeros((1, 1, 8, 8), np.uint8)
    first, second = np.array([[[[[9]], [[-9]]]], [[[[-9]], [[9]]]]], np.float32)
    assert smooth(first, dark).argmax(1).item() == 0
    assert smooth(second, dark).argmax(1).item() == 0  # one frame is not enough
    assert smooth(second, dark + 200).argmax(1).item() == 1
    with pytest.raises(InputError, match="above 0 and at most 1"):
        Smoother(0)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_smoothing_does_not_move_the_outline_of_a_still_image(classes: int) -> None:
    model, still = mixed(classes), frames(1) * 3
    plain, smooth = (list(Stream(model, smooth=weight).run(still)) for weight in (None, 0.4))
    differing = sum(int((a.mask != b.mask).sum()) for a, b in zip(plain, smooth, strict=True))
    assert plain[0].mask.any() and differing <= 3  # of 9216; up to rounding


def test_smoothing_averages_probabilities() -> None:
    dark = np.zeros((1, 1, 8, 8), np.uint8)
    for classes in (1, 3):
        first, second = torch.randn(2, 1, classes, 4, 5).numpy()
        smooth = Smoother(0.25)
        smooth(first, dark)
        expected = 0.75 * probabilities(first) + 0.25 * probabilities(second)
        np.testing.assert_allclose(np.exp(smooth(second, dark)), expected, rtol=1e-5)
    assert np.array_equal(Smoother(1)(first, dark), log_probabilities(first))


@pytest.mark.parametrize("smooth", [None, 0.4])
def test_sessions_give_the_masks_of_their_model(smooth: float | None, tmp_path: Path) -> None:
    """Whether they give logits on the patch grid or in the image's size, and smoothed or not.

    The model is as sure of its classes as a trained one, for small logits average as they upsample: linearly.
    """
    model = mixed()
    model.pyramid_bias.mul_(50)
    for level in model.levels:
        level.last_weight.mul_(50)
    expected = list(Stream(model, smooth=smooth).run(frames()))
    assert len(np.unique(expected[0].mask)) > 1
    export_onnx(model, tmp_path / "grid.onnx", output="grid")
    sessions = [
        Session.open(model, runtime="cpu"),
        Session.open(model, runtime="cpu", output="grid"),
        Session.open(tmp_path / "grid.onnx", runtime="onnxruntime"),
    ]
    for session in sessions:
        shown = list(Stream(session, smooth=smooth).run(frames()))
        differing = sum(int((a.mask != b.mask).sum()) for a, b in zip(shown, expected, strict=True))
        assert differing <= 5  # of 15360; up to rounding
        assert shown[0].confidence == pytest.approx(expected[0].confidence, abs=1e-4)
    export_onnx(model, tmp_path / "mask.onnx", output="mask")
    with pytest.raises(InputError, match="export it with --result grid"):
        Stream(Session.open(tmp_path / "mask.onnx", runtime="onnxruntime"))


def test_a_file_that_does_not_say_its_grid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As those of older versions. Its masks are nearly the same, and the log says so."""
    model = mixed()
    manifest = export_onnx(model, tmp_path / "model.onnx")
    assert manifest.grid == model.grid
    values = {name: value for name, value in asdict(manifest).items() if name != "grid"}
    (tmp_path / "model.json").write_text(json.dumps(values))
    shown = list(Stream(Session.open(tmp_path / "model.onnx"), smooth=0.4).run(frames()))
    expected = list(Stream(model, smooth=0.4).run(frames()))
    assert np.mean([np.mean(a.mask != b.mask) for a, b in zip(shown, expected, strict=True)]) < 0.05
    (record,) = (record for record in caplog.records if record.message.startswith("stream: "))
    assert "smoothed ones by up to 3" in record.message and "export it again" in record.message


def test_confidence_is_that_of_the_models_image() -> None:
    """Whatever the size of the frame that the mask is drawn over."""
    model = mixed()
    (shown,) = Stream(model).run(frames(1))
    assert shown.confidence is not None
    logits = model(torch.from_numpy(preprocess(frames(1)[0], model.image_size))).numpy()
    assert shown.confidence == pytest.approx(mask_confidence(logits[0]), abs=1e-6)


def test_more_classes_than_a_mask_holds() -> None:
    with pytest.raises(InputError, match="a mask holds up to 256 classes, and the model has 257"):
        Stream(folded(257))


def test_the_view() -> None:
    view = View(0)
    with urllib.request.urlopen(view.address) as page:
        assert b'src="stream"' in page.read()
    for path in ("", "state", "stream"):
        request = urllib.request.Request(view.address + path, headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
    view.close()


def test_the_view_for_others_tells_nothing_without_its_secret_word() -> None:
    view = View(0, "0.0.0.0")
    port, word = re.fullmatch(r"http://0\.0\.0\.0:(\d+)/([\w-]{22})/", view.address).groups()
    for root in ("", f"{word[:-1]}/", f"{'x' * len(word)}/", word, "?token=x", "ä/"):
        for page in ("", "state", "stream"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{urllib.parse.quote(root)}{page}", timeout=10)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{word}/", timeout=10) as page:
        assert b"<!doctype html>" in page.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{word}/state", timeout=10) as told:
        assert told.readline().startswith(b"data: ")
    another = View(0, "0.0.0.0")
    assert word not in another.address
    another.close()
    view.close()


def test_a_browser_gets_the_whole_of_a_picture_before_the_next() -> None:
    """With the head of the part behind it, for which Chrome waits; and the last, though the stream ends behind it."""
    view, head = View(0), b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    with urllib.request.urlopen(f"{view.address}stream", timeout=10) as live:
        assert live.read(len(head)) == head
        for level in (50, 200):
            view.write(np.full((20, 30, 3), level, np.uint8))
            if level == 200:
                view.close()
            part = b""
            while not part.endswith(b"\r\n" + head):
                part += live.read(1)
            with Image.open(io.BytesIO(part)) as picture:
                assert np.asarray(picture).shape == (20, 30, 3) and abs(np.asarray(picture).mean() - level) < 2
        assert live.read() == b""


def test_a_browser_is_told_that_the_stream_has_ended() -> None:
    """With what is said of the last picture, though that was written a moment ago."""
    view = View(0)
    with urllib.request.urlopen(f"{view.address}state", timeout=10) as told:
        assert told.readline() == b'data: {"facts": {}, "legend": []}\n'
        view.write(np.zeros((20, 30, 3), np.uint8), {"state": "ok"})
        view.close()
        assert told.read().endswith(b'event: ended\ndata: {"facts": {"state": "ok"}, "legend": []}\n\n')


def state_of(view: View) -> dict:
    with urllib.request.urlopen(f"{view.address}state") as told:
        return json.loads(told.readline().removeprefix(b"data: "))


def test_the_view_says_what_the_stream_says(tmp_path: Path) -> None:
    """Latency and state of the newest frame, how often one comes, and the colours of the classes."""
    view, model = View(0), folded()
    assert state_of(view) == {"facts": {}, "legend": []}
    said: list[dict] = []
    source = open_source(write_video(tmp_path / "a.mp4"))
    record(source, Stream(model), tmp_path / "out", view=view, watch=lambda shown: said.append(state_of(view)))
    view.close()
    facts = said[-1]["facts"]
    assert re.fullmatch(r"\d+ ms from decoding the frame to this picture", facts["latency"])
    assert (facts["state"], facts["frame"]) == ("ok", "5, at 0.2 s") and facts["rate"].endswith("pictures per second")
    assert said[-1]["legend"] == [["class 1", "#00c8b4"], ["class 2", "#ffaa00"]]


def test_the_chart_of_latencies_says_what_every_row_is() -> None:
    for stream in (Stream(folded()), Stream(folded(), live=True)):
        assert stream._latencies.keys() == chart._MEANINGS.keys()
        list(stream.run(frames(3)))
        assert chart.draw(stream.report()).startswith(b"\x89PNG")
    assert tuple(chart._MEANINGS)[: chart._STAGES] == STAGES


def test_histogram() -> None:
    times = Histogram()
    for i in range(1, 1001):
        times.add(i / 1000)
    rows = times.milliseconds()
    assert rows["max"] == 1000 and rows["p50"] == pytest.approx(500, rel=0.02)
    assert rows["p99"] == pytest.approx(990, rel=0.02)


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(write_video(tmp_path / "a.mp4"))
    clip = str(write_dicom(tmp_path / "a.dcm", np.stack(frames())))
    for arguments, message in [
        ([video, "--dicom-seg"], "--dicom-seg goes with a DICOM clip"),
        ([clip, "--dicom-seg"], "cannot have a DICOM Segmentation"),
        ([clip, "--crop", "1,2"], "expected auto or four numbers"),
        ([clip, "--view", "x"], "expected a port"),
        ([clip, "--view", "99999999"], "--view is '99999999', expected a port from 0 to 65535"),
        (["rtsp://127.0.0.1:9/x"], "cannot be opened"),
        ([""], "the name of the input is empty"),
    ]:
        assert main(["stream", *arguments, "--backbone", "timm/vit_tiny_patch16_224"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--view", "99999999"], "expected a port from 0 to 65535"),
        (["--view", "no.such.host.invalid:8080"], "the live view cannot listen on"),
        (["--stale", "0"], "must be above 0 seconds, got 0"),
        (["--smooth", "2"], "the smoothing weight must be above 0 and at most 1, got 2"),
        (["--crop", "0,0,99,99"], "is not inside a frame of 64x48 pixels"),
        (["--image-size", "0"], "--image-size 0 was given, expected 1 to"),
        (["--output", __file__], "is a file, expected a folder"),
    ],
)
def test_options_are_checked_before_the_model_is_read(
    options: list[str], message: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", str(clip), "--checkpoint", "breast", *options]) == 2
    assert message in capsys.readouterr().err


def test_frames_that_were_shown_without_a_mask_are_not_called_segmented(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All masks are older than 1 ns. Progress counts what is shown, and of a live source not every frame is."""
    stream = Stream(folded(), live=True, stale=1e-9)
    shown: dict[int, Shown] = {}
    for frame in stream.run(frames(3) * 3):
        shown[frame.index] = frame
    report = stream.report()
    assert report["frames"] == len(shown) > 0 and report["with_mask"] == 0
    with terminal.progress(150) as watch:
        for i in range(100):
            watch(dataclasses.replace(next(iter(shown.values())), index=i))
        watch(dataclasses.replace(next(iter(shown.values())), index=149, mask=np.zeros((2, 2), np.uint8)))
    assert capsys.readouterr().err.splitlines() == [
        "segmented 0 of 100 frames shown, 150 in all",
        "segmented 1 of 101 frames shown, 150 in all",
    ]
    lines = summary(report)
    assert "0 of them with a mask" in lines[0] and "No frame was shown with a mask" in lines
    whole = Stream(folded())
    list(whole.run(frames(2)))
    assert whole.report()["with_mask"] == 2 and "No frame was shown with a mask" not in summary(whole.report())
