"""Weights that carry themselves: models of every library filled and read, mappings kept, and what is refused."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from jax.example_libraries import stax
from torch import nn

import pytest_dlparity as dlp
from pytest_dlparity.errors import SpecError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
INPUTS = [dlp.fixed(X)]


class Torch(nn.Module):
    """Two layers and a norm with statistics, none of its numbers zero or one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
        with torch.no_grad():
            for name, tensor in (*self.named_parameters(), *self.named_buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor))
        self.eval()

    def forward(self, x):
        return self.fc2(torch.tanh(self.norm(self.fc1(x))))


class Nnx(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.fc1, self.fc2 = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)

    def __call__(self, x):
        return self.fc2(jnp.tanh(self.norm(self.fc1(x))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=True, name="norm")(linen.Dense(5, name="fc1")(x))
        return linen.Dense(2, name="fc2")(jnp.tanh(x))


class Eqx(eqx.Module):
    fc1: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    fc2: eqx.nn.Linear

    def __init__(self) -> None:
        key = jax.random.key(0)
        self.fc1, self.fc2 = eqx.nn.Linear(3, 5, key=key), eqx.nn.Linear(5, 2, key=key)
        self.norm = eqx.nn.BatchNorm(5, "batch", mode="batch", inference=True)

    def __call__(self, x, state):
        x, state = self.norm(self.fc1(x), state)
        return self.fc2(jnp.tanh(x)), state


def haiku_net(x, is_training=False):
    x = hk.BatchNorm(True, True, 0.9, name="norm")(hk.Linear(5, name="fc1")(x), is_training)
    return hk.Linear(2, name="fc2")(jnp.tanh(x))


def of_nnx(model):
    return model(X)


def of_linen(variables):
    return Linen().apply(variables, X)


def of_eqx(pair):
    return jax.vmap(pair[0], in_axes=(0, None), out_axes=(0, None), axis_name="batch")(X, pair[1])[0]


HAIKU = hk.without_apply_rng(hk.transform_with_state(haiku_net))


def of_haiku(pair):
    return HAIKU.apply(*pair, X)[0]


CASES = {
    "nnx": (Nnx, of_nnx),
    "linen": (Linen, of_linen),
    "equinox": (lambda: dlp.vmap(eqx.nn.make_with_state(Eqx)(), axis_name="batch"), of_eqx),
    "haiku": (lambda: HAIKU, of_haiku),
}


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=2e-5, atol=2e-6)


# ---------------------------------------------------------------- every library, both ways


@pytest.mark.parametrize("library", CASES)
def test_there_and_back(library):
    """The jax model computes what torch does; and a torch module filled from it is the first again."""
    make, run = CASES[library]
    module = Torch()
    filled = dlp.carry(module, make(), INPUTS)
    close(run(filled), module(torch.tensor(X)).detach())
    other = Torch()
    source = filled if library == "nnx" else dlp.vmap(filled, axis_name="batch") if library == "equinox" else make()
    values = filled if library in ("linen", "haiku") else None
    back = dlp.carry(source, other, INPUTS, values=values)
    for (name, tensor), (_, wanted) in zip(back.state_dict().items(), module.state_dict().items(), strict=True):
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, wanted)
    assert not torch.equal(other.fc1.weight, module.fc1.weight)  # a copy was filled


def test_stax():
    init, apply = stax.serial(stax.Dense(5), stax.Tanh, stax.Dense(2))
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    tree = dlp.carry(module, (init, apply), INPUTS)
    close(apply(tree, X), module(torch.tensor(X)).detach())
    back = dlp.carry((init, apply), nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), INPUTS, values=tree)
    assert torch.equal(back[0].weight, module[0].weight)


def test_a_module_that_holds_its_numbers_needs_no_inputs():
    module = Torch()
    close(dlp.carry(module, Nnx())(X), module(torch.tensor(X)).detach())


def test_nothing_of_the_users_is_changed():
    module, model = Torch(), Nnx()
    before = np.asarray(model.fc1.kernel[...])
    dlp.carry(module, model, INPUTS)
    assert np.array_equal(np.asarray(model.fc1.kernel[...]), before)


def test_dtypes_stay():
    """A checkpoint in half precision stays so in the arrays; a model keeps the dtypes that it has."""
    module = nn.Linear(3, 5)
    mapping = dlp.mapping(module, nnx.Linear(3, 5, rngs=nnx.Rngs(0)), INPUTS)
    state = {name: tensor.to(torch.bfloat16) for name, tensor in module.state_dict().items()}
    assert {str(array.dtype) for array in mapping.apply(state).values()} == {"bfloat16"}
    half = dlp.carry(module, nnx.Linear(3, 5, param_dtype=jnp.float16, rngs=nnx.Rngs(0)), mapping=mapping)
    assert half.kernel[...].dtype == jnp.float16
    back = dlp.carry(half, nn.Linear(3, 5).double(), mapping=mapping)
    assert back.weight.dtype is torch.float64 and torch.equal(back.weight, module.weight.half().double())


def test_biases_that_jax_keeps_as_a_sum():
    class Rnn(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.RNN(linen.LSTMCell(4))(x)

    class Lstm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    module, inputs = Lstm(), [dlp.fixed(X[None])]
    mapping = dlp.mapping(module, Rnn(), inputs)
    variables = dlp.carry(module, Rnn(), inputs, mapping=mapping)
    back = dlp.carry(Rnn(), Lstm(), inputs, mapping=mapping, values=variables)
    assert not back.lstm.bias_hh_l0.any()
    close(back.lstm.bias_ih_l0.detach(), (module.lstm.bias_ih_l0 + module.lstm.bias_hh_l0).detach())
    close(back(torch.tensor(X[None])).detach(), module(torch.tensor(X[None])).detach())


# ---------------------------------------------------------------- a mapping is kept


def heads() -> tuple[nn.Module, nnx.Module, list[Any]]:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attn(x, x, x, need_weights=False)[0]

    class Jax(nnx.Module):
        def __init__(self) -> None:
            self.attn = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.attn(x)

    return Attention(), Jax(), [dlp.normal(2, 5, 8)]


@functools.cache
def mapped() -> Any:
    return dlp.mapping(*heads())


def test_a_mapping_for_a_person():
    lines = str(mapped()).splitlines()
    assert lines[0].split() == ["torch", "jax", "layout", "decided", "by"]
    assert (
        lines[1].split("  ") == ["attn.in_proj_weight", "attn.key.kernel", " (1/3 h d) i -> i h d, h=2, d=4", "value"]
        or "value" in lines[1]
    )
    assert lines[-1].startswith("the outputs agree to ") and lines[-1].endswith(" of their size in float64") and mapped().verified


def test_the_param_map_to_paste():
    module, model, inputs = heads()
    spec = dlp.layer(torch=module, jax=model, inputs=inputs, param_map=eval(mapped().param_map()))
    dlp.check(spec, devices=["cpu"], dtypes=["float32"]).raise_if_failed()


def test_saved_and_loaded(tmp_path):
    module, model, _ = heads()
    dlp.save_mapping(mapped(), tmp_path / "map.json")
    loaded = dlp.load_mapping(tmp_path / "map.json")
    assert loaded == mapped()
    x = np.random.default_rng(1).standard_normal((1, 4, 8)).astype(np.float32)
    close(dlp.carry(module.state_dict(), model, mapping=loaded)(x), module(torch.tensor(x)).detach())


def test_a_real_checkpoint(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    torch_side = pytest.importorskip("safetensors.torch")
    module = heads()[0]
    torch_side.save_file(module.state_dict(), tmp_path / "model.safetensors")
    arrays = mapped().apply(safetensors.load_file(tmp_path / "model.safetensors"))
    assert arrays["attn.query.kernel"].shape == (8, 2, 4)
    assert np.array_equal(arrays["attn.query.kernel"][:, 1, 2], module.attn.in_proj_weight[6].detach().numpy())
    assert {name: array.shape for name, array in mapped().back(arrays).items()} == {n: tuple(p.shape) for n, p in module.named_parameters()}


def state() -> dict[str, torch.Tensor]:
    return dict(heads()[0].state_dict())


CHANGED = {
    "a name that is missing": (
        lambda found: found.pop("attn.in_proj_bias"),
        'the mapping needs torch "attn.in_proj_bias", which is not there.',
    ),
    "a name too many": (
        lambda found: found.update({"head.weight": torch.ones(2), "head.bias": torch.ones(2)}),
        'the mapping does not know torch "head.weight", "head.bias". Leave out what belongs to another model.',
    ),
    "a prefix": (
        lambda found: found.update({f"model.{name}": found.pop(name) for name in list(found)}),
        'the mapping needs torch "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight" and 1 more, which are not there.',
    ),
    "a shape": (
        lambda found: found.update({"attn.out_proj.bias": torch.ones(9)}),
        'torch "attn.out_proj.bias" has the shape [9], and in the mapping [8].',
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_checkpoint_of_another_model(case):
    change, sentence = CHANGED[case]
    found = state()
    change(found)
    with pytest.raises(SpecError) as caught:
        mapped().apply(found)
    assert str(caught.value) == sentence


def test_a_jax_model_of_another_size():
    class Wide(nnx.Module):
        def __init__(self) -> None:
            self.attn = nnx.MultiHeadAttention(4, 8, decode=False, rngs=nnx.Rngs(0))

    with pytest.raises(SpecError) as caught:
        dlp.carry(state(), Wide(), mapping=mapped())
    assert str(caught.value) == 'jax "attn.key.kernel" has the shape [8, 4, 2], and in the mapping [8, 2, 4].'


SPOILED = {
    "no json": (lambda text: "{", "is no mapping that dlp.save_mapping of this version wrote."),
    "another version": (lambda text: text.replace("version 1", "version 0"), "is no mapping that dlp.save_mapping of this version wrote."),
    "another shape": (
        lambda text: json.dumps(json.loads(text) | {"torch": json.loads(text)["torch"] | {"attn.in_proj_bias": [25]}}),
        'does not fit together: torch "attn.in_proj_bias" [25] as "(1/3 h d) -> h d": its axis (1/3 h d) is 24, and [25] has 25 there.',
    ),
    "a line less": (
        lambda text: json.dumps(json.loads(text) | {"carries": json.loads(text)["carries"][1:]}),
        'does not fit together: param_map takes 128 of the 192 numbers of torch "attn.in_proj_weight" [24, 8]. Say where the others go.',
    ),
    "a name less": (
        lambda text: json.dumps(json.loads(text) | {"jax": {}}),
        "does not fit together: it has no shape for 'attn.key.kernel'.",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_file_that_was_changed(case, tmp_path):
    spoil, end = SPOILED[case]
    dlp.save_mapping(mapped(), path := tmp_path / "map.json")
    path.write_text(spoil(path.read_text()))
    with pytest.raises(SpecError) as caught:
        dlp.load_mapping(path)
    assert str(caught.value).endswith(end) and str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        dlp.load_mapping(tmp_path / "map.json")


def test_tied_weights_of_a_checkpoint():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            return self.head(self.table(tokens))

    class Jax(nnx.Module):
        def __init__(self) -> None:
            self.table = nnx.Embed(5, 3, rngs=nnx.Rngs(0))

        def __call__(self, tokens):
            return self.table.attend(self.table(tokens))

    module, inputs = Tied(), [dlp.integers(4, high=5)]
    mapping = dlp.mapping(module, Jax(), inputs)
    assert mapping.verified and list(mapping.apply(module.state_dict())) == ["table.embedding"]
    assert list(mapping.back(mapping.apply(module.state_dict()))) == ["table.weight", "head.weight"]
    with pytest.raises(SpecError) as caught:
        mapping.apply({**module.state_dict(), "head.weight": torch.ones(5, 3)})
    assert (
        str(caught.value)
        == 'torch "head.weight" and "table.weight" are one array in the module of the mapping, and two here. Map the module that has two.'
    )


def test_an_array_that_jax_has_twice_and_torch_once():
    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return torch.tanh(x @ self.w) @ self.w.T

    class Jax(nnx.Module):
        def __init__(self) -> None:
            self.a, self.b = nnx.Param(jnp.ones((4, 4))), nnx.Param(jnp.ones((4, 4)))

        def __call__(self, x):
            return jnp.tanh(x @ self.a[...]) @ self.b[...]

    mapping = dlp.mapping(Torch(), Jax(), [dlp.normal(3, 4)])
    assert {carry.jax: carry.pattern for carry in mapping.carries} == {"a": "", "b": "o i -> i o"}
    with pytest.raises(SpecError) as caught:
        mapping.back({"a": np.ones((4, 4)), "b": np.zeros((4, 4))})
    assert str(caught.value) == (
        'jax "b" is torch "w", and so is another jax array with other numbers: torch has one array for both. '
        "Tie them on the jax side, or untie them in torch."
    )


# ---------------------------------------------------------------- refused


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class JaxSquares(nnx.Module):
    def __init__(self, factor: float = 1.0, names: tuple[str, str] = ("x", "y")) -> None:
        self.names, self.factor = names, factor
        for name in names:
            setattr(self, name, nnx.Linear(4, 4, rngs=nnx.Rngs(0)))

    def __call__(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return second(jnp.tanh(self.factor * first(x)))


def refused(*args: Any, **more: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        dlp.carry(*args, **more)
    return str(caught.value).splitlines()


def test_a_doubt_without_inputs():
    assert refused(Squares(), JaxSquares())[-2:] == [
        "With inputs=[...] the values of both models may tell.",
        'Write param_map={"a.weight": ("x.kernel", "o i -> i o"), "a.bias": "x.bias", "b.weight": ("y.kernel", "o i -> i o"), "b.bias": "y.bias"} '
        "if that is what is meant; what is left out is inferred.",
    ]


def test_names_that_mislead():
    """The jax side calls b what torch calls a: both outputs agree only so."""
    mapping = dlp.mapping(Squares(), JaxSquares(names=("b", "a")), [dlp.normal(3, 4)])
    assert {carry.torch: carry.jax for carry in mapping.carries}["a.weight"] == "b.kernel" and mapping.verified


def test_a_port_that_is_wrong():
    """Named clearly, and another model: the weights could be carried, and are not without being asked to."""
    lines = refused(Squares(), JaxSquares(1.1, ("a", "b")), [dlp.normal(3, 4)])
    assert lines[0].startswith("the outputs differ to ") and lines[0].endswith(
        " of their size in float64, so this is not the same model, or not these are its weights. dlp.check shows where they part; "
        "check=False carries the weights all the same:"
    )
    filled = dlp.carry(module := Squares(), JaxSquares(1.1, ("a", "b")), [dlp.normal(3, 4)], check=False)
    assert np.array_equal(np.asarray(filled.a.kernel[...]), module.a.weight.detach().numpy().T)


def test_outputs_of_other_shapes():
    class Sum(JaxSquares):
        def __call__(self, x):
            return super().__call__(x).sum()

    mapping = dlp.mapping(Squares(), Sum(names=("a", "b")), [dlp.normal(3, 4)])
    assert mapping.words == "output has another shape on the jax side, or is not there" and not mapping.verified


SENTENCES = {
    "no inputs for linen": (
        lambda: dlp.carry(Torch(), Linen()),
        "Linen makes its parameters from inputs. Give some: inputs=[dlp.normal(2, 8)].",
    ),
    "two torch modules": (
        lambda: dlp.mapping(Torch(), Torch()),
        "the jax model is Torch. Give a module of flax.nnx, flax.linen, equinox, haiku or stax.",
    ),
    "a function": (lambda: dlp.mapping(len, Nnx()), "the torch model is len. Give an nn.Module."),
    "swapped": (lambda: dlp.mapping(Nnx(), Torch()), "the torch model is Nnx. Give an nn.Module."),
    "a checkpoint without a mapping": (
        lambda: dlp.carry({"w": np.ones(1)}, Nnx()),
        "the torch model is a dict of arrays. Give an nn.Module, or mapping= for a checkpoint: dlp.mapping(module, model, inputs) makes one.",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_is_no_model(case):
    call, sentence = SENTENCES[case]
    with pytest.raises(SpecError) as caught:
        call()
    assert str(caught.value) == sentence


# ---------------------------------------------------------------- whole models, against what a person knows


@functools.cache
def benchmark() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("carry_benchmark", BENCHMARKS / "carry.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


MODELS = [
    "GPT-2, nnx",
    "GPT-2, linen",
    "GPT-2, equinox",
    "BERT, equinox",
    "ViT, linen",
    "ResNet, nnx",
    "LSTM, linen",
    "LSTM, equinox",
    "GRU, equinox",
    "UNet, nnx",
    "grouped queries and GLU, nnx",
    "q, k, v in one kernel by turns, linen",
]


@pytest.mark.parametrize("name", [pytest.param(name, id=name.replace(", ", "-").replace(" ", "-")) for name in MODELS])
def test_a_model_without_help(name):
    (pair,) = [pair for pair in benchmark().pairs() if pair.name == name]
    found = benchmark().row(pair)
    assert (found.carried, found.refused, found.wrong) == (found.parameters, 0, 0)


@pytest.mark.parametrize("name", ["GPT-2, nnx", "ResNet, linen"])
def test_behind_a_mistake_nothing_is_wrong(name):
    (pair,) = [pair for pair in benchmark().pairs() if pair.name == name]
    assert all(benchmark().row(pair, mistake).wrong == 0 for mistake in range(2))


def test_a_norm_of_weights_around_its_layer_is_told_by_values() -> None:
    """Shapes alone would give the layer's bias to the norm's scale."""
    side = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 3))
    normed = eqx.nn.WeightNorm(eqx.nn.Linear(5, 3, key=jax.random.key(0)))
    dlp.check(dlp.layer(side, dlp.vmap(normed), inputs=[dlp.normal(4, 5)])).raise_if_failed()


def test_a_sum_of_biases_that_one_gate_keeps_apart_is_refused() -> None:
    """Equinox adds GRU's second bias of the last gate elsewhere: the sum that two gates show is not the whole array."""
    cell = eqx.nn.GRUCell(4, 6, key=jax.random.key(0))
    spec = dlp.layer(torch.nn.GRUCell(4, 6), dlp.vmap(cell), inputs=[dlp.normal(3, 4), dlp.normal(3, 6)])
    with pytest.raises(dlp.SpecError, match=r'jax "bias_n" \[6\] has no counterpart on the torch side\.'):
        dlp.check(spec)
