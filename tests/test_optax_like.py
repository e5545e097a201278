"""optax_like against torch's own steps: every optimizer and scheduler of torch, with settings that are not the defaults."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import optim
from torch.optim import lr_scheduler

import pytest_dlparity as dlp
from pytest_dlparity.catalog import like

BOTH = {"weight_decay": 0.1, "maximize": True}
OPTIMIZERS = {
    "sgd dampened": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, **BOTH}),
    "sgd nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": (optim.Adam, {"lr": 1e-2, "betas": (0.8, 0.97), "eps": 1e-3, **BOTH}),
    "adam amsgrad": (optim.Adam, {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-3, "amsgrad": True, **BOTH}),
    "adam of a tensor": (optim.Adam, {"lr": torch.tensor(0.125)}),
    "adamw": (optim.AdamW, {"lr": 1e-2, "betas": (0.8, 0.97), "eps": 1e-3, **BOTH}),
    "adamw amsgrad": (optim.AdamW, {"lr": 1e-2, "amsgrad": True}),
    "adamax": (optim.Adamax, {"lr": 1e-2, "eps": 1e-2, **BOTH}),
    "nadam": (optim.NAdam, {"lr": 1e-2, "momentum_decay": 0.1, "eps": 1e-3, **BOTH}),
    "nadam decoupled": (optim.NAdam, {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "radam": (optim.RAdam, {"lr": 1e-2, "eps": 1e-3, **BOTH}),
    "radam of few steps": (optim.RAdam, {"lr": 1e-2, "betas": (0.9, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "rmsprop": (optim.RMSprop, {"lr": 1e-2, "momentum": 0.9, "eps": 1e-3, **BOTH}),
    "rmsprop centered": (optim.RMSprop, {"lr": 1e-2, "momentum": 0.5, "centered": True, "alpha": 0.9}),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-2, **BOTH}),
    "adadelta": (optim.Adadelta, {"lr": 0.5, "rho": 0.8, "eps": 1e-2, **BOTH}),
    "rprop": (optim.Rprop, {"lr": 1e-2, "etas": (0.25, 1.5), "step_sizes": (1e-3, 0.015), "maximize": True}),
    "asgd": (optim.ASGD, {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, **BOTH}),
    "adafactor": (optim.Adafactor, {"lr": 1e-2}),
    "adafactor with epsilons": (optim.Adafactor, {"lr": 1.0, "d": 1.5, "eps": (1e-2, 1e-1), **BOTH}),
}
SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5], 0.1),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.25, 0.8, 5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine and up again": lambda o: lr_scheduler.CosineAnnealingLR(o, 4, 0.01),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "longer restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2, 0.01),
    "restarts from one": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 1, 3),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=30),
    "one cycle of three lines": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=30, anneal_strategy="linear", three_phase=True),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, 2),
    "cyclic halved": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4, mode="triangular2"),
    "cyclic falling": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4, mode="exp_range", gamma=0.9),
    "cyclic of a function": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4, scale_fn=lambda x: 1 / x, scale_mode="cycle"),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "lambda that branches": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1.0 if epoch < 3 else 0.1),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.5 if epoch == 3 else 1.0),
    "warm-up, then cosine": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.25, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 5)], [4]
    ),
    "three in turn": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.StepLR(o, 2, 0.5)], [3, 7]
    ),
    "functions in turn": lambda o: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
            lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
            lr_scheduler.PolynomialLR(o, 4),
        ],
        [4, 7],
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [
            lr_scheduler.LinearLR(o, 0.5, 1.0, 4),
            lr_scheduler.StepLR(o, 2, 0.9),
            lr_scheduler.MultiStepLR(o, [3, 7], 0.5),
            lr_scheduler.PolynomialLR(o, 9),
        ]
    ),
}
PARAMS = {"w": dlp.normal(5, 3), "b": dlp.normal(3)}


def both(kind, numbers, scheduler=None):
    def make(params):
        optimizer = kind(params, **numbers)
        return optimizer if scheduler is None else (optimizer, scheduler(optimizer))

    return make


def checked(torch_side, jax_side, params=PARAMS, steps=7):
    return dlp.check(dlp.optimizer(torch=torch_side, jax=jax_side, params=params, steps=steps), devices=["cpu"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    """With a scheduler, because some optimizers use the learning rate at more than one place."""
    make = both(*OPTIMIZERS[name], SCHEDULERS["step"])
    checked(make, dlp.catalog.optax_like(make([torch.zeros(1)]))).raise_if_failed()


@pytest.mark.parametrize("name", ["one cycle", "cyclic halved"])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.RMSprop])
def test_momentum_that_a_scheduler_moves(kind, name):
    make = both(kind, {"lr": 0.1, **({} if kind is optim.Adam else {"momentum": 0.9})}, SCHEDULERS[name])
    checked(make, dlp.catalog.optax_like(make([torch.zeros(1)])), {"w": dlp.normal(5)}).raise_if_failed()


def torch_rates(name, steps=25):
    optimizer = optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    found = []
    for _ in range(steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return np.array(found).T


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules(name):
    """Learning rates of 25 steps, beyond the end of every schedule but one cycle's, and the momentum beside them."""
    scheduler = SCHEDULERS[name](optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9))
    rates, momenta = torch_rates(name)
    found = jax.jit(like.schedule(scheduler))
    np.testing.assert_allclose([found(k) for k in range(25)], rates, rtol=1e-5, atol=1e-7)
    if getattr(scheduler, "cycle_momentum", False):
        np.testing.assert_allclose([like._cycled(scheduler, 0)(k) for k in range(25)], momenta, rtol=1e-5)


FAULTS = {
    "epsilon": (both(optim.Adam, {"eps": 1e-4}), both(optim.Adam, {"eps": 1e-8})),
    "amsgrad": (both(optim.Adam, {"amsgrad": True, "betas": (0.9, 0.5)}), both(optim.Adam, {"betas": (0.9, 0.5)})),
    "decay coupled": (both(optim.AdamW, {"weight_decay": 0.1}), both(optim.Adam, {"weight_decay": 0.1})),
    "dampening": (both(optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}), both(optim.SGD, {"lr": 0.1, "momentum": 0.9})),
    "momentum decay": (both(optim.NAdam, {"momentum_decay": 4e-3}), both(optim.NAdam, {"momentum_decay": 0.0})),
    "centered": (both(optim.RMSprop, {"centered": True}), both(optim.RMSprop, {})),
    "start": (both(optim.Adagrad, {"initial_accumulator_value": 0.1}), both(optim.Adagrad, {})),
    "sign": (both(optim.Adadelta, {"maximize": True}), both(optim.Adadelta, {})),
    "steps": (both(optim.Rprop, {"step_sizes": (1e-3, 0.011)}), both(optim.Rprop, {})),
    "schedule": (both(optim.SGD, {"lr": 0.1}, SCHEDULERS["step"]), both(optim.SGD, {"lr": 0.1}, lambda o: lr_scheduler.StepLR(o, 2, 0.5))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_number_that_differs_is_seen(name):
    right, wrong = FAULTS[name]
    report = checked(right, dlp.catalog.optax_like(wrong([torch.zeros(1)])))
    assert {verdict.status for verdict in report.failed} == {"semantics"}


def test_parameter_groups():
    def make(params):
        return optim.AdamW([{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0, "lr": 0.1}], lr=1e-2)

    found = dlp.catalog.optax_like(make([torch.zeros(1), torch.zeros(1)]), groups={"w": 0, "b": 1})
    checked(make, found).raise_if_failed()
    swapped = dlp.catalog.optax_like(make([torch.zeros(1), torch.zeros(1)]), groups={"w": 1, "b": 0})
    assert not checked(make, swapped).ok


def test_muon_up_to_bfloat16():
    """torch orthogonalises in bfloat16, so the last of its 8 bits is free: 5 steps of an iteration make 5 % of it."""
    start, gradients = np.random.default_rng(0).normal(size=(2, 4, 6, 4)).astype(np.float32)
    for numbers in ({}, {"nesterov": False, "weight_decay": 0.0}, {"adjust_lr_fn": "match_rms_adamw"}):
        weight = torch.tensor(start[0], requires_grad=True)
        optimizer = optim.Muon([weight], lr=0.1, **numbers)
        transformation = dlp.catalog.optax_like(optimizer)
        params = jnp.asarray(start[0])
        state = transformation.init(params)
        for gradient in gradients:
            before = weight.detach().numpy().copy()
            weight.grad = torch.tensor(gradient)
            optimizer.step()
            updates, state = transformation.update(jnp.asarray(gradient), state, params)
            wanted = weight.detach().numpy() - before
            assert np.linalg.norm(updates - wanted) < 0.05 * np.linalg.norm(wanted)
            params = jnp.asarray(weight.detach().numpy())


def used():
    weight = torch.zeros(1, requires_grad=True)
    optimizer = optim.Adam([weight])
    weight.grad = torch.ones(1)
    optimizer.step()
    return optimizer


def late():
    optimizer = optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 2)
    optimizer.step()
    scheduler.step()
    return optimizer, scheduler


class Own(optim.SGD):
    pass


REFUSED = {
    "LBFGS": (
        lambda: optim.LBFGS([torch.zeros(1)]),
        "torch.optim.LBFGS calls a closure several times in a step, and an optax transformation sees one gradient. Give optax.lbfgs the loss itself.",
    ),
    "SparseAdam": (
        lambda: optim.SparseAdam([torch.zeros(1)]),
        "torch.optim.SparseAdam moves only the rows that a sparse gradient names, and jax's gradients are dense.",
    ),
    "plateau": (
        lambda: (o := optim.SGD([torch.zeros(1)], lr=0.1), lr_scheduler.ReduceLROnPlateau(o)),
        "torch's ReduceLROnPlateau follows a metric, not the number of steps, so no optax schedule is like it. Look at optax.contrib.reduce_on_plateau.",
    ),
    "an optax transformation": (
        lambda: optax.sgd(0.1),
        "optax_like is given GradientTransformationExtraArgs, not a torch.optim.Optimizer. Write optax_like(torch.optim.Adam(parameters)).",
    ),
    "a class of the user": (
        lambda: Own([torch.zeros(1)], lr=0.1),
        "optax_like does not know the optimizer Own. "
        "It knows SGD, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Rprop, ASGD, Adafactor, Muon.",
    ),
    "steps taken": (
        used,
        "the torch optimizer has taken steps already, and an optax transformation begins anew. Give it before its first step.",
    ),
    "schedule begun": (
        late,
        "the scheduler has taken steps already, and an optax schedule begins at step 0. Give it before its first step.",
    ),
    "another's scheduler": (
        lambda: (optim.SGD([torch.zeros(1)], lr=0.1), lr_scheduler.StepLR(optim.SGD([torch.zeros(1)], lr=0.1), 2)),
        "the scheduler belongs to another optimizer. Give the pair that belongs together.",
    ),
    "groups": (
        lambda: optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 0.2}], lr=0.1),
        'the torch optimizer has 2 parameter groups with different numbers. Say which parameter is in which: groups={"weight": 0, "bias": 1}.',
    ),
    "kernels": (
        lambda: optim.Adafactor([torch.zeros(2, 3, 3)]),
        "torch.optim.Adafactor factors the last two of three or more axes, which are others in the layout of a jax parameter.",
    ),
    "beta that changes": (
        lambda: (o := optim.NAdam([torch.zeros(1)], lr=0.1), lr_scheduler.OneCycleLR(o, 0.5, total_steps=9)),
        "the scheduler changes the first beta, which optax_like follows in Adam without amsgrad only. Write cycle_momentum=False.",
    ),
    "chained cosine": (
        lambda: (
            o := optim.SGD([torch.zeros(1)], lr=0.1),
            lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o), lr_scheduler.CosineAnnealingLR(o, 4)]),
        ),
        "CosineAnnealingLR inside ChainedScheduler sets a learning rate that is no factor of the others'.",
    ),
    "cycle in turn": (
        lambda: (
            o := optim.SGD([torch.zeros(1)], lr=0.1),
            lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 2), lr_scheduler.CyclicLR(o, 0.1, 0.2, cycle_momentum=False)], [2]),
        ),
        "CyclicLR inside SequentialLR goes on from numbers that the other schedulers left, which no optax schedule does.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, sentence = REFUSED[name]
    with pytest.raises(dlp.SpecError) as raised:
        dlp.catalog.optax_like(make())
    assert str(raised.value) == sentence
