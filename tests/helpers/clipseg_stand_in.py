"""CLIPSeg in its two structures, small and from their description, with adapters as published code injects them.

Published code takes CLIPSeg's decoder alone, behind OpenAI's tower. transformers has a tower of its own, whose layers
have other names and take a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from helpers.published_stand_in import SequenceFirstAdapter, Wrapper, build
from helpers.small_towers import DEPTH, DIM, HEADS, IMAGE, PATCH, shake

LAYERS = (0, 2)
"""The blocks whose outputs the decoder reads."""


class Decoder(nn.Module):
    """Tokens of several layers, changed by the embedding of a sentence, to a map of one logit for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.reduces = nn.ModuleList(nn.Linear(DIM, 8) for _ in LAYERS)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in LAYERS)
        self.film_mul, self.film_add = nn.Linear(8, 8), nn.Linear(8, 8)
        self.transposed_convolution = nn.ConvTranspose2d(8, 1, PATCH, PATCH)

    def forward(self, found: list[Tensor], text: Tensor) -> Tensor:
        x = torch.zeros(())
        for tokens, reduce, layer in zip(reversed(found), self.reduces, self.layers, strict=True):
            x = layer(reduce(tokens) + x)
            if tokens is found[-1]:
                x = self.film_mul(text)[:, None] * x + self.film_add(text)[:, None]
        return self.transposed_convolution(x[:, 1:].transpose(1, 2).unflatten(2, (IMAGE // PATCH, -1)))


class PublishedCLIPSeg(nn.Module):
    """The decoder behind OpenAI's tower; both logits of a pixel come from one."""

    def __init__(self) -> None:
        super().__init__()
        self.clip_model = build("openai")
        self.decoder = shake(Decoder())

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        visual, found = self.clip_model.visual, []
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
        x = visual.ln_pre(x).transpose(0, 1)
        for i, block in enumerate(visual.transformer.resblocks):
            x = block(x)
            if i in LAYERS:
                found.append(x.transpose(0, 1))
        logits = self.decoder(found, text)
        return torch.cat([-logits, logits], 1)


class Layer(nn.Module):
    """A layer of transformers' tower. Older releases return a tuple."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        self.as_tuple = as_tuple

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor | tuple[Tensor]:
        y = self.layer_norm1(hidden_states)
        x = hidden_states + self.self_attn(y, y, y, attn_mask=attention_mask, need_weights=False)[0]
        x = x + self.mlp(self.layer_norm2(x))
        return (x,) if self.as_tuple else x


class TransformersTower(nn.Module):
    """transformers' vision tower of CLIP and CLIPSeg, with an adapter behind every layer."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, DIM, PATCH, PATCH, bias=False)
        self.embeddings.class_embedding = nn.Parameter(torch.randn(DIM))
        self.embeddings.position_embedding = nn.Embedding((IMAGE // PATCH) ** 2 + 1, DIM)
        self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(as_tuple) for _ in range(DEPTH))
        for layer in self.encoder.layers:
            layer.mona = Wrapper(SequenceFirstAdapter(DIM, 8))
            layer.forward = _replaced(layer, layer.forward)
        shake(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.embeddings.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self.pre_layrnorm(x + self.embeddings.position_embedding.weight)
        for layer in self.encoder.layers:
            output = layer(x, None)
            x = output[0] if isinstance(output, tuple) else output
        return self.post_layernorm(x)


def _replaced(layer, forward):  # type: ignore[no-untyped-def]
    def with_adapter(*args: Tensor | None, **options: Tensor) -> Tensor | tuple[Tensor]:
        output = forward(*args, **options)
        if isinstance(output, tuple):
            return (layer.mona(output[0], (4, 4)), *output[1:])
        return layer.mona(output, (4, 4))

    return with_adapter
