"""What values tell where names do not: proved, refused in words, and never a guess."""

from __future__ import annotations

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from torch import nn

import pytest_dlparity as dlp
from pytest_dlparity import param_map, proof, run
from pytest_dlparity.errors import SpecError

F = torch.nn.functional


def carries(torch_side: Any, jax_side: Any, *inputs: Any, **more: Any) -> dict[str, list[tuple[str, str, str]]]:
    """Torch name -> (jax path, layout, how)."""
    spec = dlp.layer(torch=torch_side, jax=jax_side, inputs=list(inputs), **more)
    found = run.prepared(spec, 0, ("float32",)).carries
    return {name: [(carry.jax, carry.pattern, carry.how) for carry in onto] for name, onto in param_map.by(found, "torch").items()}


def refusal(torch_side: Any, jax_side: Any, *inputs: Any, **more: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        carries(torch_side, jax_side, *inputs, **more)
    return str(caught.value).splitlines()


class TorchMix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return x @ self.mix


class JaxMix(nnx.Module):
    def __init__(self, transposed: bool = False) -> None:
        self.mix, self.transposed = nnx.Param(jnp.zeros((8, 8))), transposed

    def __call__(self, x):
        return x @ (self.mix[...].T if self.transposed else self.mix[...])


# ---------------------------------------------------------------- proved


def test_a_square_array_of_no_layer():
    assert carries(TorchMix(), JaxMix(), dlp.normal(3, 8)) == {"mix": [("mix", "", "value")]}
    assert carries(TorchMix(), JaxMix(transposed=True), dlp.normal(3, 8)) == {"mix": [("mix", "o i -> i o", "value")]}


class TorchHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class JaxHeads(nnx.Module):
    """`mistake`: "scale" leaves it out, "swap" takes the key for the query."""

    def __init__(self, mistake: str = "") -> None:
        rngs, self.mistake = nnx.Rngs(0), mistake
        self.query, self.key, self.value = (nnx.LinearGeneral(8, (2, 4), rngs=rngs) for _ in range(3))
        self.out = nnx.LinearGeneral((2, 4), 8, axis=(-2, -1), rngs=rngs)

    def __call__(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        q, k = (k, q) if self.mistake == "swap" else (q, k)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (1.0 if self.mistake == "scale" else 2.0)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v))


X = dlp.normal(2, 5, 8)


def test_heads():
    found = carries(TorchHeads(), JaxHeads(), X)
    assert found["q_proj.weight"] == [("query.kernel", "(h d) i -> i h d", "value")]
    assert found["v_proj.bias"] == [("value.bias", "(h d) -> h d", "value")]
    assert found["o_proj.weight"] == [("out.kernel", "o (h d) -> h d o", "value")]


class TorchTied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.mid = nn.Embedding(11, 8), nn.Linear(8, 8, bias=False)

    def forward(self, tokens):
        return torch.tanh(self.mid(self.table(tokens))) @ self.table.weight.T


class JaxUntied(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        x = jnp.tanh(linen.Dense(8, use_bias=False)(linen.Embed(11, 8)(tokens)))
        return linen.Dense(11, use_bias=False)(x)


def test_tied_on_one_side_only():
    found = carries(TorchTied(), JaxUntied(), dlp.integers(3, 4, high=11))
    assert {path: how for onto in found.values() for path, _, how in onto} == {
        "Embed_0.embedding": "value",
        "Dense_0.kernel": "value",
        "Dense_1.kernel": "value",
    }
    assert {path for path, _, _ in found["table.weight"]} == {"Embed_0.embedding", "Dense_1.kernel"}


class TorchLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


class JaxLSTM(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.RNN(linen.LSTMCell(4))(x)


def test_gates_and_two_biases():
    found = carries(TorchLSTM(), JaxLSTM(), dlp.normal(2, 3, 3))
    assert found["lstm.weight_hh_l0"][1] == ("LSTMCell_0.hg.kernel", "(2/4 o) i -> i o", "value")
    assert found["lstm.bias_hh_l0"][0] == ("LSTMCell_0.hf.bias", "+ (1/4 o) -> o", "value")


def test_gradients_of_two_biases_and_the_update_of_their_sum():
    """torch moves both biases by the gradient, so their sum moves twice as far: the sum is what can be compared."""
    report = dlp.check(
        dlp.model(
            torch=TorchLSTM(),
            jax=JaxLSTM(),
            inputs=[dlp.normal(2, 3, 3), dlp.normal(2, 3, 4)],
            loss=dlp.loss(torch=nn.MSELoss(), jax=lambda z, y: ((z - y) ** 2).mean()),
            optimizer=dlp.optimizer(torch=lambda params: torch.optim.SGD(params, lr=0.1), jax=optax.sgd(0.1)),
            steps=1,
        ),
        devices=["cpu"],
        dtypes=["float32"],
    )
    status = {verdict.name: verdict.status for verdict in report.verdicts}
    assert status["grad.lstm.bias_ih_l0"] == status["grad.lstm.bias_hh_l0"] == status["update.1.lstm.weight_hh_l0"] == "agree"
    assert status["update.1.lstm.bias_ih_l0"] == "semantics" and "update.1.lstm.bias_hh_l0" not in status
    assert "torch -" in str(report) or "torch 0" in str(report)


@pytest.mark.parametrize("seed", range(4))
def test_equal_layers_in_any_order(seed):
    """Against the known truth: torch calls its layers in one order, jax keeps them in another under other names."""
    rng = random.Random(seed)
    order = rng.sample(range(5), 5)

    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({f"t{n}": nn.Linear(6, 6) for n in range(5)})

        def forward(self, x):
            for n in order:
                x = torch.tanh(self.layers[f"t{n}"](x))
            return x

    class Jax(nnx.Module):
        def __init__(self) -> None:
            for name in "vwxyz":
                setattr(self, name, nnx.Linear(6, 6, rngs=nnx.Rngs(0)))

        def __call__(self, x):
            for name in "vwxyz":
                x = jnp.tanh(getattr(self, name)(x))
            return x

    found = carries(Torch(), Jax(), dlp.normal(4, 6))
    assert {name: onto[0][0] for name, onto in found.items()} == {
        f"layers.t{n}.{part}": f"{path}.{other}"
        for n, path in zip(order, "vwxyz", strict=True)
        for part, other in (("weight", "kernel"), ("bias", "bias"))
    }


def test_what_the_user_gives_stays():
    found = carries(TorchHeads(), JaxHeads(), X, param_map={"q_proj.weight": ("query.kernel", "(h d) i -> i h d", {"h": 2})})
    assert found["q_proj.weight"][0][2] == "given" and found["k_proj.weight"] == [("key.kernel", "(h d) i -> i h d", "value")]


def test_names_that_are_clear_ask_no_values(monkeypatch):
    monkeypatch.setattr(proof, "carries", lambda *args: pytest.fail("values were asked"))
    assert carries(nn.Linear(4, 4), nnx.Linear(4, 4, rngs=nnx.Rngs(0)), dlp.normal(2, 4))["weight"] == [("kernel", "o i -> i o", "name")]


# ---------------------------------------------------------------- a wrong port


def test_a_query_that_is_the_key():
    """By value each is the other; by name it is a mistake, and carried away it would be hidden."""
    lines = refusal(TorchHeads(), JaxHeads("swap"), X)
    assert (
        '  By its values jax "key.kernel" is torch "q_proj.weight" as "(h d) i -> i h d", and its name says another: '
        "a mistake on one side, or in a name." in lines
    )


def test_a_scale_that_is_missing():
    """Which of the projections is the query no value tells before the softmax, and names do."""
    lines = refusal(TorchHeads(), JaxHeads("scale"), X)
    assert "Values were asked, and told 6 of 8 jax arrays that names left open." in lines
    assert "  q_proj.weight  query.kernel  (h d) i -> i h d, h=2, d=4  value and name" in lines
    assert "  v_proj.weight  value.kernel  (h d) i -> i h d, h=2, d=4  value, laid out as key.kernel" in lines


class TorchBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TorchHeads() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


class JaxBlocks(nnx.Module):
    def __init__(self, wrong: int) -> None:
        self.layers, self.wrong = nnx.List([JaxHeads() for _ in range(3)]), wrong

    def __call__(self, x):
        for n, layer in enumerate(self.layers):
            x = x + layer(x) * (1.1 if n == self.wrong else 1.0)
        return x


def test_behind_a_mistake_a_layer_is_as_the_one_before_it():
    found = carries(TorchBlocks(), JaxBlocks(wrong=1), X)
    assert found["blocks.1.o_proj.weight"] == [("layers.1.out.kernel", "o (h d) -> h d o", "value")]
    assert found["blocks.2.o_proj.weight"] == [("layers.2.out.kernel", "o (h d) -> h d o", "as layers.0.out.kernel")]


# ---------------------------------------------------------------- refused


class TorchProduct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        return x * (self.a * self.b)


class JaxProduct(nnx.Module):
    def __init__(self) -> None:
        self.one, self.other = nnx.Param(jnp.ones(8)), nnx.Param(jnp.ones(8))

    def __call__(self, x):
        return x * (self.one[...] * self.other[...])


def test_what_no_value_tells():
    assert refusal(TorchProduct(), JaxProduct(), dlp.normal(3, 8)) == [
        "torch and jax parameters cannot be matched without doubt:",
        '  torch "a" [8] may be jax "one" [8] or jax "other" [8].',
        '  torch "b" [8] may be jax "one" [8] or jax "other" [8].',
        "Values were asked, and told 0 of 2 jax arrays that names left open.",
        'Write param_map={"a": "one", "b": "other"} if that is what is meant; what is left out is inferred.',
    ]


class Wrong(JaxMix):
    def __call__(self, x):
        return 1.1 * x @ self.mix[...]


def test_a_mistake_before_anything_is_told():
    assert refusal(TorchMix(), Wrong(), dlp.normal(3, 8)) == [
        "torch and jax parameters cannot be matched without doubt:",
        '  torch "mix" [8, 8] fits jax "mix" [8, 8] as "a b -> a b" and as "a b -> b a", and no rule tells which.',
        "Values were asked, and told 0 of 1 jax arrays that names left open.",
        'Write param_map={"mix": ("mix", "a b -> a b")} if that is what is meant; what is left out is inferred.',
    ]


def test_a_parameter_that_nothing_hangs_on():
    class Dead(JaxMix):
        def __call__(self, x):
            return x @ (0 * self.mix[...]) + x

    assert "Values were asked, and told 0 of 1 jax arrays that names left open." in refusal(TorchMix(), Dead(), dlp.normal(3, 8))


def test_inputs_that_tell_nothing():
    assert "Values were asked, and told 0 of 1 jax arrays that names left open." in refusal(
        TorchMix(), JaxMix(), dlp.fixed(np.zeros((3, 8)))
    )


def test_time_that_is_up(monkeypatch):
    monkeypatch.setattr(proof, "SECONDS", -1.0)
    assert "Values were asked, and told 0 of 1 jax arrays that names left open. It was given up: the time was up." in refusal(
        TorchMix(), JaxMix(), dlp.normal(3, 8)
    )


def test_a_side_that_does_not_run():
    class Broken(TorchMix):
        def forward(self, x):
            raise ValueError("no such thing")

    assert "Values could not be asked in float64: ValueError: no such thing" in refusal(Broken(), JaxMix(), dlp.normal(3, 8))


def test_sizes_that_no_part_can_make():
    class Small(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.zeros((8, 5)))

        def __call__(self, x):
            return x @ self.w[...]

    lines = refusal(TorchMix(), Small(), dlp.normal(3, 8))
    assert lines[1:3] == [
        '  torch "mix" [8, 8] has no counterpart on the jax side.',
        '  jax "w" [8, 5] has no counterpart on the torch side.',
    ]


def test_one_bias_of_two_is_not_enough():
    """The jax side forgets bias_hh: bias_ih alone fits every value of torch's up to the sum, and the other has no place."""

    class Half(nnx.Module):
        def __init__(self) -> None:
            self.w, self.b = nnx.Param(jnp.zeros((4, 3))), nnx.Param(jnp.zeros(4))

        def __call__(self, x):
            return x @ self.w[...].T + self.b[...]

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias_ih, self.bias_hh = (nn.Parameter(torch.randn(*shape)) for shape in ((4, 3), (4,), (4,)))

        def forward(self, x):
            return x @ self.weight.T + self.bias_ih + self.bias_hh

    found = carries(Sum(), Half(), dlp.normal(5, 3))
    assert found["bias_hh"] == [("b", "+", "value")]
