"""The exported graph in ONNX Runtime against the folded model, the gate that compares them, and the manifest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import ht_kernels as ht
from helpers.exports import balanced, corrupt, error, folded_model, run, some_frames
from helpers.small_models import small_model
from helpers.small_towers import IMAGE, MORE_TOWERS, TOWERS
from ht_kernels import fold
from ht_kernels.deploy import check_onnx, check_session, export_onnx, onnx_graph, read_manifest
from ht_kernels.deploy.gate import THRESHOLDS
from ht_kernels.deploy.manifest import sha256, write_manifest
from ht_kernels.errors import InputError
from ht_kernels.published import VARIANTS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tower", TOWERS)
def test_equals_torch(tower: str, variant: str, task: str, tmp_path: Path) -> None:
    folded = folded_model(tower, task, variant)
    path = tmp_path / "model.onnx"
    for channels in (1, 3):
        export_onnx(folded, path, batch=(1, 2, 4), channels=channels)
        for batch in (1, 3):
            frames = some_frames(folded, batch, channels)
            assert error(run(path, frames), folded(frames)) < 1e-4


@pytest.mark.parametrize("tower", MORE_TOWERS)
def test_equals_torch_on_other_towers(tower: str, tmp_path: Path) -> None:
    folded = folded_model(tower)
    export_onnx(folded, tmp_path / "model.onnx", batch=2)
    frames = some_frames(folded, 2)
    assert error(run(tmp_path / "model.onnx", frames), folded(frames)) < 1e-4


def test_blocks_without_adapter_and_unread_levels(tmp_path: Path) -> None:
    folded = fold(small_model("open_clip", adapter_layers=[1, 3], feature_layers=(0, 2)).float())
    export_onnx(folded, tmp_path / "model.onnx")
    frames = some_frames(folded, 1)
    assert error(run(tmp_path / "model.onnx", frames), folded(frames)) < 1e-4


def test_a_model_in_float64(tmp_path: Path) -> None:
    folded = fold(small_model("timm"))
    export_onnx(folded, tmp_path / "model.onnx")
    frames = some_frames(folded, 1)
    assert error(run(tmp_path / "model.onnx", frames), folded(frames).float()) < 1e-4


def test_an_image_size_that_patches_do_not_divide() -> None:
    from ht_kernels.deploy.onnx_model import _factor

    for cells, pixels in [(14, 224), (27, 384), (3, 50), (37, 520), (7, 113)]:
        assert int(np.float32(_factor(cells, pixels)) * np.float32(cells)) == pixels


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_mask(classes: int, tmp_path: Path) -> None:
    folded, frames = balanced(classes)
    for precision in ("fp32", "fp16"):
        export_onnx(folded, tmp_path / "model.onnx", output="mask", batch=2, precision=precision)
        report = check_onnx(folded, tmp_path / "model.onnx", frames)
        assert report.passed and report.classes == (0, 1) and report.relative_error is not None
    export_onnx(folded, tmp_path / "model.onnx", output="mask", batch=2)
    mask = run(tmp_path / "model.onnx", frames)
    assert mask.dtype == torch.uint8 and mask.shape == (2, IMAGE, IMAGE)
    assert (mask == folded.classes(folded(frames))).float().mean() > 0.999


@pytest.mark.parametrize("classes", [1, 3])
def test_logits_on_the_grid(classes: int, tmp_path: Path) -> None:
    folded, frames = balanced(classes)
    path = tmp_path / "model.onnx"
    manifest = export_onnx(folded, path, output="grid", batch=2)
    assert manifest.outputs == [("grid", (2, classes, *folded.grid), "float32")]
    assert read_manifest(tmp_path / "model.json") == manifest
    torch.testing.assert_close(run(path, frames), folded(frames, output_size=folded.grid), rtol=1e-4, atol=1e-4)
    assert not any(node.op_type == "Resize" for node in onnx.load(path).graph.node)
    report = check_onnx(folded, path, frames)
    assert report.passed and report.classes == (0, 1) and report.dice_mean is not None and report.dice_mean > 0.999
    corrupt(path, "pyramid.bias", 2.0)
    assert not check_onnx(folded, path, frames).passed
    for shape in ([2, classes, 4], [2, classes + 1, 4, 4], [2, classes, 4, 2**40]):
        values = {**json.loads((tmp_path / "model.json").read_text()), "output_shape": shape}
        (tmp_path / "wrong.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match="output_shape is"):
            read_manifest(tmp_path / "wrong.json")


def wrong_mask(path: Path, how: str) -> None:
    """Make the mask of a file by another rule than its logits ask for."""
    model = onnx.load(path)
    nodes = model.graph.node
    (cast,) = (node for node in nodes if node.output[0] == "mask")
    if how == "zeros":
        nodes.insert(len(nodes) - 1, onnx.helper.make_node("Sub", [cast.input[0]] * 2, ["wrong"]))
    else:
        kind = {"argmax": "ArgMax", "argmin": "ArgMin"}[how]
        nodes.insert(len(nodes) - 1, onnx.helper.make_node(kind, ["logits"], ["wrong"], axis=1, keepdims=0))
    cast.input[0] = "wrong"
    onnx.save(model, path)


@pytest.mark.parametrize(("classes", "how"), [(1, "argmax"), (1, "zeros"), (2, "argmin"), (2, "zeros")])
def test_the_gate_sees_a_wrong_mask(classes: int, how: str, tmp_path: Path) -> None:
    folded, frames = balanced(classes)
    path = tmp_path / "model.onnx"
    manifest = export_onnx(folded, path, output="mask", batch=2)
    wrong_mask(path, how)
    write_manifest(dataclasses.replace(manifest, sha256=sha256(path.read_bytes())), path)
    for report in (check_onnx(folded, path, frames), check_session(folded, path, frames)):
        assert not report.passed and report.agreement_mean < 0.6 and report.dice_mean < 0.6
    assert check_onnx(folded, path, frames).relative_error < 1e-4


def test_the_gate_compares_every_output(tmp_path: Path) -> None:
    """A file with logits and a mask fails if either is wrong."""
    folded, frames = balanced(2)
    path = tmp_path / "model.onnx"

    def both() -> None:
        export_onnx(folded, path, output="mask", batch=2)
        model = onnx.load(path)
        logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [2, 2, IMAGE, IMAGE])
        model.graph.output.insert(0, logits)
        onnx.save(model, path)

    both()
    assert check_onnx(folded, path, frames).passed
    wrong_mask(path, "zeros")
    assert not check_onnx(folded, path, frames).passed
    both()
    corrupt(path, "pyramid.bias", 3)
    model = onnx.load(path)
    (argmax,) = (node for node in model.graph.node if node.op_type == "ArgMax")
    right = onnx.numpy_helper.from_array(folded(frames).numpy(), "right")
    model.graph.initializer.append(right)
    argmax.input[0] = "right"
    onnx.save(model, path)
    report = check_onnx(folded, path, frames)
    assert not report.passed and report.agreement_mean < 0.99
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (mask,) = session.run(["mask"], {"frames": frames.numpy()})
    assert np.array_equal(mask, folded.classes(folded(frames)).numpy())


@pytest.mark.parametrize("change", ["name", "shape"])
def test_the_gate_refuses_outputs_that_are_not_the_models(change: str, tmp_path: Path) -> None:
    folded, frames = balanced(2)
    export_onnx(folded, tmp_path / "model.onnx", batch=2)
    model = onnx.load(tmp_path / "model.onnx")
    if change == "name":
        model.graph.node.append(onnx.helper.make_node("Neg", ["logits"], ["result"]))
        model.graph.output[0].name = "result"
    else:
        model.graph.node.append(onnx.helper.make_node("ReduceMax", ["logits"], ["mask"], keepdims=1))
        model.graph.output[0].name = "mask"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"the file gives (result|mask) .*, expected logits \(2, 2, .* or mask \(2, "):
        check_onnx(folded, tmp_path / "model.onnx", frames)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_strongly_typed(precision: str, tmp_path: Path) -> None:
    folded = folded_model()
    export_onnx(folded, tmp_path / "model.onnx", precision=precision, batch=(1, 2, 8))
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "model.onnx"), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    narrow = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    for node in model.graph.node:
        found = types[node.output[0]]
        if node.op_type in ("LayerNormalization", "Softmax", "ReduceMean", "Resize") or node.output[0].endswith(".out"):
            assert found == onnx.TensorProto.FLOAT, node.name
        if node.op_type == "MatMul" and "noise" not in node.name and not node.name.endswith("last"):
            assert found == narrow, node.name
        if "mlp/last" in node.name and node.op_type == "MatMul":
            assert found == narrow
    assert types["logits"] == onnx.TensorProto.FLOAT
    frames = some_frames(folded, 7)
    report = check_onnx(folded, tmp_path / "model.onnx", frames)
    assert report.passed and report.precision == precision and report.frames == 7
    assert 1e-5 < report.relative_error < THRESHOLDS[precision].relative
    assert report.dice_mean is not None and report.diverged is None


def test_only_plain_operators_under_names_that_say_where(tmp_path: Path) -> None:
    folded = folded_model("open_clip")
    export_onnx(folded, tmp_path / "model.onnx", precision="fp16")
    model = onnx.load(tmp_path / "model.onnx")
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", onnx_graph.OPSET)]
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    used = {node.op_type for node in model.graph.node}
    assert {"LayerNormalization", "Gelu", "Softmax", "MatMul", "Conv", "Resize"} <= used and "DFT" not in used
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"blocks.2/attention/softmax", "adapters.2/mix", "adapters.2/depthwise.1"} <= set(names)
    tensors = {output for node in model.graph.node for output in node.output}
    places = [f"{kind}.{i}.out" for i in range(3) for kind in ("blocks", "adapters")]
    assert {"embedding.out", *places} <= tensors
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:  # runtimes are slow on computed kernels, or refuse them
        if node.op_type == "Conv":
            assert node.input[1] in constants
    assert [constants[f"adapters.0/depthwise.{i}.weight"].dims[-1] for i in range(3)] == [3, 5, 7]


def test_quick_gelu_and_an_activation_without_operator(tmp_path: Path) -> None:
    folded = folded_model("openai")
    export_onnx(folded, tmp_path / "model.onnx")
    assert "Sigmoid" in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    folded.blocks[0].activation = torch.nn.Mish()
    with pytest.raises(InputError, match=r"blocks\.0/mlp/activation is a Mish, expected GELU, QuickGELU or SiLU"):
        export_onnx(folded, tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("embedding/patches.weight", "embedding"),
        ("blocks.1/mlp/last.weight", "blocks.1"),
        ("blocks.2/attention/qkv.weight", "blocks.2"),
        ("adapters.0/depthwise.1.weight", "adapters.0"),
        ("adapters.1/up.weight", "adapters.1"),
        ("pyramid.1/hidden.weight", "head"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gate_names_where_it_diverged(precision: str, name: str, place: str, tmp_path: Path) -> None:
    folded = folded_model("open_clip")
    export_onnx(folded, tmp_path / "model.onnx", precision=precision)
    frames = some_frames(folded, 2)
    assert check_onnx(folded, tmp_path / "model.onnx", frames).passed
    corrupt(tmp_path / "model.onnx", name, 1.5)
    report = check_onnx(folded, tmp_path / "model.onnx", frames)
    assert not report.passed and report.diverged == place
    assert report.stream is not None and next(iter(report.stream)) == "embedding"


def test_the_gate_sees_float16_overflow(tmp_path: Path) -> None:
    """ONNX Runtime does not: it keeps float32 between float16 nodes on a CPU."""
    folded = folded_model("timm")
    block, factor = folded.blocks[1], 2.0**16
    block.hidden_weight *= factor
    block.hidden_bias *= factor
    block.last_weight /= factor
    frames = some_frames(folded, 2)
    for precision in ("fp16", "bf16"):
        export_onnx(folded, tmp_path / "model.onnx", precision=precision, batch=2)
        report = check_onnx(folded, tmp_path / "model.onnx", frames)
        if precision == "fp16":
            assert run(tmp_path / "model.onnx", frames).isfinite().all()
            assert not report.passed and report.diverged == "blocks.1" and np.isnan(report.cosine)
        else:
            assert report.passed


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_float16_in_onnx_runtime(task: str, tmp_path: Path) -> None:
    folded = folded_model("open_clip", task)
    export_onnx(folded, tmp_path / "model.onnx", precision="fp16", batch=(1, 2, 4))
    frames = some_frames(folded, 3)
    assert 1e-6 < error(run(tmp_path / "model.onnx", frames), folded(frames)) < 1e-2


def test_the_gate_fails_on_nan_and_for_classification(tmp_path: Path) -> None:
    folded = folded_model("timm", "classification")
    export_onnx(folded, tmp_path / "model.onnx")
    frames = some_frames(folded)
    report = check_onnx(folded, tmp_path / "model.onnx", frames)
    assert report.passed and report.dice_mean is None and report.agreement_mean == 1
    corrupt(tmp_path / "model.onnx", "blocks.1/mlp/hidden.bias", float("nan"))
    report = check_onnx(folded, tmp_path / "model.onnx", frames)
    assert not report.passed and report.diverged == "blocks.1"
    report.write(tmp_path / "model.report.json")
    assert json.loads((tmp_path / "model.report.json").read_text())["passed"] is False


def test_the_gate_refuses_what_is_no_model(tmp_path: Path) -> None:
    folded = folded_model()
    frames = some_frames(folded)
    with pytest.raises(InputError, match="cannot be read"):
        check_onnx(folded, tmp_path / "missing.onnx", frames)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="as an ONNX file"):
        check_onnx(folded, tmp_path / "text.onnx", frames)
    export_onnx(folded, tmp_path / "model.onnx", channels=3)
    with pytest.raises(InputError, match="ONNX Runtime cannot run the export"):
        check_onnx(folded, tmp_path / "model.onnx", frames)


def test_the_manifest(tmp_path: Path) -> None:
    folded = folded_model()
    written = export_onnx(folded, tmp_path / "model.onnx", batch=(1, 4, 8), precision="fp16", output="mask")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.onnx"]
    manifest = read_manifest(tmp_path / "model.json")
    assert manifest == written
    assert manifest.batch == (1, 4, 8) and manifest.precision == "fp16" and manifest.task == "segmentation"
    assert manifest.input_shape == ("batch", 1, IMAGE, IMAGE) and manifest.output_shape == ("batch", IMAGE, IMAGE)
    assert manifest.versions["ht_kernels"] == ht.__version__ and "torch" in manifest.versions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "manifest format 2, and this version reads format 1"),
        ({"batch": [1, 2]}, "batch is"),
        ({"batch": [1, 2, "3"]}, "batch is"),
        ({"num_classes": True}, "num_classes is True"),
        ({"opset": "20"}, "opset is '20'"),
        ({"versions": {"torch": 2}}, "versions is"),
        ({"class_names": [1]}, "class_names is"),
        ({"sha256": "0" * 64}, "is not the file that the manifest"),
        ({"file": "../model.onnx"}, "expected a file in its own folder"),
        (
            {"file": "other.onnx"},
            r"is of other\.onnx, so files were renamed: .* Name them other\.onnx and other\.json again",
        ),
        ({"grid": [65, 4]}, "the patch grid of a segmentation model"),
        ({"task": "classification", "output_shape": [1, 3]}, "grid is"),
        ({"more": 1}, "has the unknown 'more'"),
        ({"precision": ...}, "lacks 'precision'"),
        ({"batch": [1, 2, 2**40]}, "1 to 4096 frames"),
        ({"batch": [3, 2, 1]}, "not falling"),
        ({"task": "x"}, "expected segmentation or classification"),
        ({"num_classes": -1}, "1 or more, or 0"),
        ({"class_names": ["a"]}, "expected 3 names"),
        ({"input_shape": []}, "1 or 3, height, width"),
        ({"input_shape": ["batch", 1, 64, 2**40]}, "1 or 3, height, width"),
        ({"input_type": "float32"}, "expected uint8"),
        ({"output_name": "x"}, "expected logits or mask"),
        ({"output_type": "float16"}, "uint8 of a mask"),
        ({"output_shape": ["batch", 5]}, "output_shape is"),
    ],
)
def test_a_wrong_manifest(change: dict[str, object], message: str, tmp_path: Path) -> None:
    export_onnx(folded_model(), tmp_path / "model.onnx")
    path = tmp_path / "model.json"
    values = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))
    with pytest.raises(InputError, match=message):
        read_manifest(path)


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b"3", b"[" * 100_000, b'{"sha256": 1}'])
def test_a_damaged_manifest(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(InputError, match="manifest"):
        read_manifest(tmp_path / "model.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "missing.json")


def test_a_file_changed_behind_its_manifest(tmp_path: Path) -> None:
    export_onnx(folded_model(), tmp_path / "model.onnx")
    corrupt(tmp_path / "model.onnx", "pyramid.bias", 2.0)
    with pytest.raises(InputError, match="sha256"):
        read_manifest(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision must be one of fp32, fp16, bf16, int8, got 'int4'"),
        ({"output": "probabilities"}, "output must be one of logits, mask"),
        ({"channels": 2}, "channels must be 1"),
        ({"batch": 0}, "batch must be"),
        ({"batch": True}, "batch must be"),
        ({"batch": (4, 2, 8)}, "batch must be"),
        ({"batch": (1, 2)}, "batch must be"),
    ],
)
def test_wrong_arguments(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(folded_model(), tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_wrong_models_and_paths(tmp_path: Path) -> None:
    model = small_model("timm").float()
    with pytest.raises(TypeError, match=r"FoldedHTCLIP, got HTCLIP: pass ht\.fold\(model\)"):
        export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(TypeError, match=r"fold without dtype, precision= rounds it"):
        export_onnx(fold(model, torch.float16), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"must be named NAME\.onnx"):
        export_onnx(fold(model), tmp_path / "model.pt")
    with pytest.raises(InputError, match="No such file or directory"):
        export_onnx(fold(model), tmp_path / "missing" / "model.onnx")
    with pytest.raises(InputError, match="a mask goes with segmentation"):
        export_onnx(folded_model("timm", "classification"), tmp_path / "model.onnx", output="mask")
    large = fold(model)
    large.blocks[1].out_weight[0, 0] = 1e6
    with pytest.raises(InputError, match=r"blocks\.1/attention/out\.weight has values beyond float16"):
        export_onnx(large, tmp_path / "model.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_a_model_that_protobuf_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ht_kernels.deploy.onnx._LARGEST", 10_000)
    with pytest.raises(InputError, match="GB in fp32, and an ONNX file holds 2"):
        export_onnx(folded_model(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(folded_model(variant="baseline"), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match=r"model\.onnx cannot be written: No space left on device"):
        export_onnx(folded_model(), path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_no_export_wrote_is_not_replaced(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.json"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(InputError, match=rf"{name} is there already"):
            export_onnx(folded_model(), tmp_path / "model.onnx")
        (tmp_path / name).unlink()


def test_thresholds_may_be_given(tmp_path: Path) -> None:
    folded = folded_model()
    export_onnx(folded, tmp_path / "model.onnx")
    strict = dataclasses.replace(THRESHOLDS["fp32"], relative=0.0)
    report = check_onnx(folded, tmp_path / "model.onnx", some_frames(folded), strict)
    assert len(report.failures) == 1 and report.failures[0].startswith("relative error is")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("variant", "spectral", "inputs"),
    [
        ("hybrid", None, 15),
        ("baseline", None, 11),
        ("hybrid", "full", 16),
        ("hybrid", "radial", 16),
        ("freq_enhanced", "shared", 12),
    ],
)
def test_adapters_as_plugin_nodes(
    precision: str, variant: str, spectral: str | None, inputs: int, tmp_path: Path
) -> None:
    folded = fold(small_model("timm", variant=variant, spectral=spectral).float())
    manifest = export_onnx(folded, tmp_path / "model.onnx", precision=precision, plugin=True)
    assert manifest.plugin and read_manifest(tmp_path / "model.json") == manifest
    model = onnx.load(tmp_path / "model.onnx")
    assert {opset.domain for opset in model.opset_import} == {"", "ht_kernels"}
    nodes = [node for node in model.graph.node if node.domain == "ht_kernels"]
    assert len(nodes) == len(folded.adapters) and not any("depthwise" in node.name for node in model.graph.node)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, adapter in zip(nodes, folded.adapters.values(), strict=True):
        assert node.op_type == "adapter_inference"
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert (given["grid_height"], given["grid_width"], given["prefix_tokens"]) == (*folded.grid, 1)
        assert (given["plugin_namespace"], given["plugin_version"]) == (b"ht_kernels", b"1")
        weights = [w for w in adapter.values() if w is not None]
        assert len(node.input) == 1 + len(weights) == inputs
        end = len(weights) - (spectral is not None)
        narrow = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT
        for place, (name, weight) in enumerate(zip(node.input[1:], weights, strict=True), 1):
            matrix = place in (1, end - 3, end - 1)  # as adapter_plugin.cpp counts
            assert constants[name].data_type == (narrow if matrix else onnx.TensorProto.FLOAT), name
            assert tuple(constants[name].dims) == tuple(weight.shape)
    with pytest.raises(InputError, match="ONNX Runtime cannot run the export"):
        check_onnx(folded, tmp_path / "model.onnx", some_frames(folded, 1))


def test_the_plugin_takes_spectral_filters_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = fold(small_model("timm", spectral="radial").float())
    monkeypatch.setattr("ht_kernels.deploy.onnx_model.MAX_SIDE", folded.grid[0] - 1)
    with pytest.raises(InputError, match=r"adapters\.0 has a spectral filter on .*: export without the plugin"):
        export_onnx(folded, tmp_path / "model.onnx", plugin=True)
    assert not list(tmp_path.iterdir())
