"""A traced jax function as nodes: its values, where each was written, and what may not go wrong on the way."""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
import math
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.example_libraries import stax

from pytest_dlparity.frameworks import jax_eager, jax_frames, jax_trace
from pytest_dlparity.frameworks.jax_rounding import INLINED
from pytest_dlparity.frameworks.jax_trace import TooLong, Unfollowed, replay
from pytest_dlparity.trace import Node, Trace, alike, fingerprint

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 3))
W = RNG.standard_normal((3, 3)) / 2


@pytest.fixture(autouse=True)
def _x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def named(args: tuple[Any, ...], kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """(kind, name) of every flat argument: the kind of its tree, the path in it."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(args)]
    return [(kinds[path[0].idx], jax.tree_util.keystr(path[1:], simple=True, separator=".") or f"arg{path[0].idx}") for path in paths]


def followed(function: Callable[..., Any], *args: Any, kinds: tuple[str, ...] = (), outputs: Any = None, **kwargs: Any) -> Trace:
    """The trace of a function of trees; all arguments are inputs unless `kinds` says otherwise, results are "output.0", "output.1"."""
    traced = jax.jit(function).trace(*args)
    count = len(jax.tree.leaves(traced.out_info))
    names = outputs or [f"output.{i}" for i in range(count)]
    return jax_trace.trace(traced, jax.tree.leaves(args), named(args, kinds or ("input",) * len(args)), names, **kwargs)


def checked(function: Callable[..., Any], *args: Any, rtol: float = 1e-12, **kwargs: Any) -> Trace:
    """The trace, after its outputs were found equal to those of jax.jit, and every operation's value to be what `replay` gives."""
    plain = followed(function, *args, **kwargs)
    kept = followed(function, *args, keep=range(len(plain.nodes)), **kwargs)
    assert [describe(node) for node in plain.nodes] == [describe(node) for node in kept.nodes]
    compiled = jax.jit(function).lower(*args).compile(compiler_options={"xla_backend_optimization_level": 0})
    for name, wanted in zip(kept.outputs, jax.tree.leaves(compiled(*args)), strict=True):
        got = kept.nodes[kept.outputs[name]].value
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)
    for node in kept.nodes:
        if node.again is not None and not node.dtype.startswith("key"):
            values = {index: kept.nodes[index].value for index in node.reads if not kept.nodes[index].dtype.startswith("key")}
            if len(values) == len(set(node.reads)):
                np.testing.assert_array_equal(replay(node, values), node.value)
        if node.print is not None:
            assert alike(node.print, fingerprint(node.value)), node
    return kept


def describe(node: Node) -> Any:
    return node.index, node.operation, node.reads, node.shape, node.dtype, node.kind, node.print, node.frames, node.module, node.call_number


def vjp(function: Callable[..., Any]) -> Callable[..., Any]:
    """(params, x, cotangent) -> (output, gradients): as a check evaluates a spec."""

    def run(params: Any, x: Any, cotangent: Any) -> Any:
        output, pull = jax.vjp(function, params, x)
        return output, pull(cotangent)

    return run


def differentiated(function: Callable[..., Any], params: Any, x: Any) -> Trace:
    cotangent = jax.tree.map(lambda leaf: np.random.default_rng(1).standard_normal(leaf.shape), jax.eval_shape(function, params, x))
    grads = ["grad." + name for _, name in named((params, x), ("param", "input"))]
    outputs = [*(f"output.{i}" for i in range(len(jax.tree.leaves(cotangent)))), *grads]
    return checked(vjp(function), params, x, cotangent, kinds=("param", "input", "const"), outputs=outputs)


def numbers(shapes: Any) -> Any:
    """Arrays of these shapes: drawing them as the libraries do would take most of the time."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape) / 2, shapes)


def ops(trace: Trace, *names: str) -> list[Node]:
    return [node for node in trace.nodes if node.operation and (not names or node.operation in names)]


@functools.cache
def line(function: Any, text: str) -> int:
    """The number of the line of a function's source in which a text stands."""
    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, source in enumerate(lines) if text in source)


# ---------------------------------------------------------------- values


def test_inputs_come_first_under_their_names_and_data_reaches_what_reads_an_input():
    def model(params, x):
        return jnp.tanh(x @ params["w"]), params["w"].sum()

    trace = checked(model, {"w": W}, X, kinds=("param", "input"))
    assert [(node.kind, node.name, node.data) for node in trace.nodes[:2]] == [("param", "w", False), ("input", "arg1", True)]
    assert [(node.operation, node.kind, node.data) for node in trace.nodes[2:]] == [
        ("dot_general", "op", True), ("tanh", "op", True), ("reduce_sum", "op", False),
    ]  # fmt: skip
    assert trace.side == "jax" and trace.seconds > 0 and trace.outputs == {"output.0": 3, "output.1": 4}


def test_movements_share_the_fingerprint_of_what_they_move():
    def model(x):
        y = jax.lax.stop_gradient(x.T.reshape(2, 6)[None].astype(jnp.float32))
        return jnp.broadcast_to(y, (1, 2, 6)), jnp.broadcast_to(x[:1], (4, 3)), x[::-1], x[1:], x.sum(0, keepdims=True)[:, :], x * 2

    trace = followed(model, X)
    kinds = [(node.operation, node.kind) for node in trace.nodes if node.operation]
    assert [name for name, kind in kinds if kind == "move"] == [
        "transpose", "reshape", "broadcast_in_dim", "convert_element_type", "stop_gradient", "broadcast_in_dim",
    ]  # fmt: skip
    assert {name for name, kind in kinds if kind == "op"} == {"slice", "broadcast_in_dim", "rev", "reduce_sum", "mul"}
    for node in trace.nodes:
        assert node.kind != "move" or node.print is trace.nodes[node.reads[0]].print
    assert {node.dtype for node in trace.nodes} == {"float64"}


def test_numbers_made_from_nothing_are_constants():
    trace = checked(lambda x: x + jnp.arange(3.0) + jnp.asarray([1.0, 2.0, 4.5]), X)
    assert [(node.operation, node.shape) for node in trace.nodes if node.kind == "const"] == [("", (3,)), ("iota", (3,))]


def test_a_result_that_is_a_number_or_an_argument_is_a_node():
    trace = checked(lambda x: (x, 2.5), X)
    assert trace.outputs == {"output.0": 0, "output.1": 1}
    assert trace.nodes[1].kind == "const" and trace.nodes[1].print.mean == 2.5


def test_a_large_parameter_has_no_fingerprint_and_a_small_one_has():
    big = RNG.standard_normal((70, 70))
    trace = followed(lambda p, x: x @ p["big"].T + p["small"], {"big": big, "small": big[0]}, big, kinds=("param", "input"))
    assert [(node.name, node.print is None) for node in trace.nodes[:3]] == [("big", True), ("small", False), ("arg1", False)]
    assert [node.print is None for node in trace.nodes[3:]] == [True, False, False, False]  # its transpose is known by name too


def dense(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"] + params["b"])


@jax.jit
def jitted(params, x):
    return jax.nn.softmax(dense(params, x))


@jax.custom_jvp
def cubed(x):
    return x * x * x


@cubed.defjvp
def _(primals, tangents):
    return cubed(*primals), 3 * primals[0] ** 2 * tangents[0]


@jax.custom_vjp
def halved(x):
    return jnp.sin(x) / 2


halved.defvjp(lambda x: (halved(x), x), lambda x, g: (jnp.cos(x) * g / 2,))


def looped(params: Any, x: Any) -> Any:
    def step(carry, row):
        carry = jnp.tanh(carry @ params["w"] + row)
        return carry, (carry.sum(), row * 2)

    return jax.lax.scan(step, x[0], x, reverse=True)


def whiled(params: Any, x: Any) -> Any:
    return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, dense(params, s[1])), (0, x))[1]


def branched(params: Any, x: Any) -> Any:
    return jax.lax.cond(x.sum() > 100, lambda y: y * 0, lambda y: dense(params, y), x), jax.lax.switch(1, [jnp.sin, jnp.cos], x)


def nested(params: Any, x: Any) -> Any:
    def step(carry, _):
        return jax.checkpoint(jitted)(params, jax.nn.relu(cubed(halved(carry)))), None

    return jax.lax.scan(step, x, None, length=2)[0]


PARAMS = {"w": W, "b": RNG.standard_normal(3)}
LAYERS = {"w": RNG.standard_normal((2, 3, 3)), "b": RNG.standard_normal((2, 3))}
FORWARD = {"jit": jitted, "scan": looped, "while": whiled, "cond": branched, "nested": nested}


@pytest.mark.parametrize("name", FORWARD)
def test_calls_and_loops_are_opened(name):
    trace = checked(FORWARD[name], PARAMS, X, kinds=("param", "input"))
    assert not {node.operation for node in trace.nodes} & (INLINED | {"scan", "while", "cond"})


BACKWARD = {
    "jit": jitted,
    "scan": looped,
    "cond": branched,
    "nested": nested,
    "remat": lambda p, x: jax.checkpoint(dense)(p, x),
    "layers": lambda p, x: jax.lax.scan(lambda c, p: (dense(p, c), None), x, p)[0],
    "fixed": lambda p, x: jax.lax.fori_loop(0, 3, lambda i, c: dense(p, c), x),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_vjp_is_followed_forward_and_backward(name):
    trace = differentiated(BACKWARD[name], {"layers": LAYERS, "scan": {"w": W}}.get(name, PARAMS), X)
    found = {leaf: trace.nodes[index] for leaf, index in trace.outputs.items()}
    assert {leaf.partition(".")[0]: node.backward for leaf, node in found.items()} == {"output": False, "grad": True}
    assert all(node.backward == leaf.startswith("grad.") and node.data for leaf, node in found.items())
    first = min(node.index for node in ops(trace) if node.backward)
    assert first > max(node.index for leaf, node in found.items() if leaf.startswith("output"))


def test_a_scan_is_its_steps():
    trace = followed(looped, PARAMS, X, kinds=("param", "input"))
    assert [node.operation for node in ops(trace)][:7] == ["slice", "squeeze", "scan_slice", "dot_general", "add", "tanh", "reduce_sum"]
    slices = ops(trace, "scan_slice")
    assert [node.again.params["index"] for node in slices] == [3, 2, 1, 0] and all(node.reads == (2,) for node in slices)
    sums, rows = ops(trace, "scan_stack")
    assert [trace.nodes[i].operation for i in sums.reads] == ["reduce_sum"] * 4 and sums.reads == tuple(sorted(sums.reads, reverse=True))
    assert rows.shape == (4, 3) and trace.nodes[trace.outputs["output.0"]].operation == "tanh"


def test_loops_of_no_steps_give_what_they_start_with():
    def model(x):
        carry, rows = jax.lax.scan(lambda c, r: (c + r, c), x[0], x[:0])
        return carry, rows, jax.lax.while_loop(lambda s: s.sum() > 1e9, lambda s: s * 2, x)

    assert followed(model, X).outputs["output.2"] == 0
    checked(model, X)


def test_what_reads_a_remat_again_is_forward():
    trace = differentiated(lambda p, x: jax.checkpoint(lambda p, x: jnp.sin(jnp.tanh(x @ p["w"])))(p, x), {"w": W}, X)
    assert [(node.operation, node.backward) for node in ops(trace, "tanh", "cos")] == [("tanh", False), ("tanh", False), ("cos", False)]


def test_a_gradient_inside_the_model_is_no_backward_pass():
    def force(params, x):
        return -jax.grad(lambda x: dense(params, x).sum())(x)

    assert not any(node.backward for node in checked(force, PARAMS, X).nodes)
    trace = differentiated(force, PARAMS, X)
    assert not trace.nodes[trace.outputs["output.0"]].backward
    assert trace.nodes[trace.outputs["grad.w"]].backward and any(node.backward for node in ops(trace, "dot_general"))


def test_what_follows_from_a_cotangent_is_backward_also_outside_of_the_vjp():
    def run(params, x, cotangent):
        output, pull = jax.vjp(dense, params, x)
        return output, jax.tree.map(lambda g: g * 2, pull(cotangent * 3))

    trace = checked(run, PARAMS, X, X, kinds=("param", "input", "const"), outputs=["output", "grad.b", "grad.w", "grad.x"])
    outside = [node for node in ops(trace, "mul") if line(run, "g * 2") in {frame.line for frame in node.frames[:1]}]
    assert len(outside) == 4 and all(node.backward for node in outside)


def test_what_leads_nowhere_is_left_out():
    def model(x):
        jax.debug.print("never printed {}", x)
        jnp.exp(x)
        return jnp.split(x, 3, axis=1)[1]

    assert [(node.operation, node.again.result) for node in ops(followed(model, X))] == [("split", 1)]


# ---------------------------------------------------------------- single operations, by numpy and by jax


UNARY = "neg abs sign square floor ceil exp exp2 expm1 tanh sin cos tan sinh cosh is_finite logistic cbrt erf erf_inv".split()
POSITIVE = "log log1p sqrt rsqrt lgamma digamma".split()
BINARY = "add sub mul div max min pow atan2 rem eq ne lt le gt ge nextafter".split()


def every_operation() -> dict[str, Callable[[Any], Any]]:
    lax = jax.lax
    found: dict[str, Callable[[Any], Any]] = {name: getattr(lax, name) for name in UNARY}
    found |= {name: lambda x, name=name: getattr(lax, name)(jnp.abs(x) + 0.1) for name in POSITIVE}
    found |= {name: lambda x, name=name: getattr(lax, name)(jnp.abs(x), x[::-1]) for name in BINARY}
    found |= {f"integer_pow {y}": lambda x, y=y: lax.integer_pow(x, y) for y in (-3, -1, 0, 1, 2, 3, 7)}
    found |= {f"ints {y}": lambda x, y=y: lax.integer_pow((x * 9).astype(jnp.int32), y) * 2_000_000_011 for y in (0, 3)}
    found |= {
        f"int {name}": lambda x, name=name: getattr(lax, name)((x * 9).astype(jnp.int32), jnp.int32(3)) for name in ("div", "rem", "max")
    }
    found |= {
        name: lambda x, name=name: getattr(jnp, name)(x, axis=1) for name in "sum prod amax amin argmax argmin cumsum cumprod".split()
    }
    found |= {f"{name} of bool": lambda x, name=name: getattr(jnp, name)(x > 0, axis=0) for name in ("all", "any", "sum")}
    found |= {
        f"cum {name}": lambda x, name=name: getattr(lax, name)(x, axis=0, reverse=True)
        for name in "cumsum cummax cummin cumlogsumexp".split()
    }
    return found | {
        "round": lambda x: (jnp.round(x * 3), lax.round(x * 3 + 0.5)),
        "where": lambda x: (jnp.where(x > 0, x, -1e9), lax.select_n((x > 0).astype(jnp.int32), x, x * 2, x * 3)),
        "clamp": lambda x: lax.clamp(-0.5, x, 0.5),
        "bits": lambda x: ((x > 0) & (x < 1)) | ~(x > 2) ^ (x < -1),
        "shift": lambda x: (x * 9).astype(jnp.int32) << 2,
        "pad": lambda x: lax.pad(x, 0.5, [(1, 2, 1), (0, 3, 0)]),
        "crop": lambda x: lax.pad(x, 0.5, [(-1, 0, 0), (0, 0, 0)]),
        "slice": lambda x: x[1::2, 1:],
        "dynamic": lambda x: (lax.dynamic_slice(x, (9, 1), (2, 2)), lax.dynamic_update_slice(x, x[:2] * 2, (3, -5))),
        "concatenate": lambda x: jnp.concatenate([x, x[:1] * 2, x[:0]]),
        "gather": lambda x: (x[jnp.asarray([2, 0, -1])], x.at[jnp.asarray([1, 1])].add(1.0)),
        "sort": lambda x: (jnp.sort(x, axis=0), jnp.argsort(x), lax.top_k(x, 2)),
        "casts": lambda x: (x.astype(jnp.int8), (x > 0).astype(float), (x * 1e30).astype(jnp.int32), x.astype(bool)),
        "dot": lambda x: (jnp.einsum("ij,kj->ki", x, x * 2), jnp.einsum("ij,ij->j", x, x), x.T @ x, jnp.einsum("ij->", x), x[0] @ x[1]),
        "batched dot": lambda x: jnp.einsum("bij,bkj->ibk", jnp.stack([x, x * 2]), jnp.stack([x, x * 3])),
        "dot of rows": lambda x: jnp.broadcast_to(x[0], (5, 3)) @ jnp.broadcast_to(x[1], (5, 3)).T,
        "integer dot": lambda x: (x * 9).astype(jnp.int32) @ (x.T * 9).astype(jnp.int32),
        "convolution": lambda x: lax.conv_general_dilated(x[None, None], x[None, None, :2, :2], (1, 1), "SAME"),
        "pooling": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID"),
        "complex": lambda x: jnp.abs(jnp.fft.fft(x.astype(complex) * 1j)),
        "linear algebra": lambda x: (jnp.linalg.inv(x.T @ x), jnp.linalg.svd(x)[1]),
        "nothing": lambda x: (x[:0].sum(0), x[:, :0] @ x[:0]),
        "float8": lambda x: x.astype(jnp.float8_e4m3fn).astype(float),
    }  # fmt: skip


@pytest.mark.parametrize("name", every_operation())
def test_an_operation_is_what_jax_computes(name):
    checked(every_operation()[name], X)


def test_no_operation_of_numpy_is_left_untested():
    seen = {node.operation for function in every_operation().values() for node in ops(followed(function, X))}
    seen |= {node.operation for node in ops(followed(jax.grad(lambda x: jax.nn.relu(x).sum() + (x * x).sum()), X))}
    others = jax_eager.PASSING | {
        "reduce_precision",
        "square",
        "split",
        "reduce_prod",
        "transpose",
        "squeeze",
        "argmax",
        "argmin",
        "stop_gradient",
    }
    assert set(jax_eager.NUMPY) - seen <= others | {"rev", "reshape", "not", "xor", "cumprod", "add_any"}


def test_nan_and_infinity_go_through_as_in_jax():
    x = np.array([np.nan, np.inf, -np.inf, 1.0, 0.0])
    checked(lambda x: (jnp.max(x), jnp.maximum(x, 0), jnp.argmax(x), jnp.log(x), 1 / x, jnp.where(x > 0, x, 0), jnp.sort(x)), x)


def test_batch_norm_and_attention_of_the_library():
    x = RNG.standard_normal((2, 5, 2, 4))

    def exact(x):
        scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), jnp.einsum("bihd,bjhd->bhij", x, x) / 2, -jnp.inf)
        return jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), x)

    (index,) = followed(lambda x: jax.nn.dot_product_attention(x, x, x, is_causal=True), x).outputs.values()
    trace = followed(lambda x: jax.nn.dot_product_attention(x, x, x, is_causal=True), x, keep={index})
    np.testing.assert_allclose(trace.nodes[index].value, exact(x), rtol=1e-12)  # jax casts its weights to float32, whatever x is
    checked(lambda x: jax.nn.standardize(x, axis=0), X)


# ---------------------------------------------------------------- float64 throughout


def test_a_cast_to_a_narrower_float_is_not_done():
    def narrow(w, x):
        y = jnp.dot(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
        y = jax.lax.reduce_precision(y, 8, 7) * jnp.arange(3, dtype=jnp.float32) + jnp.ones(3, jnp.float16)
        y = y.at[jnp.asarray([1, 1])].add(y[:2]).at[0].mul(jnp.float32(2))
        y = jax.lax.reduce_window(y, jnp.float32(0), lambda a, b: a + b * 2, (2, 1), (1, 1), "VALID")
        return jax.lax.cumsum(y, 1).astype(float)

    def exact(w, x):
        y = jnp.dot(x, w) * jnp.arange(3.0) + 1
        y = y.at[jnp.asarray([1, 1])].add(y[:2]).at[0].mul(2)
        return jax.lax.cumsum(jax.lax.reduce_window(y, 0.0, lambda a, b: a + b * 2, (2, 1), (1, 1), "VALID"), 1)

    (index,) = followed(narrow, W, X).outputs.values()
    trace = followed(narrow, W, X, keep={index})
    np.testing.assert_allclose(trace.nodes[index].value, exact(W, X), rtol=1e-12)
    assert {node.dtype for node in trace.nodes if node.dtype.startswith(("float", "bfloat"))} == {"float64"}
    assert abs(np.asarray(jax.jit(narrow)(W, X)) - exact(W, X)).max() > 1e-3  # it is a difference


def test_float32_arguments_are_computed_with_in_float64():
    x = X.astype(np.float32)
    trace = followed(lambda x: jnp.exp(x) / 3, x, keep={2})
    np.testing.assert_allclose(trace.nodes[2].value, np.exp(x.astype(np.float64)) / 3, rtol=1e-14)


def test_a_number_written_in_float32_is_the_one_that_was_meant():
    epsilon = followed(lambda x: x.astype(jnp.float32) + np.float32(1e-5), X, keep={2})
    np.testing.assert_array_equal(epsilon.nodes[2].value, X + 1e-5)
    root = followed(lambda x: x.astype(jnp.float32) * np.float32(math.sqrt(2 / math.pi)), X, keep={2})
    np.testing.assert_array_equal(root.nodes[2].value, X * math.sqrt(2 / math.pi))
    unknown = followed(lambda x: x.astype(jnp.float32) * np.float32(0.1234567), X, keep={2})
    np.testing.assert_array_equal(unknown.nodes[2].value, X * np.float64(np.float32(0.1234567)))


def test_bits_and_integers_are_left_alone():
    def model(x):
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
        return bits, jax.lax.bitcast_convert_type(bits, jnp.float32), jnp.asarray(16777217, jnp.int32) + bits.astype(jnp.int32)

    trace = checked(model, X)
    assert [trace.nodes[i].dtype for i in trace.outputs.values()] == ["uint32", "float64", "int32"]


def test_a_callback_gets_the_dtype_it_was_written_for():
    def model(x):
        y = x.astype(jnp.float32)
        return jax.pure_callback(lambda a: np.asarray(a) * a.dtype.itemsize, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    trace = checked(model, X, rtol=1e-6)
    assert [node.operation for node in ops(trace)] == ["convert_element_type", "pure_callback"]


# ---------------------------------------------------------------- randomness


def test_random_keys_are_nodes_and_draw_the_same_numbers():
    def model(key, x):
        first, second = jax.random.split(key)
        keep = jax.random.bernoulli(first, 0.8, x.shape)

        def step(carry, key):
            return carry + jax.random.normal(key, x.shape), key

        total, keys = jax.lax.scan(step, x, jax.random.split(second, 3))
        return jnp.where(keep, total / 0.8, 0), jax.random.key_data(keys)

    trace = checked(model, jax.random.key(0), X, kinds=("const", "input"))
    assert trace.nodes[0].dtype == "key<fry>" and trace.nodes[0].print.count == 2
    keys = [node for node in trace.nodes if node.dtype.startswith("key") and node.operation]
    assert {node.operation for node in keys} == {"random_split", "slice", "squeeze", "scan_slice"} and all(
        node.print.count for node in keys
    )


def test_old_style_keys_too():
    checked(lambda key, x: x * jax.random.uniform(key, x.shape), jax.random.PRNGKey(0), X)


# ---------------------------------------------------------------- where it was written


def helper(x):
    return jax.nn.softmax(x)


def two_lines(w, x):
    x = helper(x @ w)
    return jax.nn.relu(helper(x))


def test_frames_are_the_users_innermost_first():
    trace = followed(two_lines, W, X)
    (product,) = ops(trace, "dot_general")
    assert [(frame.file, frame.line, frame.function) for frame in product.frames] == [(__file__, line(two_lines, "x @ w"), "two_lines")]
    first, second = ops(trace, "exp")
    assert [(f.function, f.line) for f in first.frames] == [("helper", line(helper, "softmax")), ("two_lines", line(two_lines, "x @ w"))]
    assert [f.line for f in second.frames] == [line(helper, "softmax"), line(two_lines, "relu")]
    relu = trace.nodes[trace.outputs["output.0"]]  # a function that jax jitted: the caller's line
    assert (relu.call, relu.frames[0].line) == ("relu", line(two_lines, "relu"))


def calls_jitted_twice(params, x):
    x = jitted(params, x)
    return jitted(params, x)


def test_a_jitted_function_has_its_own_line_and_each_callers():
    """jax traces it once; its equations know no caller, and the caller's are those of the call itself."""
    trace = followed(calls_jitted_twice, PARAMS, X)
    inside = line(dense, "tanh")
    for node, at in zip(ops(trace, "tanh"), ("x = jitted", "return jitted"), strict=True):
        assert [frame.line for frame in node.frames] == [inside, line(jitted, "softmax"), line(calls_jitted_twice, at)]


def test_the_body_of_a_loop_has_its_own_lines():
    trace = followed(looped, PARAMS, X)
    assert {node.frames[0].line for node in ops(trace, "tanh")} == {line(looped, "jnp.tanh")}
    assert {node.frames[0].function for node in ops(trace, "tanh")} == {"looped.step"}
    assert {node.frames[0].line for node in ops(trace, "scan_slice")} == {line(looped, "jax.lax.scan")}


def test_the_backward_pass_has_the_lines_of_the_forward_pass():
    trace = differentiated(jitted, PARAMS, X)
    back = [node for node in ops(trace, "dot_general") if node.backward]
    assert len(back) == 2 and {node.frames[0].line for node in back} == {line(dense, "tanh")}


def test_a_library_alone_gives_the_line_of_its_function():
    trace = followed(jax.nn.gelu, X)
    assert {(str(frame).partition(":")[0], frame.function) for node in ops(trace) for frame in node.frames} == {("functions.py", "gelu")}
    trace = followed(functools.partial(linen.Dense(3).apply, {"params": {"kernel": W, "bias": W[0]}}), X)
    assert {(str(frame).partition(":")[0], frame.function) for node in ops(trace) for frame in node.frames} == {
        ("linear.py", "Dense.__call__")
    }


def test_our_own_frames_and_the_deep_ones_are_dropped():
    def deep(x, levels):
        return jnp.sin(x) if not levels else deep(x, levels - 1)

    (node,) = ops(followed(lambda x: deep(x, 9), X))
    assert [frame.function.rpartition(".")[2] for frame in node.frames] == ["deep"] * jax_frames.DEPTH
    assert str(node.frames[0]) == f"test_jax_trace.py:{line(deep, 'jnp.sin')}"


def test_what_jax_keeps_of_a_stack():
    """Private parts of jax on which frames rest: Traceback.raw_frames, and name stacks as text."""
    (equation,) = jax.jit(jax.named_scope("scope")(lambda x: jnp.sin(x))).trace(1.0).jaxpr.eqns
    codes, positions = equation.source_info.traceback.raw_frames()
    assert len(codes) == len(positions) and __file__ in {code.co_filename for code in codes}
    assert [jax_frames._frame(c, p, c.co_filename).line for c, p in zip(codes, positions, strict=True)] == [
        f.line_num for f in equation.source_info.traceback.frames
    ]
    assert str(equation.source_info.name_stack) == "scope"


def test_equal_code_in_two_files_keeps_its_file():
    functions = []
    for file in ("/home/me/one.py", "/home/me/two.py"):
        space: dict[str, Any] = {"jnp": jnp}
        exec(compile("def model(x):\n    return jnp.sin(x)\n", file, "exec"), space)
        functions.append(space["model"])
    assert functions[0].__code__ == functions[1].__code__  # Python says so
    files = [node.frames[0].file for function in functions for node in ops(followed(function, X))]
    assert files == ["/home/me/one.py", "/home/me/two.py"]


# ---------------------------------------------------------------- calls


def calls(trace: Trace, *names: str) -> list[tuple[str, int]]:
    return list(dict.fromkeys((node.call, node.call_number) for node in ops(trace) if node.call in names))


def test_the_parts_of_one_call_share_its_number():
    def model(x):
        x = jax.nn.gelu(jax.nn.gelu(x))
        for _ in range(3):
            x = jax.nn.gelu(x)
        return x.mean() + jax.nn.logsumexp(x)

    trace = followed(model, X)
    assert len(calls(trace, "gelu")) == 5 and len(calls(trace, "mean")) == 1 and len(calls(trace, "logsumexp")) == 1
    assert {node.call for node in ops(trace)} == {"gelu", "mean", "logsumexp", ""}
    sizes = [sum(node.call_number == number for node in ops(trace)) for _, number in calls(trace, "gelu")]
    assert len(set(sizes)) == 1 and sizes[0] > 5
    (alone,) = [node for node in ops(trace) if not node.call]
    assert alone.operation == "add" and alone.call_number == -1


def test_a_call_of_one_operation_in_a_loop_is_a_call_each_time():
    def model(x):
        for _ in range(3):
            x = jax.lax.tanh(x)
        return jax.lax.fori_loop(0, 2, lambda i, x: jax.nn.relu(x) - 1, x)

    trace = followed(model, X)
    assert len(calls(trace, "tanh")) == 3 and len(calls(trace, "relu")) == 2


def test_calls_in_the_backward_pass_are_apart_too():
    def model(params, x):
        for _ in range(3):
            x = jax.nn.gelu(x @ params["w"])
        return x

    trace = differentiated(model, {"w": W}, X)
    back = {node.call_number for node in ops(trace) if node.call == "gelu" and node.backward}
    assert len(calls(trace, "gelu")) == 6 and len(back) == 3


# ---------------------------------------------------------------- modules


def modules(trace: Trace, *operations: str) -> list[str]:
    return [node.module for node in ops(trace, *operations)]


class Block(linen.Module):
    @linen.compact
    def __call__(self, x):
        return self.scaled(linen.LayerNorm()(jax.nn.gelu(linen.Dense(3, name="fc")(x))))

    def scaled(self, x):
        return x * 3


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.remat(Block)(name="again")(Block(name="first")(x))
        many = linen.scan(lambda block, x, _: (block(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return many(Block(name="many"), x, None)[0]


def test_modules_of_linen_forward_and_backward():
    net = LinenNet()
    params = numbers(jax.eval_shape(net.init, jax.random.key(0), X)["params"])
    trace = differentiated(lambda p, x: net.apply({"params": p}, x), params, X)
    assert {node.name for node in trace.nodes if node.kind == "param"} >= {"first.fc.kernel", "many.LayerNorm_0.scale"}
    forward = [node.module for node in ops(trace, "dot_general") if not node.backward]
    assert forward == ["first.fc", "again.fc", "many.fc", "many.fc", "again.fc"]  # the last: computed again for the backward pass
    assert {node.module for node in ops(trace, "dot_general") if node.backward} == {"first.fc", "again.fc", "many.fc"}
    assert {node.module for node in ops(trace, "rsqrt")} == {"first.LayerNorm_0", "again.LayerNorm_0", "many.LayerNorm_0"}
    assert {node.call for node in ops(trace, "rsqrt")} == {"LayerNorm"}
    threes = [node for node in ops(trace, "mul") if node.frames and node.frames[0].line == line(Block, "x * 3")]
    assert {node.module for node in threes} == {"first", "again", "many"}
    lines = {node.frames[0].line for node in ops(trace, "dot_general")}
    assert lines == {line(Block, "linen.Dense")}


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.fc, self.norm = nnx.Linear(3, 3, rngs=rngs), nnx.LayerNorm(3, rngs=rngs)

    def __call__(self, x):
        return jax.nn.gelu(self.norm(self.fc(x)))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([NnxBlock(rngs), NnxBlock(rngs)])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_modules_of_nnx_are_those_whose_parameters_a_call_reads():
    graph, state = nnx.split(nnx.eval_shape(lambda: NnxNet(nnx.Rngs(0))))
    paths, structure = jax.tree_util.tree_flatten_with_path(state)
    params = numbers({jax.tree_util.keystr(path[:-1], simple=True, separator="."): leaf for path, leaf in paths})
    order = list(params)
    trace = differentiated(lambda p, x: nnx.merge(graph, jax.tree.unflatten(structure, [p[n] for n in order]))(x), params, X)
    assert [node.module for node in ops(trace, "dot_general") if not node.backward] == ["blocks.0.fc", "blocks.1.fc"]
    norms = [node for node in ops(trace) if node.call == "LayerNorm" and not node.backward]
    assert {node.module for node in norms} == {"blocks.0.norm", "blocks.1.norm"} and len({node.call_number for node in norms}) == 2
    assert {node.module for node in ops(trace, "tanh")} == {""}  # a function without parameters: it cannot be told
    assert {node.frames[0].line for node in ops(trace, "tanh")} == {line(NnxBlock, "gelu")}


class EqxNet(eqx.Module):
    blocks: list[Any]

    def __call__(self, x):
        for fc, norm in self.blocks:
            x = jax.vmap(norm)(jax.vmap(fc)(x))
        return x


def test_modules_of_equinox_are_those_whose_parameters_a_call_reads():
    keys = jax.random.split(jax.random.key(0), 2)
    net = EqxNet([(eqx.nn.Linear(3, 3, key=key), eqx.nn.LayerNorm(3)) for key in keys])
    arrays, static = eqx.partition(net, eqx.is_inexact_array)
    trace = differentiated(lambda p, x: eqx.combine(p, static)(x), numbers(arrays), X)
    assert [node.module for node in ops(trace, "dot_general") if not node.backward] == ["blocks.0.0", "blocks.1.0"]
    assert {node.module for node in ops(trace, "rsqrt")} == {"blocks.0.1", "blocks.1.1"}
    assert {node.call for node in ops(trace, "rsqrt")} == {"LayerNorm"}
    assert {node.frames[0].line for node in ops(trace, "rsqrt")} == {line(EqxNet, "jax.vmap")}


def test_a_layer_of_layers_is_the_module_that_holds_them():
    class Net(eqx.Module):
        attention: Any
        rest: Any

        def __call__(self, x):
            return jax.vmap(self.rest)(self.attention(x, x, x))

    keys = jax.random.split(jax.random.key(0), 3)
    layers = [eqx.nn.Linear(4, 4, key=keys[0]), eqx.nn.Lambda(jnp.sin), eqx.nn.Linear(4, 4, key=keys[1])]
    net = eqx.filter_eval_shape(lambda key: Net(eqx.nn.MultiheadAttention(2, 4, key=key), eqx.nn.Sequential(layers)), keys[2])
    arrays, static = eqx.partition(net, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    trace = followed(lambda p, x: eqx.combine(p, static)(x), numbers(arrays), RNG.standard_normal((3, 4)), kinds=("param", "input"))
    (softmax,) = ops(trace, "exp")
    assert (softmax.module, softmax.call) == ("attention", "MultiheadAttention")
    assert [node.module for node in ops(trace, "dot_general")] == [
        "attention.query_proj", "attention.key_proj", "attention.value_proj", "attention", "attention", "attention.output_proj",
        "rest.layers.0", "rest.layers.2",
    ]  # fmt: skip
    assert [node.call for node in ops(trace, "dot_general")][-2:] == ["Linear", "Linear"] and ops(trace, "sin")[0].module == ""


class HkBlock(hk.Module):
    def __call__(self, x):
        return jax.nn.gelu(hk.LayerNorm(-1, True, True)(hk.Linear(3)(x)))


def hk_net(x):
    x = HkBlock(name="first")(x)
    return hk.remat(HkBlock(name="again"))(x)


def test_modules_of_haiku():
    net = hk.without_apply_rng(hk.transform(hk_net))
    params = numbers(jax.eval_shape(net.init, jax.random.key(0), X))
    trace = differentiated(net.apply, params, X)
    assert set(modules(trace, "dot_general")) == {"first.linear", "again.linear"}
    assert set(modules(trace, "tanh")) == {"first", "again"} and set(modules(trace, "rsqrt")) == {"first.layer_norm", "again.layer_norm"}
    assert {node.call for node in ops(trace, "rsqrt")} == {"LayerNorm"}
    assert {node.frames[0].line for node in ops(trace, "rsqrt")} == {line(HkBlock, "LayerNorm")}


def test_layers_of_stax_are_those_whose_parameters_are_read():
    init, apply = stax.serial(stax.Dense(3), stax.Gelu, stax.Dense(3))
    params = numbers(jax.eval_shape(lambda key: init(key, (4, 3))[1], jax.random.key(0)))

    def model(params, x):
        return apply(params, x)

    trace = differentiated(model, params, X)
    assert [node.module for node in ops(trace, "dot_general") if not node.backward] == ["0", "2"]
    assert {node.frames[0].line for node in ops(trace)} == {line(model, "apply")}
    assert {node.call for node in ops(trace, "dot_general")} == {"Dense"} and {node.call for node in ops(trace, "tanh")} == {"gelu"}
    assert {node.module for node in ops(trace, "tanh")} == {""}


def test_a_named_scope_is_a_module_everywhere():
    def model(params, x):
        with jax.named_scope("head"):
            return dense(params, x)

    trace = differentiated(model, PARAMS, X)
    assert set(modules(trace)) == {"head"}


def test_two_models_of_linen_keep_their_names():
    first, second = Block(), linen.Dense(2)
    params = numbers([jax.eval_shape(net.init, jax.random.key(0), X) for net in (first, second)])
    trace = followed(lambda p, x: second.apply(p[1], first.apply(p[0], x)), params, X)
    assert modules(trace, "dot_general") == ["Block.fc", "Dense"]


# ---------------------------------------------------------------- replay, keep, instead


def test_replay_computes_with_other_values_and_other_numbers():
    trace = followed(lambda x: (x + 1e-5).sum(0), X)
    node = ops(trace, "add")[0]
    np.testing.assert_array_equal(replay(node, {0: X * 2}), X * 2 + 1e-5)
    other = dataclasses.replace(node, again=node.again._replace(operands=(0, np.asarray(1e-3))))
    np.testing.assert_array_equal(replay(other, {0: X}), X + 1e-3)
    total = ops(trace, "reduce_sum")[0]
    along = dataclasses.replace(total, again=total.again._replace(params={**total.again.params, "axes": (1,)}))
    np.testing.assert_allclose(replay(along, {node.index: X}), X.sum(1))


def test_replay_says_what_it_lacks():
    trace = followed(lambda x: jnp.sin(x) + x, X)
    with pytest.raises(ValueError) as given:
        replay(trace.nodes[0], {})
    assert str(given.value) == "node 0 (arg0) was given, not computed: there is nothing to replay."
    with pytest.raises(ValueError) as missing:
        replay(trace.nodes[2], {0: X})
    assert str(missing.value) == "node 2 (add) cannot be replayed: the value of node 1 is missing."


def test_only_what_is_asked_for_is_kept():
    trace = followed(lambda x: jnp.sin(jnp.cos(x)), X, keep={1})
    assert [node.value is None for node in trace.nodes] == [True, False, True]
    trace.nodes[1].value[:] = 0  # its own array


def test_another_value_in_the_place_of_a_node():
    def model(x):
        return jnp.cos(jnp.sin(x).T) * 2

    trace = followed(model, X, keep={4}, instead={1: X.reshape(2, 6), 3: np.ones(12)})
    np.testing.assert_array_equal(trace.nodes[4].value, np.full((3, 4), 2.0))
    assert trace.nodes[1].print == fingerprint(X) and trace.nodes[2].print is trace.nodes[1].print and trace.nodes[3].shape == (3, 4)
    assert followed(model, X, keep={0}, instead={0: X * 2}).nodes[0].value[0, 0] == X[0, 0] * 2


# ---------------------------------------------------------------- bounds


def test_a_loop_too_long_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(jax_trace, "LIMIT", 100)
    followed(lambda x: jax.lax.fori_loop(0, 20, lambda i, x: jnp.sin(x), x), X)
    for long in (
        lambda x: jax.lax.fori_loop(0, 200, lambda i, x: jnp.sin(x), x),
        lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x, x),
    ):
        with pytest.raises(TooLong) as refused:
            followed(long, X)
        assert str(refused.value) == (
            "the jax side computes more than 100 values, each step of a loop counted: too many to follow one by one. "
            "Give it fewer steps (a shorter sequence, fewer iterations)."
        )


def test_an_array_changed_in_place_is_refused_in_words():
    def model(x):
        held = jax.new_ref(x)
        held[0] = x[1]
        return held[...] * 2

    with pytest.raises(Unfollowed) as refused:
        followed(model, X)
    assert str(refused.value) == (
        f"the jax side changes an array in place (new_ref at test_jax_trace.py:{line(model, 'new_ref')}), "
        "which cannot be followed value by value. Write it without jax.new_ref."
    )


def peak(function: Callable[..., Any], *args: Any) -> int:
    """The most bytes of numpy's that were held at a time while a function was followed."""
    traced = jax.jit(function).trace(*args)
    follow = functools.partial(jax_trace.trace, traced, jax.tree.leaves(args), named(args, ("input",) * len(args)), ["output"])
    follow()
    gc.collect()
    tracemalloc.start()
    try:
        follow()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, lambda f: jax.jit(jax.jit(f)), jax.checkpoint], ids=["plain", "jit", "twice", "remat"]
)
def test_memory_does_not_grow_with_depth(wrap):
    def chain(length):
        def model(x):
            for _ in range(length):
                x = jnp.sin(x * 2).T.reshape(100, 100)
            return x[0, :1]

        return wrap(model)

    x = RNG.standard_normal((100, 100))
    short, long = peak(chain(5), x), peak(chain(100), x)
    assert short < 12 * x.nbytes and long < short + 10 * x.nbytes  # holding all would be 200 arrays


def test_memory_of_a_loop_is_that_of_its_results():
    x = RNG.standard_normal((100, 100))

    def loop(steps):
        return lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c * 2), c[0, 0]), x, None, length=steps)[1]

    assert peak(loop(100), x) < peak(loop(5), x) + 10 * x.nbytes


def test_gradients_are_not_held_until_the_end():
    def model(params, x):
        for p in params:
            x = jnp.sin(x @ p)
        return x.sum()

    x = RNG.standard_normal((100, 100))
    for count in (5, 40):
        params = [x / 100] * count
        traced = jax.jit(jax.grad(model)).trace(params, x[:1])
        names = named((params, x[:1]), ("param", "input"))
        tracemalloc.start()
        try:
            jax_trace.trace(traced, [*params, x[:1]], names, [f"grad.{i}" for i in range(count)])
            assert tracemalloc.get_traced_memory()[1] < 15 * x.nbytes
        finally:
            tracemalloc.stop()


def test_a_slice_does_not_hold_what_it_was_cut_from():
    def model(x):
        rows = []
        for _ in range(50):
            x = jnp.sin(x)
            rows.append(x[:1])
        return jnp.concatenate(rows)

    x = RNG.standard_normal((100, 100))
    assert peak(model, x) < 12 * x.nbytes


def test_a_row_does_not_hold_the_loop_it_came_from():
    def model(x):
        rows = []
        for _ in range(40):
            x = jnp.sin(x)
            rows.append(jax.lax.scan(lambda _, row: (row, None), x[0], x)[0])
        return jnp.stack(rows)

    x = RNG.standard_normal((5, 10_000))
    assert peak(model, x) < 35 * x.nbytes  # 8 of its results, as much to stack them, not 40 of what they came from


def test_jax_holds_nothing_afterwards():
    def model(x):
        return jax.lax.erf(jax.scipy.special.gammaln(jnp.abs(x) + 1)).sum()

    followed(model, X)
    gc.collect()
    before = len(jax.live_arrays())
    trace = followed(model, X)
    gc.collect()
    assert len(jax.live_arrays()) == before and trace.nodes


def test_a_thousand_steps_take_seconds():
    def model(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c * 1.01 + 0.1) - 0.05, c.sum()), x, None, length=1000)

    trace = followed(model, X)
    assert len(trace.nodes) > 5000 and trace.seconds < 20  # 0.3 s on a quiet machine


def test_the_same_every_time_and_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.concatenate([X, np.zeros((1, 3))])
        first, second = (followed(lambda p, x: jnp.log(nested(p, x) / x), PARAMS, x) for _ in range(2))
    assert [describe(node) for node in first.nodes] == [describe(node) for node in second.nodes]
    assert first.outputs == second.outputs


def test_values_are_kept_while_there_is_room_and_parameters_always() -> None:
    side = lambda p, x: jnp.cos(jnp.sin(x * p))
    kept = followed(side, X[0], X[1], kinds=("param", "input"), room=8).nodes
    assert [node.value is not None for node in kept] == [True, True, True, False, False]
    bare = followed(side, X[0], X[1], kinds=("param", "input"), keep=[4], bare=True).nodes
    assert [node.print for node in bare] == [None] * 5
    np.testing.assert_array_equal(bare[4].value, followed(side, X[0], X[1], kinds=("param", "input"), keep=[4]).nodes[4].value)
