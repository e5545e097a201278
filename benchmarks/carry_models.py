"""Models written twice, with the mapping of their weights as a person knows it: GPT-2, BERT, ViT, ResNet, LSTM and others, small.

Each jax side is written as its library would have it, under its own names, and not after torch's: kernels with heads as an axis, gates apart,
one bias where torch has two, qkv fused or split. `truth` is in the language of param_map.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import torch
from flax import linen, nnx
from torch import nn

import pytest_dlparity as dlp

WIDTH, HEADS, BLOCKS, VOCABULARY, LENGTH = 16, 2, 3, 23, 7
IN = "o i -> i o"
CONV = "o i h w -> h w i o"
F = torch.nn.functional


class Pair(NamedTuple):
    name: str
    torch: Callable[[], nn.Module]
    jax: Callable[[], Any]
    inputs: list[Any]
    truth: dict[str, Any]  # as a param_map; what names tell need not stand in it


def linear(torch_name: str, path: str) -> dict[str, Any]:
    return {f"{torch_name}.weight": (f"{path}.kernel", IN), f"{torch_name}.bias": f"{path}.bias"}


def same(torch_name: str, path: str) -> dict[str, Any]:
    """equinox keeps torch's names and layouts."""
    return {f"{torch_name}.weight": f"{path}.weight", f"{torch_name}.bias": f"{path}.bias"}


def norm(torch_name: str, path: str) -> dict[str, Any]:
    return {f"{torch_name}.weight": f"{path}.scale", f"{torch_name}.bias": f"{path}.bias"}


def statistics(torch_name: str, path: str) -> dict[str, Any]:
    return {f"{torch_name}.running_mean": f"{path}.mean", f"{torch_name}.running_var": f"{path}.var"}


# ---------------------------------------------------------------- GPT-2: pre-norm, fused qkv as [in, 3 out], tied head


class Conv1D(nn.Module):
    """The linear layer of GPT-2, whose weight is (in, out)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(n_in, n_out) * 0.2), nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return x @ self.weight + self.bias


class TorchGPTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.ModuleDict({"c_attn": Conv1D(WIDTH, 3 * WIDTH), "c_proj": Conv1D(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"c_fc": Conv1D(WIDTH, 4 * WIDTH), "c_proj": Conv1D(4 * WIDTH, WIDTH)})

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.attn["c_attn"](self.ln_1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](mixed.transpose(1, 2).flatten(2))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh"))


class TorchGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.h = nn.ModuleList(TorchGPTBlock() for _ in range(BLOCKS))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def attended(q, k, v, mask=None):
    """q, k, v: (batch, length, heads, features)."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1]).astype(q.dtype)
    scores = scores if mask is None else jnp.where(mask, scores, -1e30)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)


def causal(length: int):
    return jnp.tril(jnp.ones((length, length), bool))


class NnxGPTBlock(nnx.Module):
    """q, k and v apart, with the heads as an axis."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm_attention, self.norm_mlp = (nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm_attention(x), mask=causal(x.shape[1]))
        return x + self.down(jax.nn.gelu(self.up(self.norm_mlp(x))))


class NnxGPT(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.tokens, self.places = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs), nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.layers = nnx.List([NnxGPTBlock(rngs) for _ in range(BLOCKS)])
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.places(jnp.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.tokens.attend(self.norm(x))


def fused_heads(attention: str, path: str) -> dict[str, Any]:
    """GPT-2's fused layer in three with the heads as an axis."""
    parts = list(enumerate(("query", "key", "value")))
    return {
        f"{attention}.c_attn.weight": [(f"{path}.{name}.kernel", f"i ({k}/3 h d) -> i h d") for k, name in parts],
        f"{attention}.c_attn.bias": [(f"{path}.{name}.bias", f"({k}/3 h d) -> h d") for k, name in parts],
        f"{attention}.c_proj.weight": (f"{path}.out.kernel", "(h d) o -> h d o"),
        f"{attention}.c_proj.bias": f"{path}.out.bias",
    }


def plain(torch_name: str, path: str) -> dict[str, Any]:
    return {f"{torch_name}.weight": (f"{path}.kernel", "i o -> i o"), f"{torch_name}.bias": f"{path}.bias"}


GPT_NNX = {
    "wte.weight": "tokens.embedding", "wpe.weight": "places.embedding", **norm("ln_f", "norm"),
    **norm("h.*.ln_1", "layers.*.norm_attention"), **norm("h.*.ln_2", "layers.*.norm_mlp"),
    **fused_heads("h.*.attn", "layers.*.attention"), **plain("h.*.mlp.c_fc", "layers.*.up"), **plain("h.*.mlp.c_proj", "layers.*.down"),
}  # fmt: skip


class LinenGPTBlock(linen.Module):
    """qkv fused, as torch has it; the blocks are counted by linen."""

    @linen.compact
    def __call__(self, x):
        fused = linen.Dense(3 * WIDTH, name="qkv")(linen.LayerNorm(epsilon=1e-5, name="before_attention")(x))
        q, k, v = (part.reshape(*x.shape[:2], HEADS, -1) for part in jnp.split(fused, 3, -1))
        x = x + linen.Dense(WIDTH, name="mix")(attended(q, k, v, causal(x.shape[1])).reshape(x.shape))
        h = linen.Dense(4 * WIDTH, name="wide")(linen.LayerNorm(epsilon=1e-5, name="before_mlp")(x))
        return x + linen.Dense(WIDTH, name="narrow")(jax.nn.gelu(h))


class LinenGPT(linen.Module):
    """An untied head: jax has an array more than torch."""

    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(VOCABULARY, WIDTH)(tokens) + linen.Embed(LENGTH, WIDTH)(jnp.arange(tokens.shape[1]))
        for _ in range(BLOCKS):
            x = LinenGPTBlock()(x)
        return linen.Dense(VOCABULARY, use_bias=False)(linen.LayerNorm(epsilon=1e-5)(x))


GPT_LINEN = {
    "wte.weight": ["Embed_0.embedding", ("Dense_0.kernel", "v d -> d v")], "wpe.weight": "Embed_1.embedding", **norm("ln_f", "LayerNorm_0"),
    **norm("h.*.ln_1", "LinenGPTBlock_*.before_attention"), **norm("h.*.ln_2", "LinenGPTBlock_*.before_mlp"),
    **plain("h.*.attn.c_attn", "LinenGPTBlock_*.qkv"), **plain("h.*.attn.c_proj", "LinenGPTBlock_*.mix"),
    **plain("h.*.mlp.c_fc", "LinenGPTBlock_*.wide"), **plain("h.*.mlp.c_proj", "LinenGPTBlock_*.narrow"),
}  # fmt: skip


class EqxGPTBlock(eqx.Module):
    """Raw arrays, q, k and v by turns for each head."""

    norms: list[eqx.nn.LayerNorm]
    qkv: jax.Array
    qkv_bias: jax.Array
    linears: list[eqx.nn.Linear]

    def __init__(self, key) -> None:
        self.norms = [eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)]
        self.qkv, self.qkv_bias = jax.random.normal(key, (WIDTH, HEADS, 3, WIDTH // HEADS)), jnp.zeros((HEADS, 3, WIDTH // HEADS))
        sizes = ((WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
        self.linears = [eqx.nn.Linear(*size, key=key) for size in sizes]

    def __call__(self, x):
        fused = jnp.einsum("ti,ihkd->tkhd", jax.vmap(self.norms[0])(x), self.qkv) + self.qkv_bias.transpose(1, 0, 2)
        mixed = attended(*(fused[None, :, k] for k in range(3)), causal(len(x)))[0]
        x = x + jax.vmap(self.linears[0])(mixed.reshape(x.shape))
        return x + jax.vmap(self.linears[2])(jax.nn.gelu(jax.vmap(self.linears[1])(jax.vmap(self.norms[1])(x))))


class EqxGPT(eqx.Module):
    """One text at a time."""

    embed: jax.Array
    place: jax.Array
    blocks: list[EqxGPTBlock]
    norm: eqx.nn.LayerNorm

    def __init__(self) -> None:
        key = jax.random.key(0)
        self.embed, self.place = jax.random.normal(key, (VOCABULARY, WIDTH)), jax.random.normal(key, (LENGTH, WIDTH))
        self.blocks, self.norm = [EqxGPTBlock(key) for _ in range(BLOCKS)], eqx.nn.LayerNorm(WIDTH)

    def __call__(self, tokens):
        x = self.embed[tokens] + self.place[: len(tokens)]
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x) @ self.embed.T


GPT_EQX = {
    "wte.weight": "embed", "wpe.weight": "place", **same("ln_f", "norm"),
    **same("h.*.ln_1", "blocks.*.norms.0"), **same("h.*.ln_2", "blocks.*.norms.1"),
    "h.*.attn.c_attn.weight": ("blocks.*.qkv", "i (k h d) -> i h k d"), "h.*.attn.c_attn.bias": ("blocks.*.qkv_bias", "(k h d) -> h k d"),
    **{f"h.*.{name}.weight": (f"blocks.*.linears.{n}.weight", "i o -> o i") for n, name in enumerate(("attn.c_proj", "mlp.c_fc", "mlp.c_proj"))},
    **{f"h.*.{name}.bias": f"blocks.*.linears.{n}.bias" for n, name in enumerate(("attn.c_proj", "mlp.c_fc", "mlp.c_proj"))},
}  # fmt: skip


def haiku_gpt():
    """Its layers counted over the whole model: linear_0 to linear_11."""

    def run(tokens):
        table = hk.get_parameter("table", (VOCABULARY, WIDTH), init=hk.initializers.RandomNormal())
        places = hk.get_parameter("places", (LENGTH, WIDTH), init=hk.initializers.RandomNormal())
        layer_norm = lambda: hk.LayerNorm(-1, True, True, eps=1e-5)
        x = table[tokens] + places[: tokens.shape[1]]
        for _ in range(BLOCKS):
            h = layer_norm()(x)
            q, k, v = (hk.Linear(WIDTH)(h).reshape(*x.shape[:2], HEADS, -1) for _ in range(3))
            x = x + hk.Linear(WIDTH)(attended(q, k, v, causal(x.shape[1])).reshape(x.shape))
            h = jax.nn.gelu(hk.Linear(4 * WIDTH)(layer_norm()(x)))
            x = x + hk.Linear(WIDTH)(h)
        return layer_norm()(x) @ table.T

    return hk.without_apply_rng(hk.transform(run))


def counted(word: str, n: int) -> str:
    return f"{word}_{n}" if n else word


def gpt_haiku() -> dict[str, Any]:
    truth: dict[str, Any] = {"wte.weight": "table", "wpe.weight": "places"}
    for b in range(BLOCKS):
        names = [counted("linear", 6 * b + n) for n in range(6)]
        truth[f"h.{b}.attn.c_attn.weight"] = [(f"{names[k]}.w", f"i ({k}/3 o) -> i o") for k in range(3)]
        truth[f"h.{b}.attn.c_attn.bias"] = [(f"{names[k]}.b", f"({k}/3 o) -> o") for k in range(3)]
        for name, path in zip(("attn.c_proj", "mlp.c_fc", "mlp.c_proj"), names[3:], strict=True):
            truth |= {f"h.{b}.{name}.weight": (f"{path}.w", "i o -> i o"), f"h.{b}.{name}.bias": f"{path}.b"}
    norms = [f"h.{b}.ln_{n}" for b in range(BLOCKS) for n in (1, 2)] + ["ln_f"]
    for n, name in enumerate(norms):
        truth |= {f"{name}.weight": f"{counted('layer_norm', n)}.scale", f"{name}.bias": f"{counted('layer_norm', n)}.offset"}
    return truth


# ---------------------------------------------------------------- BERT: post-norm, query, key and value apart, a mask


class TorchBERTLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.LayerNorm, self.norm = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH, eps=1e-12)
        self.intermediate, self.output = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x, mask):
        q, k, v = (layer(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + (1.0 - mask[:, None, None, :].to(q)) * -1e9
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.LayerNorm(x + self.dense(mixed))
        return self.norm(x + self.output(F.gelu(self.intermediate(x))))


class TorchBERT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings, self.position_embeddings = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layer = nn.ModuleList(TorchBERTLayer() for _ in range(BLOCKS))
        self.pooler = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens, mask):
        x = self.LayerNorm(self.word_embeddings(tokens) + self.position_embeddings.weight[: tokens.shape[1]])
        for layer in self.layer:
            x = layer(x, mask)
        return x, torch.tanh(self.pooler(x[:, 0]))


class NnxBERTLayer(nnx.Module):
    def __init__(self, rngs) -> None:
        self.attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.ln1, self.ln2 = (nnx.LayerNorm(WIDTH, epsilon=1e-12, rngs=rngs) for _ in range(2))
        self.fc1, self.fc2 = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs), nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x, mask):
        x = self.ln1(x + self.attn(x, mask=mask[:, None, None, :]))
        return self.ln2(x + self.fc2(jax.nn.gelu(self.fc1(x), approximate=False)))


class NnxBERT(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.word, self.position = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs), nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.ln, self.pool = nnx.LayerNorm(WIDTH, epsilon=1e-12, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.encoder = nnx.List([NnxBERTLayer(rngs) for _ in range(BLOCKS)])

    def __call__(self, tokens, mask):
        x = self.ln(self.word(tokens) + self.position(jnp.arange(tokens.shape[1])))
        for layer in self.encoder:
            x = layer(x, mask)
        return x, jnp.tanh(self.pool(x[:, 0]))


def split_heads(torch_prefix: str, path: str, out: str) -> dict[str, Any]:
    names = ("query", "key", "value")
    return {
        **{f"{torch_prefix}.{name}.weight": (f"{path}.{name}.kernel", "(h d) i -> i h d", {"h": HEADS}) for name in names},
        **{f"{torch_prefix}.{name}.bias": (f"{path}.{name}.bias", "(h d) -> h d", {"h": HEADS}) for name in names},
        f"{torch_prefix}.{out}.weight": (f"{path}.out.kernel", "o (h d) -> h d o", {"h": HEADS}),
        f"{torch_prefix}.{out}.bias": f"{path}.out.bias",
    }


BERT_NNX = {
    "word_embeddings.weight": "word.embedding", "position_embeddings.weight": "position.embedding", **norm("LayerNorm", "ln"),
    **linear("pooler", "pool"), **split_heads("layer.*", "encoder.*.attn", "dense"), **norm("layer.*.LayerNorm", "encoder.*.ln1"),
    **norm("layer.*.norm", "encoder.*.ln2"), **linear("layer.*.intermediate", "encoder.*.fc1"), **linear("layer.*.output", "encoder.*.fc2"),
}  # fmt: skip


class LinenBERTLayer(linen.Module):
    @linen.compact
    def __call__(self, x, mask):
        mixed = linen.MultiHeadDotProductAttention(HEADS)(x, mask=mask[:, None, None, :])
        x = linen.LayerNorm(epsilon=1e-12)(x + mixed)
        h = jax.nn.gelu(linen.Dense(2 * WIDTH)(x), approximate=False)
        return linen.LayerNorm(epsilon=1e-12)(x + linen.Dense(WIDTH)(h))


class LinenBERT(linen.Module):
    @linen.compact
    def __call__(self, tokens, mask):
        x = linen.Embed(VOCABULARY, WIDTH)(tokens)
        x = linen.LayerNorm(epsilon=1e-12)(x + self.param("places", linen.initializers.normal(), (1, LENGTH, WIDTH))[:, : x.shape[1]])
        for _ in range(BLOCKS):
            x = LinenBERTLayer()(x, mask)
        return x, jnp.tanh(linen.Dense(WIDTH)(x[:, 0]))


BERT_LINEN = {
    "word_embeddings.weight": "Embed_0.embedding", "position_embeddings.weight": ("places", "t d -> 1 t d"), **norm("LayerNorm", "LayerNorm_0"),
    **linear("pooler", "Dense_0"), **split_heads("layer.*", "LinenBERTLayer_*.MultiHeadDotProductAttention_0", "dense"),
    **norm("layer.*.LayerNorm", "LinenBERTLayer_*.LayerNorm_0"), **norm("layer.*.norm", "LinenBERTLayer_*.LayerNorm_1"),
    **linear("layer.*.intermediate", "LinenBERTLayer_*.Dense_0"), **linear("layer.*.output", "LinenBERTLayer_*.Dense_1"),
}  # fmt: skip


class EqxBERT(eqx.Module):
    """All layers in arrays of one more axis, run by a scan."""

    word: eqx.nn.Embedding
    places: jax.Array
    norm: eqx.nn.LayerNorm
    layers: dict[str, jax.Array]
    pool: eqx.nn.Linear

    def __init__(self) -> None:
        key = jax.random.key(0)
        draw = lambda *shape: jax.random.normal(key, (BLOCKS, *shape)) * 0.2
        self.word, self.places = eqx.nn.Embedding(VOCABULARY, WIDTH, key=key), jax.random.normal(key, (LENGTH, WIDTH))
        self.norm, self.pool = eqx.nn.LayerNorm(WIDTH, eps=1e-12), eqx.nn.Linear(WIDTH, WIDTH, key=key)
        self.layers = {
            "qkv": draw(3, WIDTH, WIDTH), "qkv_b": draw(3, WIDTH), "o": draw(WIDTH, WIDTH), "o_b": draw(WIDTH),
            "up": draw(WIDTH, 2 * WIDTH), "up_b": draw(2 * WIDTH), "down": draw(2 * WIDTH, WIDTH), "down_b": draw(WIDTH),
            **{f"n{n}_{part}": draw(WIDTH) for n in (1, 2) for part in ("g", "b")},
        }  # fmt: skip

    def __call__(self, tokens, mask):
        x = jax.vmap(self.norm)(jax.vmap(self.word)(tokens) + self.places[: len(tokens)])

        def layer(x, p):
            q, k, v = (jnp.einsum("ti,kio->kto", x, p["qkv"]) + p["qkv_b"][:, None]).reshape(3, 1, len(x), HEADS, -1)
            mixed = attended(q, k, v, mask[None, None, None]).reshape(x.shape)
            x = normed(x + mixed @ p["o"] + p["o_b"]) * p["n1_g"] + p["n1_b"]
            h = jax.nn.gelu(x @ p["up"] + p["up_b"], approximate=False) @ p["down"] + p["down_b"]
            return normed(x + h) * p["n2_g"] + p["n2_b"], None

        x, _ = jax.lax.scan(layer, x, self.layers)
        return x, jnp.tanh(self.pool(x[0]))


def normed(x, eps=1e-12):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)


def bert_equinox() -> dict[str, Any]:
    truth: dict[str, Any] = {
        "word_embeddings.weight": "word.weight", "position_embeddings.weight": "places", **same("LayerNorm", "norm"), **same("pooler", "pool")
    }  # fmt: skip
    names = {"dense": "o", "intermediate": "up", "output": "down"}
    for b in range(BLOCKS):
        at = f"{b}/{BLOCKS}"
        for k, name in enumerate(("query", "key", "value")):
            truth[f"layer.{b}.{name}.weight"] = ("layers.qkv", f"o i -> {at} {k}/3 i o")
            truth[f"layer.{b}.{name}.bias"] = ("layers.qkv_b", f"o -> {at} {k}/3 o")
        for name, path in names.items():
            truth[f"layer.{b}.{name}.weight"] = (f"layers.{path}", f"o i -> {at} i o")
            truth[f"layer.{b}.{name}.bias"] = (f"layers.{path}_b", f"o -> {at} o")
        for name, path in (("LayerNorm", "n1"), ("norm", "n2")):
            truth[f"layer.{b}.{name}.weight"], truth[f"layer.{b}.{name}.bias"] = (
                (f"layers.{path}_g", f"o -> {at} o"),
                (f"layers.{path}_b", f"o -> {at} o"),
            )
    return truth


# ---------------------------------------------------------------- ViT: torch's own encoder, in_proj_weight, a class token


class TorchViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 5, WIDTH))
        layer = partial(nn.TransformerEncoderLayer, WIDTH, HEADS, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(layer() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images):
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))


def patches(x):
    """(n, 3, 8, 8) -> (n, 8, 8, 3)."""
    return x.transpose(0, 2, 3, 1)


class NnxViTBlock(nnx.Module):
    def __init__(self, rngs) -> None:
        self.norm1, self.norm2 = (nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.mlp = nnx.List([nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs), nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)])

    def __call__(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp[1](jax.nn.gelu(self.mlp[0](self.norm2(x)), approximate=False))


class NnxViT(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Conv(3, WIDTH, (4, 4), (4, 4), rngs=rngs)
        self.token, self.place = nnx.Param(jnp.zeros((1, 1, WIDTH))), nnx.Param(jnp.zeros((1, 5, WIDTH)))
        self.blocks = nnx.List([NnxViTBlock(rngs) for _ in range(BLOCKS)])
        self.norm, self.out = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=rngs), nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, images):
        x = self.embed(patches(images))
        x = x.reshape(len(x), -1, WIDTH)
        x = jnp.concatenate([jnp.tile(self.token[...], (len(x), 1, 1)), x], 1) + self.place[...]
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x[:, 0]))


def in_proj(torch_name: str, path: str) -> dict[str, Any]:
    parts = list(enumerate(("query", "key", "value")))
    return {
        f"{torch_name}.in_proj_weight": [(f"{path}.{name}.kernel", f"({k}/3 h d) i -> i h d") for k, name in parts],
        f"{torch_name}.in_proj_bias": [(f"{path}.{name}.bias", f"({k}/3 h d) -> h d") for k, name in parts],
        f"{torch_name}.out_proj.weight": (f"{path}.out.kernel", "o (h d) -> h d o"),
        f"{torch_name}.out_proj.bias": f"{path}.out.bias",
    }


VIT_NNX = {
    "patch.weight": ("embed.kernel", CONV), "patch.bias": "embed.bias", "cls": "token", "pos": "place", **norm("norm", "norm"),
    **linear("head", "out"), **in_proj("layers.*.self_attn", "blocks.*.attn"), **norm("layers.*.norm1", "blocks.*.norm1"),
    **norm("layers.*.norm2", "blocks.*.norm2"), **linear("layers.*.linear1", "blocks.*.mlp.0"), **linear("layers.*.linear2", "blocks.*.mlp.1"),
}  # fmt: skip


class LinenViTBlock(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x + linen.MultiHeadDotProductAttention(HEADS)(linen.LayerNorm(epsilon=1e-5)(x))
        h = jax.nn.gelu(linen.Dense(2 * WIDTH)(linen.LayerNorm(epsilon=1e-5)(x)), approximate=False)
        return x + linen.Dense(WIDTH)(h)


class LinenViT(linen.Module):
    @linen.compact
    def __call__(self, images):
        x = linen.Conv(WIDTH, (4, 4), (4, 4), name="embedding")(patches(images))
        x = x.reshape(len(x), -1, WIDTH)
        token = self.param("cls", linen.initializers.zeros, (1, 1, WIDTH))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1) + self.param("pos_embedding", linen.initializers.zeros, (1, 5, WIDTH))
        for _ in range(BLOCKS):
            x = LinenViTBlock()(x)
        return linen.Dense(10, name="classifier")(linen.LayerNorm(epsilon=1e-5)(x[:, 0]))


VIT_LINEN = {
    "patch.weight": ("embedding.kernel", CONV), "patch.bias": "embedding.bias", "cls": "cls", "pos": "pos_embedding",
    **norm("norm", "LayerNorm_0"), **linear("head", "classifier"), **in_proj("layers.*.self_attn", "LinenViTBlock_*.MultiHeadDotProductAttention_0"),
    **norm("layers.*.norm1", "LinenViTBlock_*.LayerNorm_0"), **norm("layers.*.norm2", "LinenViTBlock_*.LayerNorm_1"),
    **linear("layers.*.linear1", "LinenViTBlock_*.Dense_0"), **linear("layers.*.linear2", "LinenViTBlock_*.Dense_1"),
}  # fmt: skip


class EqxViTBlock(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norms: list[eqx.nn.LayerNorm]
    mlp: eqx.nn.MLP

    def __init__(self, key) -> None:
        biases = dict.fromkeys((f"use_{name}_bias" for name in ("query", "key", "value", "output")), True)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, **biases, key=key)
        self.norms = [eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)]
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, 2 * WIDTH, 1, activation=partial(jax.nn.gelu, approximate=False), key=key)

    def __call__(self, x):
        h = jax.vmap(self.norms[0])(x)
        x = x + self.attention(h, h, h)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norms[1])(x))


class EqxViT(eqx.Module):
    conv: eqx.nn.Conv2d
    token: jax.Array
    place: jax.Array
    blocks: list[EqxViTBlock]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self) -> None:
        key = jax.random.key(0)
        self.conv = eqx.nn.Conv2d(3, WIDTH, 4, 4, key=key)
        self.token, self.place = jnp.zeros(WIDTH), jnp.zeros((5, WIDTH))
        self.blocks = [EqxViTBlock(key) for _ in range(BLOCKS)]
        self.norm, self.head = eqx.nn.LayerNorm(WIDTH), eqx.nn.Linear(WIDTH, 10, key=key)

    def __call__(self, image):
        x = self.conv(image).reshape(WIDTH, -1).T
        x = jnp.concatenate([self.token[None], x]) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[0]))


def vit_equinox() -> dict[str, Any]:
    parts = list(enumerate(("query", "key", "value")))
    attention = "blocks.*.attention"
    return {
        "patch.weight": "conv.weight", "patch.bias": ("conv.bias", "o -> o 1 1"), "cls": ("token", "1 1 d -> d"),
        "pos": ("place", "1 t d -> t d"), **same("norm", "norm"), **same("head", "head"),
        "layers.*.self_attn.in_proj_weight": [(f"{attention}.{name}_proj.weight", f"({k}/3 o) i -> o i") for k, name in parts],
        "layers.*.self_attn.in_proj_bias": [(f"{attention}.{name}_proj.bias", f"({k}/3 o) -> o") for k, name in parts],
        **same("layers.*.self_attn.out_proj", f"{attention}.output_proj"),
        **same("layers.*.norm1", "blocks.*.norms.0"), **same("layers.*.norm2", "blocks.*.norms.1"),
        **same("layers.*.linear1", "blocks.*.mlp.layers.0"), **same("layers.*.linear2", "blocks.*.mlp.layers.1"),
    }  # fmt: skip


# ---------------------------------------------------------------- ResNet: running statistics, equal square convolutions


class TorchBasic(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out)
        shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        self.downsample = shortcut if stride > 1 else None

    def forward(self, x):
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(h + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(TorchBasic(8, 8, 1), TorchBasic(8, 8, 1))
        self.layer2 = nn.Sequential(TorchBasic(8, 16, 2), TorchBasic(16, 16, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class NnxBasic(nnx.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, rngs) -> None:
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        bn = partial(nnx.BatchNorm, use_running_average=True, rngs=rngs)
        self.convs = nnx.List([conv(n_in, n_out, (3, 3), stride, padding=1), conv(n_out, n_out, (3, 3), padding=1)])
        self.norms = nnx.List([bn(n_out), bn(n_out)])
        self.short = nnx.List([conv(n_in, n_out, (1, 1), stride), bn(n_out)]) if stride > 1 else None

    def __call__(self, x):
        h = self.norms[1](self.convs[1](jax.nn.relu(self.norms[0](self.convs[0](x)))))
        return jax.nn.relu(h + (x if self.short is None else self.short[1](self.short[0](x))))


class NnxResNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.stem, self.stem_norm = (
            nnx.Conv(3, 8, (3, 3), padding=1, use_bias=False, rngs=rngs),
            nnx.BatchNorm(8, use_running_average=True, rngs=rngs),
        )
        self.blocks = nnx.List([NnxBasic(8, 8, 1, rngs), NnxBasic(8, 8, 1, rngs), NnxBasic(8, 16, 2, rngs), NnxBasic(16, 16, 1, rngs)])
        self.head = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.stem_norm(self.stem(x.transpose(0, 2, 3, 1))))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def resnet(stem: tuple[str, str], conv: str, bn: str, short: tuple[str, str], fc: str) -> dict[str, Any]:
    """conv, bn and short with {b} for the block and {n} for the first or second."""

    def batch(name: str, path: str) -> dict[str, Any]:
        return norm(name, path) | statistics(name, path)

    truth = {"conv1.weight": (f"{stem[0]}.kernel", CONV), **batch("bn1", stem[1]), **linear("fc", fc)}
    for b, name in enumerate(("layer1.0", "layer1.1", "layer2.0", "layer2.1")):
        for n in (0, 1):
            truth |= {
                f"{name}.conv{n + 1}.weight": (f"{conv.format(b=b, n=n)}.kernel", CONV),
                **batch(f"{name}.bn{n + 1}", bn.format(b=b, n=n)),
            }
    return truth | {
        "layer2.0.downsample.0.weight": (f"{short[0].format(b=2)}.kernel", CONV),
        **batch("layer2.0.downsample.1", short[1].format(b=2)),
    }


RESNET_NNX = resnet(
    ("stem", "stem_norm"), "blocks.{b}.convs.{n}", "blocks.{b}.norms.{n}", ("blocks.{b}.short.0", "blocks.{b}.short.1"), "head"
)


class LinenBasic(linen.Module):
    features: int
    stride: int

    @linen.compact
    def __call__(self, x):
        conv, bn = partial(linen.Conv, self.features, use_bias=False), partial(linen.BatchNorm, use_running_average=True)
        h = jax.nn.relu(bn()(conv((3, 3), self.stride, padding=1)(x)))
        h = bn()(conv((3, 3), padding=1)(h))
        return jax.nn.relu(h + (bn()(conv((1, 1), self.stride)(x)) if self.stride > 1 else x))


class LinenResNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (3, 3), padding=1, use_bias=False)(x.transpose(0, 2, 3, 1))
        x = jax.nn.relu(linen.BatchNorm(use_running_average=True)(x))
        for features, stride in ((8, 1), (8, 1), (16, 2), (16, 1)):
            x = LinenBasic(features, stride)(x)
        return linen.Dense(5)(x.mean((1, 2)))


RESNET_LINEN = resnet(
    ("Conv_0", "BatchNorm_0"), "LinenBasic_{b}.Conv_{n}", "LinenBasic_{b}.BatchNorm_{n}", ("LinenBasic_{b}.Conv_2", "LinenBasic_{b}.BatchNorm_2"),
    "Dense_0",
)  # fmt: skip


class EqxResNet(eqx.Module):
    """Batch norms as plain arrays: gain, shift, mean and deviation's square."""

    convs: list[eqx.nn.Conv2d]
    norms: list[dict[str, jax.Array]]
    head: eqx.nn.Linear

    def __init__(self) -> None:
        key = jax.random.key(0)
        sizes = [(3, 8, 3, 1), *[(8, 8, 3, 1)] * 4, (8, 16, 3, 2), (16, 16, 3, 1), (8, 16, 1, 2), (16, 16, 3, 1), (16, 16, 3, 1)]
        self.convs = [eqx.nn.Conv2d(i, o, k, s, k // 2, use_bias=False, key=key) for i, o, k, s in sizes]
        self.norms = [{name: jnp.ones(o) for name in ("gain", "shift", "mu", "sigma2")} for _, o, _, _ in sizes]
        self.head = eqx.nn.Linear(16, 5, key=key)

    def layer(self, n: int, x):
        p = {name: array[:, None, None] for name, array in self.norms[n].items()}
        return (self.convs[n](x) - p["mu"]) / jnp.sqrt(p["sigma2"] + 1e-5) * p["gain"] + p["shift"]

    def __call__(self, x):
        x = jax.nn.relu(self.layer(0, x))
        for first, second, short in ((1, 2, None), (3, 4, None), (5, 6, 7), (8, 9, None)):
            h = self.layer(second, jax.nn.relu(self.layer(first, x)))
            x = jax.nn.relu(h + (x if short is None else self.layer(short, x)))
        return self.head(x.mean((1, 2)))


# ---------------------------------------------------------------- LSTM: two layers, both directions


class TorchLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens):
        out, _ = self.lstm(self.embedding(tokens))
        return self.head(out)


class LinenLSTM(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(VOCABULARY, 6)(tokens)
        for _ in range(2):
            x = linen.Bidirectional(linen.RNN(linen.OptimizedLSTMCell(8)), linen.RNN(linen.OptimizedLSTMCell(8)))(x)
        return linen.Dense(2)(x)


class NnxLSTM(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        rnn = lambda size: nnx.Bidirectional(nnx.RNN(nnx.LSTMCell(size, 8, rngs=rngs)), nnx.RNN(nnx.LSTMCell(size, 8, rngs=rngs)))
        self.table, self.rnns = nnx.Embed(VOCABULARY, 6, rngs=rngs), nnx.List([rnn(6), rnn(16)])
        self.out = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, tokens):
        x = self.table(tokens)
        for rnn in self.rnns:
            x = rnn(x)
        return self.out(x)


class EqxLSTM(eqx.Module):
    table: eqx.nn.Embedding
    cells: list[eqx.nn.LSTMCell]
    out: eqx.nn.Linear

    def __init__(self) -> None:
        key = jax.random.key(0)
        self.table, self.out = eqx.nn.Embedding(VOCABULARY, 6, key=key), eqx.nn.Linear(16, 2, key=key)
        self.cells = [eqx.nn.LSTMCell(size, 8, key=key) for size in (6, 6, 16, 16)]

    def __call__(self, tokens):
        x = jax.vmap(self.table)(tokens)
        for there, back in (self.cells[:2], self.cells[2:]):
            x = jnp.concatenate([run(there, x, False), run(back, x, True)], -1)
        return jax.vmap(self.out)(x)


def run(cell, xs, reverse: bool):
    def step(state, x):
        state = cell(x, state)
        return state, state[0]

    zeros = jnp.zeros(8, xs.dtype)
    return jax.lax.scan(step, (zeros, zeros), xs, reverse=reverse)[1]


def directions() -> list[str]:
    return [f"l{layer}{way}" for layer in (0, 1) for way in ("", "_reverse")]


def gates(cells: list[str], names: tuple[str, ...] = ("i", "f", "g", "o")) -> dict[str, Any]:
    """flax: a kernel for each gate, biases in the hidden ones."""
    truth: dict[str, Any] = {}
    for suffix, cell in zip(directions(), cells, strict=True):
        parts = [(k, f"{k}/4", name) for k, name in enumerate(names)]  # nnx calls if_ what linen calls if, and hf hf
        truth[f"lstm.weight_ih_{suffix}"] = [(f"{cell}.i{name}.kernel", f"({part} o) i -> i o") for _, part, name in parts]
        hidden = [(part, f"{cell}.h{name[0]}") for _, part, name in parts]
        truth[f"lstm.weight_hh_{suffix}"] = [(f"{path}.kernel", f"({part} o) i -> i o") for part, path in hidden]
        truth[f"lstm.bias_ih_{suffix}"] = [(f"{path}.bias", f"({part} o) -> o") for part, path in hidden]
        truth[f"lstm.bias_hh_{suffix}"] = [(f"{path}.bias", f"+ ({part} o) -> o") for part, path in hidden]
    return truth


def lstm_equinox() -> dict[str, Any]:
    truth: dict[str, Any] = {"embedding.weight": "table.weight", **same("head", "out")}
    for n, suffix in enumerate(directions()):
        truth |= {f"lstm.weight_{kind}_{suffix}": (f"cells.{n}.weight_{kind}", "o i -> o i") for kind in ("ih", "hh")}
        truth |= {f"lstm.bias_ih_{suffix}": f"cells.{n}.bias", f"lstm.bias_hh_{suffix}": (f"cells.{n}.bias", "+")}
    return truth


NNX_LSTM, NNX_GATES = {"embedding.weight": "table.embedding", **linear("head", "out")}, ("i", "f_", "g", "o")


class TorchGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0])


class LinenGRU(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.RNN(linen.GRUCell(8))(x))


class EqxGRU(eqx.Module):
    cell: eqx.nn.GRUCell
    out: eqx.nn.Linear

    def __init__(self) -> None:
        self.cell, self.out = eqx.nn.GRUCell(6, 8, key=jax.random.key(0)), eqx.nn.Linear(8, 3, key=jax.random.key(1))

    def __call__(self, xs):
        def step(state, x):
            state = self.cell(x, state)
            return state, state

        return jax.vmap(self.out)(jax.lax.scan(step, jnp.zeros(8, xs.dtype), xs)[1])


GRU_LINEN = {
    **linear("head", "Dense_0"),
    "gru.weight_ih_l0": [(f"GRUCell_0.i{name}.kernel", f"({k}/3 o) i -> i o") for k, name in enumerate("rzn")],
    "gru.weight_hh_l0": [(f"GRUCell_0.h{name}.kernel", f"({k}/3 o) i -> i o") for k, name in enumerate("rzn")],
    "gru.bias_ih_l0": [(f"GRUCell_0.i{name}.bias", f"({k}/3 o) -> o") for k, name in enumerate("rzn")],
    "gru.bias_hh_l0": [
        ("GRUCell_0.ir.bias", "+ (0/3 o) -> o"),
        ("GRUCell_0.iz.bias", "+ (1/3 o) -> o"),
        ("GRUCell_0.hn.bias", "(2/3 o) -> o"),
    ],
}
GRU_EQX = {
    **same("head", "out"), "gru.weight_ih_l0": ("cell.weight_ih", "o i -> o i"),
    "gru.weight_hh_l0": ("cell.weight_hh", "o i -> o i"), "gru.bias_ih_l0": ("cell.bias", "o -> o"),
    "gru.bias_hh_l0": [("cell.bias", "+ o[0:16] -> o[0:16]"), ("cell.bias_n", "o[16:24] -> o")],
}  # fmt: skip


# ---------------------------------------------------------------- others: what only values tell


class TorchSquares(nn.Module):
    """Equal layers in the order that an alphabet gives them, called in another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        for layer in (self.c, self.a, self.d, self.b):
            x = torch.tanh(layer(x))
        return x


class NnxSquares(nnx.Module):
    def __init__(self) -> None:
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=nnx.Rngs(n)) for n in range(4)])

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def haiku_squares():
    names = ("south", "north", "west", "east")

    def call(x):
        for name in names:
            x = jnp.tanh(hk.Linear(8, name=name)(x))
        return x

    return hk.without_apply_rng(hk.transform(call))


class EqxSquares(eqx.Module):
    """One array of all layers, applied as x @ w."""

    w: jax.Array
    b: jax.Array

    def __init__(self) -> None:
        self.w, self.b = jax.random.normal(jax.random.key(0), (4, 8, 8)), jnp.zeros((4, 8))

    def __call__(self, x):
        for w, b in zip(self.w, self.b, strict=True):
            x = jnp.tanh(x @ w + b)
        return x


ORDER = "cadb"
SQUARES_EQX = {f"{name}.weight": ("w", f"o i -> {n}/4 i o") for n, name in enumerate(ORDER)} | {
    f"{name}.bias": ("b", f"o -> {n}/4 o") for n, name in enumerate(ORDER)
}


class TorchUNet(nn.Module):
    """Transposed convolutions with as many channels in as out, and a flattened picture."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)
        self.mix, self.head = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4 * 6 * 6, 5)

    def forward(self, x):
        h = self.up(torch.relu(self.down(x)))
        return self.head(torch.relu(self.mix(torch.cat([x, h], 1))).flatten(1))


class NnxUNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.encode, self.decode = nnx.Conv(4, 4, (3, 3), 2, padding=1, rngs=rngs), nnx.ConvTranspose(4, 4, (2, 2), (2, 2), rngs=rngs)
        self.join, self.out = nnx.Conv(8, 4, (3, 3), padding=1, rngs=rngs), nnx.Linear(144, 5, rngs=rngs)

    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        h = self.decode(jax.nn.relu(self.encode(x)))
        return self.out(jax.nn.relu(self.join(jnp.concatenate([x, h], -1))).reshape(len(x), -1))


UNET_NNX = {
    "down.weight": ("encode.kernel", CONV), "down.bias": "encode.bias", "up.weight": ("decode.kernel", "i o h w -> -h -w i o"),
    "up.bias": "decode.bias", "mix.weight": ("join.kernel", CONV), "mix.bias": "join.bias",
    "head.weight": ("out.kernel", "o (c h w) -> (h w c) o", {"c": 4, "h": 6}), "head.bias": "out.bias",
}  # fmt: skip


class LinenUNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x.transpose(0, 2, 3, 1)
        h = jax.nn.relu(linen.Conv(4, (3, 3), 2, padding=1)(x))
        h = linen.ConvTranspose(4, (2, 2), (2, 2), transpose_kernel=True)(h)
        h = jax.nn.relu(linen.Conv(4, (3, 3), padding=1)(jnp.concatenate([x, h], -1)))
        return linen.Dense(5)(h.reshape(len(h), -1))


UNET_LINEN = {
    "down.weight": ("Conv_0.kernel", CONV), "down.bias": "Conv_0.bias", "up.weight": ("ConvTranspose_0.kernel", "i o h w -> h w o i"),
    "up.bias": "ConvTranspose_0.bias", "mix.weight": ("Conv_1.kernel", CONV), "mix.bias": "Conv_1.bias",
    "head.weight": ("Dense_0.kernel", "o (c h w) -> (h w c) o", {"c": 4, "h": 6}), "head.bias": "Dense_0.bias",
}  # fmt: skip


class EqxUNet(eqx.Module):
    down: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    mix: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self) -> None:
        key = jax.random.key(0)
        self.down, self.mix = eqx.nn.Conv2d(4, 4, 3, 2, 1, key=key), eqx.nn.Conv2d(8, 4, 3, 1, 1, key=key)
        self.up, self.head = eqx.nn.ConvTranspose2d(4, 4, 2, 2, key=key), eqx.nn.Linear(144, 5, key=key)

    def __call__(self, x):
        h = self.up(jax.nn.relu(self.down(x)))
        return self.head(jax.nn.relu(self.mix(jnp.concatenate([x, h]))).reshape(-1))


UNET_EQX = {
    **{f"{name}.weight": f"{name}.weight" for name in ("down", "mix", "head")}, "up.weight": ("up.weight", "i o h w -> o i -h -w"),
    **{f"{name}.bias": (f"{name}.bias", "o -> o 1 1") for name in ("down", "up", "mix")}, "head.bias": "head.bias",
}  # fmt: skip


class TorchGrouped(nn.Module):
    """Fewer heads for keys and values than for queries, all three in one layer; a gated linear unit in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(16, 16 + 2 * 8, bias=False), nn.Linear(16, 16, bias=False)
        self.gate_up, self.down = nn.Linear(16, 48, bias=False), nn.Linear(24, 16, bias=False)
        self.norm = nn.RMSNorm(16, eps=1e-6)

    def forward(self, x):
        q, k, v = self.qkv(x).split([16, 8, 8], -1)
        q, k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in (q, k, v))
        k, v = (part.repeat_interleave(2, 1) for part in (k, v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class NnxGrouped(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        plain = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.query = nnx.LinearGeneral(16, (4, 4), use_bias=False, rngs=rngs)
        self.key, self.value = (nnx.LinearGeneral(16, (2, 4), use_bias=False, rngs=rngs) for _ in range(2))
        self.out = nnx.LinearGeneral((4, 4), 16, axis=(-2, -1), use_bias=False, rngs=rngs)
        self.gate, self.up, self.down = plain(16, 24), plain(16, 24), plain(24, 16)
        self.norm = nnx.RMSNorm(16, epsilon=1e-6, rngs=rngs)

    def __call__(self, x):
        k, v = (jnp.repeat(layer(x), 2, 2) for layer in (self.key, self.value))
        x = x + self.out(attended(self.query(x), k, v, causal(x.shape[1])))
        h = self.norm(x)
        return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))


GROUPED_NNX = {
    "qkv.weight": [
        ("query.kernel", "(h d)[0:16] i -> i h d"), ("key.kernel", "(h d)[16:24] i -> i h d"), ("value.kernel", "(h d)[24:32] i -> i h d")
    ],
    "o.weight": ("out.kernel", "o (h d) -> h d o"), "norm.weight": "norm.scale", "down.weight": ("down.kernel", IN),
    "gate_up.weight": [("gate.kernel", "(0/2 o) i -> i o"), ("up.kernel", "(1/2 o) i -> i o")],
}  # fmt: skip


class TorchApart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LinenTogether(linen.Module):
    """Three layers of torch's in one kernel, by turns for each head."""

    @linen.compact
    def __call__(self, x):
        fused = linen.Dense(48, name="fused")(x).reshape(*x.shape[:2], HEADS, 3, -1)
        q, k, v = (fused[..., n, :] for n in range(3))
        return linen.Dense(16, name="last")(attended(q, k, v).reshape(x.shape))


TOGETHER_LINEN = {
    **{f"{name}_proj.weight": ("fused.kernel", f"(h d) i -> i (h {n}/3 d)", {"h": HEADS}) for n, name in enumerate("qkv")},
    **{f"{name}_proj.bias": ("fused.bias", f"(h d) -> (h {n}/3 d)", {"h": HEADS}) for n, name in enumerate("qkv")},
    **linear("o_proj", "last"),
}  # fmt: skip


# ---------------------------------------------------------------- all of them


def pairs() -> Iterator[Pair]:
    text = [dlp.integers(2, LENGTH, high=VOCABULARY)]
    masked = [*text, dlp.fixed([[True] * 7, [True] * 5 + [False] * 2])]
    image, sequence = [dlp.normal(2, 3, 8, 8)], [dlp.normal(2, 5, 6)]
    yield Pair("GPT-2, nnx", TorchGPT, NnxGPT, text, GPT_NNX)
    yield Pair("GPT-2, linen", TorchGPT, LinenGPT, text, GPT_LINEN)
    yield Pair("GPT-2, equinox", TorchGPT, lambda: dlp.vmap(EqxGPT()), text, GPT_EQX)
    yield Pair("GPT-2, haiku", TorchGPT, haiku_gpt, text, gpt_haiku())
    yield Pair("BERT, nnx", TorchBERT, NnxBERT, masked, BERT_NNX)
    yield Pair("BERT, linen", TorchBERT, LinenBERT, masked, BERT_LINEN)
    yield Pair("BERT, equinox", TorchBERT, lambda: dlp.vmap(EqxBERT()), masked, bert_equinox())
    yield Pair("ViT, nnx", TorchViT, NnxViT, image, VIT_NNX)
    yield Pair("ViT, linen", TorchViT, LinenViT, image, VIT_LINEN)
    yield Pair("ViT, equinox", TorchViT, lambda: dlp.vmap(EqxViT()), image, vit_equinox())
    yield Pair("ResNet, nnx", TorchResNet, NnxResNet, image, RESNET_NNX)
    yield Pair("ResNet, linen", TorchResNet, LinenResNet, image, RESNET_LINEN)
    linen_cells = [f"OptimizedLSTMCell_{n}" for n in range(4)]
    nnx_cells = [f"rnns.{layer}.{way}_rnn.cell" for layer in (0, 1) for way in ("forward", "backward")]
    yield Pair("LSTM, nnx", TorchLSTM, NnxLSTM, text, NNX_LSTM | gates(nnx_cells, NNX_GATES))
    yield Pair(
        "LSTM, linen",
        TorchLSTM,
        LinenLSTM,
        text,
        {"embedding.weight": "Embed_0.embedding", **linear("head", "Dense_0"), **gates(linen_cells)},
    )
    yield Pair("LSTM, equinox", TorchLSTM, lambda: dlp.vmap(EqxLSTM()), text, lstm_equinox())
    yield Pair("GRU, linen", TorchGRU, LinenGRU, sequence, GRU_LINEN)
    yield Pair("GRU, equinox", TorchGRU, lambda: dlp.vmap(EqxGRU()), sequence, GRU_EQX)
    square = [dlp.normal(5, 8)]
    yield Pair(
        "equal layers in another order, nnx", TorchSquares, NnxSquares, square,
        {k: v for n, name in enumerate(ORDER) for k, v in linear(name, f"layers.{n}").items()},
    )  # fmt: skip
    yield Pair(
        "equal layers under other names, haiku", TorchSquares, haiku_squares, square,
        {k: v for name, path in zip(ORDER, ("south", "north", "west", "east"), strict=True)
         for k, v in {f"{name}.weight": (f"{path}.w", IN), f"{name}.bias": f"{path}.b"}.items()},
    )  # fmt: skip
    yield Pair("equal layers in one array, equinox", TorchSquares, EqxSquares, square, SQUARES_EQX)
    picture = [dlp.normal(2, 4, 6, 6)]
    yield Pair("UNet, nnx", TorchUNet, NnxUNet, picture, UNET_NNX)
    yield Pair("UNet, linen", TorchUNet, LinenUNet, picture, UNET_LINEN)
    yield Pair("UNet, equinox", TorchUNet, lambda: dlp.vmap(EqxUNet()), picture, UNET_EQX)
    tokens = [dlp.normal(2, 5, 16)]
    yield Pair("grouped queries and GLU, nnx", TorchGrouped, NnxGrouped, tokens, GROUPED_NNX)
    yield Pair("q, k, v in one kernel by turns, linen", TorchApart, LinenTogether, tokens, TOGETHER_LINEN)


def example_pairs() -> Iterator[Pair]:
    """The models of examples/ that have parameters on both sides, with the param_map that stands there."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    import attention_test
    import autoencoder_test
    import batch_norm_test
    import cnn_test
    import data
    import deep_mlp_test
    import mlp_test
    import word_pieces_test

    pictures, texts = [dlp.normal(2, 28, 28)], [dlp.fixed(data.texts().x[:4])]
    yield Pair("example mlp, nnx", mlp_test.TorchMLP, lambda: mlp_test.JaxMLP(nnx.Rngs(0)), pictures, {})
    yield Pair("example deep mlp, equinox", deep_mlp_test.TorchMLP, lambda: dlp.vmap(deep_mlp_test.JaxMLP(jax.random.key(0))), pictures, {})
    yield Pair("example cnn, linen", cnn_test.TorchCNN, cnn_test.JaxCNN, pictures, cnn_test.PARAM_MAP)
    yield Pair("example attention, linen", attention_test.TorchBlock, attention_test.JaxBlock, texts, attention_test.PARAM_MAP)
    layers = {"0.weight": ("encoder.w", IN), "0.bias": "encoder.b", "2.weight": ("decoder.w", IN), "2.bias": "decoder.b"}
    make = autoencoder_test.torch_autoencoder, autoencoder_test.jax_autoencoder
    yield Pair("example autoencoder, haiku", *make, [dlp.normal(2, 784)], layers)
    net = batch_norm_test.TorchNet, lambda: batch_norm_test.JaxNet(nnx.Rngs(0))
    yield Pair("example batch norm, nnx", *net, [dlp.fixed(batch_norm_test.PICTURES)], {})
    bag = word_pieces_test.TorchBag, lambda: dlp.vmap(word_pieces_test.JaxBag(jax.random.key(0)))
    yield Pair("example word pieces, equinox", *bag, texts, {})
