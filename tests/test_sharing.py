"""Shared randomness: draws paired by kind, rate, shape and order, the same numbers on both sides, and a refusal wherever that cannot be done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx
from jax.example_libraries import stax
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.checkpoint import checkpoint

import pytest_dlparity as dlp
from pytest_dlparity import matrix, run, sharing, speed
from pytest_dlparity.frameworks import jax_sharing, torch_sharing
from pytest_dlparity.sharing import Drawn, Series, Shared, Stream
from pytest_dlparity.tolerance import FORMATS

X = dlp.normal(8, 12)
KEY = jax.random.key(0)
HERE = Path(__file__).name


def check(
    torch_side: Any, jax_side: Any, *inputs: Any, dtypes: Any = ("float32",), modes: Any = ("eager",), make: Any = dlp.layer, **given: Any
) -> Any:
    spec = make(torch_side, jax_side, inputs=list(inputs) or [X], shared_randomness=True, **given)
    return dlp.check(spec, devices=["cpu"], dtypes=dtypes, modes=modes)


def statuses(report: Any) -> dict[str, str]:
    return {v.name: v.status for v in report.verdicts}


def refused(*args: Any, **given: Any) -> str:
    with pytest.raises(dlp.SpecError) as caught:
        check(*args, **given)
    return str(caught.value)


def line(text: str) -> str:
    """Where a text first stands in this file, as messages say it."""
    rows = Path(__file__).read_text().splitlines()
    return f"at {HERE}:{next(number for number, row in enumerate(rows, 1) if text in row)}"


def dropped(x: jax.Array, key: jax.Array, rate: float = 0.1) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)  # dropped, on the jax side


def torch_dropped(x: torch.Tensor, rate: float = 0.1) -> torch.Tensor:
    return F.dropout(x, rate)  # dropped, on the torch side


DROPPED, TORCH_DROPPED = line("# dropped, on the jax side"), line("# dropped, on the torch side")


# ---------------------------------------------------------------- every library


class TorchNet(torch.nn.Module):
    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.a, self.drop, self.b = torch.nn.Linear(12, 10), torch.nn.Dropout(rate), torch.nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(torch.tanh(self.a(x))))


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.drop, self.b = nnx.Linear(12, 10, rngs=rngs), nnx.Dropout(0.1, rngs=rngs), nnx.Linear(10, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(self.drop(jnp.tanh(self.a(x))))


class NnxAsks(NnxNet):
    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(rngs)
        self.drop = nnx.Dropout(0.1)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs) -> jax.Array:
        return self.b(self.drop(jnp.tanh(self.a(x)), rngs=rngs))


class LinenNet(linen.Module):
    stream: str = "dropout"

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.Dropout(0.1, rng_collection=self.stream)(jnp.tanh(linen.Dense(10, name="a")(x)), deterministic=not train)
        return linen.Dense(3, name="b")(x)


class EquinoxNet(eqx.Module):
    a: eqx.nn.Linear
    drop: eqx.nn.Dropout
    b: eqx.nn.Linear

    def __init__(self) -> None:
        self.a, self.drop, self.b = eqx.nn.Linear(12, 10, key=KEY), eqx.nn.Dropout(0.1), eqx.nn.Linear(10, 3, key=KEY)

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.b(self.drop(jnp.tanh(self.a(x)), key=key))


def haiku_net(x: jax.Array, is_training: bool) -> jax.Array:
    x = jnp.tanh(hk.Linear(10, name="a")(x))
    return hk.Linear(3, name="b")(hk.dropout(hk.next_rng_key(), 0.1, x) if is_training else x)


def function(p: dict[str, Any], x: jax.Array) -> jax.Array:
    return dropped(jnp.tanh(x @ p["a.weight"].T + p["a.bias"]), jax.random.key(7)) @ p["b.weight"].T + p["b.bias"]


def asks_for_a_key(p: dict[str, Any], x: jax.Array, key: jax.Array) -> jax.Array:
    return dropped(jnp.tanh(x @ p["a.weight"].T + p["a.bias"]), key) @ p["b.weight"].T + p["b.bias"]


STAX = stax.serial(stax.Dense(10), stax.Tanh, stax.Dropout(0.9), stax.Dense(3))  # its rate is that of keeping

LIBRARIES: dict[str, Callable[[], Any]] = {
    "nnx": lambda: NnxNet(nnx.Rngs(0)),
    "nnx, rngs as an argument": lambda: NnxAsks(nnx.Rngs(0)),
    "linen": LinenNet,
    "linen, a stream of another name": lambda: LinenNet("noise"),
    "linen, with its variables": lambda: (LinenNet(), LinenNet().init(KEY, np.ones((1, 12), np.float32), False)),
    "equinox": lambda: dlp.vmap(EquinoxNet()),
    "haiku": lambda: hk.transform(haiku_net),
    "haiku with state": lambda: hk.transform_with_state(haiku_net),
    "stax": lambda: STAX,
    "function": lambda: function,
    "function of a key": lambda: asks_for_a_key,
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_dropout_in_train_mode_agrees_forward_and_backward(library: str) -> None:
    report = check(TorchNet(), LIBRARIES[library](), train=True)
    names = ("output", "grad.input", "grad.a.weight", "grad.a.bias", "grad.b.weight", "grad.b.bias")
    assert statuses(report) == dict.fromkeys(names, "agree")


@pytest.mark.parametrize("library", ["nnx", "linen"])
def test_every_step_of_a_training_draws_anew_and_alike(library: str) -> None:
    class Torch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.drop = torch.nn.Linear(12, 10), torch.nn.Linear(10, 3), torch.nn.Dropout(0.3)
            self.masks: list[Any] = masks

        def __deepcopy__(self, memo: Any) -> Any:  # the copies that are run tell this list too
            made = Torch()
            made.load_state_dict(self.state_dict())
            return made

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.drop(torch.tanh(self.a(x)))
            self.masks.append((x == 0).numpy())
            return self.b(x)

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            return linen.Dense(3, name="b")(linen.Dropout(0.3)(jnp.tanh(linen.Dense(10, name="a")(x)), deterministic=not train))

    def nnx_net() -> Any:
        made = NnxNet(nnx.Rngs(0))
        made.drop = nnx.Dropout(0.3, rngs=nnx.Rngs(0))
        return made

    masks: list[Any] = []
    report = check(
        Torch(),
        nnx_net() if library == "nnx" else Linen(),
        dlp.normal(4, 12),
        dlp.normal(4, 3),
        make=dlp.model,
        train=True,
        loss=dlp.loss(torch=lambda z, y: ((z - y) ** 2).mean(), jax=lambda z, y: ((z - y) ** 2).mean()),
        optimizer=dlp.optimizer(torch=lambda params: torch.optim.SGD(params, lr=0.1), jax=optax.sgd(0.1)),
        steps=3,
    )
    assert report.ok and {"loss.3", "update.3.a.weight"} <= statuses(report).keys()
    first, second, third = masks[1:4]  # [0] is the first look at what is drawn
    assert np.array_equal(masks[0], first) and not np.array_equal(first, second) and not np.array_equal(second, third)
    assert all(np.array_equal(mask, masks[1 + index % 3]) for index, mask in enumerate(masks[1:]))  # noise runs and cells see the same ones


@pytest.mark.parametrize("mode", ["eager", "nojit"])
def test_other_dtypes_and_modes_get_the_same_numbers(mode: str) -> None:
    report = check(torch_dropped, lambda x: dropped(x, KEY), dtypes=["float64", "float32", "bfloat16", "float16"], modes=[mode])
    assert report.ok and len(report.cells) == 4


def test_another_seed_draws_other_numbers() -> None:
    seen: list[Any] = []

    def side(x: torch.Tensor) -> torch.Tensor:
        made = F.dropout(torch.ones_like(x), 0.5)
        seen.append(made.double().numpy())
        return made * x

    spec = dlp.layer(side, lambda x: x * dropped(jnp.ones_like(x), KEY, 0.5), inputs=[X], wrt=[], shared_randomness=True)
    for seed in (0, 1):
        assert dlp.check(spec, devices=["cpu"], seed=seed).ok
    assert len({mask.tobytes() for mask in seen}) == 2


# ---------------------------------------------------------------- what agrees


def two(x: jax.Array, first: Any = KEY, second: Any = KEY, rate: float = 0.1) -> jax.Array:
    return dropped(jnp.sin(dropped(x, first)), second, rate)


def rematerialised(x: jax.Array) -> jax.Array:
    return jax.checkpoint(lambda x: two(x, *jax.random.split(KEY)))(x)


def scanned(x: jax.Array, wrap: Callable[[Any], Any] = lambda body: body, split: bool = True) -> jax.Array:
    def body(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return dropped(jnp.sin(x), key if split else KEY), None

    return jax.lax.scan(wrap(body), x, jax.random.split(KEY, 3))[0]


def torch_scanned(x: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        x = torch_dropped(x.sin())
    return x


def same_mask(x: torch.Tensor) -> torch.Tensor:
    mask = torch_dropped(torch.ones_like(x))
    for _ in range(3):
        x = x.sin() * mask
    return x


inside = jax.jit(dropped)


def nested(x: jax.Array) -> jax.Array:
    def inner(x: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        return dropped(x, key), None

    def outer(x: jax.Array, keys: jax.Array) -> tuple[jax.Array, None]:
        return jnp.sin(jax.lax.scan(inner, x, keys, reverse=True)[0]), None

    return jax.lax.scan(outer, x, jax.random.split(KEY, (2, 3)))[0]


def torch_nested(x: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        x = torch_dropped(torch_dropped(torch_dropped(x))).sin()
    return x


def seeded_twice(x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    x = torch_dropped(x).sin()
    torch.manual_seed(3)
    return torch_dropped(x)


def own_generator(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)


def two_torch(x: torch.Tensor) -> torch.Tensor:
    return torch_dropped(torch_dropped(x).sin())


AGREE: dict[str, tuple[Any, Any]] = {
    "keep mask": (torch_dropped, lambda x: dropped(x, KEY)),
    "drop mask": (torch_dropped, lambda x: jnp.where(jax.random.bernoulli(KEY, 0.1, x.shape), 0.0, x / 0.9)),
    "drop mask at one half": (
        lambda x: F.dropout(x, 0.5),
        lambda x: jnp.where(jax.random.bernoulli(KEY, 0.5, x.shape), 0.0, 2 * x),
    ),
    "a raw key": (torch_dropped, lambda x: dropped(x, jax.random.PRNGKey(0))),
    "another generator of bits": (torch_dropped, lambda x: dropped(x, jax.random.key(0, impl="rbg"))),
    "in place": (lambda x: F.dropout(x.sin(), 0.1, inplace=True), lambda x: dropped(jnp.sin(x), KEY)),
    "checkpoint": (lambda x: checkpoint(two_torch, x, use_reentrant=False), rematerialised),
    "remat alone": (two_torch, rematerialised),
    "scan": (torch_scanned, scanned),
    "scan of remat": (torch_scanned, lambda x: scanned(x, jax.checkpoint)),
    "nested scans, one backwards": (torch_nested, nested),
    "one mask in every round": (same_mask, lambda x: scanned(x, split=False)),
    "one random state twice": (seeded_twice, two),
    "one jitted function twice": (two_torch, lambda x: inside(jnp.sin(inside(x, jax.random.key(1))), jax.random.key(2))),
    "vmap over keys": (torch_dropped, lambda x: jax.vmap(dropped)(x, jax.random.split(KEY, 8))),
    "vmap over the second axis": (torch_dropped, lambda x: jax.vmap(dropped, in_axes=(1, 0), out_axes=1)(x, jax.random.split(KEY, 12))),
    "relu has a derivative of its own": (lambda x: F.relu(torch_dropped(x)), lambda x: jax.nn.relu(dropped(x, KEY))),
    "branches in another order": (
        lambda x: torch_dropped(x) + torch_dropped(x[:, :5]).sum(),
        lambda x: (lambda b: dropped(x, jax.random.key(4)) + b)(dropped(x[:, :5], KEY).sum()),
    ),
    "drop path": (
        lambda x: x * x.new_empty(8, 1).bernoulli_(0.7) / 0.7,
        lambda x: x * jax.random.bernoulli(KEY, 0.7, (8, 1)) / 0.7,
    ),
    "a loop without rounds": (
        torch_dropped,
        lambda x: dropped(jax.lax.scan(lambda x, key: (dropped(x, key), None), x, jax.random.split(KEY, 1)[:0])[0], KEY),
    ),
    "rate 0 and rate 1": (lambda x: F.dropout(F.dropout(x, 0.0), 0.1), lambda x: dropped(dropped(x, jax.random.key(1), 0.0), KEY)),
    "normal": (lambda x: x + torch.randn_like(x), lambda x: x + jax.random.normal(KEY, x.shape, x.dtype)),
    "normal_": (lambda x: x + torch.empty_like(x).normal_(1, 2), lambda x: x + 1 + 2 * jax.random.normal(KEY, x.shape, x.dtype)),
    "Normal.rsample": (
        lambda x: torch.distributions.Normal(x, x.exp()).rsample(),
        lambda x: x + jnp.exp(x) * jax.random.normal(KEY, x.shape, x.dtype),
    ),
    "torch.normal of tensors": (
        lambda x: x + torch.normal(x.detach(), 2.0),
        lambda x: x + jax.lax.stop_gradient(x) + 2 * jax.random.normal(KEY, x.shape, x.dtype),
    ),
    "uniform": (lambda x: x * torch.rand(8, 12), lambda x: x * jax.random.uniform(KEY, (8, 12))),
    "uniform between bounds": (
        lambda x: x * torch.empty_like(x).uniform_(-1, 3),
        lambda x: x * jax.random.uniform(KEY, x.shape, x.dtype, -1, 3),
    ),
    "a generator of the user's": (own_generator, lambda x: x * jax.random.uniform(KEY, x.shape, x.dtype)),
    "exponential": (lambda x: x * torch.empty_like(x).exponential_(2.0), lambda x: x * jax.random.exponential(KEY, x.shape, x.dtype) / 2),
    "gumbel softmax": (
        lambda x: F.gumbel_softmax(x, tau=0.5),
        lambda x: jax.nn.softmax((x + jax.random.gumbel(KEY, x.shape, x.dtype)) / 0.5),
    ),
    "integers": (lambda x: x * torch.randint(2, 9, (8, 12)), lambda x: x * jax.random.randint(KEY, (8, 12), 2, 9)),
    "integers, random_": (lambda x: x * torch.empty_like(x).random_(5), lambda x: x * jax.random.randint(KEY, (8, 12), 0, 5)),
    "categorical": (
        lambda x: x * torch.distributions.Categorical(logits=x).sample()[:, None],
        lambda x: x * jax.random.categorical(KEY, x)[:, None],
    ),
    "one probability that is computed": (
        lambda x: x * torch.bernoulli(torch.full_like(x, 0.3).sigmoid()),
        lambda x: x * jax.random.bernoulli(KEY, jax.nn.sigmoid(jnp.full_like(x, 0.3))),
    ),
    "a probability for each element": (
        lambda x: x * torch.bernoulli(torch.sigmoid(x)),
        lambda x: x * jax.random.bernoulli(KEY, jax.nn.sigmoid(x)),
    ),
    "a probability for each example": (
        lambda x: x * torch.empty_like(x).bernoulli_(torch.sigmoid(x[:, :1].detach()).expand_as(x)),
        lambda x: jax.vmap(lambda x, key: x * jax.random.bernoulli(key, jax.nn.sigmoid(x[0]), x.shape))(x, jax.random.split(KEY, 8)),
    ),
}


NUMBERS = list(AGREE)[list(AGREE).index("normal") :]  # numbers rather than masks: in half precision too


@pytest.mark.parametrize("case", AGREE)
def test_the_same_program_agrees_where_it_draws(case: str) -> None:
    report = check(*AGREE[case], dtypes=["float32", "bfloat16"] if case in NUMBERS else ["float32"])
    assert set(statuses(report).values()) == {"agree"} and set(statuses(report)) == {"output", "grad.input"}


class Dropping(nnx.Module):
    """A convolution with dropout of channels and of elements, channels last inside."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.channels, self.drop = nnx.Dropout(0.2, broadcast_dims=(1, 2), rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.drop(self.channels(self.conv(jnp.transpose(x, (0, 2, 3, 1)))))
        return jnp.transpose(x, (0, 3, 1, 2))


class TorchDropping(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.channels, self.drop = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Dropout2d(0.2), torch.nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.channels(self.conv(x)))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 5, 8), (5, 3, 5, 5), (1, 3, 8, 8)], ids=str)
def test_channels_first_and_last_also_where_lengths_are_equal(shape: tuple[int, ...]) -> None:
    assert check(TorchDropping(), Dropping(nnx.Rngs(0)), dlp.normal(*shape), train=True).ok


class TorchAttention(torch.nn.Module):
    def __init__(self, weights: bool = True) -> None:
        super().__init__()
        self.attend, self.weights = torch.nn.MultiheadAttention(16, 4, dropout=0.2, batch_first=True), weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attend(x, x, x, need_weights=self.weights)[0]


def attention(p: dict[str, Any], x: jax.Array) -> jax.Array:
    heads = lambda y: y.reshape(*y.shape[:2], 4, 4)
    q, k, v = map(heads, jnp.split(x @ p["attend.in_proj_weight"].T + p["attend.in_proj_bias"], 3, -1))
    weights = dropped(jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / 2), KEY, 0.2)
    return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape) @ p["attend.out_proj.weight"].T + p["attend.out_proj.bias"]


@pytest.mark.parametrize("weights", [True, False], ids=["heads in the batch", "scaled_dot_product_attention"])
def test_dropout_inside_of_attention(weights: bool) -> None:
    assert check(TorchAttention(weights), attention, dlp.normal(2, 6, 16), train=True).ok


def test_attention_of_flax_whose_weights_are_found_by_value() -> None:
    class Linen(linen.Module):
        broadcast: bool

        @linen.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            attend = linen.MultiHeadDotProductAttention(4, dropout_rate=0.2, broadcast_dropout=self.broadcast)
            return attend(x, deterministic=not train)

    given: dict[str, Any] = {
        "train": True,
        "param_map": {"attend.out_proj.weight": ("MultiHeadDotProductAttention_0.out.kernel", "o (h d) -> h d o", {"h": 4})},
    }
    assert check(TorchAttention(), Linen(False), dlp.normal(2, 6, 16), **given).ok
    said = refused(TorchAttention(), Linen(True), dlp.normal(2, 6, 16), **given)
    assert said.startswith(
        "the draws of the two sides do not match: torch draws the shape [8, 6, 6], jax [1, 1, 6, 6]. "
    ) and said.endswith(EACH)


def lstm(p: dict[str, Any], x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, number: int) -> jax.Array:
        def step(held: Any, x: jax.Array) -> Any:
            w = {name: p[f"{name}_l{number}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            gates = x @ w["weight_ih"].T + w["bias_ih"] + held[0] @ w["weight_hh"].T + w["bias_hh"]
            i, f, g, o = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * held[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], 7), x.dtype)
        return jax.lax.scan(step, (zero, zero), x)[1]

    return layer(dropped(layer(x, 0), KEY, 0.3), 1)


def test_dropout_between_the_layers_of_an_lstm() -> None:
    class Torch(torch.nn.LSTM):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[0]

    assert check(Torch(5, 7, 2, dropout=0.3), lstm, dlp.normal(3, 4, 5), train=True).ok


# ---------------------------------------------------------------- planted faults


FAULTS: dict[str, tuple[Any, Any]] = {
    "inverted mask": (torch_dropped, lambda x: jnp.where(jax.random.bernoulli(KEY, 0.9, x.shape), 0.0, x / 0.9)),
    "not scaled": (torch_dropped, lambda x: jnp.where(jax.random.bernoulli(KEY, 0.9, x.shape), x, 0.0)),
    "scaled twice": (torch_dropped, lambda x: dropped(x, KEY) / 0.9),
    "at another place": (lambda x: torch_dropped(x.sin() + 1), lambda x: jnp.sin(dropped(x, KEY)) + 1),
    "another scale of noise": (lambda x: x + torch.randn_like(x) * 0.1, lambda x: x + 0.2 * jax.random.normal(KEY, x.shape, x.dtype)),
    "another range": (lambda x: x * torch.rand_like(x), lambda x: x * jax.random.uniform(KEY, x.shape, x.dtype, -1, 1)),
    "another probability for each element": (
        lambda x: x * torch.bernoulli(torch.sigmoid(x)),
        lambda x: x * jax.random.bernoulli(KEY, jax.nn.sigmoid(2 * x)),
    ),
    "two masks swapped": (
        lambda x: torch_dropped(x) + 2 * torch_dropped(x),
        lambda x: 2 * dropped(x, KEY) + dropped(x, jax.random.key(1)),
    ),
    "gradient through a dropped element": (
        torch_dropped,
        lambda x: dropped(x, KEY) + x - jax.lax.stop_gradient(x),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_use_of_the_same_draw_is_semantics(fault: str) -> None:
    report = check(*FAULTS[fault])
    assert not report.ok and "semantics" in statuses(report).values()


END = ", or leave shared_randomness out and give train=False."
ALIKE = "Let both sides draw the same numbers of the same shape in the same order" + END
PASS_IN = ". Draw the numbers with dlp and pass them in" + END


def unlike(reason: str, torch_draws: str, jax_draws: str, advice: str = ALIKE) -> str:
    return f"the draws of the two sides do not match: {reason}. torch draws {torch_draws}; jax draws {jax_draws}. {advice}"


def branch(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x.sum() > 0, lambda x: dropped(x, KEY), lambda x: x, x)  # a branch draws


def looped(x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda held: held[0] < 2, lambda held: (held[0] + 1, dropped(held[1], KEY)), (0, x))[1]  # a loop draws


@jax.custom_vjp
def derived(x: jax.Array) -> jax.Array:
    return dropped(x, KEY)


derived.defvjp(lambda x: (dropped(x, KEY), None), lambda _, g: (g,))


@jax.custom_vjp
def dropped_backwards(x: jax.Array) -> jax.Array:
    return x


dropped_backwards.defvjp(lambda x: (x, None), lambda _, g: (dropped(g, KEY),))


def hidden(x: torch.Tensor) -> torch.Tensor:
    x = torch_dropped(x)
    with _disable_current_modes():  # as an operation in C++ that draws without saying so
        torch.rand(3)
    return x


def here(text: str) -> str:
    return f" {line(text)}"


def in_turn(x: torch.Tensor, runs: list[int]) -> torch.Tensor:
    runs.append(1)
    return torch_dropped(x, 0.1 if len(runs) == 1 else 0.2)


def uneven(x: jax.Array) -> jax.Array:
    low = jnp.arange(12.0)
    return x * jax.random.uniform(KEY, x.shape, x.dtype, low, low + 1)  # bounds that are arrays


EACH = "Let jax draw a number for each element, not one for several (flax: broadcast_dropout=False; vmap: a key for each example)" + END
T, J = f"bernoulli(0.9) of [8, 12] {TORCH_DROPPED}", f"bernoulli(0.9) of [8, 12] {DROPPED}"
OTHER = J.replace("0.9", "0.8")
SEED = "torch.manual_seed out of the model"
REFUSALS: dict[str, tuple[Any, Any, str]] = {
    "another rate": (
        torch_dropped,
        lambda x: dropped(x, KEY, 0.2),
        unlike("torch's mask is True with probability 0.9, jax's with 0.8", T, OTHER),
    ),
    "jax draws nothing": (torch_dropped, lambda x: x, unlike("torch draws once, jax nothing", T, "nothing")),
    "torch draws nothing": (lambda x: x, lambda x: dropped(x, KEY), unlike("torch draws nothing, jax once", "nothing", J)),
    "neither draws": (
        torch.sin,
        jnp.sin,
        "shared_randomness=True, but neither side draws a random number. Set both to training mode with train=True, "
        "or leave shared_randomness out.",
    ),
    "another number of draws": (two_torch, lambda x: dropped(x, KEY), unlike("torch draws twice, jax once", f"{T}, {T}", J)),
    "one key used twice": (two_torch, two, unlike("torch draws twice, jax once", f"{T}, {T}", f"{J}, the same 2 times")),
    "one key in every round": (
        torch_scanned,
        lambda x: scanned(x, split=False),
        unlike("torch draws 3 times, jax once", f"{T}, {T}, {T}", f"{J}, the same 3 times"),
    ),
    "one key for two draws": (
        two_torch,
        lambda x: two(x, rate=0.2),
        f"jax uses one key for {J} and again for {OTHER}, so these draws depend on one another, which cannot be shared. "
        "Split it: key1, key2 = jax.random.split(key).",
    ),
    "one key for all examples": (
        torch_dropped,
        dlp.vmap(lambda x: dropped(x, KEY)),
        unlike("torch draws the shape [8, 12], jax [12]", T, J.replace("8, ", ""), EACH),
    ),
    "one key repeated for all examples": (
        torch_dropped,
        lambda x: jax.vmap(dropped)(x, jnp.broadcast_to(KEY, 8)),
        f"jax uses one key for several examples in {J}, so they all draw the same. Split it: jax.random.split(key, len(x)).",
    ),
    "one random state for two draws": (
        lambda x: (seeded_twice(x), torch.manual_seed(3), torch_dropped(x, 0.2))[2],
        lambda x: dropped(x, KEY),
        f"torch's random state was set back between {T} and {T.replace('0.9', '0.8')}, so these draws depend on one another, which cannot be "
        f"shared. Leave {SEED}.",
    ),
    "broadcast on one side": (
        torch_dropped,
        lambda x: x * jax.random.bernoulli(KEY, 0.9, (8, 1)) / 0.9,  # a draw that is broadcast
        unlike("torch draws the shape [8, 12], jax [8, 1]", T, "bernoulli(0.9) of [8, 1]" + here("# a draw that is broadcast"), EACH),
    ),
    "broadcast on the other side": (
        lambda x: F.dropout1d(x, 0.1),  # channels in torch
        lambda x: dropped(x, KEY),
        unlike(
            "torch draws the shape [1, 8, 1], jax [8, 12]", "bernoulli(0.9) of [1, 8, 1]" + here("# channels in torch"), J,
            "Let torch draw a number for each element, not one for several (dropout, not dropout2d)" + END,
        ),
    ),
    "uniform for a mask in jax": (
        torch_dropped,
        lambda x: x * (jax.random.uniform(KEY, x.shape) < 0.9) / 0.9,  # a uniform mask in jax
        unlike(
            "bernoulli(0.9) is not uniform", T, "uniform of [8, 12]" + here("# a uniform mask in jax"),
            "Write jax.random.bernoulli(key, 0.9, (8, 12)) on the jax side" + END,
        ),
    ),
    "uniform for a mask in torch": (
        lambda x: x * (torch.rand_like(x) < 0.9) / 0.9,  # a uniform mask in torch
        lambda x: dropped(x, KEY),
        unlike(
            "uniform is not bernoulli(0.9)", "uniform of [8, 12]" + here("# a uniform mask in torch"), J,
            "Write torch.empty([8, 12]).bernoulli_(0.9) on the torch side" + END,
        ),
    ),
    "one probability against many": (
        torch_dropped,
        lambda x: x * jax.random.bernoulli(KEY, jax.nn.sigmoid(x)),  # a probability for each in jax
        unlike("bernoulli(0.9) is not bernoulli", T, "bernoulli of [8, 12]" + here("# a probability for each in jax")),
    ),
    "other bounds of integers": (
        lambda x: x * torch.randint(0, 5, (8, 12)),  # integers in torch
        lambda x: x * jax.random.randint(KEY, (8, 12), 0, 6),  # integers in jax
        unlike(
            "integers(0, 5) is not integers(0, 6)",
            "integers(0, 5) of [8, 12]" + here("# integers in torch"), "integers(0, 6) of [8, 12]" + here("# integers in jax"),
        ),
    ),
    "bounds that are arrays": (
        lambda x: x * torch.rand_like(x),
        uneven,
        f"jax draws between arrays of bounds{here('# bounds that are arrays')}, which cannot be shared. Give two numbers, and scale what is drawn.",
    ),
    "a kind that torch has and jax has not": (
        lambda x: F.rrelu(x, training=True),  # a fused draw
        lambda x: dropped(x, KEY),
        f"torch draws with aten.rrelu_with_noise{here('# a fused draw')}, which cannot be shared{PASS_IN}",
    ),
    "several samples of a row": (
        lambda x: x[0, torch.multinomial(x.exp(), 2)],  # two samples
        lambda x: x,
        f"torch draws with aten.multinomial{here('# two samples')}, which cannot be shared{PASS_IN}",
    ),
    "complex numbers": (
        lambda x: x * torch.randn(12, dtype=torch.complex128).real,
        lambda x: x,
        "torch draws complex numbers, which cannot be shared. Draw the real and the imaginary part, or pass the numbers in.",
    ),
    "complex numbers in jax": (
        lambda x: x,
        lambda x: x * jax.random.normal(KEY, x.shape, complex).real,  # complex in jax
        f"jax draws with normal{here('# complex in jax')}, which cannot be shared{PASS_IN}",
    ),
    "a permutation": (
        lambda x: torch_dropped(x),
        lambda x: x[:, jax.random.permutation(KEY, 12)],  # a permutation
        f"jax draws with shuffle{here('# a permutation')}, which cannot be shared{PASS_IN}",
    ),
    "bits": (
        lambda x: torch_dropped(x),
        lambda x: x * jax.random.bits(KEY, x.shape),  # bits
        f"jax draws with random_bits{here('# bits')}, which cannot be shared{PASS_IN}",
    ),
    "in a branch": (
        torch_dropped,
        branch,
        f"jax draws inside a branch of jax.lax.cond{here('# a branch draws')}, where numbers cannot be given from outside{PASS_IN}",
    ),
    "in a while loop": (
        torch_dropped,
        lambda x: jax.lax.stop_gradient(looped(jax.lax.stop_gradient(x))),
        f"jax draws inside a jax.lax.while_loop{here('# a loop draws')}, where numbers cannot be given from outside{PASS_IN}",
    ),
    "in a function with a derivative of its own": (
        torch_dropped,
        derived,
        f"jax draws inside a jax.custom_vjp, where numbers cannot be given from outside{PASS_IN}",
    ),
    "in a derivative": (
        torch_dropped,
        lambda x: dropped_backwards(dropped(x, jax.random.key(1))),
        f"jax draws random numbers{here('dropped_backwards(dropped(x, jax.random.key(1)))')}, outside the forward pass, in a derivative of its own "
        "or in the optimizer, which cannot be shared. Take them out, or leave shared_randomness out.",
    ),
    "hidden from us": (
        hidden,
        lambda x: dropped(x, KEY),
        "torch draws random numbers inside an operation that does not say so, after the last draw that was shared. Draw them with dlp "
        "and pass them in, or leave shared_randomness out.",
    ),
    "otherwise in another run": (
        lambda x, runs=[]: in_turn(x, runs),  # the point: it remembers
        lambda x: dropped(x, KEY),
        f"torch draws {T.replace('0.9', '0.8')} in step 1, where the first run drew {T}. Randomness is shared only where every run draws alike: "
        "leave shared_randomness out, or draw with dlp and pass the draws in.",
    ),
    "more in another run": (
        lambda x, runs=[]: torch_dropped(x) if not runs and not runs.append(1) else two_torch(x),  # as above
        lambda x: dropped(x, KEY),
        f"torch draws {T} in step 1, where the first run drew nothing more. Randomness is shared only where every run draws alike: "
        "leave shared_randomness out, or draw with dlp and pass the draws in.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_shared_is_refused_in_words(case: str) -> None:
    torch_side, jax_side, sentence = REFUSALS[case]
    assert refused(torch_side, jax_side) == sentence


def test_the_mode_compiled_is_refused() -> None:
    assert refused(torch_dropped, lambda x: dropped(x, KEY), modes=["compiled"]) == (
        "shared_randomness=True cannot run in the mode compiled: torch.compile draws inside its own kernels. Leave compiled out of the modes."
    )


@pytest.mark.parametrize(
    ("jax_side", "what"),
    [
        (lambda x: two(x) if x.dtype == np.float32 else dropped(x, KEY), "more random numbers than in its first run"),
        (lambda x: x if x.dtype == np.float32 else dropped(x, KEY), "fewer random numbers than in its first run"),
        (
            lambda x: dropped(x[:1], KEY) if x.dtype == np.float32 else dropped(x, KEY),
            f"the shape [1, 12] {DROPPED}, where its first run drew [8, 12]",
        ),
    ],
    ids=["more", "fewer", "another shape"],
)
def test_a_jax_side_that_draws_otherwise_in_another_dtype_is_refused(jax_side: Any, what: str) -> None:
    assert refused(torch_dropped, jax_side) == (
        f"jax draws {what}. Randomness is shared only where every run draws alike: leave shared_randomness out, or draw with dlp and pass "
        "the draws in."
    )


def test_a_side_that_does_not_run_in_float64_is_paired_in_float32() -> None:
    weight = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    report = check(lambda x: torch_dropped(x) @ torch.tensor(weight), lambda x: dropped(x, KEY) @ weight)
    assert report.ok and "there is no float64 reference: RuntimeError" in report.remarks[1]


def test_an_optimizer_that_draws_is_refused() -> None:
    given: dict[str, Any] = {
        "make": dlp.model,
        "train": True,
        "loss": dlp.loss(torch=lambda z, y: ((z - y) ** 2).mean(), jax=lambda z, y: ((z - y) ** 2).mean()),
        "steps": 2,
    }
    noisy = optax.chain(optax.add_noise(0.1, 0.5, key=KEY), optax.sgd(0.1))
    pair = dlp.optimizer(torch=lambda params: torch.optim.SGD(params, lr=0.1), jax=noisy)
    said = refused(TorchNet(), LinenNet(), dlp.normal(4, 12), dlp.normal(4, 3), optimizer=pair, **given)
    assert said.startswith("jax draws random numbers in optax's ") and said.endswith(
        ", outside the forward pass, in a derivative of its own or in the optimizer, which cannot be shared. "
        "Take them out, or leave shared_randomness out."
    )

    class Noisy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.add_(torch.randn_like(p))  # an optimizer draws
            super().step(closure)

    pair = dlp.optimizer(torch=lambda params: Noisy(params, lr=0.1), jax=optax.sgd(0.1))
    said = refused(TorchNet(), LinenNet(), dlp.normal(4, 12), dlp.normal(4, 3), optimizer=pair, **given)
    assert said == (
        f"torch draws normal of [10, 12]{here('# an optimizer draws')} in step 1, where the first run drew nothing more. "
        "Randomness is shared only where every run draws alike: leave shared_randomness out, or draw with dlp and pass the draws in."
    )


def test_a_draw_that_can_be_laid_out_in_two_ways_is_refused_where_something_else_is_wrong_too() -> None:
    assert refused(TorchAttention(), lambda p, x: attention(p, 1.5 * x), dlp.normal(2, 6, 16), train=True) == (
        "a draw of [8, 6, 6] as [2, 4, 6, 6] can be laid out in more than one way, and none brings the outputs of the two sides together. "
        "Give the axes lengths that differ, compare with train=False first, or draw the numbers with dlp and pass them in."
    )


def test_a_small_fault_elsewhere_leaves_the_right_layout_clear() -> None:
    report = check(TorchAttention(), lambda p, x: attention(p, x) + 1e-3, dlp.normal(2, 6, 16), train=True)
    assert statuses(report)["output"] == "semantics" and statuses(report)["grad.input"] == "agree"


def test_equal_shapes_keep_their_order_where_no_way_is_clear_and_the_report_says_so() -> None:
    report = check(lambda x: F.dropout(x, 0.5), lambda x: dropped(x, KEY, 0.5) * 3)
    half = "bernoulli(0.5) of [8, 12]"
    assert report.remarks == (
        f"  note: randomness is shared, torch's {half}{here('lambda x: F.dropout(x, 0.5), lambda x: dropped(x, KEY, 0.5) * 3')} for jax's {half} "
        f"{DROPPED}. The outputs differ in each of 2 ways to do so (axes of equal length, masks that keep or drop): the first is taken",
    )


# ---------------------------------------------------------------- what is said, and what stays as it was


def test_the_report_says_which_draw_is_which() -> None:
    report = check(TorchDropping(), Dropping(nnx.Rngs(0)), dlp.normal(2, 3, 4, 6), train=True)
    torch_line, jax_line = here("self.drop(self.channels(self.conv(x)))"), here("x = self.drop(self.channels(self.conv(jnp")
    assert report.remarks == (
        f"  note: randomness is shared, torch's bernoulli(0.8) of [2, 5, 1, 1]{torch_line} for jax's bernoulli(0.8) of [2, 1, 1, 5]{jax_line}; "
        f"torch's bernoulli(0.9) of [2, 5, 4, 6]{torch_line} for jax's bernoulli(0.9) of [2, 4, 6, 5], axes [0, 2, 3, 1] of [2, 5, 4, 6]{jax_line}",
    )


def test_modules_without_a_line_of_the_users_are_named() -> None:
    said = refused(torch.nn.Sequential(torch.nn.Dropout(0.1)), nnx.Dropout(0.2, rngs=nnx.Rngs(0)), train=True)
    start = "torch draws bernoulli(0.9) of [8, 12] in Dropout '0'; jax draws bernoulli(0.8) of [8, 12] in flax's stochastic.py:"
    assert start in said


def test_without_it_nothing_changes() -> None:
    spec = dlp.layer(torch_dropped, lambda x: dropped(x, KEY), inputs=[X])
    assert not spec.shared_randomness
    report = dlp.check(spec, devices=["cpu"])
    assert not report.ok and "the torch side drew random numbers" in report.remarks[0]


@pytest.mark.parametrize("given", [1, "yes", None], ids=repr)
def test_the_argument_is_true_or_false(given: Any) -> None:
    with pytest.raises(dlp.SpecError) as caught:
        dlp.layer(torch.sin, jnp.sin, inputs=[X], shared_randomness=given)
    assert str(caught.value) == f"shared_randomness is {given!r}. Write True or False."


def test_torchs_random_state_is_afterwards_as_it_was() -> None:
    before = torch.random.get_rng_state()
    check(two_torch, lambda x: two(x, *jax.random.split(KEY)))
    refused(hidden, lambda x: dropped(x, KEY))
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_is_timed_draws_by_itself() -> None:
    spec = dlp.layer(TorchNet(), LinenNet(), inputs=[X], train=True, shared_randomness=True)
    prep = run.prepared(spec, 0, ["float32"])
    assert prep.shared is not None and prep.jax.shared is not None
    prep = run.unshared(prep)
    assert prep.shared is None and prep.jax.shared is None and run.unshared(prep) is prep
    device = matrix.devices()["cpu"]
    for _, made in speed.parts(prep, matrix.Cell("cpu", "float32"), device):
        part = made()
        part.torch(), part.jax()


# ---------------------------------------------------------------- the parts


def test_names_of_jaxs_random_functions_are_as_we_know_them() -> None:
    """jax_sharing.KINDS are private names: a rename turns every draw into a refusal, and this test red."""
    draws: dict[str, Callable[[jax.Array], Any]] = {
        "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (2,)),
        "uniform": lambda key: jax.random.uniform(key, (2,)),
        "normal": lambda key: jax.random.normal(key, (2,)),
        "integers": lambda key: jax.random.randint(key, (2,), 0, 3),
        "gumbel": lambda key: jax.random.gumbel(key, (2,)),
        "exponential": lambda key: jax.random.exponential(key, (2,)),
    }
    assert list(draws) == list(jax_sharing.KINDS.values())
    for kind, draw in draws.items():
        (event,) = jax_sharing.events(draw, KEY)
        assert (event.drawn.kind, event.drawn.shape) == (kind, (2,))


def test_a_function_of_the_users_under_the_name_of_jaxs_is_looked_into() -> None:
    @jax.jit
    def _normal(key: jax.Array) -> jax.Array:
        return 3 * jax.random.uniform(key, (2,))

    (event,) = jax_sharing.events(_normal, KEY)
    assert event.drawn.kind == "uniform"


def test_a_draw_under_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(jax_sharing.KINDS, "_bernoulli")
    said = refused(torch_dropped, lambda x: dropped(x, KEY))
    assert said == f"jax draws with bernoulli {DROPPED}, which cannot be shared{PASS_IN}"


def test_a_replayed_function_keeps_its_lines_and_draws_nothing() -> None:
    spec = dlp.layer(two_torch, lambda x: two(x, *jax.random.split(KEY)), inputs=[X], shared_randomness=True)
    prep = run.prepared(spec, 0, ["float32"])
    with run.frameworks()[1].settings("float64", "highest"):
        traced, _ = run.Functions(prep, "cpu", "float64", True)("forward").traced({}, {}, prep.inputs, {})
    assert jax_sharing.left(traced.jaxpr.jaxpr) == ""
    (sine,) = [equation for equation in traced.jaxpr.jaxpr.eqns if equation.primitive.name == "sin"]
    assert f"at {run.frameworks()[1].jax_flow.line(sine)}" == line("return dropped(jnp.sin(dropped(x, first)), second, rate)")


def test_every_random_operation_of_torch_is_answered_or_refused() -> None:
    """Whatever carries torch's tag of randomness and is not answered ends in a sentence: what is not in the table needs no list of its own."""
    assert all(torch.Tag.nondeterministic_seeded in op.tags for op in (torch.ops.aten.bernoulli_.float, torch.ops.aten.poisson.default))
    draws = torch_sharing.Draws(Stream(0))
    with (
        draws.forward(),
        pytest.raises(dlp.SpecError, match=r"^torch draws with aten\.poisson at test_sharing\.py:\d+, which cannot be shared"),
    ):
        torch.poisson(torch.ones(3))


@contextlib.contextmanager
def drawing() -> Iterator[Stream]:
    stream = Stream(0)
    with torch.random.fork_rng([]), torch_sharing.Draws(stream).run():
        yield stream


@pytest.mark.parametrize(
    ("draw", "expected", "drawn"),
    [
        (lambda: torch.native_dropout(torch.ones(3, 4), 0.25, True)[0], lambda n: n / 0.75, Drawn("bernoulli", (3, 4), keep=0.75)),
        (lambda: torch.bernoulli(torch.full((3, 4), 0.25)), lambda n: n, Drawn("bernoulli", (3, 4), keep=0.25)),
        (lambda: torch.ones(3, 4).bernoulli_(torch.full((4,), 0.25)), lambda n: n, Drawn("bernoulli", (3, 4), keep=0.25)),
        (lambda: torch.rand(3, 4, out=torch.empty(3, 4)), lambda n: n, Drawn("uniform", (3, 4))),
        (lambda: torch.normal(2.0, 3.0, (3, 4)), lambda n: 3 * n + 2, Drawn("normal", (3, 4))),
        (lambda: torch.normal(2.0, torch.full((3, 4), 3.0)), lambda n: 3 * n + 2, Drawn("normal", (3, 4))),
        (lambda: torch.randint_like(torch.ones(3, 4), 2, 5), lambda n: n, Drawn("integers", (3, 4), bounds=(2, 5))),
        (lambda: torch.empty(3, 4).random_(2, 5), lambda n: n, Drawn("integers", (3, 4), bounds=(2, 5))),
    ],
    ids=[
        "native_dropout",
        "bernoulli of a tensor",
        "bernoulli_ of a tensor",
        "out",
        "normal of numbers",
        "normal of a tensor",
        "randint_like",
        "random_",
    ],
)
def test_operations_of_torch_that_layers_seldom_call(draw: Callable[[], torch.Tensor], expected: Any, drawn: Drawn) -> None:
    with drawing() as stream:
        made = draw()
    assert [d.same(drawn) for d in stream.sequence.draws] == [True]
    np.testing.assert_allclose(made.numpy(), expected(sharing.numbers(drawn, 0, 0, 0).astype(np.float32)), rtol=1e-6)


def test_operations_that_may_draw_and_do_not_are_let_through() -> None:
    q = torch.ones(1, 1, 2, 4)
    with drawing() as stream:
        F.scaled_dot_product_attention(q, q, q)
        F.rrelu(q, training=False)
        torch.native_dropout(q, 0.5, False)
        torch.nn.LSTM(4, 4)
        F.dropout(q[:0], 0.5)
    assert all(d.kind == "uniform" for d in stream.sequence.draws)  # the LSTM's own initial numbers


def test_numbers_hang_on_seed_step_and_place_and_fit_every_dtype_of_the_matrix() -> None:
    normal = Drawn("normal", (50,))
    seen = {sharing.numbers(normal, *which).tobytes() for which in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    assert len(seen) == 4 and np.array_equal(sharing.numbers(normal, 0, 0, 0), sharing.numbers(normal, 0, 0, 0))
    for kind in ("normal", "uniform", "exponential", "gumbel"):
        made = sharing.numbers(Drawn(kind, (200,)), 0, 0, 0, (FORMATS["bfloat16"],))
        assert np.array_equal(made, made.astype(FORMATS["bfloat16"].scalar).astype(np.float64))
    assert abs(sharing.numbers(Drawn("bernoulli", (10_000,), keep=0.2), 0, 0, 0).mean() - 0.2) < 0.02


def test_a_gumbel_number_is_minus_the_log_of_an_exponential_one_both_ways() -> None:
    for kinds in (("exponential", "gumbel"), ("gumbel", "exponential")):
        torch_draw, jax_draw = (Drawn(kind, (4,)) for kind in kinds)
        (way,) = sharing.ways([torch_draw], [jax_draw])
        shared = Shared((torch_draw,), (jax_draw,), way, (sharing.Event(jax_draw, 0, (), (b"",), 0),), seed=0)
        ours, (theirs,) = shared.for_torch(0, 0), shared.for_jax(0)
        np.testing.assert_allclose(theirs, -np.log(ours) if kinds[0] == "exponential" else np.exp(-ours))


def test_a_certain_draw_is_no_draw() -> None:
    series = Series("jax")
    assert [series.number(Drawn("bernoulli", (2,), keep=keep), [b"k"]) for keep in (0.0, 1.0)] == [-1, -1] and not series.draws
    assert sharing.certain(Drawn("bernoulli", (2,), keep=1.0)).all() and not sharing.certain(Drawn("bernoulli", (2,), keep=0.0)).any()


def test_too_many_ways_are_refused_before_any_is_tried() -> None:
    torch_draws = [Drawn("bernoulli", (8, length, length), keep=0.9) for length in (2, 3, 5, 6, 7)]
    jax_draws = [Drawn("bernoulli", (2, 4, *draw.shape[1:]), keep=0.9) for draw in torch_draws]
    with pytest.raises(dlp.SpecError, match=r"^a draw of \[8, 2, 2\] as \[2, 4, 2, 2\], .* can be laid out in more than one way, and "):
        sharing.ways(torch_draws, jax_draws)


def test_a_draw_with_its_heads_apart_takes_the_same_numbers() -> None:
    first, now = Drawn("bernoulli", (8, 6), keep=0.9), Drawn("bernoulli", (2, 4, 6), keep=0.9)
    shared = Shared((first,), (), (), (), seed=0)
    stream = Stream(0, shared=shared)
    stream.forward()
    assert np.array_equal(stream.numbers(now, b"state"), shared.for_torch(0, 0).reshape(2, 4, 6))
    for other in (replace_shape(first, (6, 8)), Drawn("normal", (8, 6)), now._replace(keep=0.1)):
        stream.forward()
        with pytest.raises(dlp.SpecError, match=r"^torch draws "):
            stream.numbers(other, b"state")


def replace_shape(drawn: Drawn, shape: tuple[int, ...]) -> Drawn:
    return drawn._replace(shape=shape)


def test_layouts_are_inverses_of_what_a_user_writes() -> None:
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    (way,) = sharing.layouts((2, 3, 4, 5), (2, 4, 5, 3))
    assert np.array_equal(way(x), np.transpose(x, (0, 2, 3, 1)))
    rows, swapped = sharing.layouts((6, 5), (2, 3, 5))
    flat = np.arange(30).reshape(6, 5)
    assert np.array_equal(rows(flat), flat.reshape(2, 3, 5)) and np.array_equal(swapped(flat), flat.reshape(3, 2, 5).swapaxes(0, 1))
    rows, swapped = sharing.layouts((2, 3, 5), (6, 5))
    deep = flat.reshape(2, 3, 5)
    assert np.array_equal(rows(deep), flat) and np.array_equal(swapped(deep), deep.swapaxes(0, 1).reshape(6, 5))
    assert not sharing.layouts((2, 3), (6,)[:0]) and sharing.layouts((), (1, 1))[0](np.array(5)).shape == (1, 1)


def test_prepared_specs_with_other_numbers_keep_their_draws() -> None:
    prep = run.prepared(dlp.layer(torch_dropped, lambda x: dropped(x, KEY), inputs=[X], shared_randomness=True), 0, ["float32"])
    moved = replace(prep, inputs={"input": prep.inputs["input"] + 1})
    one, other = (
        run.torch_outcome(p, run.torch_ready(p, "cpu", "float64", False), "cpu", "float64").leaves["output"] for p in (prep, moved)
    )
    assert np.array_equal(one == 0, other == 0) and not np.array_equal(one, other)
