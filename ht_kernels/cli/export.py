"""``ht-kernels export``: a checkpoint to a file for another runtime, kept only if it computes the same."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ht_kernels.deploy.batch import batch_range
from ht_kernels.deploy.places import (
    check_folder,
    check_place,
    check_report_place,
    described_files,
    failed_report_path,
    manifest_path,
    report_path,
    settings_path,
)
from ht_kernels.deploy.results import check_result
from ht_kernels.errors import InputError
from ht_kernels.files import claim_files, why
from ht_kernels.weights import task_of
from ht_kernels.words import counted

from . import config, model_options, outputs, terminal

if TYPE_CHECKING:
    from torch import Tensor

    from ht_kernels.deploy import FoldedHTCLIP
    from ht_kernels.deploy.gate import Report
    from ht_kernels.media.source import Source

HELP = "write a checkpoint for another runtime, such as ONNX Runtime, checked against torch on real frames"
EXAMPLE = "ht-kernels export breast --output breast.onnx --precision fp16 --batch 1:4:16"

GATE_FAILED = 3
"""Exit status of an export that does not compute what torch does."""

_FRAMES = 16
_CALIBRATION = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    came = parser.add_argument_group("inputs")
    to = parser.add_argument_group("outputs")
    came.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=model_options.CHECKPOINT,
    )
    to.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        required=True,
        help="the file to write: NAME.onnx for ONNX, NAME.xml for openvino, whose weights go into NAME.bin, NAME.pt "
        "for torchscript; for triton-server a new folder",
    )
    outputs.add_overwrite(to)
    to.add_argument(
        "--format",
        choices=["onnx", "openvino", "tensorrt", "tensorrt-rtx", "torchscript", "triton-server"],
        default="onnx",
        help="openvino writes OpenVINO's own format, tensorrt builds for the GPU that is here, torchscript is for "
        "programs with torch and without this package, such as 3D Slicer, triton-server makes a model repository with "
        "the ONNX file (default: %(default)s)",
    )
    to.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="sm_NN",
        help="for tensorrt-rtx: compute capability of a GPU that the engine is for; may be given several times",
    )
    to.add_argument(
        "--plugin", action="store_true", help="for TensorRT: run adapters by our plugin instead of standard operators"
    )
    to.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16", "int8"],
        default="fp32",
        help="of matrix products; all else is computed in float32, but for tokens in torchscript (default: "
        "%(default)s)",
    )
    to.add_argument(
        "--batch",
        default="1",
        metavar="N|MIN:OPT:MAX",
        help="frames at once: a number, or a range with the usual number in the middle; a torchscript file takes any "
        "number (default: %(default)s)",
    )
    to.add_argument(
        "--result",
        choices=["logits", "mask", "grid", "embeddings"],
        help="what the file gives: logits, as mask the class of each pixel, or as grid logits on the patch grid, which "
        "streams take; for a contrastive model embeddings of RGB images (default: what the model gives)",
    )
    came.add_argument(
        "--frames",
        type=Path,
        metavar="SOURCE",
        help=f"frames to check the export on, up to {_FRAMES}: a DICOM clip, a video, a folder of images, one image; "
        f"for int8 without --calibrate up to {2 * _FRAMES}, of which every other one calibrates (default: the clip "
        "that comes with pydicom)",
    )
    came.add_argument(
        "--calibrate",
        type=Path,
        metavar="SOURCE",
        help=f"for int8: up to {_CALIBRATION} frames like those that the file will see, such as training images; "
        "frames that are in --frames too are only checked on (default: every other frame of --frames)",
    )
    model_options.add_tower_arguments(parser.add_argument_group("model"))


def run(args: argparse.Namespace) -> int:
    output: Path = args.output
    formats = "onnx", "openvino", "triton-server", "torchscript"
    as_onnx, as_ir, as_folder, as_script = (args.format == name for name in formats)
    batch = _batch(args.batch)
    _check(args)
    calibration_source, source = _sources(args)
    _check_packages(args)
    import torch

    import ht_kernels as ht
    from ht_kernels.deploy import (
        build_engine,
        build_ir,
        check_onnx,
        check_session,
        check_torchscript,
        export_onnx,
        export_torchscript,
    )
    from ht_kernels.deploy.engine_runtime import runs_here
    from ht_kernels.deploy.saturation import SATURATES, saturates
    from ht_kernels.deploy.server import write_repository
    from ht_kernels.media.preprocess import sample_frames

    if args.precision == "int8":
        _check_count(calibration_source, source)
    built_report = None
    memory = terminal.enough_memory(
        f"a batch of {counted(batch[2], 'frame')}",
        "give a smaller --batch" if batch[2] > 1 else "give a smaller --image-size, or take a machine with more",
    )
    with terminal.interruptible(), memory, _folder_beside(output) as folder:
        with terminal.step(f"reading {args.checkpoint}"):
            model, _ = model_options.load_model(args)
            folded = ht.fold(model)
            if not as_script:
                _check_attention(folded, batch)
            calibration = None
            if args.precision == "int8":
                calibration, frames = _split(folded.image_size, calibration_source, source)
            else:
                frames = torch.from_numpy(sample_frames(source, folded.image_size, _FRAMES))
            terminal.warn(source.warnings)
            if folded.result == "embeddings":  # CLIP takes colours
                frames = frames.expand(-1, 3, -1, -1)
                calibration = None if calibration is None else calibration.expand(-1, 3, -1, -1)
        file = graph = folder / (output.name if as_onnx or as_script else "model.onnx")
        calibrated = "" if calibration is None else f", calibrated on {counted(len(calibration), 'frame')}"
        with terminal.step(f"writing {'TorchScript' if as_script else 'ONNX'} in {args.precision}{calibrated}"):
            options: dict[str, Any] = {"precision": args.precision, "output": args.result, "channels": frames.shape[1]}
            if as_script:
                export_torchscript(folded, file, **options)
            else:
                options.update(batch=batch, calibration=calibration)
                export_onnx(folded, graph, **options)
        with terminal.step(f"checking against torch on {counted(len(frames), 'frame')} of {source.path}"):
            report = (check_torchscript if as_script else check_onnx)(folded, file, frames)
        if report.passed and args.plugin:
            export_onnx(folded, graph, **options, plugin=True)
        if report.passed and as_folder:
            write_repository(graph, output)
        elif report.passed and as_ir:
            file = folder / output.name
            with terminal.step("writing OpenVINO's format, and checking it in OpenVINO on the CPU"):
                build_ir(graph, file)
                built_report = check_session(folded, file, frames)
        elif report.passed and not (as_onnx or as_script):
            file = folder / output.name
            runtime = args.format.replace("-", "_")
            with terminal.step(f"building an engine for {', '.join(args.target) or 'this GPU'}") as show:
                built = build_engine(graph, file, runtime=runtime, targets=args.target, progress=show)
            if runs_here(built):
                with terminal.step("checking the engine on this GPU"):
                    built_report = check_session(folded, file, frames)
        reports = [report] if built_report is None else [report, built_report]
        for each in reports:
            print("\n".join(_table(each)))
        if report.classes is not None and len(report.classes) == 1:
            print(
                f"torch finds only class {report.classes[0]} in these frames, so the check says little about classes: "
                "name other frames with --frames.",
                file=sys.stderr,
            )
        failed = next((each for each in reports if not each.passed), None)
        if failed is not None:
            report.write(failed_report_path(output), built_report)
        else:
            if not as_folder:
                for part, final in zip(described_files(file), described_files(output), strict=True):
                    os.replace(part, final)
                os.replace(manifest_path(file), manifest_path(output))
            report.write(report_path(output), built_report)
            failed_report_path(output).unlink(missing_ok=True)
    if failed is None:
        config.write(args, settings_path(output))
        beside = "its configuration" if as_folder else manifest_path(output).name
        if as_ir:
            beside = f"{output.with_suffix('.bin').name}, {beside}"
        print(f"wrote {output}, {beside} and {report_path(output).name}")
        if calibration is not None and saturates():
            print(f"On this machine, {SATURATES}.", file=sys.stderr)
        if built_report is not None:
            return 0
        if args.plugin:
            print(
                "The check ran the graph with standard operators in place of the plugin, which runs in TensorRT only."
            )
        elif not (as_onnx or as_folder or as_script):
            print("The check ran the ONNX graph that the engine was built from; the engine runs on its GPU only.")
        return 0
    places = {
        "head": "behind the blocks, in the head",
        "engine": "in the engine, whose ONNX graph passed",
        "ir": "in OpenVINO, while the same graph in ONNX passed",
        "script": "in the TorchScript file, whose inner tensors are not read",
    }
    place = places.get(str(failed.diverged), f"in {failed.diverged}")
    few = ""
    if calibration is not None:
        few = (
            f" int8 was calibrated on {counted(len(calibration), 'frame')} and checked on {len(frames)} of "
            f"{source.path}: both should be like those that the model will see, and many."
        )
    print(
        f"ht-kernels export: the export does not compute what torch does: {'; '.join(failed.failures)}. The error "
        f"arises {place}.{few} {output} was not written; {failed_report_path(output)} says more",
        file=sys.stderr,
    )
    return GATE_FAILED


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, an output that would replace something, and a missing checkpoint."""
    model_options.check_image_size(args)
    if args.target and args.format != "tensorrt-rtx":
        raise InputError(f"--target goes with --format tensorrt-rtx, and not with {args.format}: leave it out")
    if args.format == "tensorrt-rtx" and not args.target:
        raise InputError("--format tensorrt-rtx needs at least one --target, such as sm_86")
    if args.plugin and args.format == "openvino":
        raise InputError("--plugin is for TensorRT, and OpenVINO runs adapters as standard operators: leave it out")
    if args.plugin and args.format == "triton-server":
        raise InputError("--plugin is for TensorRT, and the server runs adapters as standard operators: leave it out")
    if args.format == "torchscript":
        _check_script(args)
    _check_int8(args)
    _check_output(args)
    path = model_options.check_checkpoint(args.checkpoint)
    task = task_of(path)
    if args.result is not None and task is not None:
        check_result(args.result, task)


def _check_script(args: argparse.Namespace) -> None:
    """Refuse options that do not go with TorchScript."""
    if args.plugin:
        raise InputError("--plugin is for TensorRT, and TorchScript has torch's own operators: leave it out")
    if args.precision == "int8":
        raise InputError(
            "--precision int8 writes pairs of ONNX's operators, which TorchScript does not have: give fp32, fp16 or "
            "bf16, or write ONNX"
        )
    if args.batch != "1":
        raise InputError(f"a TorchScript file takes any number of frames: leave --batch {args.batch} out")


def _check_output(args: argparse.Namespace) -> None:
    """Refuse an output of another ending than its format's, or where it would replace what no export of it wrote.

    Without ``--overwrite`` it may not replace what an export wrote either.
    """
    output: Path = args.output
    if args.format == "triton-server":
        check_folder(output)
        check_report_place(output)
        claim_files([output, report_path(output), settings_path(output)], args.overwrite)
        config.check_foreign(args, settings_path(output))
        return
    if args.format == "onnx" and output.suffix != ".onnx":
        other = {".xml": "openvino", ".engine": "tensorrt", ".pt": "torchscript"}.get(output.suffix)
        named = "" if other is None else f", or name its format with --format {other}"
        raise InputError(f"the output {output} must be named NAME.onnx{named}")
    if args.format == "openvino" and output.suffix != ".xml":
        raise InputError(f"the output {output} must end in .xml, as OpenVINO's graphs do")
    if args.format == "torchscript" and output.suffix != ".pt":
        raise InputError(f"the output {output} must be named NAME.pt, which is what programs look for")
    if args.format in ("tensorrt", "tensorrt-rtx") and output.suffix in (".onnx", ".xml"):
        raise InputError(f"the output {output} must not end in {output.suffix}: NAME.engine is usual")
    check_place(output)
    places = [*described_files(output), manifest_path(output), report_path(output), settings_path(output)]
    claim_files(places, args.overwrite)
    config.check_foreign(args, settings_path(output))


def _check_int8(args: argparse.Namespace) -> None:
    """Refuse options that do not go together with the precision."""
    if args.precision != "int8":
        if args.calibrate:
            raise InputError(f"--calibrate goes with --precision int8, and the precision is {args.precision}")
        return
    if args.plugin:
        raise InputError("--plugin computes in fp32, fp16 or bf16: leave it out for --precision int8")
    if not (args.calibrate or args.frames):
        raise InputError(
            "--precision int8 needs frames like those that the file will see: name some, best training images, with "
            "--calibrate, or with --frames, of which half will calibrate"
        )


def _sources(args: argparse.Namespace) -> tuple[Source | None, Source]:
    """Where frames to calibrate on come from, if they have a source of their own, and frames to check on."""
    from ht_kernels.media.opening import open_file
    from ht_kernels.video.example import example_clip

    return open_file(args.calibrate) if args.calibrate else None, open_file(args.frames or example_clip())


def _check_packages(args: argparse.Namespace) -> None:
    """Refuse a machine without what the export needs."""
    from ht_kernels.deploy.engine import import_runtime
    from ht_kernels.deploy.onnx import import_onnx
    from ht_kernels.deploy.openvino_runtime import import_openvino
    from ht_kernels.deploy.quantize import import_nncf
    from ht_kernels.deploy.runtimes import import_onnxruntime

    if args.format == "torchscript":
        return  # torch alone writes and checks it
    import_onnx()
    import_onnxruntime()  # for the check
    if args.format == "openvino":
        import_openvino()
    elif args.format in ("tensorrt", "tensorrt-rtx"):
        import_runtime(args.format.replace("-", "_"))
    if args.precision == "int8":
        import_nncf()


def _check_count(calibration: Source | None, source: Source) -> None:
    """Refuse too few frames to calibrate on, as far as files say how many they have."""
    from ht_kernels.deploy.calibration import check_count

    if calibration is not None and calibration.frame_count is not None:
        check_count(calibration.frame_count, "int8")
    if calibration is None and source.frame_count is not None:
        check_count((source.frame_count + 1) // 2, "int8")


def _check_attention(folded: FoldedHTCLIP, batch: tuple[int, int, int]) -> None:
    """Refuse images and batches whose attention does not fit into this machine's memory.

    The exported file computes all scores of a block before their softmax, which torch does not.
    """
    from ht_kernels.deploy.onnx_run import FRAMES_AT_ONCE

    (height, width), grid = folded.image_size, folded.grid
    tokens, frames = folded.prefix_tokens + grid[0] * grid[1], batch[0] if batch[0] == batch[2] else FRAMES_AT_ONCE
    heads = max(int(block.heads) for block in folded.blocks)  # type: ignore[arg-type]
    needed, there = 4 * heads * tokens**2 * frames, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"images of {width}x{height} pixels are {tokens} tokens, whose attention takes {needed / 2**30:.0f} GiB in "
            f"the exported file for {counted(frames, 'frame')}, and this machine has {there / 2**30:.0f}: give a "
            "smaller --image-size" + (" or --batch" if frames > 1 else "")
        )


def _split(size: tuple[int, int], calibration: Source | None, source: Source) -> tuple[Tensor, Tensor]:
    """Frames to calibrate on, and others to check the export on; uint8 (B, 1, *size).

    Without frames for calibration, every other frame of the source is taken: the first, the third and so on.
    """
    import torch

    from ht_kernels.deploy.calibration import check_count, without
    from ht_kernels.media.preprocess import sample_frames

    if calibration is None:
        frames = torch.from_numpy(sample_frames(source, size, 2 * _FRAMES))
        chosen, frames = frames[::2], frames[1::2]
    else:
        frames = torch.from_numpy(sample_frames(source, size, _FRAMES))
        chosen = torch.from_numpy(sample_frames(calibration, size, _CALIBRATION))
        terminal.warn(calibration.warnings)
    chosen = without(chosen, frames)
    if not (len(chosen) and len(frames)):
        raise InputError(
            f"int8 needs frames to calibrate on and others to check the export on, and {source.path} leaves none: name "
            "another source with --calibrate"
        )
    check_count(len(chosen), "int8")
    return chosen, frames


def _batch(text: str) -> tuple[int, int, int]:
    if re.fullmatch(r"\d{1,6}", text, re.ASCII):
        return batch_range(int(text))
    if re.fullmatch(r"\d{1,6}:\d{1,6}:\d{1,6}", text, re.ASCII):
        return batch_range(tuple(map(int, text.split(":"))))
    raise InputError(f"--batch must be a number or MIN:OPT:MAX, such as 4 or 1:4:16, got {text!r}")


@contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    """A hidden folder beside a file, for what was not checked yet."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.absolute().parent)
    except OSError as error:
        raise InputError(f"the output {output} cannot be written: {why(error)}") from error
    with folder as name:
        try:
            yield Path(name)
        except InputError as error:
            # A file that a user does not know: its name ends where a word does not belong to it.
            hidden = re.escape(name) + r"/[^\s:,]*"
            raise InputError(re.sub(hidden, lambda _: str(output), str(error))) from error
        except OSError as error:
            raise InputError(f"the output {output} cannot be written: {why(error)}") from error


def _table(report: Report) -> list[str]:
    limits = report.thresholds
    rows: list[tuple[str, float | None, float | None, str]] = [
        ("cosine similarity, worst frame", report.cosine, limits.cosine, "at least"),
        ("relative error, largest", report.relative_error, limits.relative, "at most"),
        ("absolute error, largest", report.absolute_error, None, ""),
        ("agreement of classes, mean", report.agreement_mean, limits.agreement, "at least"),
        ("agreement of classes, worst frame", report.agreement_worst, None, ""),
        ("Dice, mean", report.dice_mean, limits.dice, "at least"),
        ("Dice, worst frame", report.dice_worst, None, ""),
        ("relative error of distances", report.distance_error, limits.distance, "at most"),
    ]
    calibrated = f", calibrated on {counted(report.calibration_frames, 'other')}" if report.calibration_frames else ""
    title = f"{report.precision} in {report.runtime}, {counted(report.frames, 'frame')}{calibrated}"
    lines = [f"{title:<36}{'measured':>12}   asked for"]
    for name, value, limit, direction in rows:
        if value is not None:
            asked = "" if limit is None else f"   {direction} {limit:g}"
            lines.append(f"{name:<36}{value:>12.8g}{asked}")
    return lines
