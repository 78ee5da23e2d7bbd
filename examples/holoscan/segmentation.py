"""Masks over ultrasound in NVIDIA's Holoscan: video in, overlay out, in the shape of HoloHub's ultrasound_segmentation.

MODEL is a file of ht-kernels export, a segmentation model with logits. A session runs it on the best runtime that is
here; with --inference Holoscan's own InferenceOp does. docs/guides/holoscan.md says what has run.

    python examples/holoscan/segmentation.py clip.dcm --model model.onnx
    python examples/holoscan/segmentation.py RECORDING --source replayer --model model.onnx --inference
    python examples/holoscan/segmentation.py /dev/video0 --source v4l2 --model model.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import holoscan.operators as built_in  # each is loaded at its first use, for some need libraries of a GPU
from holoscan.conditions import PeriodicCondition
from holoscan.core import Application
from holoscan.resources import UnboundedAllocator
from operators import ClipOp, PrepareOp, SegmentOp

import ht_kernels as ht
from ht_kernels.class_colors import color_of
from ht_kernels.deploy.manifest import Manifest, manifest_of
from ht_kernels.errors import BackendError, InputError

OPACITY = 0.5
"""That of a mask over the video."""


class Segmentation(Application):
    """The graph: a source, a model behind it, and a viewer that both go to.

    Args:
        video: what the source reads.
        source: ``clip``, ``replayer`` or ``v4l2``.
        model: the exported file.
        session: a session of the file; None for Holoscan's InferenceOp.
    """

    def __init__(self, video: Path, source: str, model: Path, session: ht.deploy.Session | None) -> None:
        super().__init__()
        self.path, self.source, self.model, self.session = video, source, model, session

    def compose(self) -> None:
        video, viewer = self.video(), self.viewer()
        mask = self.by_inference(video) if self.session is None else self.by_session(video)
        self.add_flow(video, viewer, {("", "receivers")})
        self.add_flow(mask, viewer, {("", "receivers")})

    def video(self) -> Any:
        """An operator that gives the tensor ``video`` (H, W, 3) uint8."""
        if self.source == "clip":
            fps = self.kwargs("clip").get("fps", 25)
            return ClipOp(self, PeriodicCondition(self, recess_period=int(1e9 / fps)), clip=self.path, name="clip")
        if self.source == "replayer":
            options = self.kwargs("replayer")
            source = built_in.VideoStreamReplayerOp(self, name="replayer", directory=str(self.path), **options)
        else:
            memory = UnboundedAllocator(self, name="capture_memory")
            options = self.kwargs("v4l2")
            source = built_in.V4L2VideoCaptureOp(self, name="v4l2", allocator=memory, device=str(self.path), **options)
        memory = UnboundedAllocator(self, name="video_memory")
        options = self.kwargs(f"{self.source}_format")
        video = built_in.FormatConverterOp(self, name="video", pool=memory, out_tensor_name="video", **options)
        self.add_flow(source, video)
        return video

    def by_session(self, video: Any) -> Any:
        """The session, from ``video`` to the tensor ``mask``, the classes in the size of the video."""
        segment = SegmentOp(self, session=self.session, name="segment")
        self.add_flow(video, segment)
        return segment

    def by_inference(self, video: Any) -> Any:
        """Holoscan's own operators, from ``video`` to the tensor ``out_tensor``, the classes in the model's size."""
        manifest = manifest_of(self.model)
        prepare = PrepareOp(self, size=manifest.input_shape[2:], name="prepare")
        names = [name for name, *_ in manifest.outputs]
        infer = built_in.InferenceOp(
            self,
            name="inference",
            allocator=UnboundedAllocator(self, name="inference_memory"),
            model_path_map={"model": str(self.model)},
            pre_processor_map={"model": ["frames"]},
            inference_map={"model": names},
            in_tensor_names=["frames"],
            out_tensor_names=names,
            input_on_cuda=False,
            **self.kwargs("inference"),
        )
        classes = built_in.SegmentationPostprocessorOp(
            self,
            name="classes",
            allocator=UnboundedAllocator(self, name="mask_memory"),
            in_tensor_name="logits",
            network_output_type="softmax",
            data_format="nchw",
        )
        self.add_flow(video, prepare)
        self.add_flow(prepare, infer, {("", "receivers")})
        self.add_flow(infer, classes, {("transmitter", "")})
        return classes

    def viewer(self) -> Any:
        """What shows the video, and over it the mask in the colours of classes."""
        mask = "out_tensor" if self.session is None else "mask"
        colors = [[*(value / 255 for value in color_of(number)), OPACITY if number else 0.0] for number in range(32)]
        tensors = [
            {"name": "video", "type": "color", "priority": 0},
            {"name": mask, "type": "color_lut", "priority": 1},
        ]
        return built_in.HolovizOp(self, name="viewer", tensors=tensors, color_lut=colors, **self.kwargs("viewer"))


def check(manifest: Manifest, inference: bool) -> None:
    """Refuse a file that is not for this program.

    Raises:
        InputError: it is such a file.
    """
    results = ["logits"] if inference else ["logits", "grid"]
    if manifest.output_name not in results or manifest.task != "segmentation":
        raise InputError(
            f"{manifest.file} gives {manifest.output_name} for {manifest.task}, expected {' or '.join(results)} of a "
            "segmentation model"
        )
    if manifest.input_shape[1] != 1 or manifest.batch[0] != 1:
        raise InputError(f"{manifest.file} takes frames {manifest.input_shape}, expected single gray ones: --batch 1")
    if inference and (manifest.kind != "onnx" or manifest.plugin or manifest.num_classes < 2):
        raise InputError("--inference takes an ONNX file without the plugin, of two classes or more: export one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a clip, a folder with a recording, or a device")
    parser.add_argument("--source", choices=("clip", "replayer", "v4l2"), default="clip", help="what VIDEO is")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="an exported file")
    parser.add_argument("--inference", action="store_true", help="run the model in Holoscan's InferenceOp")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_suffix(".yaml"), metavar="FILE")
    args = parser.parse_args()
    try:
        check(manifest_of(args.model), args.inference)
        session = None if args.inference else ht.deploy.Session.open(args.model)
        if args.source == "clip":
            ht.video.open_source(str(args.video))
    except (InputError, BackendError) as error:
        parser.error(str(error))
    application = Segmentation(args.video, args.source, args.model, session)
    application.config(str(args.config))
    application.run()


if __name__ == "__main__":
    main()
