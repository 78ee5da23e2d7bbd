"""The operators of examples/holoscan in a running graph of Holoscan, without a GPU: their masks are those of a session.

The viewer, which needs a GPU, is replaced by an operator that keeps what it is given. Holoscan runs in a process of its
own, because it changes the process that it is loaded in.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ht_kernels as ht
from helpers.exports import calibrated_model, folded_model
from ht_kernels.deploy import Session, export_onnx
from ht_kernels.logits import mask_of_grid
from ht_kernels.media.preprocess import preprocess
from test_docs import ROOT

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLE = ROOT / "examples" / "holoscan"
LOAD = """
import ctypes, sys, warnings
warnings.simplefilter("ignore")
for library in {libraries!r}:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
import holoscan
"""
RUN = """
from pathlib import Path

import numpy as np
from holoscan.core import IOSpec, Operator
from holoscan.operators import VideoStreamRecorderOp, VideoStreamReplayerOp
import segmentation
from operators import ClipOp, pixels

import ht_kernels as ht

clip, model, runtime, folder = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
kept = {}


class Keep(Operator):
    def setup(self, spec):
        spec.input("receivers", size=IOSpec.ANY_SIZE)

    def compute(self, op_input, op_output, context):
        for message in op_input.receive("receivers"):
            for name, tensor in message.items():
                kept.setdefault(name or "video", []).append(np.array(tensor))


class WithoutScreen(segmentation.Segmentation):
    def viewer(self):
        return Keep(self, name="viewer")


class Record(WithoutScreen):
    def compose(self):
        recorder = VideoStreamRecorderOp(self, name="recorder", directory=folder, basename="clip")
        self.add_flow(self.video(), recorder)


class Replay(WithoutScreen):
    def video(self):
        return VideoStreamReplayerOp(self, name="replayer", directory=folder, basename="clip", realtime=False)


session = ht.deploy.Session.open(model, runtime=runtime)
ran = [Record, Replay] if folder else [WithoutScreen]
for kind in ran:
    application = kind(clip, "clip", model, session)
    application.config(segmentation.__file__.replace(".py", ".yaml"))
    application.run()
np.savez(sys.argv[5], **kept)
"""


def load() -> str:
    """A program that imports Holoscan, with the CUDA runtime of Python's package where that is installed."""
    spec = importlib.util.find_spec("nvidia.cuda_runtime") if importlib.util.find_spec("nvidia") else None
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return LOAD.format(libraries=[str(file) for place in places for file in Path(place).glob("lib/libcudart.so.*")])


@pytest.fixture(scope="module")
def holoscan() -> str:
    if importlib.util.find_spec("holoscan") is None:
        pytest.skip("holoscan is not installed: pip install holoscan nvidia-cuda-runtime-cu12")
    done = subprocess.run([sys.executable, "-c", load()], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"Holoscan does not load here: {done.stderr.strip().splitlines()[-1]}")
    return load()


def run(program: str, clip: Path, model: Path, recording: str, folder: Path) -> dict[str, Any]:
    """The tensors that came to the viewer, by their names."""
    path = [str(EXAMPLE), *filter(None, sys.path)]
    program = f"import sys\nsys.path[:0] = {path!r}\n{program}{RUN}"
    arguments = [str(clip), str(model), "onnxruntime", recording, str(folder / "kept.npz")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "[error]" not in done.stderr, done.stderr
    return dict(np.load(folder / "kept.npz"))


def expected(model: Path, clip: Path) -> list[np.ndarray]:
    session = Session.open(model, runtime="onnxruntime")
    found = []
    for frame in ht.video.open_source(str(clip)):
        logits = session(preprocess(frame, session.frame_shape[1:]))
        found.append(mask_of_grid(logits, frame.shape[:2])[0])
    return found


@pytest.mark.parametrize("recorded", [False, True])
def test_masks_are_those_of_the_session(recorded: bool, holoscan: str, clip: Path, tmp_path: Path) -> None:
    """From a clip directly, and from a recording of it that Holoscan's replayer plays."""
    export_onnx(folded_model(), tmp_path / "model.onnx", output="grid")
    kept = run(holoscan, clip, tmp_path / "model.onnx", str(tmp_path) if recorded else "", tmp_path)
    frames = [np.dstack([frame] * 3) if frame.ndim == 2 else frame for frame in ht.video.open_source(str(clip))]
    np.testing.assert_array_equal(kept["video"], frames)
    masks = expected(tmp_path / "model.onnx", clip)
    assert len(np.unique(masks)) > 1
    np.testing.assert_array_equal(kept["mask"], np.stack(masks)[..., None])


def test_an_unfamiliar_frame_has_no_mask(holoscan: str, clip: Path, tmp_path: Path) -> None:
    folded = calibrated_model()
    folded.familiarity.limit.fill_(1e-6)
    export_onnx(folded, tmp_path / "model.onnx")
    kept = run(holoscan, clip, tmp_path / "model.onnx", "", tmp_path)
    assert len(kept["mask"]) == 5 and not kept["mask"].any() and np.any(expected(tmp_path / "model.onnx", clip))


@pytest.mark.parametrize(
    ("options", "inference", "sentence"),
    [
        ({"output": "mask"}, False, "gives mask for segmentation, expected logits or grid"),
        ({"output": "grid"}, True, "gives grid for segmentation, expected logits of"),
        ({"batch": 2}, False, "expected single gray ones"),
        ({"channels": 3}, False, "expected single gray ones"),
    ],
)
def test_files_for_other_programs_are_refused(
    options: dict[str, Any], inference: bool, sentence: str, holoscan: str, clip: Path, tmp_path: Path
) -> None:
    export_onnx(folded_model(), tmp_path / "model.onnx", **options)
    start = (
        f"import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path({str(EXAMPLE / 'segmentation.py')!r}, None, '__main__')"
    )
    path = [str(EXAMPLE), *filter(None, sys.path)]
    words = ["segmentation.py", str(clip), "--model", str(tmp_path / "model.onnx"), *["--inference"] * inference]
    program = f"import sys\nsys.path[:0] = {path!r}\n{holoscan}{start}"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
