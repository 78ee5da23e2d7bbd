"""Help and refusals come before torch is loaded: of every command, wrong values, outputs and inputs.

The help comes before NumPy and Pillow, too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from helpers.layout import make_layout, save
from ht_kernels.cli import COMMANDS

PROGRAM = """
import contextlib, io, json, os, sys
sys.argv[0] = "ht-kernels"
from ht_kernels import cli
for number, words in enumerate(json.load(sys.stdin)):
    if os.fork() == 0:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                status = cli.main(words)
            except SystemExit as ended:
                status = ended.code
        loaded = [name for name in ("torch", "monai", "timm", "open_clip", "numpy", "PIL") if name in sys.modules]
        with open(f"{number}.json", "w") as file:
            json.dump([status, said.getvalue(), loaded], file)
        os._exit(0)
    os.wait()
"""
HELP = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
TRAIN = "train --task segmentation --output new"
EXPORT = "export breast --output new.onnx"
SCRIPT = "export breast --format torchscript --output new.pt"
EVALUATE = "evaluate breast --output new"
STREAM = "stream clip.dcm --checkpoint breast --output new"
SHAPE = "bench --shape 1,197,768,64 --grid 14,14 --output new"
REFUSALS = {
    # commands and options
    "strem": "'strem' is unknown; expected .*; did you mean stream?",
    "train --tsk segmentation --task segmentation --output new": "--tsk is unknown; did you mean --task?",
    "train --task segmentaton --output new": "'segmentaton' is unknown; expected .*; did you mean segmentation?",
    "train --task segmentation": "required: --output",
    "predict a.png --weigths breast --output new": "--weigths is unknown; did you mean --weights?",
    "predict a.png --weights=breast --ouptut new": "--ouptut is unknown; did you mean --output?",
    "stream clip.dcm --output ''": "--output: the name is empty",
    "stream clip.dcm --checkpoint ''": "--checkpoint: the name is empty",
    "stream ''": "the name of the input is empty",
    "completion fish": "'fish' is unknown; expected one of bash, zsh, tcsh",
    # values
    f"{EXPORT} --batch 0": "batch must be a number from 1 on",
    f"{EXPORT} --batch 4:2:1": "batch must be a number from 1 on",
    f"{EXPORT} --batch two": "--batch must be a number or MIN:OPT:MAX",
    f"{EXPORT} --image-size 9000": "--image-size 9000 was given, expected 1 to 8192 pixels",
    f"{EXPORT} --target sm_86": "--target goes with --format tensorrt-rtx, and not with onnx",
    f"{EXPORT} --format tensorrt-rtx": "--format tensorrt-rtx needs at least one --target",
    f"{EXPORT} --calibrate clip.dcm": "--calibrate goes with --precision int8",
    f"{EXPORT} --precision int8": "--precision int8 needs frames",
    f"{SCRIPT} --batch 4": "takes any number of frames: leave --batch 4 out",
    f"{SCRIPT} --plugin": "--plugin is for TensorRT",
    f"{SCRIPT} --precision int8 --frames clip.dcm": "--precision int8 writes pairs of ONNX's operators",
    f"{SCRIPT} --result embeddings": "gives logits, and embeddings were asked for",
    f"{EXPORT} --result embeddings": "gives logits, and embeddings were asked for",
    f"{TRAIN} --phantoms 0": "--phantoms 0 was given, expected 1 or more",
    f"{TRAIN} --phantoms 9 --image-size 9000": "--image-size 9000 was given",
    f"{TRAIN} --phantoms 9 --variant hybird": "--variant hybird is unknown; .*did you mean hybrid?",
    f"{TRAIN} --phantoms 9 --spectral radal": "--spectral radal is unknown; .*did you mean radial?",
    f"{TRAIN} --phantoms 9 --normalization klip": "--normalization klip is unknown; .*did you mean clip?",
    f"{TRAIN} --phantoms 9 --reduce-dim 0": "--reduce-dim 0 was given",
    f"{TRAIN} --phantoms 9 --feature-layers 3 -1": "--feature-layers -1 was given",
    f"{TRAIN} --phantoms 9 --keep-adapters": "--keep-adapters keeps those of a checkpoint",
    f"{TRAIN} --phantoms 9 --method heads --adapter-learning-rate 1": "--method heads trains nothing there",
    **{
        f"{TRAIN} --phantoms 9 --{name} {value}": f"{name.replace('-', '_')} "
        for name, value in {
            "epochs": 0,
            "batch": 0,
            "accumulate": 0,
            "learning-rate": 0,
            "adapter-learning-rate": "nan",
            "warmup": -1,
            "clip": 0,
            "average": 1,
            "validate-every": 0,
            "patience": 0,
            "augment": "wild",
            "precision": "fp8",
            "seed": -1,
            "method": "hd",
            "recipe": "hers",
            "start": "late",
            "ratio": 3,
        }.items()
    },
    f"{TRAIN} --shots 0 --phantoms 9": "shots is 0",
    f"{EVALUATE} --phantoms 0": "--phantoms takes 1 or more",
    f"{EVALUATE} --phantoms 1 --seed -1": "--seed -1 was given",
    f"{EVALUATE} --phantoms 1 --image-size 0": "--image-size 0 was given",
    f"{EVALUATE} --phantoms 1 --retrieval": "need a contrastive model, and this one is for segmentation",
    f"{STREAM} --stale 0": "must be above 0 seconds",
    f"{STREAM} --smooth 2": "must be above 0 and at most 1",
    f"{STREAM} --crop 1,2": "--crop is '1,2', expected auto or four numbers",
    f"{STREAM} --crop 900,0,10,10": "900",
    f"{STREAM} --view 99999": "--view is '99999', expected a port",
    f"{STREAM} --igtl 0x5": "--igtl is '0x5', expected a port",
    "stream igtl://a/b?order=grb --checkpoint breast --output new": "is no address of OpenIGTLink, expected igtl://",
    f"{STREAM} --image-size 0": "--image-size 0 was given",
    f"{STREAM} --runtime cpu --device GPU": "--device GPU goes with --runtime openvino",
    f"{STREAM} --runtime cpu --precision fp16": "--precision fp16 is for",
    f"{STREAM} --spacing 0.1": "--spacing was given without --measure",
    f"{STREAM} --measure --spacing 0": "--spacing is '0', expected the side of a pixel in millimetres",
    f"{STREAM} --measure --spacing 1,2,3": "--spacing is '1,2,3', expected the side of a pixel",
    f"{STREAM} --live --dicom-sr": "--dicom-sr goes with a DICOM clip that is not played live",
    f"{STREAM} --dicom-sr": "does not say how large its pixels are, .*: pass --spacing",
    f"{STREAM} --ohif": "give --dicom-seg, too",
    f"{STREAM} --store dicom://pacs:104/PACS": "--store needs DICOM files: give --dicom-seg or --dicom-sr, too",
    f"{STREAM} --dicom-seg --store pacs:104": "the archive 'pacs:104' is no address, expected dicom://HOST:PORT/AE_TITLE",
    f"{STREAM} --live --dicom-seg": "--dicom-seg goes with a DICOM clip that is not played live",
    "phantom --output new --count 0": "--count 0 was given",
    "phantom --output new --clip 0": "--clip 0 was given",
    "phantom --output new --seed -1": "--seed -1 was given",
    "phantom --output new --size 7": "--size 7 was given, expected 8 to 4096 pixels",
    "phantom --output new --kind cistic": "--kind cistic is unknown; .*did you mean cystic?",
    "bench --output new --seconds 0": "--seconds 0 was given",
    "bench --output new --stream --threads 0": "--threads 0 was given",
    "bench --output new --stages": "--stages was given without --shape",
    f"{SHAPE} --only adapter": "--only adapter was given with --shape",
    "bench --output new --shape 1,2": "--shape 1,2 was given, expected B,N,D,C",
    "bench --output new --shape 1,2,3,4": "--shape needs --grid",
    f"{SHAPE} --spectral full --variant baseline": "--spectral full needs --variant",
    "inspect breast --output new --image-size 0": "--image-size 0 was given",
    "convert breast --output new.pt --image-size 0": "--image-size 0 was given",
    "convert breast --output new.safetensors": "is in our format, and new.safetensors has an ending of that format",
    "convert published.pt --output new.safetensors": "does not name its vision tower: pass --backbone",
    # outputs
    **{
        f"{command} --output {output}": sentence
        for command in (
            "demo",
            "bench",
            "stream clip.dcm --checkpoint breast",
            "inspect breast",
            "train --task segmentation --phantoms 9",
            "evaluate breast --phantoms 1",
            "phantom",
            "prepare images --dataset busi",
        )
        for output, sentence in (
            ("file", "the output file is a file, expected a folder"),
            ("file/new", "file/new cannot be written: Not a directory"),
            ("/proc/new", "/proc/new cannot be written: No such file"),
        )
    },
    **{
        f"{command} --output {output}": "cannot be written: No such file"
        for command, output in (("export breast", "no/new.onnx"), ("convert breast", "no/new.pt"))
    },
    "export breast --output new.pt": "must be named NAME.onnx, or name its format with --format torchscript",
    "export breast --format torchscript --output new.onnx": "must be named NAME.pt",
    "export breast --format torchscript --output no/new.pt": "cannot be written: No such file",
    "export breast --format openvino --output new.onnx": "must end in .xml",
    "export breast --format tensorrt --output new.onnx": "must not end in .onnx",
    "export breast --format triton-server --output 'a model'": "the folder's name 'a model' becomes the model's",
    # inputs
    "stream missing --checkpoint breast --output new": "there is no file or folder missing",
    "stream clip.dcm --checkpoint missing.pt --output new": "there is no checkpoint file missing.pt",
    "stream clip.dcm --checkpoint brest --output new": "no weights of this name .*did you mean breast?",
    "export missing.pt --output new.onnx": "there is no checkpoint file missing.pt",
    f"{EXPORT} --frames missing": "there is no file or folder missing",
    f"{EXPORT} --precision int8 --calibrate missing": "there is no file or folder missing",
    "convert missing.pt --output new.safetensors": "there is no checkpoint file missing.pt",
    "inspect web.pt --output new": "web.pt cannot be read as a checkpoint file: it is a web page",
    "inspect missing.pt --output new": "there is no checkpoint file missing.pt",
    "predict missing.png --weights breast --output new": "there is no file or folder missing.png",
    "predict clip.dcm --weights missing.pt --output new": "there is no checkpoint file missing.pt",
    "predict clip.dcm --weights script.pt --output new": "script.pt cannot be read .*it is a TorchScript file of ht-",
    "predict clip.dcm --weights breast --output new --crop 1,2": "expected auto or four numbers X,Y,W,H",
    "predict '' --weights breast --output new": "empty",
    "predict images --weights breast --output new --dicom-seg": "no image, DICOM file or video in images",
    "predict data --weights breast --output new --dicom-seg": "goes with DICOM files, and there is none among",
    "predict clip.dcm --weights breast --output new --store dicom://pacs:104/A": "--store needs DICOM files: give",
    "predict clip.dcm --weights new.onnx --output new --compile": "--compile needs a checkpoint, and new.onnx is an",
    "predict clip.dcm --weights breast --output new --compile --runtime cpu": "--runtime cuda_graph, got cpu",
    "predict clip.dcm --weights breast --output new --compile --device NPU": "cuda_graph, got openvino",
    "predict clip.dcm --weights breast --output new --spacing wide": "--spacing is 'wide', expected the side",
    "predict clip.dcm --weights breast --output new --dicom-sr": "does not say how large its pixels are",
    "predict data/all/masks --weights breast --output new --dicom-sr": "--dicom-sr goes with DICOM files",
    "inspect breast --frames missing --output new": "there is no file or folder missing",
    TRAIN: "no data was named",
    f"{TRAIN} missing --dataset BUSI": "there is no folder missing/segmentation/BUSI",
    f"{TRAIN} data --dataset BUSY": "there is no folder data/segmentation/BUSY: .*did you mean BUSI?",
    f"{TRAIN} data --dataset TWICE --from breast": "train.txt names TWICE_0.png, and so does .*val.txt",
    f"{TRAIN} data --dataset THREE --from breast": "the 7 masks of THREE have more than two values",
    f"{TRAIN} --phantoms 9 --from missing.pt": "there is no checkpoint file missing.pt",
    EVALUATE: "no data was named",
    "evaluate breast missing --dataset BUSI --output new": "there is no folder missing",
    "evaluate breast data --output new --dataset BUSY": "there is no data set BUSY in data: .*did you mean BUSI?",
    "evaluate breast data --output new --dataset BUSI --split tst": "split 'tst' is unknown",
    f"{TRAIN} data --dataset BUSI/": "BUSI/ came for a data set, expected its name, without folders, such as BUSI",
    "evaluate breast data --output new --dataset BUSI BUSI/": "BUSI/ came for a data set, expected its name",
    "evaluate breast data --output new --dataset ../segmentation/BUSI": "without folders, such as BUSI",
    "evaluate breast data --output new --dataset ..": r"\.\. came for a data set, expected its name, without folders",
    "evaluate breast data --output new --dataset BUSI --seed 3": "--seed is of phantoms, --phantoms, or of folds",
    "evaluate breast data --output new --dataset BUSI BUSI": "--dataset names BUSI more than once",
    "evaluate clip data --dataset BUSI --output new --templates missing.txt": "missing.txt is missing",
    "evaluate missing.pt --phantoms 1 --output new": "there is no checkpoint file missing.pt",
    "prepare missing --dataset busi --output new": "there is no folder missing",
    "prepare missing.csv --dataset captions --name A --output new": "there is no file or folder missing.csv",
    "prepare images --dataset captions --output new": "need a name for the data set",
    "evaluate breast --output new data --dataset BUSI": "data is one word too many, or belongs in front of the options",
    "bench --compare missing.json missing.json": "missing.json cannot be read",
    f"{TRAIN} --config missing.yaml": "the file of options missing.yaml cannot be read",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """The status, the words and the heavy modules after each command, which ran in a process that had loaded none."""
    from helpers.clips import frames, write_dicom

    folder = tmp_path_factory.mktemp("refusals")
    for name in ("BUSI", "TWICE", "THREE"):
        make_layout(folder / "data", name)
    (folder / "data/segmentation/TWICE/val.txt").write_text("TWICE_0.png")
    save(folder / "data/all/masks/THREE_0.png", np.eye(40, 52, dtype=np.uint8) + np.eye(40, 52, 1, dtype=np.uint8) * 2)
    (folder / "file").touch()
    (folder / "images").mkdir()
    torch.save({"a": torch.zeros(1)}, folder / "published.pt")
    (folder / "web.pt").write_text("<!doctype html>")
    with zipfile.ZipFile(folder / "script.pt", "w") as script:
        for entry in ("data.pkl", "code/__torch__/ht_kernels/deploy/torchscript.py"):
            script.writestr(f"archive/{entry}", b"")
    write_dicom(folder / "clip.dcm", np.stack(frames()), FrameTime="40")
    before = sorted(folder.rglob("*"))
    commands = [shlex.join(words) for words in HELP] + list(REFUSALS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([shlex.split(command) for command in commands]),
        env=environment,
        cwd=folder,
        check=True,
        text=True,
    )
    answers = {command: tuple(json.loads((folder / f"{i}.json").read_text())) for i, command in enumerate(commands)}
    assert sorted(path for path in folder.rglob("*") if path.suffix != ".json") == before
    return answers


@pytest.mark.parametrize("command", [shlex.join(words) for words in HELP])
def test_help_loads_nothing(command: str, answers: dict[str, tuple[int, str, list[str]]]) -> None:
    status, said, loaded = answers[command]
    assert status == 0 and said and loaded == []


@pytest.mark.parametrize("command", REFUSALS)
def test_refusals_load_nothing(command: str, answers: dict[str, tuple[int, str, list[str]]]) -> None:
    """One sentence, status 2, and neither torch nor a model was loaded."""
    status, said, loaded = answers[command]
    assert re.search(REFUSALS[command].replace("?", r"\?"), said), said
    sentence = said.split("\nexpected\n  DATA/")[0].rstrip("\n")  # the layout of data may follow
    assert status == 2 and "\n" not in sentence and said.startswith("ht-kernels") and "Traceback" not in said
    assert {*loaded} <= {"numpy", "PIL"}


def test_every_command_is_refused_something() -> None:
    assert {shlex.split(command)[0] for command in REFUSALS} >= {*COMMANDS} - {"info"}
