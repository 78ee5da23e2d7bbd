"""The folded model as an ONNX graph, built operator by operator from the folded weights, without tracing.

Matrix products and the patch embedding are in the precision asked for (with bfloat16, the patch embedding is in
float32). The residual stream, LayerNorm, softmax, the noise estimator, the depthwise convolutions, the last product
before the logits and the distances are always in float32, because some channels of CLIP's residual stream are so large
that 16 bits cannot hold them together with the others.

The tensors of the residual stream are named ``embedding.out``, ``blocks.{i}.out`` and ``adapters.{i}.out``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

import ht_kernels
from ht_kernels.backends.cuda import MAX_SIDE
from ht_kernels.errors import InputError
from ht_kernels.folding import MATRICES, FoldedLevel, fourier_matrices
from ht_kernels.nn import Familiarity

from .folded import FoldedHTCLIP
from .manifest import DISTANCE
from .onnx_graph import FLOAT, PLUGIN_DOMAIN, Graph

_NARROW = {"fp32": FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_PIXEL_SCALE = 256.0
"""Pixels are divided by this power of two, and patch weights are multiplied by it. This is exact, and it keeps the
folded weights out of float16's subnormal range."""


def build(
    folded: FoldedHTCLIP, precision: str, batches: tuple[int, int, int], output: str, channels: int, plugin: bool
) -> ModelProto:
    """Build the ONNX model for :func:`ht_kernels.deploy.onnx.export_onnx`.

    The arguments are those of that function; ``batches`` is (smallest, usual, largest).

    Raises:
        InputError: an activation is not known to the export, a weight is too large for the precision, or the plugin
            does not support the grid.
    """
    g = Graph(_NARROW[precision])
    g.types["frames"] = TensorProto.UINT8
    x = _embed(g, folded, channels)
    levels: list[str] = []
    means: list[str] = []
    for i, block in enumerate(folded.blocks):
        x = _block(g, f"blocks.{i}", block, x)
        if str(i) in folded.adapters:
            adapt = _plugin_adapter if plugin else _adapter
            x = adapt(g, f"adapters.{i}", folded.adapters[str(i)], x, folded.grid, folded.prefix_tokens)
        if i in folded.config.feature_layers:
            scope = f"pyramid.{len(levels)}"
            level = folded.levels[len(levels)].values()  # type: ignore[operator]
            patches = _patches(g, scope, x, folded)
            levels.append(_level(g, scope, level, patches, pool=folded.classifier is not None))
            if folded.familiarity is not None:
                means.append(g.add("ReduceMean", f"{scope}/mean", patches, g.integers((1,)), keepdims=0))
    size: tuple[int, ...] = ()
    if folded.pooled is not None:
        _pool(g, x, folded)
    else:
        scores = _sum_levels(g, levels, folded.pyramid_bias)
        if folded.classifier is None:
            size = folded.grid if output == "grid" else folded.image_size
            image = _on_grid(g, scores, folded, "grid" if output == "grid" else None)
            if output != "grid":
                _upsample(g, image, folded)
        else:
            _classify(g, scores, folded.classifier)
    if output == "mask":
        _mask(g, folded.config.num_classes)
    if folded.familiarity is not None:
        _distance(g, means, folded.familiarity)

    count = batches[0] if batches[0] == batches[2] else "batch"
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, [count, channels, *folded.image_size])
    shapes = {output: [count, *size] if output == "mask" else [count, folded.width, *size]}
    if folded.familiarity is not None:
        shapes[DISTANCE] = [count]
    outputs = [helper.make_tensor_value_info(name, g.types[name], shape) for name, shape in shapes.items()]
    return g.model([frames], outputs, ht_kernels.__version__)


def _embed(g: Graph, folded: FoldedHTCLIP, channels: int) -> str:
    """Patch embedding, prefix tokens, position embedding and pre-norm."""
    weight = folded.gray_patch_weight if channels == 1 else folded.patch_weight
    scale = g.constant("embedding/pixels.scale", torch.tensor(1 / _PIXEL_SCALE))
    pixels = g.add("Mul", "embedding/pixels", g.cast("frames", FLOAT), scale)
    product = FLOAT if g.narrow == TensorProto.BFLOAT16 else g.narrow  # Conv takes bfloat16 only from opset 22 on
    kernel = g.constant("embedding/patches.weight", weight * _PIXEL_SCALE, product)
    strides = list(weight.shape[-2:])
    patches = g.add("Conv", "embedding/patches", g.cast(pixels, product), kernel, strides=strides)
    rows = g.reshape("embedding/flatten", g.cast(patches, FLOAT), weight.shape[0], folded.grid[0] * folded.grid[1])
    x = g.add("Transpose", "embedding/tokens", rows, perm=[0, 2, 1])
    if folded.prefix_tokens:  # with zeros: folded.position contains the prefix tokens
        x = g.add("Pad", "embedding/prefix", x, g.integers((0, folded.prefix_tokens, 0, 0, 0, 0)))
    normed = folded.pre_norm is not None
    position = g.constant("embedding.position", folded.position)
    x = g.add("Add", "embedding/position", x, position, output=None if normed else "embedding.out")
    if folded.pre_norm is None:
        return x
    norm = folded.pre_norm
    x = g.normalize("embedding/norm", x, norm.weight.shape[0], norm.eps, norm.weight)
    return g.add("Add", "embedding/norm/bias", x, g.constant("embedding.norm_bias", norm.bias), output="embedding.out")


def _block(g: Graph, scope: str, block: Any, x: str) -> str:
    dim = block.qkv_weight.shape[1]
    inner = block.out_weight.shape[1]
    attended = _attention(g, f"{scope}/attention", block, g.normalize(f"{scope}/norm1", x, dim, block.eps[0]), inner)
    change = g.linear(f"{scope}/attention/out", attended, block.out_weight, block.out_bias)
    x = g.add("Add", f"{scope}/attention/residual", x, change)
    normed = g.normalize(f"{scope}/norm2", x, dim, block.eps[1])
    hidden = g.linear(f"{scope}/mlp/hidden", normed, block.hidden_weight, block.hidden_bias, result=g.narrow)
    if block.gated:
        width = block.last_weight.shape[1]
        gate, value = g.split(f"{scope}/mlp/split", hidden, [width] * 2, axis=2)
        gate = _activation(g, f"{scope}/mlp/activation", block.activation, gate)
        hidden = g.add("Mul", f"{scope}/mlp/gated", gate, value)
    else:
        hidden = _activation(g, f"{scope}/mlp/activation", block.activation, hidden)
    change = g.linear(f"{scope}/mlp/last", hidden, block.last_weight, block.last_bias, result=FLOAT)
    return g.add("Add", f"{scope}/mlp/residual", x, change, output=f"{scope}.out")


def _attention(g: Graph, scope: str, block: Any, x: str, inner: int) -> str:
    """Attention as MatMul, Softmax and MatMul.

    The scale of the scores is folded into the weights of the queries, or, if these are normalised, of their norm.
    """
    tokens_shape = (block.heads, inner // block.heads)
    scale = tokens_shape[1] ** -0.5
    weight, bias = block.qkv_weight, block.qkv_bias
    if block.query_norm is None:
        weight = torch.cat([weight[:inner] * scale, weight[inner:]])
        bias = torch.cat([bias[:inner] * scale, bias[inner:]])
    qkv = g.linear(f"{scope}/qkv", x, weight, bias, result=g.narrow)
    parts = g.split(f"{scope}/split", qkv, [inner] * 3, axis=2)
    q, k, v = (
        g.reshape(f"{scope}/{name}/heads", part, -1, *tokens_shape) for name, part in zip("qkv", parts, strict=True)
    )
    if block.query_norm is not None:
        q = _head_norm(g, f"{scope}/q/norm", block.query_norm, q, scale)
    if block.key_norm is not None:
        k = _head_norm(g, f"{scope}/k/norm", block.key_norm, k, 1.0)
    q, k, v = (
        g.add("Transpose", f"{scope}/{name}", part, perm=order)
        for name, part, order in zip("qkv", (q, k, v), ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scores = g.add("MatMul", f"{scope}/scores", q, k)
    weights = g.add("Softmax", f"{scope}/softmax", g.cast(scores, FLOAT), axis=-1)
    mixed = g.add("MatMul", f"{scope}/mixed", g.cast(weights, g.narrow), v)
    mixed = g.add("Transpose", f"{scope}/tokens", mixed, perm=[0, 2, 1, 3])
    return g.reshape(f"{scope}/merged", mixed, -1, inner)


def _head_norm(g: Graph, scope: str, norm: Any, x: str, scale: float) -> str:
    """LayerNorm over the channels of each head, times ``scale``, in float32."""
    normed = g.normalize(scope, x, norm.weight.shape[0], norm.eps, norm.weight * scale)
    bias = g.constant(f"{scope}.bias", norm.bias * scale)
    return g.cast(g.add("Add", f"{scope}/bias", normed, bias), g.narrow)


def _activation(g: Graph, name: str, activation: nn.Module, x: str) -> str:
    """The activation of an MLP: GELU, GELU with tanh, QuickGELU or SiLU. Comparing values tells which one it is."""
    probe = torch.linspace(-6, 6, 97)
    got = activation(probe.clone())
    for approximate in ("none", "tanh"):
        if torch.allclose(got, F.gelu(probe, approximate=approximate), rtol=0, atol=1e-6):
            return g.add("Gelu", name, x, approximate=approximate)
    for slope in (1.0, 1.702):
        if torch.allclose(got, probe * torch.sigmoid(slope * probe), rtol=0, atol=1e-6):
            factor = g.constant(f"sigmoid.slope.{slope}", torch.tensor(slope), g.types[x])
            gate = g.add("Sigmoid", f"{name}/sigmoid", x if slope == 1 else g.add("Mul", f"{name}/slope", x, factor))
            return g.add("Mul", name, x, gate)
    raise InputError(
        f"{name} is a {type(activation).__name__}, expected GELU, QuickGELU or SiLU: it cannot be exported"
    )


def _adapter(g: Graph, scope: str, adapter: Any, x: str, grid: tuple[int, int], prefix_tokens: int) -> str:
    """One adapter with standard operators; :class:`ht_kernels.folding.FoldedAdapter` documents the computation."""
    patches = grid[0] * grid[1]
    channels, dim = adapter.down_weight.shape
    normed = g.normalize(f"{scope}/norm", x, dim, adapter.eps, adapter.norm_gain)
    skipped = g.add("Mul", f"{scope}/skip", x, g.constant(f"{scope}.skip_gain", adapter.skip_gain))
    down_input = g.add("Add", f"{scope}/gains", normed, skipped)
    h = g.linear(f"{scope}/down", down_input, adapter.down_weight, adapter.down_bias)
    prefix: list[str] = []
    if prefix_tokens:
        *prefix, h = g.split(f"{scope}/split", h, (prefix_tokens, patches), axis=1)
    rows = g.add("Transpose", f"{scope}/channels", h, perm=[0, 2, 1])
    image = g.reshape(f"{scope}/image", rows, channels, *grid)
    if adapter.mask is None:
        y = _depthwise(g, scope, adapter, image, h)
    else:
        filtered = _spectral(g, f"{scope}/spectral", adapter.mask, image, grid)
        y = g.add("Add", f"{scope}/spectral/residual", _depthwise(g, scope, adapter, filtered, h), image)
    y = g.add("Transpose", f"{scope}/tokens", g.reshape(f"{scope}/flatten", y, channels, patches), perm=[0, 2, 1])
    m = g.linear(f"{scope}/mix", y, adapter.mix_weight, adapter.mix_bias)
    if prefix:
        m = g.add("Concat", f"{scope}/join", *prefix, m, axis=1)
    m = g.add("Gelu", f"{scope}/gelu", m)
    change = g.linear(f"{scope}/up", m, adapter.up_weight, adapter.up_bias)
    return g.add("Add", f"{scope}/residual", x, change, output=f"{scope}.out")


def _plugin_adapter(g: Graph, scope: str, adapter: Any, x: str, grid: tuple[int, int], prefix_tokens: int) -> str:
    """One adapter as a node for the TensorRT plugin; csrc/tensorrt/adapter_plugin.h documents inputs and attributes."""
    if adapter.mask is not None and max(grid) > MAX_SIDE:
        raise InputError(
            f"{scope} has a spectral filter on a grid of {grid[0]}x{grid[1]}, and the plugin takes up to "
            f"{MAX_SIDE}x{MAX_SIDE}: export without the plugin"
        )
    weights = [
        g.constant(f"{scope}.{name}", weight, g.narrow if name in MATRICES else FLOAT)
        for name, weight in adapter.values()._asdict().items()
        if weight is not None
    ]
    settings: dict[str, Any] = {
        "grid_height": grid[0],
        "grid_width": grid[1],
        "prefix_tokens": prefix_tokens,
        "eps": adapter.eps,
    }
    names: dict[str, Any] = {"plugin_namespace": PLUGIN_DOMAIN, "plugin_version": "1"}
    inputs = g.cast(x, g.narrow), *weights
    out = g.add("adapter_inference", f"{scope}/plugin", *inputs, domain=PLUGIN_DOMAIN, **settings, **names)
    return g.add("Cast", f"{scope}/stream", out, output=f"{scope}.out", to=FLOAT)


def _spectral(g: Graph, scope: str, mask: Tensor, image: str, grid: tuple[int, int]) -> str:
    """The spectral filter in float32, as products with the matrices of :func:`ht_kernels.folding.fourier_matrices`.

    The transform over the height comes first and gives the real and the imaginary part as two tensors. Then each part
    is multiplied by one matrix over the width. The spectrum has, in each row, all real parts before all imaginary
    parts, so a single product gives both.
    """
    height, half = grid[0], grid[1] // 2 + 1
    rows, columns, share = fourier_matrices(*grid)
    real, imaginary = (mask * share[:, None].to(mask)).unbind(-1)
    turned = torch.cat([-rows[half:], rows[:half]])  # multiplies the imaginary part

    def product(name: str, left: str | Tensor, right: str | Tensor) -> str:
        a, b = (
            factor if isinstance(factor, str) else g.constant(f"fourier.{name}", factor.float())
            for factor in (left, right)
        )
        return g.add("MatMul", f"{scope}/{name}", a, b)

    down = product("height", columns[:, :height].contiguous(), image)
    parts = g.split(f"{scope}/parts", down, [height, height], axis=2)
    terms = [
        product(f"width.{name}", part, matrix.t())
        for name, part, matrix in zip(("real", "imaginary"), parts, (rows, turned), strict=True)
    ]
    spectrum = g.add("Add", f"{scope}/spectrum", *terms)
    halves = g.split(f"{scope}/split", spectrum, [half, half], axis=3)
    swapped = g.add("Concat", f"{scope}/swapped", *halves[::-1], axis=3)
    straight = g.constant(f"{scope}.mask.real", torch.cat([real, real], -1))
    crossed = g.constant(f"{scope}.mask.imaginary", torch.cat([-imaginary, imaginary], -1))
    masked = g.add(
        "Add",
        f"{scope}/masked",
        g.add("Mul", f"{scope}/straight", spectrum, straight),
        g.add("Mul", f"{scope}/crossed", swapped, crossed),
    )
    back = [product(f"back.{i}", masked, matrix) for i, matrix in enumerate((rows, turned))]
    stacked = g.add("Concat", f"{scope}/stacked", *back, axis=2)
    return product("filtered", columns[:, :height].t().contiguous(), stacked)


def _depthwise(g: Graph, scope: str, adapter: Any, image: str, h: str) -> str:
    """Convolutions with constant kernels, whose results are weighted per image and summed.

    Convolving once with a kernel computed per image would be less work, but runtimes are slow on it or refuse it.
    """
    scales = []
    for number, (kernel, bias) in enumerate(zip(adapter.scale_kernels, adapter.scale_bias, strict=True)):
        name = f"{scope}/depthwise.{number}"
        kernel = _without_margin(kernel)
        constants = g.constant(f"{name}.weight", kernel[:, None]), g.constant(f"{name}.bias", bias)
        pads = [kernel.shape[-1] // 2] * 4
        scales.append(g.add("Conv", name, image, *constants, group=kernel.shape[0], pads=pads))
    if adapter.hidden_weight is None:
        return scales[0]
    noise = f"{scope}/noise"
    pooled = g.add("ReduceMean", f"{noise}/mean", h, g.integers((1,)), keepdims=0)
    hidden = g.linear(f"{noise}/hidden", pooled, adapter.hidden_weight, adapter.hidden_bias, product=g.types[h])
    hidden = g.add("Relu", f"{noise}/relu", hidden)
    scores = g.linear(f"{noise}/scores", hidden, adapter.score_weight, adapter.score_bias, product=g.types[h])
    weights = g.reshape(f"{noise}/image", g.add("Softmax", f"{noise}/softmax", scores, axis=-1), len(scales), 1, 1)
    shares = g.split(f"{noise}/shares", weights, [1] * len(scales), axis=1)
    weighted = [
        g.add("Mul", f"{scope}/weighted.{number}", scale, share)
        for number, (scale, share) in enumerate(zip(scales, shares, strict=True))
    ]
    return g.add("Sum", f"{scope}/weighted", *weighted)


def _without_margin(kernels: Tensor) -> Tensor:
    """Kernels (C, k, k) without the outer rings that are zero in all of them."""
    while kernels.shape[-1] > 1 and kernels.count_nonzero() == kernels[:, 1:-1, 1:-1].count_nonzero():
        kernels = kernels[:, 1:-1, 1:-1]
    return kernels


def _patches(g: Graph, scope: str, x: str, folded: FoldedHTCLIP) -> str:
    """The patch tokens (B, H*W, D) of all tokens."""
    if not folded.prefix_tokens:
        return x
    return g.split(f"{scope}/split", x, (folded.prefix_tokens, folded.grid[0] * folded.grid[1]), axis=1)[1]


def _level(g: Graph, scope: str, level: FoldedLevel, x: str, pool: bool) -> str:
    """One pyramid level of patch tokens, or of their mean, with the last product in float32.

    :class:`ht_kernels.folding.FoldedLevel` documents the computation.
    """
    reduced = g.linear(f"{scope}/reduce", x, level.reduce_weight, level.reduce_bias)
    normed = g.normalize(f"{scope}/norm", reduced, level.reduce_weight.shape[0], level.eps)
    hidden = g.linear(f"{scope}/hidden", normed, level.hidden_weight, level.hidden_bias)
    hidden = g.add("Gelu", f"{scope}/gelu", hidden)
    if pool:
        hidden = g.add("ReduceMean", f"{scope}/pool", hidden, g.integers((1,)), keepdims=0)
    return g.linear(f"{scope}/last", hidden, level.last_weight, None, product=FLOAT)


def _sum_levels(g: Graph, levels: list[str], bias: Tensor) -> str:
    scores = levels[0]
    for number, level in enumerate(levels[1:], 1):
        scores = g.add("Add", f"pyramid/sum.{number}", scores, level)
    return g.add("Add", "pyramid/bias", scores, g.constant("pyramid.bias", bias))


def _pool(g: Graph, x: str, folded: FoldedHTCLIP) -> None:
    """Turn tokens (B, N, D) into ``embeddings``, in float32, as :class:`ht_kernels.deploy.pooled.Pooled` does."""
    pooled: Any = folded.pooled
    tokens = folded.prefix_tokens + folded.grid[0] * folded.grid[1]
    first, last, _ = pooled.tokens.indices(tokens)
    if last - first < tokens:
        sizes = [n for n in (first, last - first, tokens - last) if n]
        x = g.split("pool/split", x, sizes, axis=1)[1 if first else 0]
    if not pooled.norm_first:
        x = g.add("ReduceMean", "pool/mean", x, g.integers((1,)), keepdims=1)
    normed = g.normalize("pool/norm", x, pooled.weight.shape[1], pooled.eps)
    mean = g.add("ReduceMean", "pool/normed", normed, g.integers((1,)), keepdims=0)
    projected = g.linear("pool/projection", mean, pooled.weight, pooled.bias, product=FLOAT)
    length = g.add("ReduceL2", "pool/length", projected, g.integers((1,)), keepdims=1)
    g.add("Div", "pool/unit", projected, length, output="embeddings")


def _on_grid(g: Graph, scores: str, folded: FoldedHTCLIP, output: str | None) -> str:
    """Turn scores (B, H*W, K) into logits on the grid (B, K, H, W), under the name ``output`` if it is given."""
    rows = g.add("Transpose", "head/channels", scores, perm=[0, 2, 1])
    return g.reshape("head/image", rows, folded.config.num_classes, *folded.grid, output=output)


def _upsample(g: Graph, image: str, folded: FoldedHTCLIP) -> None:
    """Upsample logits on the grid to ``logits``."""
    factors = [1.0, 1.0, *map(_factor, folded.grid, folded.image_size)]
    scales = g.constant("head/upsample.scales", torch.tensor(factors))
    how: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    g.add("Resize", "head/upsample", image, "", scales, output="logits", to=FLOAT, **how)


def _mask(g: Graph, count: int) -> None:
    """Turn ``logits`` (B, K, H, W) into ``mask`` (B, H, W), by the rule of :func:`ht_kernels.classes.classes_of`."""
    if count == 1:
        zero = g.constant("mask.zero", torch.tensor(0.0))
        above = g.add("Greater", "mask/above", "logits", zero, to=TensorProto.BOOL)
        classes = g.add("Squeeze", "mask/squeeze", g.cast(above, FLOAT), g.integers((1,)))
    else:
        classes = g.add("ArgMax", "mask/argmax", "logits", to=TensorProto.INT64, axis=1, keepdims=0)
    # TensorRT casts to uint8 from floating point only.
    g.add("Cast", "mask", g.cast(classes, FLOAT), to=TensorProto.UINT8)


def _distance(g: Graph, means: list[str], familiarity: Familiarity) -> None:
    """Turn the mean patch tokens (B, D) of the feature layers into ``distance`` (B,), in float32.

    :meth:`ht_kernels.nn.Familiarity.forward` is the computation; its root of F is in the factors here.
    """
    known, width = familiarity, len(familiarity.mean)
    features = g.add("Concat", "distance/features", *means, axis=1) if len(means) > 1 else means[0]
    centred = g.add("Sub", "distance/centred", features, g.constant("distance.mean", known.mean))
    scaled = g.add("Mul", "distance/scaled", centred, g.constant("distance.scale", 1 / known.spread))
    directions = g.constant("distance.directions", known.directions)
    along = g.add("Gemm", "distance/along", scaled, directions, transB=1)
    beside = g.add("Sub", "distance/beside", scaled, g.add("MatMul", "distance/back", along, directions))
    parts = [
        g.add("Mul", f"distance/{name}.deviation", part, g.constant(f"distance.{name}", (variance * width).rsqrt()))
        for name, part, variance in (("along", along, known.variances), ("beside", beside, known.remainder))
    ]
    deviations = g.add("Concat", "distance/deviations", *parts, axis=1)
    g.add("ReduceL2", DISTANCE, deviations, g.integers((1,)), keepdims=0)


def _factor(cells: int, pixels: int) -> float:
    """The float32 scale with which Resize turns ``cells`` into exactly ``pixels``.

    Resize rounds the product of scale and input size down. If the ratio in float32 is slightly too small, the result
    would have one pixel too few, so the next larger float32 number is taken.
    """
    factor = torch.tensor(pixels / cells)
    if int(factor * cells) < pixels:
        factor = torch.nextafter(factor, torch.tensor(float("inf")))
    return float(factor)


def _classify(g: Graph, x: str, classifier: nn.Sequential) -> None:
    """Turn mean tokens (B, R) into ``logits``."""
    for number, layer in enumerate(classifier):
        if isinstance(layer, nn.Linear):
            x = g.linear(f"head/linear.{number}", x, layer.weight, layer.bias, product=FLOAT)
        else:
            x = g.add("Relu", f"head/relu.{number}", x)
    g.add("Identity", "head/logits", x, output="logits")
