"""One rule for outputs: nothing is replaced unless asked for, and then all that a command writes and no more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helpers.clips import folded, frames, write_dicom
from helpers.layout import make_layout
from ht_kernels import outputs
from ht_kernels.cli import main
from ht_kernels.errors import InputError
from ht_kernels.files import check_foreign, claim, claim_files, drawn, output_folder, png_bytes
from ht_kernels.train.results import earlier_files
from ht_kernels.video import Stream, open_source, record


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_a_claim(tmp_path: Path) -> None:
    """New and foreign folders are taken; one with results only to overwrite them."""
    names = ("report.json", "masks/00001.png")
    claim(tmp_path / "new/deep", names)
    assert tree(tmp_path) == [] and not (tmp_path / "new").exists()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/expert.png").touch()
    claim(tmp_path, names)
    (tmp_path / "masks/00001.png").touch()
    (tmp_path / "report.json").touch()
    with pytest.raises(InputError, match=r"00001.png is there already, and 1 more .* replace it with --overwrite"):
        claim(tmp_path, names)
    claim(tmp_path, names, overwrite=True)
    assert tree(tmp_path) == ["masks/00001.png", "masks/expert.png", "report.json"]
    with output_folder(tmp_path, names) as folder:
        (folder / "masks").mkdir()
        (folder / "masks/00002.png").touch()
    assert tree(tmp_path) == ["masks/00002.png", "masks/expert.png"]


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    """Of what an earlier run wrote, ``a[1].png`` is not ``a1.png``."""
    (tmp_path / "a1.png").touch()
    (tmp_path / "a[1].png").touch()
    check_foreign(tmp_path, ["a[1].png"], ["a[1].png"])
    with pytest.raises(InputError, match=r"a1\.png is there already, and no earlier run of this command wrote it"):
        check_foreign(tmp_path, ["a[1].png", "a1.png"], ["a[1].png"])
    with output_folder(tmp_path, ["a[1].png"], strict=True):
        pass
    assert tree(tmp_path) == ["a1.png"]


def test_results_stay_where_new_ones_fail(tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path, ["report.json"]):
        raise KeyboardInterrupt
    assert tree(tmp_path) == ["report.json"]


def test_a_closed_pipe_is_no_fault_of_the_output(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), output_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
        raise BrokenPipeError
    assert tree(tmp_path) == []


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    (tmp_path / "report.json/mine").touch()
    with pytest.raises(InputError, match=r"report\.json is a folder, and a file of this name would be written"):
        claim(tmp_path, ["report.json"], overwrite=True)
    with pytest.raises(InputError, match="cannot be written: Is a directory"), output_folder(tmp_path) as folder:
        (folder / "report.json").touch()
    assert tree(tmp_path) == ["report.json/mine"]


def test_claimed_files(tmp_path: Path) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "a.json"]
    claim_files(files)
    files[1].touch()
    with pytest.raises(InputError, match=r"a\.json is there already: name another output"):
        claim_files(files)
    claim_files(files, overwrite=True)
    with pytest.raises(InputError, match=r"no/a\.onnx cannot be written: No such file"):
        claim_files([tmp_path / "no/a.onnx"])


@pytest.mark.parametrize(
    ("command", "there"),
    [
        (["demo"], "contact_sheet.png"),
        (["bench"], "chart.png"),
        (["bench"], "settings.yaml"),
        (["stream", "clip.dcm", "--checkpoint", "breast"], "settings.yaml"),
        (["inspect", "breast"], "filters.png"),
        (["evaluate", "breast", "--phantoms", "1"], "report.md"),
        (["evaluate", "breast", "data", "--dataset", "BUSI", "TN3K"], "TN3K/report.md"),
        (["phantom"], "segmentation/PHANTOM/train.txt"),
        (["phantom"], "phantom_clips.sha256"),
        (["prepare", "in", "--dataset", "busi"], "segmentation/BUSI/train.txt"),
        (["prepare", "in", "--dataset", "captions", "--name", "Med"], "contrastive/Med/captions.csv"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_refuses_results_that_are_there(
    command: list[str], there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of that name may be a user's own."""
    monkeypatch.chdir(tmp_path)
    write_dicom(tmp_path / "clip.dcm", np.stack(frames()), FrameTime="40")
    for name in ("BUSI", "TN3K"):
        (tmp_path / "data/segmentation" / name).mkdir(parents=True)
        (tmp_path / "data/segmentation" / name / "test.txt").write_text("a.png")
    mine = tmp_path / "out" / there
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = tree(tmp_path)
    assert main([*command, "--output", "out"]) == 2
    said = capsys.readouterr().err
    assert f"out/{there} is there already" in said and "--overwrite" in said
    assert tree(tmp_path) == before and mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "there"),
    [
        ("demo --output out", "contact_sheet.png"),
        ("bench --output out", "results.json"),
        ("bench --output out", "chart.png"),
        ("bench --output out", "settings.yaml"),
        ("inspect phantom --output out", "filters.png"),
        ("predict clip.dcm --weights phantom --output out", "predictions.csv"),
        ("predict clip.dcm --weights phantom --output out", "predictions.json"),
        ("predict clip.dcm --weights phantom --output out", "measurements.csv"),
        ("predict clip.dcm --weights phantom --output out", "settings.yaml"),
        ("stream clip.dcm --checkpoint phantom --output out", "settings.yaml"),
        ("export phantom --output out/model.onnx", "model.settings.yaml"),
        ("phantom --output out", "settings.yaml"),
        ("phantom --output out", "segmentation/PHANTOM/train.txt"),
        ("phantom --output out --clip 2", "phantom_clips.sha256"),
        ("prepare folder --images images --masks masks --output out", "segmentation/own/train.txt"),
        ("prepare folder --images images --masks masks --output out", "own.sha256"),
    ],
)
def test_overwrite_replaces_no_file_of_others(
    command: str, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dicom(tmp_path / "clip.dcm", np.stack(frames()[:1]), FrameTime="40")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8), 255).save(tmp_path / folder / "1.png")
    mine = tmp_path / "out" / there
    mine.parent.mkdir(parents=True)
    mine.write_text('{"form": "mine"}')
    assert main([*command.split(), "--overwrite"]) == 2
    assert f"{there} is there already, and " in capsys.readouterr().err
    assert tree(tmp_path / "out") == [there] and mine.read_text() == '{"form": "mine"}'


def test_a_picture_names_the_command_that_drew_it(tmp_path: Path) -> None:
    names = ("activations.png", "filters.png", "missing.png")
    (tmp_path / names[0]).write_bytes(png_bytes(Figure(), "inspect"))
    (tmp_path / names[1]).write_bytes(png_bytes(Figure()))
    assert drawn(tmp_path, names, "inspect") == [names[0]] and drawn(tmp_path, names, "bench") == []


def test_a_recording_replaces_what_its_report_names(tmp_path: Path) -> None:
    clip = open_source(write_dicom(tmp_path / "clip.dcm", np.stack(frames()[:2]), FrameTime="40"))
    record(clip, Stream(folded()), tmp_path / "out")
    (tmp_path / "out/labels.csv").write_text("mine")
    with pytest.raises(InputError, match=r"labels\.csv is there already, and no earlier run of this command wrote it"):
        record(clip, Stream(folded()), tmp_path / "out")
    assert (tmp_path / "out/labels.csv").read_text() == "mine"


@pytest.mark.usefixtures("one_thread")
def test_a_recording_leaves_nothing_of_another_clip(tmp_path: Path) -> None:
    """A segmentation and masks of a longer clip go; a file of the user beside them stays."""
    long, short = (write_dicom(tmp_path / f"{n}.dcm", np.stack(frames()[:n]), FrameTime="40") for n in (5, 2))
    out = tmp_path / "out"
    report = record(open_source(long), Stream(folded()), out)
    report["files"].append("segmentation.dcm")
    (out / "report.json").write_text(json.dumps(report))
    (out / "segmentation.dcm").touch()
    (out / "masks/notes.txt").touch()
    assert len(list((out / "masks").glob("*.png"))) == 5
    record(open_source(short), Stream(folded()), out)
    assert tree(out) == [
        "latency.png", "masks/00001.png", "masks/00002.png", "masks/notes.txt", "overlay.mp4", "report.json",
    ]  # fmt: skip


def test_phantoms_are_replaced_as_a_whole(tmp_path: Path) -> None:
    """Fewer images after more leave none of the others, and another data set stays."""
    command = ["phantom", "--size", "16", "--output", str(tmp_path)]
    assert main([*command, "--count", "4"]) == 0
    mine = tmp_path / "all/images/mine.png"
    mine.touch()
    assert main([*command, "--count", "1"]) == 2
    assert main([*command, "--count", "1", "--overwrite"]) == 0
    assert len(list((tmp_path / "all/images").iterdir())) == 2 and mine.exists()
    assert len((tmp_path / "PHANTOM.sha256").read_text().splitlines()) == len(tree(tmp_path)) - 3


def test_of_phantoms_what_the_checksums_name_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["phantom", "--kind", "cystic", "--size", "16", "--output", str(tmp_path)]
    clip = tmp_path / "phantom_cystic_00000"
    (clip / "masks").mkdir(parents=True)
    (clip / "masks/00002.png").write_text("mine")
    assert main([*command, "--clip", "3"]) == 2
    assert "masks/00002.png is there already, and no earlier run of this command wrote it" in capsys.readouterr().err
    assert tree(tmp_path) == ["phantom_cystic_00000/masks/00002.png"]
    (clip / "masks/00002.png").rename(clip / "masks/00001_expert.png")
    assert main([*command, "--clip", "3"]) == 0
    assert main([*command, "--clip", "2", "--overwrite"]) == 0
    assert sorted(path.name for path in (clip / "masks").iterdir()) == ["00001.png", "00001_expert.png", "00002.png"]
    assert (clip / "masks/00001_expert.png").read_text() == "mine"
    listed = [line.split()[1] for line in (tmp_path / outputs.PHANTOM_CLIPS).read_text().splitlines()]
    assert listed == [f"phantom_cystic_00000/{name}" for name in ("clip.mp4", "masks/00001.png", "masks/00002.png")]


@pytest.mark.parametrize("there", ["report.md", "results.json", "confusion.png", "settings.yaml", "BUSI/report.md"])
def test_an_evaluation_replaces_no_file_of_others(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it may replace results, and before the work."""
    root, mine = make_layout(tmp_path / "data"), tmp_path / "out" / there
    make_layout(root, "TN3K")
    mine.parent.mkdir(parents=True)
    mine.write_text('{"cases": []}')
    command = ["evaluate", "phantom", str(root), "--dataset", "BUSI", "TN3K", "--output", str(tmp_path / "out")]
    assert main([*command, "--overwrite"]) == 2
    assert f"{there} is there already, and " in capsys.readouterr().err
    assert tree(tmp_path / "out") == [there] and mine.read_text() == '{"cases": []}'


@pytest.mark.parametrize("there", ["best.safetensors", "log.csv", "settings.yaml"])
def test_a_training_replaces_no_file_of_others(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on with its own, and refuses a checkpoint that was put there, or the settings of an evaluation."""
    root, out = make_layout(tmp_path / "data"), tmp_path / "out"
    out.mkdir()
    (out / there).write_text("mine")
    command = ["train", "--task", "segmentation", str(root), "--dataset", "BUSI", "--output", str(out)]
    command += ["--from", "phantom", "--method", "heads", "--epochs", "1"]
    assert main(command) == 2
    assert f"{there} is there already" in capsys.readouterr().err
    assert tree(out) == [there] and (out / there).read_text() == "mine"
    (out / there).unlink()
    assert main(command) == 0 and main(command) == 0
    before = (out / "best.safetensors").read_bytes()
    (out / "last.pt").unlink()
    assert main(command) == 2, "a new training would replace the best weights of the earlier one"
    assert (out / "best.safetensors").read_bytes() == before


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_leaves_nothing_of_another(tmp_path: Path) -> None:
    """Neither a folder of another data set nor a picture; what is not of an evaluation stays, in its folders too."""
    root, out = make_layout(tmp_path / "data"), tmp_path / "out"
    for name in ("TN3K", "DDTI"):
        make_layout(root, name)
    command = ["evaluate", "phantom", str(root), "--output", str(out), "--overwrite", "--dataset"]
    assert main([*command, "BUSI", "TN3K", "DDTI"]) == 0
    files = json.loads((out / "results.json").read_text())["files"]
    assert sorted([*files, "settings.yaml"]) == tree(out) and "TN3K/overlays.png" in files
    for mine in (out / "TN3K/notes.txt", out / "notes.txt", out / "roc.png", out / "DDTI/roc.png"):
        mine.write_text("mine")
    assert main([*command, "BUSI"]) == 2, "roc.png is of nobody"
    (out / "roc.png").unlink()
    (out / "DDTI/roc.png").unlink()
    assert main([*command, "BUSI"]) == 0
    assert not (out / "DDTI").exists()
    files = json.loads((out / "results.json").read_text())["files"]
    assert tree(out) == sorted([*files, "TN3K/notes.txt", "notes.txt", "settings.yaml"])


def test_results_of_an_older_version_are_replaced_too(tmp_path: Path) -> None:
    """They do not say which files they consist of; and no report leads out of its folder."""
    for name in ("report.md", "BUSI/report.md", "BUSI/mine.md", "CAMUS/report.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    results = {"title": "", "datasets": {"BUSI": {}, "DDTI": {}, "..": {}, "a/b": {}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert {str(file) for file in earlier_files(tmp_path)} == set(outputs.evaluations(["BUSI", "DDTI"]))
    files = ["report.md", "BUSI/roc.png", "BUSI/mine.md", "../report.md", "/report.md", "a/b/report.md", 7]
    (tmp_path / "results.json").write_text(json.dumps(results | {"files": files}))
    assert earlier_files(tmp_path) == [Path("report.md"), Path("BUSI/roc.png")]
    for text in ('{"cases": []}', "[]", "{", '{"title": ""}'):
        (tmp_path / "results.json").write_text(text)
        assert earlier_files(tmp_path) == []


def test_a_table_over_folds_replaces_only_such_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fold in ("0", "1"):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "results.json").write_text('{"title": "", "summary": {"dice": 0.5}}')
    out = tmp_path / "out"
    command = ["evaluate", "--folds", str(tmp_path / "0"), str(tmp_path / "1"), "--output", str(out), "--overwrite"]
    assert main(command) == 0 and main(command) == 0
    (out / "folds.csv").write_text("mine")
    assert main(command) == 2
    assert "and no earlier run of this command wrote it" in capsys.readouterr().err
    assert (out / "folds.csv").read_text() == "mine"
