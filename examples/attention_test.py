"""A transformer's block reads texts, padding left out of its attention: torch against flax.linen.

flax keeps the heads as an axis of its own, (in, heads, features of a head); torch keeps them inside its (out, in). The param_map says so.
"""

from __future__ import annotations

import data
import numpy as np
import optax
import pytest
import torch
from flax import linen

import pytest_dlparity as dlp

TEXTS = data.texts()
LENGTH = TEXTS.x.shape[1]
WIDTH, HEADS = 64, 4

HEADS_APART = {"h": HEADS}
PARAM_MAP = {
    "token.weight": "token.embedding",
    "place": "place",
    "out.weight": ("attention.out.kernel", "o (h d) -> h d o", HEADS_APART),
    "out.bias": "attention.out.bias",
    **{f"{name}.weight": (f"attention.{name}.kernel", "(h d) i -> i h d", HEADS_APART) for name in ("query", "key", "value")},
    **{f"{name}.bias": (f"attention.{name}.bias", "(h d) -> h d", HEADS_APART) for name in ("query", "key", "value")},
}


class TorchBlock(torch.nn.Module):
    """Token ids (n, length), 0 where there is none, to scores (n, 2)."""

    def __init__(self):
        super().__init__()
        self.token = torch.nn.Embedding(data.VOCABULARY, WIDTH)
        self.place = torch.nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.norm1 = torch.nn.LayerNorm(WIDTH)
        self.query = torch.nn.Linear(WIDTH, WIDTH)
        self.key = torch.nn.Linear(WIDTH, WIDTH)
        self.value = torch.nn.Linear(WIDTH, WIDTH)
        self.out = torch.nn.Linear(WIDTH, WIDTH)
        self.norm2 = torch.nn.LayerNorm(WIDTH)
        self.fc1 = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = torch.nn.Linear(4 * WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, 2)

    def forward(self, tokens):
        there = tokens > 0
        x = self.token(tokens) + self.place
        x = x + self.attention(self.norm1(x), there)
        x = x + self.fc2(torch.nn.functional.gelu(self.fc1(self.norm2(x))))
        mean = (x * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        return self.head(mean)

    def attention(self, x, there):
        query, key, value = (layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None, :])
        return self.out(mixed.transpose(1, 2).flatten(2))


class JaxBlock(linen.Module):
    """The same in flax.linen, whose own choices of eps (1e-6) and GELU (the tanh form) are not torch's."""

    @linen.compact
    def __call__(self, tokens):
        there = tokens > 0
        place = self.param("place", linen.initializers.normal(0.1), (LENGTH, WIDTH))
        x = linen.Embed(data.VOCABULARY, WIDTH, name="token")(tokens) + place
        attention = linen.MultiHeadDotProductAttention(HEADS, name="attention")
        x = x + attention(linen.LayerNorm(epsilon=1e-5, name="norm1")(x), mask=there[:, None, None, :])
        h = linen.Dense(4 * WIDTH, name="fc1")(linen.LayerNorm(epsilon=1e-5, name="norm2")(x))
        x = x + linen.Dense(WIDTH, name="fc2")(linen.gelu(h, approximate=False))
        mean = (x * there[..., None]).sum(1) / there.sum(1, keepdims=True)
        return linen.Dense(2, name="head")(mean)


def cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@pytest.mark.dlparity(dtypes=["float32"])
def test_output_loss_and_gradients(parity):
    parity(
        dlp.model(
            torch=TorchBlock(),
            jax=JaxBlock(),
            inputs=[dlp.fixed(TEXTS.x[:16]), dlp.fixed(TEXTS.y[:16])],
            loss=dlp.loss(torch=torch.nn.CrossEntropyLoss(), jax=cross_entropy),
            param_map=PARAM_MAP,
        )
    )


@pytest.mark.dlparity(dtypes=["float32"])
def test_texts_of_every_length(parity):
    """One text cut after 1, 2, ... tokens: the mask at each of its edges."""
    text = TEXTS.x[TEXTS.x.all(1)][0]  # a text without padding
    cut = text * np.tri(LENGTH, dtype=text.dtype)
    parity(dlp.layer(torch=TorchBlock(), jax=JaxBlock(), inputs=[dlp.fixed(cut)], param_map=PARAM_MAP))
