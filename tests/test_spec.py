"""A spec is checked when it is made, prints as what it means, never changes, and a wrong call is answered with the right one."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import spec as specs

X = dlp.normal(4, 8)
SIDES: dict[str, Any] = {"torch": torch.sin, "jax": jnp.sin}


def scalar(z: Any, y: Any) -> Any:
    return ((z - y) ** 2).mean()


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1)


LOSS = dlp.loss(scalar, scalar)
OPTIMIZER = dlp.optimizer(sgd, optax.sgd(0.1))
WHOLE: dict[str, Any] = {**SIDES, "inputs": [X, X], "loss": LOSS, "optimizer": OPTIMIZER}


# the call, the whole answer
ANSWERED: dict[str, tuple[Callable[[], Any], str]] = {
    "no torch side": (lambda: dlp.layer(jax=jnp.sin, inputs=[X]), "dlp.layer has no torch side. Give torch=a function of tensors or an nn.Module."),
    "no jax side": (lambda: dlp.layer(torch.sin, inputs=[X]), "dlp.layer has no jax side. Give jax=a function of arrays or a module."),
    "no torch loss": (lambda: dlp.loss(jax=scalar), "dlp.loss has no torch side. Give torch=a function of tensors or an nn.Module that returns a scalar."),
    "no jax loss": (lambda: dlp.loss(scalar), "dlp.loss has no jax side. Give jax=a function of arrays that returns a scalar."),
    "no torch optimizer": (lambda: dlp.optimizer(jax=optax.sgd(0.1)), "dlp.optimizer has no torch side. Give torch=params -> torch.optim.Optimizer."),
    "no jax optimizer": (lambda: dlp.optimizer(sgd), "dlp.optimizer has no jax side. Give jax=an optax transformation."),
    "no torch model": (lambda: dlp.model(jax=jnp.sin, inputs=[X]), "dlp.model has no torch side. Give torch=an nn.Module."),
    "no jax model": (
        lambda: dlp.model(torch.sin, inputs=[X]),
        "dlp.model has no jax side. Give jax=a flax, equinox or haiku module, or a function of arrays.",
    ),
    "a name for a side": (
        lambda: dlp.layer("relu", jax.nn.relu, inputs=[X]),
        "the torch side of dlp.layer is 'relu'. Give torch=a function of tensors or an nn.Module.",
    ),
    "a number for a side": (lambda: dlp.layer(torch.sin, 3, inputs=[X]), "the jax side of dlp.layer is 3. Give jax=a function of arrays or a module."),
    "sides swapped": (
        lambda: dlp.layer(jnp.sin, torch.sin, inputs=[X]),
        "the torch side of dlp.layer is sin, which belongs to jax: were the sides swapped?",
    ),
    "torch twice": (
        lambda: dlp.layer(torch.nn.ReLU(), torch.nn.ReLU(), inputs=[X]),
        "the jax side of dlp.layer is ReLU, which belongs to torch: were the sides swapped?",
    ),
    "optax as torch": (
        lambda: dlp.optimizer(optax.sgd(0.1), optax.sgd(0.1)),
        "the torch side of an optimizer is GradientTransformationExtraArgs. Give a function that makes it from the parameters: "
        "torch=lambda params: torch.optim.SGD(params, lr=0.1).",
    ),
    "no inputs": (lambda: dlp.layer(**SIDES), "dlp.layer has no inputs. Give a list of draws: inputs=[dlp.normal(8, 64)]."),
    "one draw for inputs": (
        lambda: dlp.layer(**SIDES, inputs=X),
        "inputs is normal(4, 8). Give a list of draws, also where there is one: inputs=[dlp.normal(8, 64)].",
    ),
    "a number for inputs": (
        lambda: dlp.layer(**SIDES, inputs=3),
        "inputs is 3. Give a list of draws, also where there is one: inputs=[dlp.normal(8, 64)].",
    ),
    "a text for inputs": (
        lambda: dlp.layer(**SIDES, inputs="x"),
        "inputs is 'x'. Give a list of draws, also where there is one: inputs=[dlp.normal(8, 64)].",
    ),
    "an array for inputs": (
        lambda: dlp.layer(**SIDES, inputs=np.ones(2)),
        "inputs is array([1., 1.]). Give a list of draws, also where there is one: inputs=[dlp.normal(8, 64)].",
    ),
    "no draw": (
        lambda: dlp.layer(**SIDES, inputs=["x"]),
        "inputs[0] is 'x'. Give a draw such as dlp.normal(8, 64), dlp.fixed(array), or a function of a numpy Generator that returns an array.",
    ),
    "no draw by name": (
        lambda: dlp.layer(**SIDES, inputs={"x": None}),
        "inputs['x'] is None. Give a draw such as dlp.normal(8, 64), dlp.fixed(array), or a function of a numpy Generator that returns an array.",
    ),
    "a list for params": (
        lambda: dlp.layer(**SIDES, inputs=[X], params=[X]),
        'the params of dlp.layer are [normal(4, 8)]. Give a dict of draws: params={"w": dlp.normal(32, 64)}.',
    ),
    "no params": (
        lambda: dlp.layer(**SIDES, inputs=[X], params={}),
        'the params of dlp.layer are {}. Give a dict of draws: params={"w": dlp.normal(32, 64)}.',
    ),
    "a text for a parameter": (
        lambda: dlp.layer(**SIDES, inputs=[X], params={"fc": {"w": "w"}}),
        "params['fc.w'] is 'w'. Give a draw such as dlp.normal(8, 64), dlp.fixed(array), or a function of a numpy Generator that returns an array.",
    ),
    "one name twice": (
        lambda: dlp.layer(**SIDES, inputs={"w": X, "x": X}, params={"w": X}),
        "w is the name of an input and of a parameter. Rename one of them.",
    ),
    "a text for wrt": (
        lambda: dlp.layer(**SIDES, inputs=[X], wrt="input"),
        "the wrt of dlp.layer is 'input'. Give a list of names: wrt=[\"input\"], or wrt=[] for no gradients.",
    ),
    "numbers for wrt": (
        lambda: dlp.loss(scalar, scalar, inputs=[X, X], wrt=[0]),
        'the wrt of dlp.loss is [0]. Give a list of names: wrt=["input"], or wrt=[] for no gradients.',
    ),
    "train": (
        lambda: dlp.layer(**SIDES, inputs=[X], train="no"),
        "train is 'no'. Write True, False, or None to leave both sides as they are.",
    ),
    "precision": (lambda: dlp.layer(**SIDES, inputs=[X], precision="high"), 'precision is \'high\'. Write "highest" or "default".'),
    "param_map": (
        lambda: dlp.layer(**SIDES, inputs=[X], param_map=["weight"]),
        "param_map is ['weight']. Write a dict from torch names to jax paths: {\"weight\": \"kernel\"}.",
    ),
    "tolerance": (
        lambda: dlp.layer(**SIDES, inputs=[X], tolerance=1e-3),
        'tolerance is 0.001. Write "auto", "conventional", dlp.Tolerance(rtol=1e-3, atol=1e-5), or a dict from dtypes to Tolerances.',
    ),
    "a near miss": (lambda: dlp.layer(**SIDES, inputs=[X], input=[X]), "dlp.layer has no argument 'input'. Write inputs=."),
    "another near miss": (lambda: dlp.loss(scalar, scalar, tolerances="auto"), "dlp.loss has no argument 'tolerances'. Write tolerance=."),
    "an argument of nowhere": (
        lambda: dlp.optimizer(sgd, optax.sgd(0.1), colour=1),
        "dlp.optimizer has no argument 'colour'. Its arguments are torch, jax, params, steps, grads, tolerance, name.",
    ),
    "an argument of another kind": (
        lambda: dlp.model(**SIDES, inputs=[X], grad={}),
        "dlp.model has no argument 'grad'. Its arguments are torch, jax, inputs, loss, optimizer, steps, batches, params, wrt, param_map, train, "
        "shared_randomness, tolerance, precision, name.",
    ),
    "a module as optimizer": (
        lambda: dlp.optimizer(3, optax.sgd(0.1)),
        "the torch side of an optimizer is int. Give a function that makes it from the parameters: "
        "torch=lambda params: torch.optim.SGD(params, lr=0.1).",
    ),
    "gradient of no parameter": (
        lambda: dlp.optimizer(sgd, optax.sgd(0.1), params={"w": X, "b": X}, grads={"v": X}),
        "grads names 'v', which is no parameter. The parameters are b, w.",
    ),
    "gradient of nothing": (
        lambda: dlp.optimizer(sgd, optax.sgd(0.1), grads={"v": X}),
        "grads names 'v', which is no parameter. The parameters are none.",
    ),
    "no steps": (lambda: dlp.optimizer(sgd, optax.sgd(0.1), steps=0), "the steps of dlp.optimizer are 0. Give a whole number of at least 1."),
    "half a step": (lambda: dlp.model(**WHOLE, steps=1.5), "the steps of dlp.model are 1.5. Give a whole number of at least 1."),
    "True steps": (lambda: dlp.model(**WHOLE, steps=True), "the steps of dlp.model are True. Give a whole number of at least 1."),
    "a function as loss": (
        lambda: dlp.model(**SIDES, inputs=[X], loss=scalar),
        "the loss of a model is scalar. Write loss=dlp.loss(torch=..., jax=...).",
    ),
    "a loss as optimizer": (
        lambda: dlp.model(**SIDES, inputs=[X], loss=LOSS, optimizer=LOSS),
        "the optimizer of a model is Spec. Write optimizer=dlp.optimizer(torch=..., jax=...).",
    ),
    "a loss with inputs": (
        lambda: dlp.model(**SIDES, inputs=[X], loss=dlp.loss(scalar, scalar, inputs=[X, X])),
        "the loss of a model has inputs of its own. Leave them out: it gets the model's output and the model's last inputs.",
    ),
    "an optimizer with params": (
        lambda: dlp.model(**SIDES, inputs=[X], loss=LOSS, optimizer=dlp.optimizer(sgd, optax.sgd(0.1), params={"w": X})),
        "the optimizer of a model has params of its own. Leave them out: it gets the model's parameters.",
    ),
    "an optimizer without a loss": (
        lambda: dlp.model(**SIDES, inputs=[X], optimizer=OPTIMIZER),
        "the model has an optimizer but no loss. Add loss=dlp.loss(torch=..., jax=...): a step needs its gradient.",
    ),
    "steps without an optimizer": (
        lambda: dlp.model(**SIDES, inputs=[X], loss=LOSS, steps=3),
        "the model has steps but no optimizer. Add optimizer=dlp.optimizer(torch=..., jax=...).",
    ),
    "inputs and batches": (
        lambda: dlp.model(**WHOLE, batches=[(np.ones(2),)]),
        "the model has inputs and batches. Give one of them: batches are the inputs of each step.",
    ),
    "no batches": (
        lambda: dlp.model(**SIDES, loss=LOSS, optimizer=OPTIMIZER, batches=[]),
        "batches is empty. Give at least one tuple of arrays: batches=[(images, labels)].",
    ),
    "uneven batches": (
        lambda: dlp.model(**SIDES, loss=LOSS, optimizer=OPTIMIZER, batches=[(np.ones(2), np.ones(2)), (np.ones(2),)]),
        "the batches have 1, 2 arrays. Give each batch the same number of arrays.",
    ),
    "a model without inputs": (lambda: dlp.model(**SIDES), "dlp.model has no inputs. Give a list of draws: inputs=[dlp.normal(8, 64)]."),
    "vmap of nothing": (lambda: dlp.vmap(3), "vmap takes a function or a module of single examples, not 3. Write dlp.vmap(module)."),
}  # fmt: skip

# the same, found when the spec is run
ANSWERED_WHEN_RUN: dict[str, tuple[Callable[[], Any], str]] = {
    "a loss without inputs": (
        lambda: LOSS,
        "dlp.loss has no inputs, so it cannot run by itself. Give them: inputs=[dlp.normal(32, 10), dlp.integers(32, high=10)].",
    ),
    "an optimizer without params": (
        lambda: OPTIMIZER,
        'dlp.optimizer has no params, so it cannot run by itself. Give them: params={"w": dlp.normal(64, 64)}.',
    ),
    "integers for an optimizer": (
        lambda: dlp.optimizer(sgd, optax.sgd(0.1), params={"w": dlp.integers(3, high=5)}),
        "params['w'] is of dtype int64, which has no gradient. Give floating numbers to an optimizer.",
    ),
    "wrt of no name": (
        lambda: dlp.layer(**SIDES, inputs=[X], wrt=["x"]),
        "wrt names 'x', which is neither an input nor a parameter. There are input.",
    ),
    "wrt of integers": (
        lambda: dlp.layer(lambda x: x * 2, lambda x: x * 2, inputs=[dlp.integers(3, high=5)], wrt=["input"]),
        "wrt names 'input', which is of dtype int64 and has no gradient. Leave it out.",
    ),
    "param_map of a function": (
        lambda: dlp.layer(**SIDES, inputs=[X], param_map={"weight": "kernel"}),
        "param_map is given, but the jax side is a function: it gets torch's parameters by their torch names. Leave param_map out, or give a "
        "module as the jax side.",
    ),
    "params beside a module": (
        lambda: dlp.layer(torch.nn.Linear(8, 2), jnp.sin, inputs=[X], params={"w": X}),
        "the torch side is a module, which has its own parameters. Leave params out, or give a function as the torch side.",
    ),
    "a loss that is no scalar in torch": (
        lambda: dlp.loss(lambda x: x.sum(1), lambda x: x.sum(1), inputs=[X]),
        "the torch loss returns loss of shape [4], not one number. Reduce it, with a mean for example.",
    ),
    "a loss that is no scalar in jax": (
        lambda: dlp.loss(lambda x: x.sum(), lambda x: x.sum(1), inputs=[X]),
        "the jax loss returns loss of shape [4], not one number. Reduce it, with a mean for example.",
    ),
    "a text as output": (
        lambda: dlp.layer(lambda x: (x, "logits"), lambda x: (x, x), inputs=[X]),
        "output.1 is a str ('logits'). Return arrays, numbers, or containers of them.",
    ),
    "no optimizer": (
        lambda: dlp.optimizer(lambda params: params, optax.sgd(0.1), params={"w": X}, steps=1),
        "the torch side of the optimizer returned a list. Return a torch.optim.Optimizer, or (optimizer, scheduler): "
        "torch=lambda params: torch.optim.SGD(params, lr=0.1).",
    ),
    "an optimizer that is no optax transformation": (
        lambda: dlp.optimizer(sgd, lambda p, g: p, params={"w": X}, steps=1),
        "the jax side of the optimizer is <lambda>. Give an optax transformation, jax=optax.sgd(0.1), or a triple of "
        "jax.example_libraries.optimizers.",
    ),
    "a model whose loss takes more than it gets": (
        lambda: dlp.model(**SIDES, inputs=[X], loss=dlp.loss(lambda z, a, b: z.sum(), lambda z, a, b: z.sum())),
        "the model has 1 inputs, and its loss takes 3 arguments with the model's output first. Give the missing inputs.",
    ),
    "too large for float16": (
        lambda: dlp.layer(**SIDES, inputs=[dlp.fixed(np.array([1e6]))]),
        "input has values beyond 65504, the largest of float16. Draw smaller ones, or leave float16 out of dtypes.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERED)
def test_a_wrong_call_is_answered_with_the_right_one(case: str) -> None:
    call, sentence = ANSWERED[case]
    with pytest.raises(dlp.SpecError, match=f"^{re.escape(sentence)}$"):
        call()


@pytest.mark.parametrize("case", ANSWERED_WHEN_RUN)
def test_what_only_a_run_can_see_is_answered_when_it_is_run(case: str) -> None:
    call, sentence = ANSWERED_WHEN_RUN[case]
    spec = call()
    dtypes = ["float16"] if "float16" in case else ["float32"]
    with pytest.raises(dlp.SpecError) as caught:
        dlp.check(spec, devices=["cpu"], dtypes=dtypes)
    assert str(caught.value) == sentence


def test_a_spec_error_is_a_value_error_and_no_assertion() -> None:
    assert issubclass(dlp.SpecError, ValueError) and not issubclass(dlp.SpecError, AssertionError)


# ---------------------------------------------------------------- a spec as a value


def test_a_spec_prints_as_what_it_means() -> None:
    named = dlp.layer(torch.nn.LayerNorm(8), lambda x: x, inputs=[X])
    affine = dlp.layer(lambda p, x: x, lambda p, x: x, inputs={"x": X}, params={"fc": {"w": dlp.normal(8, 8, scale=0.1)}}, name="affine")
    assert [str(named), str(affine), repr(OPTIMIZER)] == [
        "layer layernorm(input=normal(4, 8)): torch LayerNorm | jax <lambda>",
        "layer affine(x=normal(4, 8), fc.w=normal(8, 8, scale=0.1)): torch <lambda> | jax <lambda>",
        "optimizer sgd(10 steps): torch sgd | jax GradientTransformationExtraArgs",
    ]


def test_batches_print_as_their_number() -> None:
    data = [(np.ones((4, 8)), np.ones((4, 8)))] * 3
    made = dlp.model(**SIDES, loss=LOSS, optimizer=OPTIMIZER, batches=data)
    assert str(made) == "model sin(3 batches, 3 steps): torch sin | jax sin" and made.steps == 3
    assert dlp.model(**SIDES, loss=LOSS, optimizer=OPTIMIZER, batches=iter(data), steps=7).steps == 7


@pytest.mark.parametrize(
    ("side", "name"),
    [
        (torch.nn.GELU(), "gelu"),
        (torch.nn.functional.softplus, "softplus"),
        (functools.partial(torch.nn.functional.gelu, approximate="tanh"), "gelu"),
        (lambda x: x, "layer"),
        (torch.nn.Tanh, "tanh"),
    ],
)
def test_a_spec_is_called_after_its_torch_side(side: Any, name: str) -> None:
    made = dlp.layer(side, lambda x: x, inputs=[X])
    assert made.name == name
    assert made.called("of_the_test").name == ("of_the_test" if name == "layer" else name)
    assert dlp.layer(side, lambda x: x, inputs=[X], name="mine").called("of_the_test").name == "mine"


def test_inputs_have_the_names_that_the_design_gives_them() -> None:
    names = [list(dlp.layer(**SIDES, inputs=given).inputs) for given in ([X], [X, X], (X, X, X), {"q": X, "k": X}, [], (d for d in [X, X]))]
    three = ["input0", "input1", "input2"]
    assert names == [["input"], ["input0", "input1"], three, ["q", "k"], [], ["input0", "input1"]]


def test_nested_params_are_known_by_dotted_names_and_keep_their_nesting() -> None:
    made = dlp.layer(**SIDES, inputs=[X], params={"fc": {"w": X, "b": X}, "scale": X})
    assert list(made.params or {}) == ["fc.w", "fc.b", "scale"] and made.params_tree == {"fc": {"w": "fc.w", "b": "fc.b"}, "scale": "scale"}


def test_two_parameters_under_one_dotted_name_do_not_hide_one_another() -> None:
    with pytest.raises(dlp.SpecError, match=r"fc\.w"):
        dlp.layer(**SIDES, inputs=[X], params={"fc": {"w": X}, "fc.w": dlp.normal(2)})


def test_arrays_numbers_and_functions_are_draws() -> None:
    made = dlp.layer(**SIDES, inputs=[np.ones((2, 3)), 1.5, [1, 2], lambda rng: rng.random(3), torch.ones(2), jnp.ones(2)])
    texts = ["fixed(float64[2,3])", "fixed(float64[])", "fixed(int64[2])", "draw", "fixed(float32[2])", "fixed(float32[2])"]
    assert [repr(draw) for draw in made.inputs.values()] == texts


def test_a_spec_does_not_change() -> None:
    params, inputs = {"w": X}, [X]
    made = dlp.layer(**SIDES, inputs=inputs, params=params)
    params["v"], _ = X, inputs.append(X)
    assert list(made.params or {}) == ["w"] and list(made.inputs) == ["input"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.inputs["more"] = X  # type: ignore[index]
    with pytest.raises(TypeError):
        made.params["more"] = X  # type: ignore[index]


def test_a_users_array_and_batches_may_change_after_the_spec_was_made() -> None:
    array = np.ones(3)
    batch = np.ones((2, 8))
    fixed = dlp.layer(**SIDES, inputs=[array])
    batched = dlp.model(**SIDES, loss=LOSS, optimizer=OPTIMIZER, batches=[(batch, batch)])
    array[:], batch[:] = 7.0, 7.0
    assert fixed.inputs["input"].make(np.random.default_rng()).tolist() == [1, 1, 1]
    assert batched.batches[0][0].max() == 1 and batched.inputs["input0"].make(np.random.default_rng()).max() == 1


def test_called_leaves_the_first_spec_as_it_was() -> None:
    first = dlp.layer(lambda x: x, lambda x: x, inputs=[X])
    assert first.called("other").name == "other" and first.name == "layer"


@pytest.mark.parametrize(
    ("side", "text"),
    [
        (functools.partial(torch.sin), "sin"),
        (dlp.vmap(jnp.sin), "vmap(sin)"),
        ((jnp.sin, jnp.cos), "(sin, cos)"),
        (torch.nn.ReLU(), "ReLU"),
        (torch.nn.ReLU, "ReLU"),
        (jax.jit(jnp.tanh), "tanh"),
        (None, "None"),
    ],
)
def test_a_side_has_a_short_title(side: Any, text: str) -> None:
    assert specs.title(side) == text


def test_wrt_train_and_tolerance_are_kept_as_given() -> None:
    made = dlp.layer(**SIDES, inputs=[X], wrt=["input"], train=False, tolerance="rtol=1e-3,atol=1e-5", precision="default")
    assert (made.wrt, made.train, made.tolerance, made.precision) == (("input",), False, dlp.Tolerance(rtol=1e-3, atol=1e-5), "default")
    assert dlp.layer(**SIDES, inputs=[X], wrt=[]).wrt == () and dlp.layer(**SIDES, inputs=[X]).wrt is None
