"""Each library's modules as pure functions: the values are the library's own, nothing is cast, nothing of the user's is changed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from jax.example_libraries import optimizers, stax

import pytest_dlparity as dlp
from pytest_dlparity.errors import SpecError
from pytest_dlparity.frameworks import jax_equinox, jax_haiku, jax_linen, jax_nnx, jax_optimizers, jax_program, jax_stax

ADAPTERS = {"nnx": jax_nnx, "linen": jax_linen, "equinox": jax_equinox, "haiku": jax_haiku, "stax": jax_stax}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 3)).astype(np.float32)


def cast(tree: Any, dtype: Any) -> Any:
    """Every floating array in another dtype, as jax arrays."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if jax_program.is_floating(x) else None) if jax_program.is_array(x) else x, tree)


def filled(params: dict[str, Any]) -> dict[str, Any]:
    """The same names and shapes with numbers of our own, as the caller fills them from the torch side."""
    rng = np.random.default_rng(1)
    return {name: jnp.asarray(rng.standard_normal(p.shape), p.dtype) for name, p in sorted(params.items())}


def of(side: Any, *args: Any, train: bool | None = None, **kwargs: Any) -> jax_program.Program:
    """The program of the one adapter that owns the side."""
    (adapter,) = [adapter for adapter in ADAPTERS.values() if adapter.owns(side)]
    return adapter.program(side, args, kwargs, train)


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=2e-5, atol=2e-6)  # float32, two ways through XLA


# ---------------------------------------------------------------- what every adapter does, on one small network each


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.ones, rngs=rngs)  # quick to make
        self.fc = linear(3, 5)
        self.blocks = nnx.List([linear(5, 5), linear(5, 2)])

    def __call__(self, x):
        return self.blocks[1](jnp.tanh(self.blocks[0](jnp.tanh(self.fc(x)))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(5)(x))
        return linen.Dense(2)(jnp.tanh(linen.Dense(5, name="middle")(x)))


class EqxNet(eqx.Module):
    fc: eqx.nn.Linear
    blocks: list[eqx.nn.Linear]

    def __init__(self, key):
        self.fc = eqx.nn.Linear(3, 5, key=key)
        self.blocks = [eqx.nn.Linear(5, 5, key=key), eqx.nn.Linear(5, 2, key=key)]

    def __call__(self, x):
        return self.blocks[1](jnp.tanh(self.blocks[0](jnp.tanh(self.fc(x)))))


def haiku_net(x):
    return hk.nets.MLP([5, 5, 2], activation=jnp.tanh)(x)


class Case(NamedTuple):
    library: str
    side: Callable[[], Any]
    params: dict[str, tuple[int, ...]]
    layers: dict[str, str]
    direct: Callable[[Any, dict[str, Any], Any], Any]  # (side, filled params, x) -> output, by the library's own means
    example: Any = X


def nnx_direct(side, p, x):
    graph, state = nnx.split(side)
    pure = nnx.to_pure_dict(state)
    pure["fc"] = {"kernel": p["fc.kernel"], "bias": p["fc.bias"]}
    pure["blocks"] = {i: {"kernel": p[f"blocks.{i}.kernel"], "bias": p[f"blocks.{i}.bias"]} for i in (0, 1)}
    nnx.replace_by_pure_dict(state, pure)
    return nnx.merge(graph, state)(x)


def linen_direct(side, p, x):
    params = {m: {"kernel": p[f"{m}.kernel"], "bias": p[f"{m}.bias"]} for m in ("Dense_0", "middle", "Dense_1")}
    return side.apply({"params": params}, x)


def equinox_direct(side, p, x):
    def parts(m):
        return [part for linear in (m.fc, *m.blocks) for part in (linear.weight, linear.bias)]

    names = [f"{m}.{part}" for m in ("fc", "blocks.0", "blocks.1") for part in ("weight", "bias")]
    return eqx.tree_at(parts, side, [p[name] for name in names])(x)


def haiku_direct(side, p, x):
    return side.apply({f"mlp/~/linear_{i}": {"w": p[f"mlp.linear_{i}.w"], "b": p[f"mlp.linear_{i}.b"]} for i in range(3)}, None, x)


def stax_direct(side, p, x):
    return side[1]([(p["0.0"], p["0.1"]), (), (p["2.0"], p["2.1"])], x)


CASES = [
    Case(
        "nnx",
        lambda: NnxNet(nnx.Rngs(0)),
        {
            "fc.kernel": (3, 5),
            "fc.bias": (5,),
            "blocks.0.kernel": (5, 5),
            "blocks.0.bias": (5,),
            "blocks.1.kernel": (5, 2),
            "blocks.1.bias": (2,),
        },
        {f"{m}.{part}": "Linear" for m in ("fc", "blocks.0", "blocks.1") for part in ("kernel", "bias")},
        nnx_direct,
    ),
    Case(
        "linen",
        LinenNet,
        {
            "Dense_0.kernel": (3, 5),
            "Dense_0.bias": (5,),
            "middle.kernel": (5, 5),
            "middle.bias": (5,),
            "Dense_1.kernel": (5, 2),
            "Dense_1.bias": (2,),
        },
        {f"{m}.{part}": "Dense" for m in ("Dense_0", "middle", "Dense_1") for part in ("kernel", "bias")},
        linen_direct,
    ),
    Case(
        "equinox",
        lambda: eqx.filter_jit(EqxNet)(jax.random.key(0)),
        {
            "fc.weight": (5, 3),
            "fc.bias": (5,),
            "blocks.0.weight": (5, 5),
            "blocks.0.bias": (5,),
            "blocks.1.weight": (2, 5),
            "blocks.1.bias": (2,),
        },
        {f"{m}.{part}": "Linear" for m in ("fc", "blocks.0", "blocks.1") for part in ("weight", "bias")},
        equinox_direct,
        X[0],
    ),
    Case(
        "haiku",
        lambda: hk.transform(haiku_net),
        {
            "mlp.linear_0.w": (3, 5),
            "mlp.linear_0.b": (5,),
            "mlp.linear_1.w": (5, 5),
            "mlp.linear_1.b": (5,),
            "mlp.linear_2.w": (5, 2),
            "mlp.linear_2.b": (2,),
        },
        {f"mlp.linear_{i}.{part}": "Linear" for i in range(3) for part in ("w", "b")},
        haiku_direct,
    ),
    Case(
        "stax",
        lambda: stax.serial(stax.Dense(5), stax.Tanh, stax.Dense(2)),
        {"0.0": (3, 5), "0.1": (5,), "2.0": (5, 2), "2.1": (2,)},
        {},
        stax_direct,
    ),
]

each_case = pytest.mark.parametrize("case", CASES, ids=[case.library for case in CASES])


@functools.cache
def made(library: str) -> Any:
    """The case's side, made once: no test changes it."""
    return next(case for case in CASES if case.library == library).side()


@each_case
def test_parameters_are_named_and_shaped_as_the_library_has_them(case):
    program = of(made(case.library), case.example)
    assert program.library == case.library
    assert {name: p.shape for name, p in program.params.items()} == case.params
    assert all(p.dtype == jnp.float32 for p in program.params.values())
    assert program.layers == case.layers
    assert program.state == {}


@each_case
def test_output_is_the_librarys_own(case):
    side = made(case.library)
    program = of(side, case.example)
    params = filled(program.params)
    output, state = program.apply(params, {}, (jnp.asarray(case.example),), {})
    close(output, case.direct(side, params, jnp.asarray(case.example)))
    assert state == {}


@each_case
def test_every_parameter_has_a_gradient_through_jit(case):
    program = of(made(case.library), case.example)

    @jax.jit
    def gradients(params, x):
        output, pull = jax.vjp(lambda p: program.apply(p, {}, (x,), {})[0], params)
        return pull(jnp.ones_like(output))[0]

    found = gradients(filled(program.params), case.example)
    assert {name: g.shape for name, g in found.items()} == case.params
    assert all(np.any(np.asarray(g)) for g in found.values())


@each_case
def test_nothing_is_cast(case):
    """Shapes and dtypes alone, so nothing compiles: the output has the dtype that parameters and inputs have."""
    program = of(made(case.library), case.example)
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        with jax.enable_x64(dtype == "float64"):
            given = cast((program.params, case.example), dtype)
            seen = jax.eval_shape(lambda params, x: program.apply(params, {}, (x,), {})[0], *given)
        assert seen.dtype == dtype


@each_case
def test_float64_is_float64_in_value(case):
    program = of(made(case.library), case.example)
    params = filled(program.params)
    with jax.enable_x64(True):
        run = jax.jit(lambda params, x: program.apply(params, {}, (x,), {})[0])
        output = run(cast(params, "float64"), jnp.asarray(case.example, "float64"))
        nudged = run(cast(params, "float64"), jnp.asarray(case.example, "float64") * (1 + 1e-12))
    assert output.dtype == np.float64
    assert 0 < np.max(np.abs(np.asarray(output - nudged))) < 1e-9  # a step through float32 would round the nudge away


@each_case
def test_a_program_can_be_made_under_x64_and_from_float64_examples(case):
    side = made(case.library)
    with jax.enable_x64(True):
        program = of(side, np.asarray(case.example, np.float64))
    assert {name: p.shape for name, p in program.params.items()} == case.params


@each_case
def test_batched_is_each_row_by_itself(case):
    rows = np.stack([case.example, 2 * case.example])
    program = of(made(case.library), *jax_program.first_example((rows,), {})[0])
    params = filled(program.params)
    output, _ = jax_program.batched(program).apply(params, {}, (rows,), {})
    for row, got in zip(rows, output, strict=True):
        close(got, program.apply(params, {}, (row,), {})[0])


def seen_dtypes(program: jax_program.Program, dtype: str, *args: Any) -> set[str]:
    """The dtypes of the output when parameters, state and inputs have this one."""
    with jax.enable_x64(dtype == "float64"):
        params, state, given = cast((program.params, program.state, args), dtype)
        return {str(x.dtype) for x in jax.tree.leaves(jax.eval_shape(program.apply, params, state, given, {})[0])}


SEQUENCE = np.ones((2, 4, 3), np.float32)
PINNING = {
    "nnx.Embed": (lambda: nnx.Embed(7, 3, rngs=nnx.Rngs(0)), np.zeros(2, int)),
    "nnx.RNN": (lambda: nnx.RNN(nnx.LSTMCell(3, 2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)), SEQUENCE),
    "nnx.Linear(dtype)": (lambda: nnx.Linear(3, 2, dtype=jnp.float32, rngs=nnx.Rngs(0)), SEQUENCE),
    "nnx.bridge": (lambda: nnx.bridge.ToNNX(linen.Dense(2), rngs=nnx.Rngs(0)).lazy_init(SEQUENCE), SEQUENCE),
    "linen.RNN": (lambda: linen.RNN(linen.GRUCell(2)), SEQUENCE),
    "linen.RNN inside": (
        lambda: linen.Sequential([linen.Bidirectional(linen.RNN(linen.LSTMCell(2)), linen.RNN(linen.LSTMCell(2)))]),
        SEQUENCE,
    ),
    "linen.Dense(dtype)": (lambda: linen.Dense(2, dtype=jnp.float32), SEQUENCE),
}


@pytest.mark.parametrize("name", PINNING)
def test_a_dtype_that_flax_remembers_follows_the_parameters(name):
    make, x = PINNING[name]
    module = make()
    program = of(module, x)
    for dtype in ("float64", "bfloat16", "float32"):
        assert seen_dtypes(program, dtype, x) == {dtype}
    assert "float64" not in repr(module)  # the user's own says what it said
    assert "bfloat16" not in repr(module)


def test_mixed_precision_that_the_user_chose_stays():
    for module in (nnx.Linear(3, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), linen.Dense(2, dtype=jnp.bfloat16)):
        assert seen_dtypes(of(module, X), "float64", X) == {"bfloat16"}


# ---------------------------------------------------------------- recognising


class Thing:
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    "side",
    [
        None,
        len,
        Thing(),
        Thing,
        {"w": X},
        (),
        (len,),
        (len, len, len),
        (len, {}),
        (Thing(), Thing()),
        (dict, dict),
        LinenNet,
        NnxNet,
        EqxNet,
        jnp.ones(2),
        hk.multi_transform(lambda: (len, len)),
    ],
)
def test_what_is_no_librarys_is_nobodys(side):
    assert [name for name, adapter in ADAPTERS.items() if adapter.owns(side)] == []


@pytest.mark.parametrize(
    ("library", "side"),
    [
        ("linen", (linen.Dense(2), {"params": {}})),
        ("equinox", eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="ema")),
        ("haiku", hk.transform_with_state(len)),
        ("haiku", hk.without_apply_rng(hk.transform(len))),
        ("stax", (jax.jit(len), functools.partial(len))),
    ],
)
def test_pairs_and_wrapped_functions_have_one_owner(library, side):
    assert [name for name, adapter in ADAPTERS.items() if adapter.owns(side)] == [library]


LIGHT = """
import sys
from pytest_dlparity.frameworks import jax_equinox, jax_haiku, jax_linen, jax_nnx, jax_optimizers, jax_program, jax_stax
{touch}
for adapter in (jax_equinox, jax_haiku, jax_linen, jax_nnx, jax_optimizers, jax_stax):
    for side in (None, len, (len, {{}}), object(), object):
        assert not adapter.owns(side), (adapter, side)
print(sorted({{'flax', 'equinox', 'haiku', 'optax', 'jaxopt', 'jax.example_libraries.optimizers', 'torch'}} & set(sys.modules)))
"""


def printed(code: str) -> str:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_recognising_imports_no_library():
    assert printed(LIGHT.format(touch="")) == "[]\n"


def test_recognising_imports_no_library_can_fail():
    assert printed(LIGHT.format(touch="import optax")) == "['optax']\n"


# ---------------------------------------------------------------- naming and flags


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(SpecError) as refused:
        jax_program.leaves({"a": {"b": X}, "a.b": X})
    assert str(refused.value) == "two arrays of the jax side are called 'a.b'. Rename one: a dot inside a name reads as a path."


@pytest.mark.parametrize("name", sorted(jax_program.TRAIN_FLAGS))
@pytest.mark.parametrize("train", [True, False, None])
def test_a_flag_without_a_default_is_always_given(name, train):
    call = eval(f"lambda x, {name}: x")
    trains = name in ("train", "training", "is_training", "update_stats")
    assert jax_program.train_flags(call, (1,), {}, train) == {name: bool(train) if trains else not train}


@pytest.mark.parametrize(
    ("call", "args", "kwargs", "train", "flags"),
    [
        (lambda x, train=True: x, (1,), {}, None, {}),
        (lambda x, train=True: x, (1,), {}, False, {"train": False}),
        (lambda x, train: x, (1,), {"train": True}, False, {}),  # an input of that name
        (lambda x, train: x, (1, 2), {}, False, {}),
        (lambda train, /: train, (), {}, True, {}),  # cannot be given by name
        (lambda **train: train, (), {}, True, {}),
        (lambda *train: train, (), {}, True, {}),
        (lambda x, training, deterministic: x, (1,), {}, True, {"training": True, "deterministic": False}),
        (lambda x: x, (1, 2, 3), {}, True, {}),  # does not fit: the call will say so
        (len, (1,), {}, True, {}),
        (3, (), {}, True, {}),
    ],
)
def test_a_flag_is_left_alone_where_it_is_not_open(call, args, kwargs, train, flags):
    assert jax_program.train_flags(call, args, kwargs, train) == flags


class Set(NamedTuple):
    deterministic: bool


class Method:
    def train(self):
        raise AssertionError("never called")


def test_a_default_of_none_follows_the_modules_own_setting():
    by_none = lambda x, deterministic=None, train=None: x
    assert jax_program.train_flags(by_none, (1,), {}, True) == {"train": True, "deterministic": False}
    assert jax_program.train_flags(by_none, (1,), {}, True, jax_program.settings(Set(True))) == {"train": True}
    assert jax_program.train_flags(by_none, (1,), {}, True, jax_program.settings(Method())) == {"train": True, "deterministic": False}


# ---------------------------------------------------------------- initial values


def test_random_leaves_are_drawn_and_constants_are_the_librarys_own():
    def init(key, x):
        fan = x.shape[-1]
        return {
            "w": jax.random.normal(key, (fan, 2)) * 1000,
            "scale": jnp.ones(fan),
            "mean_x": x.mean(0),
            "steps": jnp.asarray(3),
            "u": jax.random.normal(key, (2,)),
            "seed": jax.random.key_data(key),
        }

    made = jax_program.initial(init, (X,), {}, exact=lambda path: path[0].key == "u")
    assert 0 < np.abs(made["w"]).max() < 1  # drawn: small, not zero, the same each time
    np.testing.assert_array_equal(made["w"], jax_program.initial(init, (X,), {}, exact=lambda path: False)["w"])
    np.testing.assert_array_equal(made["scale"], np.ones(3))
    close(made["mean_x"], X.mean(0))
    assert made["steps"] == 3
    close(made["u"], jax.random.normal(jax.random.key(0), (2,)))
    np.testing.assert_array_equal(made["seed"], [0, 0])


def test_what_is_drawn_is_never_computed():
    def explode(key):
        raise AssertionError("computed")

    def init(key):
        return jax.pure_callback(explode, jax.ShapeDtypeStruct((2,), jnp.float32), jax.random.key_data(key))

    assert jax_program.initial(init, (), {}, exact=lambda path: False).shape == (2,)
    with pytest.raises(jax.errors.JaxRuntimeError, match="computed"):
        jax_program.initial(init, (), {}, exact=lambda path: True).block_until_ready()


@pytest.mark.parametrize(("library", "drawn"), [("linen", 3), ("haiku", 3), ("stax", 4)])  # kernels; stax draws its biases too
def test_no_adapter_pays_for_random_kernels(library, drawn, monkeypatch):
    names = []
    monkeypatch.setattr(jax_program, "_draw", lambda name, leaf: names.append(name) or jnp.zeros(leaf.shape))
    of(made(library), X)
    assert len(names) == drawn


# ---------------------------------------------------------------- BatchNorm and Dropout: state, train and eval


class NnxNorm(nnx.Module):
    def __init__(self, rngs, rate=0.0):
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(x))


class LinenNorm(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        return linen.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)


def haiku_norm(x, is_training):
    return hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training)


def equinox_norm():
    return eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", momentum=0.9, mode="ema")


NORMS = {
    "nnx": (lambda: NnxNorm(nnx.Rngs(0)), "norm.mean", {"norm.mean", "norm.var"}),
    "linen": (LinenNorm, "norm.mean", {"norm.mean", "norm.var"}),
    "haiku": (
        lambda: hk.transform_with_state(haiku_norm),
        "norm.mean_ema.average",
        {f"norm.{which}_ema.{part}" for which in ("mean", "var") for part in ("average", "hidden", "counter")},
    ),
    "equinox": (equinox_norm, "mean", {"mean", "var", "first_time"}),
}


def norm(library: str, train: bool | None) -> jax_program.Program:
    side = NORMS[library][0]()
    if library == "equinox":
        return jax_program.batched(of(side, X[0], train=train), "batch")
    return of(side, X, train=train)


@pytest.mark.parametrize("library", NORMS)
def test_batch_norm_in_training_normalises_by_the_batch_and_moves_its_state(library):
    _, mean, names = NORMS[library]
    program = norm(library, train=True)
    before = {name: np.array(value) for name, value in program.state.items()}
    output, after = jax.jit(program.apply)(program.params, program.state, (X,), {})
    close(output, (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5))
    assert names <= set(program.state)
    assert set(after) == set(program.state) == set(before)
    assert {name: (value.shape, value.dtype) for name, value in after.items()} == {name: (v.shape, v.dtype) for name, v in before.items()}
    close(after[mean].reshape(-1), X.mean(0) * (0.1 if library in ("nnx", "linen") else 1))  # haiku and equinox correct for the start
    for name, value in program.state.items():
        np.testing.assert_array_equal(value, before[name])  # what the program came with is still there


@pytest.mark.parametrize("library", NORMS)
def test_batch_norm_in_evaluation_takes_and_keeps_its_state(library):
    _, mean, _ = NORMS[library]
    program = norm(library, train=False)
    var = mean.replace("mean", "var")
    shape = program.state[mean].shape  # haiku keeps the axes that it reduces
    state = program.state | {mean: jnp.asarray([1.0, 2.0, 3.0]).reshape(shape), var: jnp.asarray([4.0, 5.0, 6.0]).reshape(shape)}
    output, after = jax.jit(program.apply)(program.params, state, (X,), {})
    close(output, (X - np.array([1, 2, 3])) / np.sqrt(np.array([4, 5, 6]) + 1e-5))
    for name, value in after.items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize("library", NORMS)
def test_batch_norm_state_is_float64_when_it_is_given_so(library):
    program = norm(library, train=True)
    with jax.enable_x64(True):
        params, state, x = cast((program.params, program.state, X), "float64")
        seen, after = jax.eval_shape(lambda *given: program.apply(*given, {}), params, state, (x,))
        assert seen.dtype == np.float64
        assert {name: a.dtype for name, a in after.items()} == {name: s.dtype for name, s in state.items()}


def test_batch_norm_layers_are_named():
    assert norm("nnx", None).layers["norm.mean"] == "BatchNorm"
    assert norm("linen", None).layers == dict.fromkeys(["norm.scale", "norm.bias", "norm.mean", "norm.var"], "BatchNorm")
    assert norm("haiku", None).layers["norm.scale"] == "BatchNorm"
    assert norm("haiku", None).layers["norm.mean_ema.average"] == "ExponentialMovingAverage"
    assert norm("equinox", None).layers == dict.fromkeys(["weight", "bias", "mean", "var", "first_time"], "BatchNorm")


# ---------------------------------------------------------------- nnx


def test_nnx_leaves_the_users_module_as_it_was():
    module = NnxNorm(nnx.Rngs(0), rate=0.5)
    kept = [(path, variable, np.array(variable[...])) for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngKey)))]
    program = of(module, X, train=True)
    jax.eval_shape(program.apply, program.params, program.state, (X,), {})
    assert not module.norm.use_running_average
    assert not module.drop.deterministic
    of(module, X, train=False)
    assert not module.norm.use_running_average
    assert not module.drop.deterministic
    for (path, _, value), (path_now, now) in zip(kept, nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngKey))), strict=True):
        assert path == path_now
        np.testing.assert_array_equal(value, now[...])


def test_nnx_without_train_stays_as_the_user_set_it():
    module = NnxNorm(nnx.Rngs(0))
    module.eval()
    program = of(module, X)
    output, after = program.apply(program.params, program.state, (X,), {})
    close(output, X / np.sqrt(1 + 1e-5))
    np.testing.assert_array_equal(after["norm.mean"], np.zeros(3))


def test_nnx_dropout_counts_its_draws_in_the_state_and_keeps_its_key_inside():
    program = of(NnxNorm(nnx.Rngs(0), rate=0.5), X, train=True)
    assert set(program.state) == {"norm.mean", "norm.var", "drop.rngs.count"}
    first, state = program.apply(program.params, program.state, (X,), {})
    again, _ = program.apply(program.params, program.state, (X,), {})
    second, after = program.apply(program.params, state, (X,), {})
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert (int(state["drop.rngs.count"]), int(after["drop.rngs.count"])) == (1, 2)


class Odd(nnx.Module):
    """Every odd leaf at once, down to a variable that only a call makes."""

    def __init__(self, rngs):
        self.a = nnx.Linear(3, 3, kernel_init=nnx.initializers.ones, rngs=rngs)
        self.b = self.a
        self.codes = nnx.Param(jnp.arange(3, dtype=jnp.int8))
        self.raw = jnp.arange(3.0)
        self.table = nnx.data(np.ones(3, np.float32))
        self.ratio = nnx.Variable(0.5)
        self.pair = nnx.Param({"x": jnp.ones(3), "y": [jnp.zeros(3)]})
        self.train = True  # shadows the method
        self.calls = nnx.Variable(jnp.asarray(0))

    def __call__(self, x):
        self.calls[...] = self.calls[...] + 1
        self.seen = nnx.Intermediate(x)
        pair = self.pair.get_value()
        return self.b(self.a(x)) * self.ratio.get_value() + self.raw * self.table + pair["x"] + pair["y"][0] + self.codes[...]


@pytest.mark.parametrize("train", [True, False, None])
def test_nnx_odd_leaves_have_their_place(train):
    module = Odd(nnx.Rngs(0))
    program = of(module, X, train=train)
    assert set(program.params) == {"a.kernel", "a.bias", "pair.x", "pair.y.0"}
    assert set(program.state) == {"codes", "raw", "table", "calls"}
    assert program.layers == dict.fromkeys(["a.kernel", "a.bias"], "Linear") | dict.fromkeys(
        ["pair.x", "pair.y.0", "codes", "raw", "table", "calls"], "Odd"
    )
    output, after = program.apply(program.params, program.state, (X,), {})
    assert int(after["calls"]) == 1
    assert not hasattr(module, "seen")
    close(output, Odd(nnx.Rngs(0))(X))


class Flagged(nnx.Module):
    def __init__(self, rngs):
        self.drop = nnx.Dropout(1.0, rngs=rngs)

    def __call__(self, x, *, deterministic):
        return self.drop(x, deterministic=deterministic)


@pytest.mark.parametrize(("train", "kept"), [(True, 0), (False, 1), (None, 1)])
def test_nnx_gets_the_flag_its_call_asks_for(train, kept):
    program = of(Flagged(nnx.Rngs(0)), X, train=train)
    np.testing.assert_array_equal(program.apply({}, program.state, (X,), {})[0], kept * X)


def test_nnx_takes_inputs_by_name():
    program = of(NnxNet(nnx.Rngs(0)), x=X)
    close(program.apply(program.params, {}, (), {"x": X})[0], NnxNet(nnx.Rngs(0))(X))


# ---------------------------------------------------------------- linen


class Collections(linen.Module):
    """State in two collections, one with the name of a parameter, a value drawn at initialisation, a partitioned kernel, a sown value."""

    @linen.compact
    def __call__(self, x):
        w = self.param("w", linen.with_partitioning(linen.initializers.ones, ("rows",)), (3,))
        cache = self.variable("cache", "w", lambda: jnp.zeros(3))
        u = self.variable("drawn", "u", lambda: jax.random.normal(self.make_rng("params"), (3,)))
        steps = self.variable("drawn", "steps", lambda: jnp.asarray(0))
        if not self.is_initializing():
            cache.value = cache.value + x.sum(0)
            steps.value = steps.value + 1
        self.sow("intermediates", "x", x)
        return x * w + u.value


def test_linen_state_of_several_collections():
    program = of(Collections(), X)
    assert set(program.params) == {"params.w"}
    assert set(program.state) == {"cache.w", "u", "steps"}
    u = Collections().init(jax.random.key(0), X)["drawn"]["u"]
    close(program.state["u"], u)  # drawn, but state: its value counts
    output, after = program.apply({"params.w": jnp.full(3, 2.0)}, program.state, (X,), {})
    close(output, X * 2 + u)
    close(after["cache.w"], X.sum(0))
    assert int(after["steps"]) == 1
    assert program.layers == dict.fromkeys(["params.w", "cache.w", "u", "steps"], "Collections")


def test_linen_variables_that_the_user_made_are_the_values():
    module = LinenNorm()
    variables = module.init(jax.random.key(3), X, train=False)
    variables["batch_stats"]["norm"]["mean"] = jnp.full(3, 7.0)
    kept = jax.tree.map(np.array, variables)
    for side in ((module, variables), module.bind(variables)):
        program = of(side, X, train=True)
        np.testing.assert_array_equal(program.state["norm.mean"], np.full(3, 7.0))
        assert program.layers["norm.scale"] == "BatchNorm"
        _, after = program.apply(program.params, program.state, (X,), {})
        close(after["norm.mean"], 0.9 * 7 + 0.1 * X.mean(0))
        jax.tree.map(np.testing.assert_array_equal, variables, kept)


@pytest.mark.parametrize(
    ("module", "train", "kept"),
    [
        (linen.Dropout(1.0), False, 1),
        (linen.Dropout(1.0), None, 1),  # undecided: evaluation
        (linen.Dropout(1.0), True, 0),
        (linen.Dropout(1.0, deterministic=True), True, 0),
        (linen.Dropout(1.0, deterministic=False), False, 1),
        (linen.Dropout(1.0, deterministic=False), None, 0),
    ],
)
def test_linen_fields_are_set_on_a_copy(module, train, kept):
    before = module.deterministic
    np.testing.assert_array_equal(of(module, X, train=train).apply({}, {}, (X,), {})[0], kept * X)
    assert module.deterministic is before


def test_linen_a_flag_of_the_call_is_not_set_twice():
    program = of(linen.Dropout(1.0), X, deterministic=True, train=True)
    np.testing.assert_array_equal(program.apply({}, {}, (X,), {"deterministic": True})[0], X)


def test_linen_says_itself_that_dropout_needs_a_key():
    import flax.errors

    program = of(linen.Dropout(0.5), X, train=True)
    with pytest.raises(flax.errors.InvalidRngError):
        program.apply({}, {}, (X,), {})


# ---------------------------------------------------------------- equinox


class Normed(eqx.Module):
    fc: eqx.nn.Linear
    norms: dict[str, eqx.nn.BatchNorm]
    seen: eqx.nn.StateIndex
    scale: jax.Array
    order: jax.Array
    drop: eqx.nn.Dropout
    mean: jax.Array

    def __init__(self, affine=True):
        self.fc = eqx.filter_jit(eqx.nn.Linear)(3, 3, key=jax.random.key(0))
        self.norms = {"first": eqx.nn.BatchNorm(3, "batch", channelwise_affine=affine, mode="batch")}
        self.seen = eqx.nn.StateIndex(jnp.asarray(0))
        self.scale = jnp.ones(3)
        self.order = jnp.arange(3)[::-1]
        self.drop = eqx.nn.Dropout(1.0)
        self.mean = jnp.zeros(3)

    def __call__(self, x, state, mask=None):
        x, state = self.norms["first"](self.fc(x), state)
        state = state.set(self.seen, state.get(self.seen) + 1)
        x = (x * self.scale + self.mean)[self.order]
        return x if mask is None else x * mask, state


def test_equinox_state_is_named_by_the_attribute_that_indexes_it():
    side = eqx.nn.make_with_state(Normed)()
    program = of(side, X[0], train=False)
    assert set(program.params) == {"fc.weight", "fc.bias", "norms.first.weight", "norms.first.bias", "scale", "mean"}
    assert set(program.state) == {"norms.first.mean", "norms.first.var", "norms.first.counter", "seen"}
    assert program.layers["norms.first.var"] == program.layers["norms.first.weight"] == "BatchNorm"
    assert program.layers["seen"] == program.layers["scale"] == "Normed"


def test_equinox_with_state_is_what_the_library_computes():
    module, state = eqx.nn.make_with_state(Normed)(affine=False)
    program = jax_program.batched(of((module, state), X[0], train=True), "batch")
    output, after = program.apply(program.params, program.state, (X,), {})
    wanted, new = jax.vmap(eqx.nn.inference_mode(module, False), (0, None), (0, None), axis_name="batch")(X, state)
    close(output, wanted)
    mean, var = new.get(module.norms["first"].batch_state_index)
    close(after["norms.first.mean"], mean)
    close(after["norms.first.var"], var)
    assert int(after["norms.first.counter"]) == int(after["seen"]) == 1
    state.get(module.seen)  # the user's own state is still good
    assert not module.drop.inference


@pytest.mark.parametrize("place", ["last", "by name", "between"])
def test_equinox_state_goes_where_the_call_has_it(place):
    side = eqx.nn.make_with_state(Normed)()
    args, kwargs = {"last": ((X[0],), {}), "by name": ((), {"x": X[0], "mask": X[1]}), "between": ((X[0], X[1]), {})}[place]
    program = of(side, *args, train=False, **kwargs)
    output, _ = program.apply(program.params, program.state, args, kwargs)
    module, state = side
    wanted, _ = eqx.nn.inference_mode(module)(X[0], state, *([] if place == "last" else [X[1]]))
    close(output, wanted)


class Context(eqx.Module):
    count: eqx.nn.StateIndex

    def __init__(self):
        self.count = eqx.nn.StateIndex(jnp.zeros(()))

    def __call__(self, x, ctx):
        return x, ctx.set(self.count, ctx.get(self.count) + x.sum())


def test_equinox_state_under_another_name_goes_last_and_may_come_with_the_module():
    program = of(Context(), X)  # not made by make_with_state: the initial state is still in the module
    assert (program.params, set(program.state)) == ({}, {"count"})
    _, after = program.apply({}, {"count": jnp.ones(())}, (X,), {})
    close(after["count"], 1 + X.sum())


def test_equinox_state_must_be_there_and_come_back():
    module, _ = eqx.nn.make_with_state(Context)()
    with pytest.raises(SpecError) as refused:
        of(module, X)
    assert str(refused.value) == (
        "the equinox module Context keeps state, which is not there. Give both, as eqx.nn.make_with_state made them: jax=(module, state)."
    )

    class Forgetful(Context):
        def __call__(self, x, ctx):
            return x

    program = of(eqx.nn.make_with_state(Forgetful)(), X)
    with pytest.raises(SpecError) as refused:
        program.apply({}, program.state, (X,), {})
    text = str(refused.value)
    assert text.startswith("the equinox module keeps state but returns a ")
    assert text.endswith(". Return (output, state) from its __call__.")


def test_equinox_state_that_differs_between_examples_is_refused():
    program = jax_program.batched(of(eqx.nn.make_with_state(Context)(), X[0]))
    with pytest.raises(SpecError) as refused:
        program.apply({}, program.state, (X,), {})
    assert str(refused.value) == (
        "under vmap every example leaves another state. Let the module reduce over a named axis, and name it: "
        'dlp.vmap(side, axis_name="batch").'
    )


def test_equinox_attention_is_not_given_its_deprecated_flag():
    attention = eqx.filter_jit(eqx.nn.MultiheadAttention)(1, 3, key=jax.random.key(0))
    program = of(attention, X, X, X, train=False)
    assert jax.eval_shape(program.apply, program.params, {}, (X, X, X), {})[0].shape == (4, 3)


@pytest.mark.parametrize(("train", "inference"), [(True, False), (False, True), (None, False)])
def test_equinox_is_set_on_a_copy(train, inference):
    module = eqx.nn.Dropout(0.5)
    program = of(module, X, train=train)
    if inference:
        np.testing.assert_array_equal(program.apply({}, {}, (X,), {})[0], X)
    else:
        with pytest.raises(RuntimeError, match="Dropout requires a key"):
            program.apply({}, {}, (X,), {})
    assert module.inference is False


def test_equinox_modules_without_a_mode_take_train():
    program = of(made("equinox"), X[0], train=True)
    assert program.apply(program.params, {}, (X[0],), {})[0].shape == (2,)


def test_equinox_state_that_comes_back_in_part_keeps_the_rest():
    class Part(eqx.Module):
        first: Context
        second: Context

        def __init__(self):
            self.first, self.second = Context(), Context()

        def __call__(self, x, state):
            return self.second(x, state.substate(self.second))

    program = of(eqx.nn.make_with_state(Part)(), X)
    _, after = program.apply({}, program.state, (X,), {})
    assert set(after) == {"first.count", "second.count"}
    close(after["first.count"], 0)
    close(after["second.count"], X.sum())


@pytest.mark.parametrize("wrap", [eqx.filter_vmap, lambda module: eqx.filter_jit(eqx.filter_vmap(module))], ids=["vmap", "jit"])
def test_equinox_sees_through_its_own_wrappers(wrap):
    program = of(wrap(made("equinox")), X)
    assert {name: p.shape for name, p in program.params.items()} == CASES[2].params
    assert program.layers == CASES[2].layers
    assert program.apply(program.params, {}, (X,), {})[0].shape == (4, 2)


@pytest.mark.parametrize("wrap", [eqx.filter_vmap, eqx.filter_jit, eqx.filter_grad])
def test_equinox_does_not_own_a_function_that_it_wraps(wrap):
    assert not jax_equinox.owns(wrap(lambda p, x: p["w"] * x))


def test_equinox_a_name_that_a_parameter_has_stays_the_parameters():
    class BatchNorm(eqx.Module):
        mean: jax.Array
        batch_state_index: eqx.nn.StateIndex

        def __init__(self):
            self.mean = jnp.ones(3)
            self.batch_state_index = eqx.nn.StateIndex((jnp.zeros(3), jnp.ones(3)))

        def __call__(self, x, state):
            return x * self.mean, state

    program = of(eqx.nn.make_with_state(BatchNorm)(), X)
    assert (set(program.params), set(program.state)) == ({"mean"}, {"batch_state_index.0", "var"})


class Coder(eqx.Module):
    fc: eqx.nn.Linear

    def encode(self, x):
        return self.fc(x)


def test_equinox_a_method_has_its_modules_parameters():
    module = Coder(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    program = of(module.encode, X[0])
    assert program.layers == {"fc.weight": "Linear", "fc.bias": "Linear"}
    params = filled(program.params)
    close(program.apply(params, {}, (X[0],), {})[0], params["fc.weight"] @ X[0] + params["fc.bias"])


def test_equinox_a_shared_weight_counts_once():
    class Tied(eqx.Module):
        shared: eqx.nn.Shared

        def __init__(self):
            embed = eqx.nn.Embedding(4, 3, key=jax.random.key(0))
            head = eqx.nn.Linear(3, 4, use_bias=False, key=jax.random.key(1))
            self.shared = eqx.nn.Shared((embed, head), lambda pair: pair[1].weight, lambda pair: pair[0].weight)

        def __call__(self, token):
            embed, head = self.shared()
            return head(embed(token))

    program = of(Tied(), np.asarray(1))
    ((name, weight),) = filled(program.params).items()
    assert name == "shared.pytree.0.weight"
    close(program.apply({name: weight}, {}, (jnp.asarray(1),), {})[0], weight @ weight[1])


# ---------------------------------------------------------------- haiku


@pytest.mark.parametrize("wrap", [lambda f: f, hk.without_apply_rng], ids=["with rng", "without rng"])
def test_haiku_in_its_four_forms(wrap):
    pure = of(wrap(hk.transform(haiku_net)), X)
    params = filled(pure.params)
    wanted = haiku_direct(hk.transform(haiku_net), params, X)
    close(pure.apply(params, {}, (X,), {})[0], wanted)
    stateful = of(wrap(hk.transform_with_state(haiku_net)), X)
    output, state = stateful.apply(params, {}, (X,), {})
    close(output, wanted)
    assert state == {}


def test_haiku_of_variadic_functions():
    """A signature of *args says as well where the rng is."""
    for wrap in (lambda f: f, hk.without_apply_rng):
        program = of(wrap(hk.transform(lambda *inputs: hk.Linear(2)(inputs[0]))), X)
        params = filled(program.params)
        close(program.apply(params, {}, (X,), {})[0], X @ params["linear.w"] + params["linear.b"])


def test_haiku_names_keep_the_tilde_only_where_it_tells_apart():
    def net(x):
        w = hk.get_parameter("w", (3,), init=jnp.ones)

        class Outer(hk.Module):
            def __init__(self):
                super().__init__(name="outer")
                self.inner = hk.Bias(name="inner")  # outer/~/inner

            def __call__(self, x):
                return hk.Bias(name="inner")(self.inner(x))  # outer/inner

        return Outer()(x * w)

    program = of(hk.transform(net), X)
    assert set(program.params) == {"w", "outer.~.inner.b", "outer.inner.b"}
    output, _ = program.apply({"w": jnp.full(3, 2.0), "outer.~.inner.b": jnp.ones(3), "outer.inner.b": jnp.zeros(3)}, {}, (X,), {})
    close(output, X * 2 + 1)


@pytest.mark.parametrize("train", [True, False, None])
def test_haiku_gets_the_flag_its_function_asks_for(train):
    program = of(hk.transform(lambda x, is_training: x * (2 if is_training else 1)), X, train=train)
    np.testing.assert_array_equal(program.apply({}, {}, (X,), {})[0], X * (2 if train else 1))


# ---------------------------------------------------------------- stax


def test_stax_one_layer_and_several_inputs():
    assert set(of(stax.Dense(2), X).params) == {"0", "1"}
    program = of(stax.serial(stax.parallel(stax.Dense(2), stax.Identity), stax.FanInConcat()), X, X)
    params = filled(program.params)
    output, _ = program.apply(params, {}, (X, X), {})
    close(output, np.concatenate([X @ params["0.0.0"] + params["0.0.1"], X], -1))


def test_stax_hands_keywords_on_and_names_the_flag():
    def init(rng, shape):
        return shape, {"scale": jnp.ones(shape[-1]), "order": jnp.arange(3)}

    def apply(params, x, train, shift=0.0):
        return (x * params["scale"])[:, params["order"]] * (2 if train else 1) + shift

    program = of((init, apply), X, train=True, shift=X)
    assert (set(program.params), set(program.state)) == ({"scale"}, {"order"})
    close(program.apply({"scale": jnp.ones(3)}, program.state, (X,), {"shift": X})[0], 3 * X)


# ---------------------------------------------------------------- batches


def test_batched_maps_arrays_and_leaves_the_rest():
    def apply(params, state, args, kwargs):
        (x, pair, scale, word), y = args, kwargs["y"]
        assert (x.shape, pair["a"].shape, y.shape, np.ndim(scale), word) == ((3,), (3,), (3,), 0, "word")
        return params["w"] * x + pair["a"] + scale + y, {"n": state["n"] + 1}

    program = jax_program.batched(jax_program.Program("function", {}, {}, {}, apply))
    output, state = program.apply({"w": jnp.asarray(2.0)}, {"n": jnp.asarray(0)}, (X, {"a": X}, jnp.asarray(1.0), "word"), {"y": X})
    close(output, 4 * X + 1)
    assert int(state["n"]) == 1


def test_batched_needs_something_to_map():
    program = jax_program.batched(jax_program.Program("function", {}, {}, {}, lambda *given: (given, {})))
    with pytest.raises(SpecError) as refused:
        program.apply({}, {}, (1.0, np.float32(2)), {})
    assert (
        str(refused.value) == "vmap has no input with an axis 0 to map over. Give at least one input a batch axis, or leave dlp.vmap out."
    )


def test_the_first_example_of_nothing_is_refused():
    with pytest.raises(SpecError) as refused:
        jax_program.first_example((np.ones((0, 3)),), {})
    assert str(refused.value) == "vmap has an input without examples: its axis 0 has length 0. Give at least one."


def test_batched_lets_other_errors_through():
    with pytest.raises(ValueError, match="inconsistent sizes"):
        jax_program.batched(of(stax.Identity, X[0])).apply({}, {}, (X, X[:2]), {})


# ---------------------------------------------------------------- optimizers

PARAMS = {"w": RNG.standard_normal((2, 3)).astype(np.float32), "b": RNG.standard_normal(3).astype(np.float32)}
GRADS = {"w": RNG.standard_normal((2, 3)).astype(np.float32), "b": RNG.standard_normal(3).astype(np.float32)}

STEPPED = {
    "optax.sgd": optax.sgd(0.1, momentum=0.9),
    "optax.adamw": optax.adamw(optax.linear_schedule(0.1, 0.01, 3), weight_decay=0.1),
    "optax.chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    "optax.MultiSteps": optax.MultiSteps(optax.sgd(0.1), 2),
}


@pytest.mark.parametrize("name", STEPPED)
def test_optax_steps_are_optaxs_own(name):
    transformation = STEPPED[name]
    assert jax_optimizers.owns(transformation)
    made = jax_optimizers.optimizer(transformation, PARAMS)
    assert made.library == "optax"
    both = jax.jit(lambda i, g, s, kept, p: (made.step(i, g, s, p), transformation.update(g, kept, p)))
    params, state, kept = PARAMS, made.init(PARAMS), transformation.init(PARAMS)
    for index in range(3):
        (updates, state), (wanted, kept) = both(index, GRADS, state, kept, params)
        assert set(updates) == set(PARAMS)
        jax.tree.map(close, updates, wanted)
        params = optax.apply_updates(params, updates)


TRIPLES = {"library": optimizers.momentum(0.1, 0.9), "plain": tuple(optimizers.momentum(0.1, 0.9))}


@pytest.mark.parametrize("name", TRIPLES)
def test_a_triples_updates_are_what_its_parameters_moved_by(name):
    triple = TRIPLES[name]
    assert jax_optimizers.owns(triple)
    made = jax_optimizers.optimizer(triple, PARAMS)
    assert made.library == "jax"
    state = made.init(PARAMS)
    moved = jax.tree.map(np.zeros_like, PARAMS)
    velocity = jax.tree.map(np.zeros_like, PARAMS)
    for index in range(2):
        updates, state = jax.jit(made.step)(index, GRADS, state, PARAMS)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, GRADS)
        jax.tree.map(lambda u, v: close(u, -0.1 * v), updates, velocity)
        moved = jax.tree.map(np.add, moved, updates)
    jax.tree.map(lambda now, p, m: close(now, p + m), triple[2](state), PARAMS, moved)


@pytest.mark.parametrize("optimizer", [STEPPED["optax.adamw"], TRIPLES["plain"]], ids=["optax", "triple"])
def test_optimizers_step_in_float64(optimizer):
    made = jax_optimizers.optimizer(optimizer, PARAMS)
    with jax.enable_x64(True):
        params, grads = cast((PARAMS, GRADS), "float64")
        updates, _ = jax.eval_shape(lambda p, g: made.step(0, g, made.init(p), p), params, grads)
    assert {name: u.dtype for name, u in updates.items()} == {"w": np.float64, "b": np.float64}


@pytest.mark.parametrize("thing", [None, len, optax.sgd, (len, len), (len, len, 3), (), object(), NnxNet, dict])
def test_what_is_no_optimizer_is_not_owned(thing):
    assert not jax_optimizers.owns(thing)


@pytest.mark.parametrize(
    ("transformation", "needs"),
    [
        (optax.lbfgs(), "'value', 'grad', and 'value_fn'"),
        (optax.polyak_sgd(), "'value'"),
        (optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()), "'value'"),
    ],
)
def test_an_optimizer_that_needs_more_than_gradients_is_declined(transformation, needs):
    assert jax_optimizers.owns(transformation)
    with pytest.raises(SpecError) as declined:
        jax_optimizers.optimizer(transformation, PARAMS)
    assert str(declined.value) == (
        f"the update of this optax transformation needs {needs}, and an optimizer is stepped here with given gradients only. "
        "Give a transformation of gradients, such as optax.sgd(0.1) or optax.adam(1e-3)."
    )


def test_an_optimizers_own_type_error_is_let_through():
    broken = optax.GradientTransformation(lambda params: (), lambda updates, state, params: updates + 1)
    with pytest.raises(TypeError, match="unsupported operand"):
        jax_optimizers.optimizer(broken, PARAMS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "GradientDescent",
            "jaxopt.GradientDescent is a solver, not a sequence of steps. Give optax.sgd(learning_rate) instead: jax=optax.sgd(0.1).",
        ),
        ("OptaxSolver", "jaxopt.OptaxSolver is a solver, not a sequence of steps. Give the solver's own `opt` instead: jax=solver.opt."),
        ("LBFGS", "jaxopt.LBFGS is a solver, not a sequence of steps. Give an optax transformation instead: jax=optax.sgd(0.1)."),
    ],
)
def test_a_jaxopt_solver_is_declined_in_words(name, said):
    solver: Any = type(name, (), {"__module__": "jaxopt._src.any"})()  # a stand-in: jaxopt warns when it is imported
    assert jax_optimizers.owns(solver)
    with pytest.raises(SpecError) as declined:
        jax_optimizers.optimizer(solver, PARAMS)
    assert str(declined.value) == said


def test_an_equinox_counter_keeps_its_width_in_float64() -> None:
    """BatchNorm's begins as jnp.array(0), whose type is weak: with x64 its first addition would make it 64 bits wide, which equinox refuses."""
    side = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, axis_name="batch", mode="batch", momentum=0.9)
    spec = dlp.layer(torch.nn.BatchNorm1d(3), dlp.vmap(side, axis_name="batch"), inputs=[dlp.normal(8, 3)], train=True)
    report = dlp.check(spec, devices=["cpu"])
    assert {v.name: v.status for v in report.verdicts} == {
        "output": "agree", "grad.input": "agree", "grad.weight": "agree", "grad.bias": "agree", "state.running_mean": "agree",
        "state.running_var": "semantics",  # torch keeps the variance of N - 1
    }  # fmt: skip
