"""Each side run again with changes: what torch calls, what stands in a jaxpr, and that nothing else moves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pytest_dlparity as dlp
from pytest_dlparity import diagnose, run
from pytest_dlparity.diagnose import unrolled
from pytest_dlparity.frameworks import jax_repair, torch_repair
from pytest_dlparity.frameworks.jax_program import Program
from pytest_dlparity.job import Job
from pytest_dlparity.reference import reference


def recorded(torch_side, *inputs, **more):
    spec = dlp.layer(torch=torch_side, jax=lambda *args: args[-1], inputs=list(inputs), **more)
    prep = run.prepared(spec, 0, ["float32"])
    return diagnose._torch(prep)[1]


# ---------------------------------------------------------------- torch: what was called


def test_calls_have_names_arguments_lines_and_makers():
    def side(p, x):
        h = F.linear(x, p["w"])
        return F.gelu(h, approximate="tanh").softmax(-1)

    linear, gelu, softmax = recorded(side, dlp.normal(2, 3), params={"w": dlp.normal(4, 3)})
    assert (linear.name, linear["weight"].name, linear["input"].name, linear["bias"]) == ("linear", "w", "input", None)
    assert (gelu["approximate"], gelu["input"].made, gelu["input"].shape) == ("tanh", 0, (2, 4))
    assert (softmax["dim"], softmax.out.dtype, softmax["input"].made) == (-1, "float64", 1)
    line = side.__code__.co_firstlineno
    assert [call.where for call in (linear, gelu, softmax)] == [f"test_diagnose_sides.py:{line + n}" for n in (1, 2, 2)]


def test_calls_of_modules_have_the_path_of_the_module():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.LayerNorm(3), torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](x))

    calls = recorded(Net, dlp.normal(2, 3))
    assert [(call.name, call.module) for call in calls] == [("layer_norm", "blocks.0"), ("linear", "blocks.1.0"), ("relu", "blocks.1.1")]
    assert calls[1]["weight"].name == "blocks.1.0.weight"


def test_a_call_straight_from_torch_has_no_line():
    [call] = recorded(lambda: torch.nn.LayerNorm(3), dlp.normal(2, 3))
    assert (call.where, call.module, call["normalized_shape"]) == ("", "", (3,))
    assert recorded(F.gelu, dlp.normal(2, 3))[0].where == ""


def test_a_call_inside_a_python_function_of_torch_says_which():
    def side(x):
        g = x.detach().clone()
        p = torch.zeros_like(g).requires_grad_()
        p.grad = g
        torch.nn.utils.clip_grad_norm_([p], 0.1)
        return p.grad

    within = {call.name: call.within for call in recorded(side, dlp.normal(2, 3), wrt=[])}
    assert (within["clamp"], within["clone"]) == ("clip_grad_norm_", "")


def test_attention_modules_are_opened_by_names_that_are_private_to_torch():
    """`multi_head_attention_forward` runs itself when these three say that nobody overrides it."""
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        assert callable(getattr(F, name))

    class Attends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(4, 2)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    names = [call.name for call in recorded(Attends, dlp.normal(3, 1, 4))]
    assert "scaled_dot_product_attention" in names and "multi_head_attention_forward" not in names


def test_the_steps_of_an_optimizer_are_no_calls():
    def side(x):
        p = torch.zeros_like(x, requires_grad=True)
        optimizer = torch.optim.Adam([p])
        p.grad = x.detach().clone()
        optimizer.step()
        return p.detach() + 0 * x

    assert {call.name for call in recorded(side, dlp.normal(3))}.isdisjoint({"lerp_", "addcmul_", "addcdiv_", "sqrt"})


# ---------------------------------------------------------------- torch: changed


def test_only_the_changed_call_is_changed_and_the_users_module_is_not():
    module = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.LayerNorm(3))
    spec = dlp.layer(torch=module, jax=lambda p, x: x, inputs=[dlp.normal(2, 3)])
    prep = run.prepared(spec, 0, ["float32"])
    side, calls = diagnose._torch(prep)
    plain = side.run(prep, {}, True)
    again = side.run(prep, {calls[1].index: lambda a: a.again(eps=0.5)}, True)
    x = torch.tensor(prep.inputs["input"])
    expected = F.layer_norm(F.layer_norm(x, (3,)), (3,), eps=0.5)
    np.testing.assert_allclose(again["output"], expected, rtol=1e-12)
    assert not np.allclose(again["grad.input"], plain["grad.input"])
    assert [layer.eps for layer in module] == [1e-5, 1e-5]
    assert side.run(prep, {}, False).keys() == {"output"}


@pytest.mark.parametrize(
    ("call", "changes", "expected"),
    [
        (lambda x: F.leaky_relu(x, 0.01), {"negative_slope": 0.5}, lambda x: F.leaky_relu(x, 0.5)),
        (lambda x: x.softmax(dim=0), {"dim": 1}, lambda x: x.softmax(1)),
        (lambda x: x.sum(), {"dim": 0}, lambda x: x.sum(0)),
        (lambda x: torch.permute(x, (0, 1)), {"dims": (1, 0)}, lambda x: x.T),
        (lambda x: x.reshape(2, 3), {"shape": (3, 2)}, lambda x: x.reshape(3, 2)),
        (lambda x: x * 2.0, {"other": 3.0}, lambda x: x * 3.0),
    ],
)
def test_arguments_are_changed_by_name(call, changes, expected):
    found = []

    class Mode(torch_repair._Watching):
        def made(self, index, bound):
            found.append(bound.again(**changes))
            return bound.again()

    x = torch.arange(6.0).reshape(2, 3) - 2.5
    with Mode():
        plain = call(x)
    assert torch.equal(found[0], expected(x)) and torch.equal(plain, call(x))


# ---------------------------------------------------------------- jax


def everything(params, state, args, kwargs):
    (x,) = args
    y = jax.nn.gelu(x) + jax.nn.relu(x) * 3.3
    y = y / jnp.sqrt(jnp.var(y, -1, keepdims=True) + 1e-6)
    z, _ = jax.lax.scan(lambda c, row: (jnp.tanh(c * 0.7 + row), None), y[0], y)
    z = jax.lax.cond(z[0] > 0, lambda v: v * 1.5, lambda v: v * 2.5, z)
    z = jax.lax.fori_loop(0, 3, lambda i, v: jnp.sin(v + 0.25), z)
    return jax.lax.stop_gradient(y) * 2.0 + jax.nn.softmax(jax.checkpoint(lambda v: v * 0.9)(z)), state


JOB = Job("layer", ("x",))
SIDE = Program("function", {}, {}, {}, everything)


@pytest.fixture
def doubles():
    with jax.enable_x64(True):
        yield np.random.default_rng(0).normal(size=(4, 8))


def read():
    program, _, seen = jax_repair.recorded(SIDE, JOB)
    program.apply({}, {}, (np.random.default_rng(0).normal(size=(4, 8)),), {})
    return seen


def changed(changes, x, **state):
    return jax_repair.changing(SIDE, JOB, changes)[0].apply({}, state, (x,), {})[0]


def test_every_number_of_a_jaxpr_can_be_an_unknown(doubles):
    unknown, values = jax_repair.numbers(read())
    assert {1e-6, 3.3, 0.044715, 0.7, 1.5, 2.5, 0.25, 0.9} <= set(values)
    plain = everything({}, {}, (doubles,), {})[0]
    np.testing.assert_allclose(changed(unknown, doubles, **{jax_repair.NUMBERS: values}), plain, rtol=1e-13)
    for value in (1e-6, 3.3, 0.7, 2.5, 0.25, 0.9):
        moved = np.where(values == value, 2 * values, values)
        assert not np.allclose(changed(unknown, doubles, **{jax_repair.NUMBERS: moved}), plain, rtol=1e-9) or value == 2.5


def test_a_number_knows_its_line_and_the_function_that_holds_it(doubles):
    [number] = [n for n in read().numbers if n.value == 0.044715]
    assert number.call == "gelu" and number.file.endswith("test_diagnose_sides.py")
    assert number.line == everything.__code__.co_firstlineno + 2


def test_a_number_is_changed_where_it_stands(doubles):
    [number] = [n for n in read().numbers if n.value == 0.7]
    found = changed(jax_repair.Changes(numbers={(number.path, number.operand): 0.0}), doubles)
    y = jax.nn.gelu(doubles) + jax.nn.relu(doubles) * 3.3
    y = y / jnp.sqrt(jnp.var(y, -1, keepdims=True) + 1e-6)
    z = jnp.tanh(y[-1])
    z = jnp.where(z[0] > 0, z * 1.5, z * 2.5)
    for _ in range(3):
        z = jnp.sin(z + 0.25)
    np.testing.assert_allclose(found, y * 2.0 + jax.nn.softmax(z * 0.9), rtol=1e-12)


def test_what_is_not_changed_keeps_its_own_derivative(doubles):
    """relu has gradient 0 at 0 by a rule of its own, which an open jaxpr would lose."""
    at_zero = np.zeros_like(doubles)
    found = jax.grad(lambda x: changed(jax_repair.Changes(), x).sum())(at_zero)
    np.testing.assert_array_equal(found, jax.grad(lambda x: everything({}, {}, (x,), {})[0].sum())(at_zero))


def test_another_function_takes_the_place_of_the_called_one(doubles):
    called = [one for one in read().called if one.name == "gelu"]
    same = changed(jax_repair.instead(called, lambda jax, x: jax.nn.gelu(x)), doubles)
    np.testing.assert_allclose(same, everything({}, {}, (doubles,), {})[0], rtol=1e-13)
    other = changed(jax_repair.instead(called, lambda jax, x: x), doubles)
    y = doubles + jax.nn.relu(doubles) * 3.3
    y = y / jnp.sqrt(jnp.var(y, -1, keepdims=True) + 1e-6)
    assert np.allclose(jax.jit(lambda: other - 2 * y)().sum(-1), 1.0)  # what is left is the softmax


def test_a_stop_is_left_out(doubles):
    stops = [stop for stop in read().stops if stop.line == everything.__code__.co_firstlineno + 7]
    gradient = jax.grad(lambda x, changes: changed(changes, x)[..., 0].sum())
    kept, cut = gradient(doubles, jax_repair.without(stops)), gradient(doubles, jax_repair.Changes())
    assert not np.allclose(kept, cut)


def test_nothing_is_cast(doubles):
    def side(params, state, args, kwargs):
        return jnp.tanh(args[0].astype(jnp.bfloat16) @ args[0].astype(jnp.bfloat16).T).astype(jnp.float64), state

    program = Program("function", {}, {}, {}, side)
    wide = jax_repair.changing(program, JOB, jax_repair.Changes(wide=True))[0].apply({}, {}, (doubles,), {})[0]
    np.testing.assert_allclose(wide, np.tanh(doubles @ doubles.T), rtol=1e-12)


def test_a_loss_is_changed_too():
    loss = dlp.loss(torch=lambda z, y: ((z - y) ** 2).sum() * 0.3, jax=lambda z, y: ((z - y) ** 2).sum() * 0.31)
    spec = dlp.model(torch=lambda x: x.tanh(), jax=lambda x: jnp.tanh(x), inputs=[dlp.normal(3), dlp.normal(3)], loss=loss)
    prep = run.prepared(spec, 0, ["float32"])
    side, seen = diagnose.jaxprs.side(prep)
    [number] = [n for n in seen.numbers if n.value == 0.31]
    found = side.run(prep, {("number", number.path, number.operand): lambda _: 0.3}, True)
    truth = reference(prep)
    np.testing.assert_allclose(found["loss"], truth.torch.leaves["loss"], rtol=1e-13)
    np.testing.assert_allclose(found["grad.input1"], truth.torch.leaves["grad.input1"], rtol=1e-13)
    np.testing.assert_array_equal(side.run(prep, {}, True)["loss"], truth.jax.leaves["loss"])


# ---------------------------------------------------------------- recurrent layers, written out


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("bias", "batch_first"), [(True, False), (False, True)])
def test_a_recurrent_layer_written_out_is_torchs(kind, bidirectional, bias, batch_first):
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(3, 4, 2, bias=bias, batch_first=batch_first, bidirectional=bidirectional).double()
    written = []

    class Mode(torch_repair._Watching):
        def made(self, index, bound):
            if bound.name in ("lstm", "gru", "rnn_tanh"):
                written.append(unrolled.run(bound, unrolled.Otherwise()))
            return bound.again()

    x = torch.randn(2, 5, 3, dtype=torch.float64)
    with Mode():
        y, _ = layer(x)
    torch.testing.assert_close(written[0][0], y, rtol=1e-12, atol=1e-14)


def test_one_direction_of_one_layer_is_another():
    torch.manual_seed(0)
    layer = torch.nn.LSTM(3, 4, 1, bidirectional=True).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    found = []

    class Mode(torch_repair._Watching):
        def made(self, index, bound):
            if bound.name == "lstm":
                found.append(unrolled.run(bound, unrolled.Otherwise(1, unturned=True))[0])
                found.append(unrolled.run(bound, unrolled.Otherwise(0, unturned=True))[0])  # the forward direction is never turned
                found.append(unrolled.run(bound, unrolled.Otherwise(swapped=True))[0])
            return bound.again()

    with Mode():
        y, _ = layer(x)
    torch.testing.assert_close(found[0], torch.cat([y[..., :4], y[..., 4:].flip(0)], -1))
    torch.testing.assert_close(found[1], y)
    torch.testing.assert_close(found[2], torch.cat([y[..., 4:], y[..., :4]], -1))
