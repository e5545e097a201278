"""Causes are hypotheses that are tested: what holds is said, what does not is not, and a mistake in a family does not hide."""

from __future__ import annotations

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pytest_dlparity as dlp
from pytest_dlparity import diagnose, run
from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose import constants, normalisation, search
from pytest_dlparity.diagnose.cause import Cause
from pytest_dlparity.reference import reference

X = dlp.normal(4, 6)


def prepared(spec):
    prep = run.prepared(spec, 0, ["float32"])
    return prep, reference(prep)


def searched(spec, seconds=60.0, near=None):
    found = diagnose.searched(*prepared(spec), seconds, near)
    assert found.errors == []
    return found


def causes(spec):
    return diagnose.causes(*prepared(spec), 60.0)


def sentences(spec):
    return [re.sub(r"test_diagnose\.py:\d+", "HERE", cause.sentence) for cause in causes(spec)]


def layer(torch_side, jax_side, *inputs, **more):
    return dlp.layer(torch=torch_side, jax=jax_side, inputs=list(inputs or (X,)), name="side", **more)


def normed(x, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + eps)


# ---------------------------------------------------------------- what a cause holds


def test_a_cause_has_its_numbers():
    [cause] = causes(layer(lambda x: F.layer_norm(x, (6,)), lambda x: normed(x, 1e-3)))
    assert (cause.family, cause.side, cause.write, cause.leaves) == ("eps", "torch", "epsilon=1e-05", ("output", "grad.input"))
    assert cause.where.startswith("test_diagnose.py:")
    assert 1e-5 < cause.before < 1e-2 and cause.bits > 45
    assert str(cause) == f"{cause.sentence}. Write epsilon=1e-05"


def test_a_cause_without_a_line_to_write():
    assert str(Cause("sign", "the jax side has the other sign", "torch")) == "the jax side has the other sign"


# ---------------------------------------------------------------- nothing to be named


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(layer(lambda x: F.layer_norm(x, (6,)), normed), id="a right port"),
        pytest.param(layer(lambda x: x, lambda x: x, dlp.normal(0, 3)), id="no elements"),
        pytest.param(layer(lambda x: x.sum() * float("nan"), lambda x: x.sum() * jnp.nan), id="nothing finite"),
    ],
)
def test_where_nothing_differs_nothing_is_tried(spec):
    found = searched(spec)
    assert (found.tried, search.causes(found)) == (0, [])


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(layer(lambda x: x.sum(-1), lambda x: x.sum(-1) + jnp.sin(x[:, 0] * x[:, 1])), id="a term of its own"),
        pytest.param(layer(lambda x: 0.5 * x, lambda x: x * jnp.abs(x).mean()), id="data in the place of a constant"),
        pytest.param(layer(lambda x: x.exp(), lambda x: (jnp.exp(x), x)), id="an output more"),
        pytest.param(layer(lambda x: x.exp(), lambda x: jnp.full(x.shape, jnp.nan)), id="not a number"),
        pytest.param(layer(lambda x: x, lambda x: jnp.log1p(x * x)), id="no call at all"),
    ],
)
def test_a_fault_without_a_name_gets_none(spec):
    assert sentences(spec) == []


def test_the_jax_side_that_fails_in_float64_is_no_matter_for_causes():
    def fails(x):
        if x.dtype == jnp.float64:
            raise ValueError("no doubles here")
        return x

    assert causes(layer(lambda x: x, fails)) == []


def test_a_number_that_moves_with_the_data_is_not_named():
    """On one draw of the input every scalar can be made to fit; on the next it no longer does."""
    data = dlp.fixed(np.random.default_rng(0).normal(size=(5, 3)))
    assert sentences(layer(lambda x: (2.0 * x).square().mean(), lambda x: (x**2).mean() ** 1.5, data, wrt=[])) == []


def test_a_number_that_is_not_known_is_not_named():
    """Whatever the bound is, as long as it is large enough: no number is found, the bound is missing."""
    assert sentences(layer(lambda x: x.clamp(max=0.5), lambda x: x)) == [
        "the jax side leaves out clamp at HERE and keeps input, torch does not; with that in torch output and grad.input agree to 53 of 53 bits"
    ]


def test_when_time_is_over_nothing_is_named():
    assert diagnose.causes(*prepared(layer(lambda x: F.layer_norm(x, (6,)), lambda x: normed(x, 1e-3))), 0.0) == []


def test_a_passing_check_looks_for_no_cause(monkeypatch):
    monkeypatch.setattr(diagnose, "causes", lambda *_: pytest.fail("asked"))
    assert dlp.check(layer(lambda x: F.layer_norm(x, (6,)), normed), devices=["cpu"], localize="auto").ok


# ---------------------------------------------------------------- more than one change


def test_two_changes_that_the_inputs_cannot_tell_apart_are_both_said():
    spec = layer(lambda x: F.silu(x), lambda x: jax.nn.relu(x), dlp.uniform(4, 6, low=-1.0, high=1.0))
    [sentence] = sentences(spec)
    assert sentence == (
        "either the jax side computes relu, torch's silu at HERE computes silu, or the jax side computes relu6, torch's silu at HERE computes silu; "
        "these inputs cannot tell which: with each of these changes output and grad.input agree to 53 of 53 bits"
    )
    assert causes(spec)[0].write == ""


def test_two_faults_are_found_together():
    assert sentences(layer(lambda x: F.gelu(F.layer_norm(x, (6,))), lambda x: jax.nn.gelu(normed(x, 1e-3)))) == [
        "2 things differ: the jax side has eps=0.001, torch's layer_norm at HERE has eps=1e-05; and the jax side computes the tanh approximation "
        "of gelu, torch's gelu at HERE computes the exact gelu; with eps=0.001 in torch and approximate='tanh' in torch output and grad.input "
        "agree to 53 of 53 bits"
    ]


def test_one_fault_in_several_layers_is_one_cause():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.LayerNorm(6), torch.nn.GroupNorm(2, 6)

        def forward(self, x):
            return self.b(self.a(x).tanh())

    def jax_side(p, x):
        x = normed(x, 1e-6) * p["a.weight"] + p["a.bias"]
        return normed(jnp.tanh(x).reshape(4, 2, 3), 1e-6).reshape(4, 6) * p["b.weight"] + p["b.bias"]

    [sentence] = sentences(layer(Two, jax_side, dlp.normal(4, 6, scale=0.01)))
    assert sentence == (
        "the jax side has eps=1e-06, torch's layer_norm at HERE has eps=1e-05; and the jax side has eps=1e-06, torch's group_norm at HERE has "
        "eps=1e-05; with eps=1e-06 in torch output, grad.input, grad.a.weight and 2 more agree to 53 of 53 bits"
    )


def test_only_the_call_that_differs_is_named():
    def torch_side(x):
        y = F.layer_norm(x, (6,))
        return F.layer_norm(y.tanh(), (6,))

    [cause] = causes(layer(torch_side, lambda x: normed(jnp.tanh(normed(x)), 1e-3)))
    assert cause.where == f"test_diagnose.py:{torch_side.__code__.co_firstlineno + 2}"


# ---------------------------------------------------------------- models, losses, trajectories


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.out = torch.nn.LayerNorm(6, eps=1e-3), torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.norm(x))


def net(eps):
    return lambda p, x: (normed(x, eps) * p["norm.weight"] + p["norm.bias"]) @ p["out.weight"].T + p["out.bias"]


def trained(eps, half=False):
    import optax

    loss = dlp.loss(torch=lambda z, y: F.mse_loss(z, y), jax=lambda z, y: ((z - y) ** 2).mean() / (2 if half else 1))
    optimizer = dlp.optimizer(torch=lambda params: torch.optim.SGD(params, lr=0.1), jax=optax.sgd(0.1))
    return dlp.model(torch=Net, jax=net(eps), inputs=[X, dlp.normal(4, 3)], loss=loss, optimizer=optimizer, steps=3, name="net")


def test_a_cause_explains_every_step_of_a_training():
    [cause] = causes(trained(1e-5))
    assert cause.sentence.startswith("the jax side has eps=1e-05, torch's layer_norm at test_diagnose.py:")
    assert {"output", "loss", "loss.3", "update.3.out.weight", "grad.norm.weight"} <= set(cause.leaves)


def test_a_cause_in_the_loss():
    assert sentences(trained(1e-3, half=True)) == [
        "the jax side takes half of the squares (optax.l2_loss), torch's mse_loss at HERE the squares; with torch made to do the same, loss, "
        "grad.input0, grad.input1 and 19 more agree to 53 of 53 bits"
    ]


def test_an_optimizer_is_left_to_those_who_know_optimizers(monkeypatch):
    import optax

    seen = []
    monkeypatch.setattr(diagnose.optimizers, "of", lambda *given: seen.append(given) or [Cause("optimizer", "known", "jax")])
    monkeypatch.setattr(diagnose, "searched", lambda *_: pytest.fail("asked"))
    spec = dlp.optimizer(torch=lambda p: torch.optim.SGD(p, lr=0.1), jax=optax.sgd(0.2), params={"w": dlp.normal(3)}, steps=2)
    assert [cause.sentence for cause in causes(spec)] == ["known"]
    assert len(seen) == 1


def test_running_statistics_are_leaves():
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(6)

        def forward(self, x):
            return self.norm(x)

    from flax import nnx

    class JaxNorm(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    assert sentences(layer(Norm, lambda: JaxNorm(nnx.Rngs(0)), train=True)) == [
        "the jax side averages the variance divided by n, torch's batch_norm at HERE divided by n-1; with torch made to do the same, "
        "state.norm.running_var agrees to 53 of 53 bits"
    ]


# ---------------------------------------------------------------- a mistake in a family


def test_a_family_that_breaks_is_counted_and_kept(monkeypatch):
    def breaks(call):
        raise AttributeError("a mistake")
        yield

    monkeypatch.setattr(diagnose, "FAMILIES", (breaks, normalisation.variants))
    found = diagnose.searched(*prepared(layer(lambda x: F.layer_norm(x, (6,)), lambda x: normed(x, 1e-3))), 60.0)
    assert found.refused == {"layer_norm: AttributeError": 1}
    assert [str(error) for error in found.errors] == ["a mistake"]
    assert len(search.causes(found)) == 1


def test_a_change_that_breaks_is_counted_and_kept(monkeypatch):
    broken = search.Hypothesis("torch", "broken", "", "", "", "", {0: lambda call: call.nonsense})
    found = searched(layer(lambda x: F.layer_norm(x, (6,)), lambda x: normed(x, 1e-3)), 0.0)
    side, _ = diagnose._torch(found.prep)
    found.attempt(side, broken)
    assert found.refused == {"broken: AttributeError": 1} and len(found.errors) == 1


# ---------------------------------------------------------------- the order of trying


def test_what_is_near_is_tried_first():
    calls = [
        Call(
            i,
            "layer_norm",
            {"input": Array((4, 6), "float64"), "normalized_shape": (6,), "eps": 1e-5},
            Array((4, 6), "float64"),
            "/a/model.py",
            10 + i,
        )
        for i in range(2)
    ]
    variants = [(call, variant) for call in calls for variant in normalisation.variants(call)]
    near = diagnose._near([SimpleNamespace(file="/b/model.py", line=11)])
    tried = [one.where for one in search.hypotheses(calls, variants, near)]
    assert set(tried[: tried.index("model.py:10")]) == {"model.py:11", "model.py:10, model.py:11"}


def test_a_localization_says_what_is_near():
    place = SimpleNamespace(file="model.py", line=3)
    near = diagnose._near(SimpleNamespace(torch=place, jax=None, more=((None, None),)))
    assert near(Call(0, "relu", {}, None, "/x/model.py", 3)) and not near(Call(0, "relu", {}, None, "/x/model.py", 4))
    assert not diagnose._near(SimpleNamespace(torch=None, more=()))(Call(0, "relu", {}))


# ---------------------------------------------------------------- other numbers of the same kind


def test_other_numbers_keep_their_kind():
    given = np.array([[0.0, 0.5], [-1.5, 0.5]])
    spec = layer(
        lambda x, i, m, z: x,
        lambda x, i, m, z: x,
        dlp.fixed(given),
        dlp.fixed([3, 3, 8]),
        dlp.fixed(np.array([True, False])),
        dlp.normal(2),
    )
    prep = run.prepared(spec, 0, ["float32"])
    for number in range(search.REDRAWS):
        other = search.redrawn(prep, number).inputs
        x, i = other["input0"], other["input1"]
        assert sorted(np.sign(x).reshape(-1)) == [-1, 0, 1, 1] and len(np.unique(x)) == 3
        assert set(i) <= {3, 8} and np.array_equal(other["input2"], [True, False])
        assert not np.array_equal(other["input3"], prep.inputs["input3"])
    assert np.array_equal(np.sort(search.redrawn(prep, 0).inputs["input0"], axis=None), np.sort(given, axis=None))
    assert np.abs(search.redrawn(prep, 1).inputs["input0"]).max() < 1.5


# ---------------------------------------------------------------- numbers and their names


@pytest.mark.parametrize(
    ("value", "sizes", "name"),
    [
        (1e-6, (), "1e-06"),
        (0.125, (8, 64), "1/8 or 1/sqrt(64)"),
        (8.0, (64,), "8 or sqrt(64)"),
        (16 / 15, (16,), "16/15"),
        (0.044715, (), "0.044715"),
        (np.sqrt(2 / np.pi), (), "sqrt(2/pi)"),
        (-1.0, (), "-1"),
        (0.0, (), "0"),
        (1.2345678901, (), "1.2345678901"),
    ],
)
def test_a_number_is_found_and_named(value, sizes, name):
    residual = lambda c: np.array([1.0, 2.0]) * (c - value)
    found = constants.solved(residual, 0.7)
    number, text = constants.named(found, residual, sizes, 0.7)
    assert (text, number) == (name, pytest.approx(value, abs=1e-12))


def test_a_rounded_number_is_said_to_be_that():
    residual = lambda c: np.array([c - 55.5])
    assert constants.named(constants.solved(residual, 50.0), residual, (), 55.4256) == (55.5, "55.5 (55.4256 as bfloat16 holds it)")


def test_a_number_that_moves_nothing_is_not_found():
    assert constants.solved(lambda c: np.array([1.0]), 1.0) is None
    assert constants.solved(lambda c: None, 1.0) is None
    assert constants.solved(lambda c: np.zeros(0), 1.0) is None


# ---------------------------------------------------------------- sides that will not be looked into


def test_a_side_that_runs_under_no_mode_leaves_the_other_to_be_changed():
    def shy(x):
        if torch.overrides._is_torch_function_mode_enabled():
            raise RuntimeError("not while anybody looks")
        return (1.5 * x).sin()

    found = searched(layer(shy, lambda x: jnp.sin(1.6 * x)))
    assert found.refused["torch: RuntimeError"] == 1
    assert [re.sub(r"test_diagnose.py:\d+", "HERE", cause.sentence) for cause in search.causes(found)] == [
        "the jax side has 1.6 at HERE; with 1.5 in its place output and grad.input agree to 53 of 53 bits"
    ]


def test_warnings_of_a_hypothesis_are_nobodys_concern():
    spec = layer(lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="sum"), lambda x, y: F_mean(x, y), X, X)
    [cause] = causes(spec)
    assert "the mean over all" in cause.sentence or "takes the mean" in cause.sentence


def F_mean(x, y):
    p = jax.nn.softmax(y)
    return (p * (jnp.log(p) - jax.nn.log_softmax(x))).mean()
