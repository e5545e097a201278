"""The jax side: every container, complex gradients in one convention, nojit, optimizers, and rounding on a traced function."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.example_libraries.optimizers as examples
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx

import pytest_dlparity as dlp
from pytest_dlparity.frameworks import jax as jax_side
from pytest_dlparity.frameworks import jax_rounding

X = dlp.normal(4, 6)


def check(spec: Any, **settings: Any) -> Any:
    return dlp.check(spec, **{"devices": ["cpu"], **settings})


def names(report: Any) -> list[str]:
    return [v.name for v in report.verdicts]


# ---------------------------------------------------------------- containers


class Pair(NamedTuple):
    mean: Any
    spread: Any


@dataclasses.dataclass
class Outputs:
    logits: Any
    hidden: Any = None


@jax.tree_util.register_pytree_with_keys_class
class Registered:
    """What a library registers: a container that is neither dict nor dataclass."""

    def __init__(self, logits: Any) -> None:
        self.logits = logits

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey("logits"), self.logits)], None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Registered:
        return cls(*children)


def doubled(x: Any) -> Any:
    return x * 2


CONTAINERS: dict[str, tuple[Any, Any, list[str]]] = {
    "an array": (doubled, doubled, ["output"]),
    "a tuple": (lambda x: (x * 2, x * 3), lambda x: (x * 2, x * 3), ["output.0", "output.1"]),
    "a tuple and a list": (lambda x: (x * 2, x * 3), lambda x: [x * 2, x * 3], ["output.0", "output.1"]),
    "a tuple of one": (lambda x: (x * 2,), lambda x: (x * 2,), ["output.0"]),
    "a dict, in another order": (lambda x: {"a": x * 2, "b": x * 3}, lambda x: {"b": x * 3, "a": x * 2}, ["output.a", "output.b"]),
    "nested": (
        lambda x: {"h": [x * 2, (x * 3,)], "none": None}, lambda x: {"h": (x * 2, [x * 3]), "empty": ()}, ["output.h.0", "output.h.1.0"],
    ),
    "a named tuple": (lambda x: Pair(x * 2, x * 3), lambda x: Pair(x * 2, x * 3), ["output.mean", "output.spread"]),
    "a named tuple and a dict": (lambda x: Pair(x * 2, x * 3), lambda x: {"mean": x * 2, "spread": x * 3}, ["output.mean", "output.spread"]),
    "a dataclass": (lambda x: Outputs(x * 2, x * 3), lambda x: Outputs(x * 2, x * 3), ["output.logits", "output.hidden"]),
    "a dataclass with an empty field": (lambda x: Outputs(x * 2), lambda x: Outputs(x * 2), ["output.logits"]),
    "a registered pytree": (lambda x: {"logits": x * 2}, lambda x: Registered(x * 2), ["output.logits"]),
    "a registered pytree inside": (lambda x: [{"logits": x * 2}], lambda x: [Registered(x * 2)], ["output.0.logits"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTAINERS)
def test_every_container_is_opened_and_its_leaves_and_gradients_agree(case: str) -> None:
    torch_side, jax_side_, leaves = CONTAINERS[case]
    report = check(dlp.layer(torch_side, jax_side_, inputs=[X]))
    assert names(report) == [*leaves, "grad.input"] and report.ok, str(report)


def test_a_fault_in_the_last_leaf_of_a_nested_output_is_seen() -> None:
    report = check(dlp.layer(lambda x: {"h": [x, (x * 3,)]}, lambda x: {"h": [x, (x * 3.001,)]}, inputs=[X], wrt=[]))
    assert {v.name: v.status for v in report.verdicts} == {"output.h.0": "agree", "output.h.1.0": "semantics"}


def test_an_output_that_is_no_array_is_refused_in_words() -> None:
    with pytest.raises(dlp.SpecError) as caught:
        check(dlp.layer(lambda x: (x, x), lambda x: (x, "logits"), inputs=[X]))
    assert str(caught.value) == "output.1 is a str ('logits'). Return arrays, numbers, or containers of them."


# ---------------------------------------------------------------- complex numbers


def complex_normal(*shape: int) -> Any:
    return lambda rng: rng.normal(size=shape) + 1j * rng.normal(size=shape)


COMPLEX: dict[str, tuple[Any, Any]] = {
    "holomorphic": (lambda z: z * z, lambda z: z * z),
    "conjugate": (lambda z: z.conj() * z * (1 + 2j), lambda z: z.conj() * z * (1 + 2j)),
    "absolute value": (torch.abs, jnp.abs),
    "real part": (lambda z: z.real * 3, lambda z: z.real * 3),
    "Fourier transform": (torch.fft.fft, jnp.fft.fft),
}


@pytest.mark.parametrize("case", COMPLEX)
def test_complex_gradients_follow_one_convention(case: str) -> None:
    report = check(dlp.layer(*COMPLEX[case], inputs=[complex_normal(3, 4)]))
    assert names(report) == ["output", "grad.input"] and report.ok, str(report)


def test_the_convention_is_torchs_and_not_its_conjugate() -> None:
    (ours,) = (v for v in check(dlp.layer(lambda z: z * 1j, lambda z: z.conj() * 1j, inputs=[complex_normal(3)])).verdicts if v.name != "output")
    assert ours.status == "semantics"


def test_a_complex_output_of_real_inputs_and_complex_parameters_agree() -> None:
    side = lambda p, x: x * p["phase"]
    report = check(dlp.layer(side, side, inputs=[dlp.normal(4)], params={"phase": complex_normal(4)}))
    assert names(report) == ["output", "grad.input", "grad.phase"] and report.ok, str(report)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_cells_run_in_their_dtype(dtype: str) -> None:
    seen = set()

    def side(z: jax.Array) -> jax.Array:
        seen.add(z.dtype.name)
        return z * 2

    assert check(dlp.layer(lambda z: z * 2, side, inputs=[complex_normal(4)]), dtypes=[dtype]).ok
    assert seen == {"complex128", dtype}


# ---------------------------------------------------------------- modes and dtypes


def test_nojit_runs_operation_by_operation_with_concrete_numbers() -> None:
    kinds = []

    def side(x: jax.Array) -> jax.Array:
        kinds.append(isinstance(x, jax.core.Tracer))
        if not isinstance(x, jax.core.Tracer) or x.dtype == jnp.float64:
            return jnp.sin(x)
        raise AssertionError("the cell is traced")

    assert check(dlp.layer(torch.sin, side, inputs=[X], wrt=[]), modes=["nojit"]).ok
    assert kinds == [True, False]


def test_nojit_gives_the_same_verdicts() -> None:
    report = check(dlp.layer(torch.tanh, jnp.tanh, inputs=[X]), modes=["eager", "nojit"], dtypes=["float32", "bfloat16"])
    assert report.ok and len(report.verdicts) == 8


@pytest.mark.parametrize(("dtype", "integer"), [("float64", "int64"), ("float32", "int32"), ("bfloat16", "int32"), ("float16", "int32")])
def test_a_side_meets_the_cells_dtype(dtype: str, integer: str) -> None:
    seen = set()

    def side(x: jax.Array, i: jax.Array, b: jax.Array) -> jax.Array:
        seen.add((x.dtype.name, i.dtype.name, b.dtype.name))
        return x[i] * b

    check(dlp.layer(lambda x, i, b: x[i] * b, side, inputs=[dlp.normal(5), dlp.integers(3, high=5), dlp.booleans(3)]), dtypes=[dtype])
    assert seen == {("float64", "int64", "bool"), (dtype, integer, "bool")}


def test_a_factory_of_a_function_and_a_jitted_function_are_sides() -> None:
    assert check(dlp.layer(torch.sin, jax.jit(jnp.sin), inputs=[X])).ok
    assert check(dlp.layer(torch.sin, lambda: jnp.sin, inputs=[X])).ok


def test_vmap_batches_a_function_of_single_examples() -> None:
    report = check(dlp.layer(lambda x: x.softmax(-1), dlp.vmap(lambda x: jnp.exp(x) / jnp.exp(x).sum()), inputs=[X]))
    assert names(report) == ["output", "grad.input"] and report.ok, str(report)
    assert not check(dlp.layer(lambda x: x.softmax(-1), lambda x: jnp.exp(x) / jnp.exp(x).sum(), inputs=[X])).ok


def test_loops_and_branches_round_inside() -> None:
    def recurrent(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, row: (jnp.tanh(h + row), h), jnp.zeros(6, x.dtype), x)[0]

    def loop(x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(6, dtype=x.dtype)
        for row in x:
            h = torch.tanh(h + row)
        return h

    assert check(dlp.layer(loop, recurrent, inputs=[X]), dtypes=["float32", "bfloat16"]).ok


# ---------------------------------------------------------------- optimizers


def optimized(torch_side: Any, jax_side_: Any, steps: int = 3) -> Any:
    return check(dlp.optimizer(torch_side, jax_side_, params={"w": dlp.normal(3, 4)}, steps=steps))


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def test_an_optax_chain_with_a_schedule_agrees() -> None:
    def decayed(params: Any) -> Any:
        made = torch.optim.SGD(params, lr=0.1, momentum=0.9)
        return made, torch.optim.lr_scheduler.StepLR(made, 2, 0.5)

    schedule = optax.piecewise_constant_schedule(-0.1, {2: 0.5, 4: 0.5})
    report = optimized(decayed, optax.chain(optax.trace(0.9), optax.scale_by_schedule(schedule)), steps=5)
    assert report.ok, str(report)


def test_a_triple_of_example_libraries_agrees_and_a_wrong_one_does_not() -> None:
    assert optimized(sgd, examples.momentum(0.1, 0.9)).ok
    assert not optimized(sgd, examples.momentum(0.1, 0.8)).ok
    assert optimized(lambda p: torch.optim.SGD(p, lr=0.1), examples.sgd(0.1)).ok


def test_a_factory_of_an_optimizer_is_called() -> None:
    assert optimized(sgd, lambda: optax.sgd(0.1, momentum=0.9)).ok


def test_an_optimizer_that_needs_more_than_gradients_is_refused_in_words() -> None:
    with pytest.raises(dlp.SpecError) as caught:
        optimized(sgd, optax.lbfgs())
    assert str(caught.value) == (
        "the update of this optax transformation needs 'value', 'grad', and 'value_fn', and an optimizer is stepped here with given gradients "
        "only. Give a transformation of gradients, such as optax.sgd(0.1) or optax.adam(1e-3)."
    )


# ---------------------------------------------------------------- rounding on a traced function


def rounded(function: Any, *args: Any, roundoff: float = 2.0**-20, key: int = 1, whole: bool = False) -> list[np.ndarray]:
    with jax.enable_x64(True):
        traced = jax.jit(function).trace(*args)
        rounder: Any = jax_rounding.Rounder(traced.jaxpr)
        rounder = jax.jit(rounder) if whole else rounder
        return [np.asarray(out) for out in rounder(jax_rounding.key(key), np.float64(roundoff), *jax.tree.leaves(args))]


ROUNDED: dict[str, Any] = {
    "plain": lambda x: jnp.tanh(x) @ x.T,
    "jit inside": lambda x: jax.jit(jnp.tanh)(x),
    "remat": jax.checkpoint(lambda x: jnp.tanh(x * 2)),
    "scan": lambda x: jax.lax.scan(lambda h, row: (jnp.tanh(h + row), h * 2), x[0], x),
    "scan in reverse": lambda x: jax.lax.scan(lambda h, row: (jnp.tanh(h + row), h * 2), x[0], x, reverse=True),
    "while": lambda x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] * 1.5)), (0, x))[1],
    "cond": lambda x: jax.lax.cond(x[0, 0] < 100, jnp.sin, jnp.cos, x),
    "custom gradient": jax.nn.relu6,
    "gradient": lambda x: jax.grad(lambda y: jnp.tanh(y * 3).sum())(x),
    "vmap": lambda x: jax.vmap(lambda row: row / row.sum())(x),
    "complex": lambda x: jnp.fft.fft(x),
}


@pytest.mark.parametrize("whole", [False, True], ids=["by operation", "whole"])
@pytest.mark.parametrize("case", ROUNDED)
def test_a_rounded_function_is_the_function_up_to_roundings(case: str, whole: bool) -> None:
    x = np.linspace(0.1, 1, 12).reshape(3, 4)
    with jax.enable_x64(True):
        plain = [np.asarray(out) for out in jax.tree.leaves(ROUNDED[case](x))]
    moved, still = (rounded(ROUNDED[case], x, roundoff=roundoff, whole=whole) for roundoff in (2.0**-20, 0.0))
    for right, found, same in zip(plain, moved, still, strict=True):
        assert found.shape == right.shape and found.dtype == right.dtype
        np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(same, right, rtol=1e-12, atol=1e-14)
    assert any(not np.array_equal(found, right) for right, found in zip(plain, moved, strict=True))


def test_roundings_of_two_keys_differ_and_of_one_key_repeat() -> None:
    x = np.linspace(0.1, 1, 64)
    first, again, other = (rounded(jnp.tanh, x, key=key)[0] for key in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_signs_are_even_and_have_no_memory() -> None:
    """Of neighbouring numbers, of neighbouring runs and of operations beside each other: correlations within 5 standard deviations of 0."""
    x = np.linspace(1, 2, 4096)
    with jax.enable_x64(True):
        keys = [jax_rounding._child(jax_rounding.key(run), index) for run in range(4) for index in range(4)]
        signs = np.array([np.sign(np.asarray(jax_rounding._moved(key, x, 2.0**-20)) / x - 1) for key in keys])
    apart = np.corrcoef(np.concatenate([signs, np.roll(signs[:1], 1, axis=1)]))
    assert np.abs(signs.mean(axis=1)).max() < 5 / 64 and np.abs(apart - np.eye(len(apart))).max() < 5 / 64


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_the_rounding_of_a_sum_is_that_of_its_partial_sums(mean: float) -> None:
    """Beside sums that are rounded to float16 after each term; the numbers themselves are not rounded here."""
    terms = np.random.default_rng(0).normal(mean, 1, (256, 400)).astype(np.float16).astype(np.float64)
    found = np.zeros(256, np.float16)
    for column in terms.T:
        found = (found + column.astype(np.float16)).astype(np.float16)
    exact = terms.sum(1)
    wanted = np.sqrt(np.mean(np.square(found - exact)))
    with jax.enable_x64(True):
        moved = np.asarray(jax_rounding._summed(jax_rounding.key(1), terms, jnp.asarray(exact), (1,), 2.0**-11))
    assert 0.3 < wanted / np.sqrt(np.mean(np.square(moved - exact))) < 1  # u bounds one rounding, whose rms is u / sqrt(3) or less


def test_a_sum_of_two_terms_and_one_of_integers_have_no_partial_sums() -> None:
    with jax.enable_x64(True):
        for terms in (np.ones((3, 2)), np.arange(12).reshape(3, 4)):
            assert np.array_equal(jax_rounding._summed(jax_rounding.key(1), terms, jnp.asarray(terms.sum(1)), (1,), 2.0**-4), terms.sum(1))


def test_a_complex_sum_is_rounded_in_both_parts() -> None:
    terms = np.random.default_rng(0).normal(size=(64, 9, 2)).view(complex)[..., 0]
    with jax.enable_x64(True):
        gap = np.asarray(jax_rounding._summed(jax_rounding.key(1), terms, jnp.asarray(terms.sum(1)), (1,), 2.0**-11)) - terms.sum(1)
    assert (gap.real != 0).all() and (gap.imag != 0).all() and abs(np.corrcoef(np.sign(gap.real), np.sign(gap.imag))[0, 1]) < 0.5


@pytest.mark.parametrize(("most", "whole"), [(jax_side.WHOLE, True), (0, False)], ids=["small", "large"])
def test_a_small_program_is_compiled_whole_to_round_everywhere(monkeypatch: pytest.MonkeyPatch, most: int, whole: bool) -> None:
    monkeypatch.setattr(jax_side, "WHOLE", most)
    with jax_side.settings("float64", "highest"):
        made = jax_side.Rounded(jax_side.Compiled(lambda x: jnp.tanh(x) * x, True, True))
        made.roundoff = 2.0**-20
        x = np.linspace(0.1, 1, 5)
        first, second = (np.asarray(made(x)) for _ in range(2))
    np.testing.assert_allclose(first, np.tanh(x) * x, rtol=1e-5)
    assert not np.array_equal(first, second)
    assert [isinstance(rounder, jax_rounding.Rounder) for rounder in made.rounders.values()] == [not whole]


def test_xla_takes_its_older_code_generator_for_the_reference_where_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    jax_side._quick.cache_clear()
    assert jax_side._quick() == {"xla_cpu_use_fusion_emitters": False}
    jax_side._quick.cache_clear()
    monkeypatch.setattr(jax, "jit", mock.Mock(side_effect=ValueError("No such compile option: 'xla_cpu_use_fusion_emitters'")))
    assert jax_side._quick() == {}
    jax_side._quick.cache_clear()


def test_equal_numbers_round_alike_so_that_ties_stay_ties() -> None:
    moved = rounded(lambda x: x * 3, np.full(16, 0.7))[0]
    assert len(set(moved.tolist())) == 1


def test_integers_and_booleans_are_not_moved() -> None:
    assert rounded(lambda i: (i * 3, i > 1), np.arange(4))[0].tolist() == [0, 3, 6, 9]


# ---------------------------------------------------------------- casts, settings, values


def test_narrow_casts_are_found_through_jit_and_scan_with_the_users_line() -> None:
    def side(x: jax.Array) -> jax.Array:
        inner = jax.jit(lambda y: y.astype(jnp.float32).astype(y.dtype))
        return jax.lax.scan(lambda h, row: (h, inner(row)), 0.0, x)[1]

    with jax.enable_x64(True):
        seen = jax_side.narrow_casts([jax.jit(side).trace(np.ones((2, 3)))])
    assert list(seen) == ["float32"] and seen["float32"].startswith("test_jax_side.py:")


def test_settings_hold_inside_and_are_restored_also_when_the_block_raises() -> None:
    before = (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision, jax.config.jax_default_device)

    def inside() -> None:
        with jax_side.settings("float64", "highest"):
            assert jax.config.jax_enable_x64 and jax.config.jax_default_matmul_precision == "highest"
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        inside()
    assert (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision, jax.config.jax_default_device) == before


def test_a_device_may_have_an_index_and_an_absent_one_is_said() -> None:
    assert jax_side.device("cpu") == jax_side.device("cpu:0") and jax_side.available("cpu") == ""
    assert jax_side.available("nowhere").startswith("jax has no device 'nowhere' here (")
    assert jax_side.available("cpu:99").startswith("jax has no device 'cpu:99' here (")


def test_values_take_the_cells_dtype_and_stay_numpy() -> None:
    given = {"f": np.ones(2), "i": np.arange(2), "b": np.array([True]), "c": np.ones(2) * 1j, "u": np.arange(2, dtype=np.uint8), "k": "kept"}
    single, double = jax_side.arrays(given, "bfloat16"), jax_side.arrays(given, "float64")
    kinds = [{name: getattr(value, "dtype", None) and value.dtype.name for name, value in made.items()} for made in (single, double)]
    assert kinds == [
        {"f": "bfloat16", "i": "int32", "b": "bool", "c": "complex64", "u": "uint8", "k": None},
        {"f": "float64", "i": "int64", "b": "bool", "c": "complex128", "u": "uint8", "k": None},
    ]
    assert all(isinstance(value, (np.ndarray, str)) for value in single.values())


def test_half_precision_results_are_widened_exactly() -> None:
    for dtype in (jnp.bfloat16, jnp.float16):
        found = jax_side.to_numpy(jnp.array([1.5, -2.25], dtype))
        assert found.dtype == np.float32 and found.tolist() == [1.5, -2.25]


# ---------------------------------------------------------------- classes


class Plain(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(4)(x)


class Seeded(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(x)


def test_a_class_that_needs_no_arguments_is_made_as_on_the_torch_side() -> None:
    assert dlp.check(dlp.layer(torch.nn.Linear(3, 4), Plain, inputs=[dlp.normal(5, 3)]), devices=["cpu"]).ok


def test_a_class_that_needs_arguments_is_refused_in_words() -> None:
    with pytest.raises(dlp.SpecError) as caught:
        dlp.check(dlp.layer(torch.nn.Linear(3, 4), Seeded, inputs=[dlp.normal(5, 3)]), devices=["cpu"])
    assert str(caught.value) == (
        "the jax side is the class Seeded, which is not made without arguments (Seeded.__init__() missing 1 required positional argument: 'rngs'). "
        "Give a module of it, or a function that makes one: jax=lambda: Seeded(...)."
    )


def test_a_class_of_no_library_is_a_function() -> None:
    report = dlp.check(dlp.layer(lambda x: x.float(), jnp.float32, inputs=[dlp.normal(5)]), devices=["cpu"], dtypes=["float32"])
    assert report.ok
