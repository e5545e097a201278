"""Causes of optimizer disagreement: each fault is planted in a real pair of torch and optax, and named in a whole sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.example_libraries.optimizers as triples
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import reference, run
from pytest_dlparity.diagnose import optimizer_formula, optimizer_torch, optimizers
from pytest_dlparity.diagnose.cause import Cause

PARAMS = {"w": dlp.normal(6, 4), "b": dlp.normal(4)}
optim, schedulers = torch.optim, torch.optim.lr_scheduler
clip_norm, clip_value = torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_


def sgd(params, **more):
    return optim.SGD(params, **{"lr": 0.1, **more})


def momentum(params, **more):
    return sgd(params, momentum=0.9, **more)


def adam(params, **more):
    return optim.Adam(params, **{"lr": 1e-3, **more})


def adamw(params, **more):
    return optim.AdamW(params, **{"lr": 1e-3, **more})


def rmsprop(params, **more):
    return optim.RMSprop(params, **{"lr": 1e-2, **more})


def adagrad(params, **more):
    return optim.Adagrad(params, **{"lr": 1e-2, **more})


def given(make: Callable, **more) -> Callable:
    return lambda params: make(params, **more)


def scheduled(make: Callable, schedule: Callable) -> Callable:
    def both(params):
        optimizer = make(params)
        return optimizer, schedule(optimizer)

    return both


def clipped(make: Callable, clip: Callable, at: float) -> Callable:
    """An optimizer whose gradients are clipped before each step."""

    def with_hook(params):
        optimizer = make(params)
        optimizer.register_step_pre_hook(lambda *_: clip(params, at) and None)
        return optimizer

    return with_hook


def by_hand(moments: int, update: Callable) -> optax.GradientTransformation:
    """A port written out: update(step from 1, parameter, gradient, moments) -> (what is added, moments)."""

    def init(params):
        return jnp.zeros((), jnp.int32), {name: (jnp.zeros_like(p),) * moments for name, p in params.items()}

    def step(grads, state, params):
        count, held = state
        made = {name: update(count + 1.0, params[name], grads[name], held[name]) for name in params}
        return {name: by for name, (by, _) in made.items()}, (count + 1, {name: after for name, (_, after) in made.items()})

    return optax.GradientTransformation(init, step)


def adam_by_hand(last: Callable) -> optax.GradientTransformation:
    def update(t, p, g, held):
        m, v = 0.9 * held[0] + 0.1 * g, 0.999 * held[1] + 0.001 * g * g
        return -1e-3 * last(t, m, v), (m, v)

    return by_hand(2, update)


def own_norm(g, _):
    return g * jnp.minimum(1.0, 1.0 / (jnp.linalg.norm(g) + 1e-6))


STAIRS = optax.exponential_decay(0.1, 4, 0.1, staircase=True)


class Lion(optim.Optimizer):
    """One that torch does not have: its class says nothing, its numbers do."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            one, two = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_((one * m + (1 - one) * p.grad).sign(), alpha=-group["lr"])
                m.mul_(two).add_(p.grad, alpha=1 - two)


class Clipping(optim.Adam):
    """Clips inside its own step."""

    def step(self, closure=None):
        clip_norm([p for group in self.param_groups for p in group["params"]], 1.0)
        return super().step(closure)


# name: (torch's side, a port with a fault)
PAIRS = {
    "learning rate": (sgd, optax.sgd(0.01)),
    "learning rate of adam": (adam, optax.adam(3e-3)),
    "sign": (sgd, optax.sgd(-0.1)),
    "no learning rate": (optim.Adadelta, optax.adadelta()),
    "maximize": (given(sgd, maximize=True), optax.sgd(0.1)),
    "no momentum": (momentum, optax.sgd(0.1)),
    "other momentum": (momentum, optax.sgd(0.1, 0.95)),
    "momentum too many": (sgd, optax.sgd(0.1, 0.9)),
    "no nesterov": (given(momentum, nesterov=True), optax.sgd(0.1, 0.9)),
    "nesterov too many": (momentum, optax.sgd(0.1, 0.9, nesterov=True)),
    "average of gradients": (momentum, optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1))),
    "corrected average": (momentum, optax.chain(optax.ema(0.9), optax.scale(-0.1))),
    "no dampening": (given(momentum, dampening=0.5), optax.sgd(0.1, 0.9)),
    "dampened first step": (
        given(momentum, dampening=0.9),
        by_hand(1, lambda t, p, g, m: (-0.1 * (0.9 * m[0] + 0.1 * g), (0.9 * m[0] + 0.1 * g,))),
    ),
    "no coupled decay": (given(momentum, weight_decay=0.01), optax.sgd(0.1, 0.9)),
    "decoupled for coupled": (
        given(momentum, weight_decay=0.01),
        optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.01), optax.scale_by_learning_rate(0.1)),
    ),
    "decay after the sign": (given(momentum, weight_decay=0.01), optax.chain(optax.sgd(0.1, 0.9), optax.add_decayed_weights(0.01))),
    "adamw for adam": (given(adam, weight_decay=0.01), optax.adamw(1e-3, weight_decay=0.01)),
    "adamw for adam, its default": (given(adam, weight_decay=0.01), optax.adamw(1e-3)),
    "adam for adamw": (adamw, optax.chain(optax.add_decayed_weights(0.01), optax.adam(1e-3))),
    "default decay": (adamw, optax.adamw(1e-3)),
    "no decay": (adamw, optax.adam(1e-3)),
    "masked decay": (adamw, optax.adamw(1e-3, weight_decay=0.01, mask={"w": True, "b": False})),
    "mask forgotten": (
        lambda params: adamw([{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0}]),
        optax.adamw(1e-3, weight_decay=0.01),
    ),
    "decay without the learning rate": (adamw, optax.chain(optax.adam(1e-3), optax.add_decayed_weights(-0.01))),
    "epsilon": (adam, optax.adam(1e-3, eps=1e-6)),
    "epsilon under the root": (adam, optax.adam(1e-3, eps=0.0, eps_root=1e-8)),
    "epsilon before the correction": (
        adam,
        adam_by_hand(lambda t, m, v: jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (jnp.sqrt(v) + 1e-8)),
    ),
    "beta1": (adam, optax.adam(1e-3, b1=0.95)),
    "beta2": (adam, optax.adam(1e-3, b2=0.99)),
    "no bias correction": (adam, adam_by_hand(lambda t, m, v: m / (jnp.sqrt(v) + 1e-8))),
    "no correction of the second": (adam, adam_by_hand(lambda t, m, v: m / (1 - 0.9**t) / (jnp.sqrt(v) + 1e-8))),
    "steps from two": (adam, adam_by_hand(lambda t, m, v: m / (1 - 0.9 ** (t + 1)) / (jnp.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8))),
    "amsgrad": (given(adam, amsgrad=True), optax.amsgrad(1e-3)),
    "amsgrad forgotten": (given(adam, amsgrad=True), optax.adam(1e-3)),
    "nadam": (given(optim.NAdam, lr=1e-3), optax.nadam(1e-3)),
    "nadam for adam": (adam, optax.nadam(1e-3)),
    "radam": (given(optim.RAdam, lr=1e-3), optax.radam(1e-3)),
    "adam for radam": (
        given(optim.RAdam, lr=1e-3),
        adam_by_hand(lambda t, m, v: m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8 / jnp.sqrt(1 - 0.999**t))),
    ),
    "adamax": (given(optim.Adamax, lr=1e-3), optax.adamax(1e-3, b2=0.99)),
    "adamax for adam": (adam, optax.adamax(1e-3)),
    "rmsprop for adam": (adam, optax.rmsprop(1e-3)),
    "adam for sgd": (sgd, optax.adam(0.1)),
    "rmsprop's defaults": (rmsprop, optax.rmsprop(1e-2)),
    "rmsprop's root": (given(rmsprop, eps=0.01), optax.rmsprop(1e-2, decay=0.99, eps=0.01)),
    "rmsprop's decay": (rmsprop, optax.rmsprop(1e-2, eps_in_sqrt=False)),
    "rmsprop's start": (rmsprop, optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False, initial_scale=1.0)),
    "rmsprop not centered": (given(rmsprop, centered=True), optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False)),
    "rmsprop without momentum": (given(rmsprop, momentum=0.9), optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False)),
    "rmsprop corrected": (rmsprop, optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False, bias_correction=True)),
    "adagrad's defaults": (adagrad, optax.adagrad(1e-2)),
    "adagrad's root": (adagrad, optax.adagrad(1e-2, initial_accumulator_value=0.0)),
    "adadelta's rho": (given(optim.Adadelta, lr=0.5), optax.adadelta(0.5, rho=0.95)),
    "rprop": (given(optim.Rprop, lr=1e-3), optax.rprop(1e-3)),
    "lion's decay": (given(Lion, weight_decay=0.01), optax.lion(1e-4)),
    "lion's beta": (Lion, optax.lion(1e-4, b2=0.95, weight_decay=0.0)),
    "clip formula": (clipped(sgd, clip_norm, 1.0), optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))),
    "clip forgotten": (clipped(sgd, clip_norm, 1.0), optax.sgd(0.1)),
    "clip in the class": (Clipping, optax.adam(1e-3)),
    "clip each": (clipped(sgd, clip_norm, 1.0), optax.chain(optax.stateless_with_tree_map(own_norm), optax.sgd(0.1))),
    "clip the updates": (clipped(adam, clip_norm, 1.0), optax.chain(optax.adam(1e-3), optax.clip_by_global_norm(1.0))),
    "clip the updates, often": (adam, optax.chain(optax.adam(1e-3), optax.clip_by_global_norm(4e-3))),
    "clip at another norm": (clipped(adam, clip_norm, 1.0), optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3))),
    "clip at another value": (clipped(sgd, clip_value, 0.5), optax.chain(optax.clip(1.0), optax.sgd(0.1))),
    "clip after the decay": (
        clipped(given(sgd, weight_decay=0.01), clip_norm, 1.0),
        optax.chain(optax.add_decayed_weights(0.01), optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    ),
    "schedule one step late": (
        scheduled(sgd, lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, (step + 1) / 4))),
        optax.sgd(optax.linear_schedule(0.0, 0.1, 4)),
    ),
    "schedule one step early": (
        scheduled(sgd, lambda o: schedulers.ExponentialLR(o, 0.9)),
        optax.sgd(lambda step: 0.1 * 0.9 ** (step + 1.0)),
    ),
    "no schedule": (scheduled(sgd, lambda o: schedulers.StepLR(o, 4)), optax.sgd(0.1)),
    "smooth for stairs": (scheduled(sgd, lambda o: schedulers.StepLR(o, 4)), optax.sgd(optax.exponential_decay(0.1, 4, 0.1))),
    "single precision": (scheduled(sgd, lambda o: schedulers.StepLR(o, 4)), optax.sgd(STAIRS)),
    "cosine over fewer steps": (
        scheduled(sgd, lambda o: schedulers.CosineAnnealingLR(o, 10)),
        optax.sgd(optax.cosine_decay_schedule(0.1, 9)),
    ),
    "cosine to another end": (
        scheduled(sgd, lambda o: schedulers.CosineAnnealingLR(o, 10, 0.01)),
        optax.sgd(optax.cosine_decay_schedule(0.1, 10, 0.01)),
    ),
    "another rate of decay": (scheduled(sgd, lambda o: schedulers.ExponentialLR(o, 0.9)), optax.sgd(optax.exponential_decay(0.1, 1, 0.95))),
    "warmup of fewer steps": (
        scheduled(sgd, lambda o: schedulers.LinearLR(o, 0.1, 1.0, 4)),
        optax.sgd(optax.linear_schedule(0.01, 0.1, 3)),
    ),
    "rates without a name": (
        scheduled(sgd, lambda o: schedulers.StepLR(o, 4)),
        optax.sgd(lambda step: jnp.array([0.1, 0.3, 0.2, 0.1, 0.4, 0.1, 0.2, 0.6, 0.1, 0.3])[step]),
    ),
    "rate inside the velocity": (
        scheduled(momentum, lambda o: schedulers.StepLR(o, 4)),
        optax.chain(optax.scale_by_learning_rate(STAIRS), optax.trace(0.9)),
    ),
    "rmsprop's velocity": (
        scheduled(given(rmsprop, momentum=0.9, lr=0.1), lambda o: schedulers.StepLR(o, 4)),
        optax.rmsprop(STAIRS, 0.99, momentum=0.9, eps_in_sqrt=False),
    ),
    "momentum under a schedule": (scheduled(momentum, lambda o: schedulers.StepLR(o, 4)), optax.sgd(STAIRS, 0.95)),
    "schedule and decay": (scheduled(adamw, lambda o: schedulers.CosineAnnealingLR(o, 20)), optax.adamw(1e-3)),
    "gradients gathered": (sgd, optax.MultiSteps(optax.sgd(0.1), 3)),
    "frozen": (sgd, optax.chain(optax.sgd(0.1), optax.masked(optax.set_to_zero(), {"w": False, "b": True}))),
    "one group's rate": (lambda params: sgd([{"params": params[:1]}, {"params": params[1:], "lr": 0.2}]), optax.sgd(0.1)),
    "rate and decay": (adamw, optax.adamw(2e-3)),
    "beta and epsilon": (adam, optax.adam(1e-3, b1=0.95, eps=1e-6)),
    "root and decay of rmsprop": (given(rmsprop, eps=0.01), optax.rmsprop(1e-2, eps=0.01)),
    "a triple's epsilon": (adam, triples.adam(1e-3, eps=1e-6)),
}
# name: (the sentence, the line to write), with N for a number of bits
SAID = {
    "learning rate": (
        "torch's learning rate is 0.1, jax's 0.01, or its gradient is multiplied by 0.1: with the learning rate 0.1 the"
        " updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=0.1)",
    ),
    "learning rate of adam": (
        "torch's learning rate is 0.001, jax's 0.003: with the learning rate 0.001 the updates agree to N of 53 bits",
        "optax.adam(..., learning_rate=0.001)",
    ),
    "sign": (
        "jax steps along the gradient, torch against it: with the sign turned the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=0.1)",
    ),
    "no learning rate": (
        "jax steps along the gradient, torch against it: with the sign turned the updates agree to N of 53 bits",
        "optax.adadelta(..., learning_rate=1)",
    ),
    "maximize": (
        "torch steps along the gradient (maximize=True), jax against it: with the sign turned the updates agree to N of 53 bits",
        "optax.chain(optax.scale(-1.0), optax.sgd(...))",
    ),
    "no momentum": (
        "torch has momentum 0.9, jax none: with momentum 0.9 the updates agree to N of 53 bits",
        "optax.sgd(..., momentum=0.9)",
    ),
    "other momentum": (
        "torch has momentum 0.9, jax momentum 0.95: with momentum 0.9 the updates agree to N of 53 bits",
        "optax.sgd(..., momentum=0.9)",
    ),
    "momentum too many": (
        "torch has no momentum, jax momentum 0.9: with no momentum the updates agree to N of 53 bits",
        "optax.sgd(..., momentum=None)",
    ),
    "no nesterov": (
        "torch has Nesterov momentum, jax plain momentum: with Nesterov momentum the updates agree to N of 53 bits",
        "optax.sgd(..., nesterov=True)",
    ),
    "nesterov too many": (
        "torch has plain momentum, jax Nesterov momentum: with plain momentum the updates agree to N of 53 bits",
        "optax.sgd(..., nesterov=False)",
    ),
    "average of gradients": (
        "either (1) torch's learning rate is 0.1, jax's 0.01, or its gradient is multiplied by 0.1, or (2) torch has "
        "momentum 0.9 as a sum of gradients, jax momentum 0.9 as an average (gradients times 0.1): with either changed "
        "the updates agree to N of 53 bits, and 10 steps do not tell them apart",
        "optax.sgd(..., learning_rate=0.1) or optax.sgd(..., momentum=0.9)",
    ),
    "corrected average": (
        "torch has momentum 0.9 as a sum of gradients, jax momentum 0.9 as an average (gradients times 0.1, "
        "bias-corrected): with momentum 0.9 as a sum of gradients the updates agree to N of 53 bits",
        "optax.sgd(..., momentum=0.9)",
    ),
    "no dampening": (
        "torch has momentum 0.9 with dampening 0.5 from the second step on, jax momentum 0.9 as a sum of gradients: "
        "with momentum 0.9 with dampening 0.5 from the second step on the updates agree to N of 53 bits; optax has no "
        "argument for it",
        "",
    ),
    "dampened first step": (
        "torch has momentum 0.9 with dampening 0.9 from the second step on, jax momentum 0.9 with dampening 0.9 from "
        "the first step on: with momentum 0.9 with dampening 0.9 from the second step on the updates agree to N of 53 "
        "bits; optax has no argument for it",
        "",
    ),
    "no coupled decay": (
        "torch has weight decay 0.01 added to the gradient, jax no weight decay: with the same weight decay the updates"
        " agree to N of 53 bits",
        "optax.chain(optax.add_decayed_weights(0.01), optax.sgd(...))",
    ),
    "decoupled for coupled": (
        "torch has weight decay 0.01 added to the gradient, jax weight decay 0.01 added to the update (decoupled): with"
        " the same weight decay the updates agree to N of 53 bits",
        "optax.chain(optax.add_decayed_weights(0.01), optax.sgd(...))",
    ),
    "decay after the sign": (
        "torch has weight decay 0.01 added to the gradient, jax 0.01 times the parameter added to each update, which "
        "grows it: with the same weight decay the updates agree to N of 53 bits",
        "optax.chain(optax.add_decayed_weights(0.01), optax.sgd(...))",
    ),
    "adamw for adam": (
        "torch has weight decay 0.01 added to the gradient, jax weight decay 0.01 added to the update (decoupled): with"
        " the same weight decay the updates agree to N of 53 bits",
        "optax.chain(optax.add_decayed_weights(0.01), optax.adam(...))",
    ),
    "adamw for adam, its default": (
        "torch has weight decay 0.01 added to the gradient, jax weight decay 0.0001 (optax's default) added to the "
        "update (decoupled): with the same weight decay the updates agree to N of 53 bits",
        "optax.chain(optax.add_decayed_weights(0.01), optax.adam(...))",
    ),
    "adam for adamw": (
        "torch has weight decay 0.01 added to the update (decoupled), jax weight decay 0.01 added to the gradient: with"
        " the same weight decay the updates agree to N of 53 bits",
        "optax.adamw(..., weight_decay=0.01)",
    ),
    "default decay": (
        "torch has weight decay 0.01, jax weight decay 0.0001 (optax's default): with the same weight decay the updates"
        " agree to N of 53 bits",
        "optax.adamw(..., weight_decay=0.01)",
    ),
    "no decay": (
        "torch has weight decay 0.01 added to the update (decoupled), jax no weight decay: with the same weight decay "
        "the updates agree to N of 53 bits",
        "optax.adamw(..., weight_decay=0.01)",
    ),
    "masked decay": (
        "torch has weight decay 0.01 on every parameter, jax weight decay 0.01 on w only: with the same weight decay "
        "the updates agree to N of 53 bits",
        "optax.adamw(..., mask=None)",
    ),
    "mask forgotten": (
        "torch has weight decay 0.01 on w only, jax weight decay 0.01 on every parameter: with the same weight decay "
        "the updates agree to N of 53 bits",
        "optax.adamw(..., mask={'w': True, 'b': False})",
    ),
    "decay without the learning rate": (
        "torch has weight decay 0.01 added to the update (decoupled), jax weight decay 0.01 taken from the parameter "
        "without the learning rate: with the same weight decay the updates agree to N of 53 bits",
        "optax.adamw(..., weight_decay=0.01)",
    ),
    "epsilon": (
        "torch's eps is 1e-08, jax's 1e-06, or its gradient is multiplied by 0.01: with eps 1e-08 the updates agree to N of 53 bits",
        "optax.adam(..., eps=1e-08)",
    ),
    "epsilon under the root": (
        "torch divides by sqrt(v) + eps, jax by sqrt(v + eps): with eps outside the root the updates agree to N of 53 bits",
        "optax.adam(..., eps=1e-08, eps_root=0)",
    ),
    "epsilon before the correction": (
        "torch divides by sqrt(v / (1 - beta2^t)) + eps, jax by (sqrt(v) + eps) / sqrt(1 - beta2^t): with eps outside "
        "the root the updates agree to N of 53 bits",
        "optax.adam(..., eps=1e-08, eps_root=0)",
    ),
    "beta1": (
        "torch has beta1 0.9, jax 0.95: with beta1 0.9 the updates agree to N of 53 bits",
        "optax.adam(..., b1=0.9)",
    ),
    "beta2": (
        "beta2 is 0.999 in torch, 0.99 in jax: with beta2 0.999 the updates agree to N of 53 bits",
        "optax.adam(..., b2=0.999)",
    ),
    "no bias correction": (
        "torch corrects the bias of the first and the second moment, jax does not: with bias correction the updates agree to N of 53 bits",
        "optax.adam(...)",
    ),
    "no correction of the second": (
        "torch corrects the bias of the second moment, jax does not: with bias correction the updates agree to N of 53 bits",
        "optax.adam(...)",
    ),
    "steps from two": (
        "jax counts the steps of the bias correction from 2, torch from 1: with steps counted from 1 the updates agree to N of 53 bits",
        "optax.adam(...)",
    ),
    "amsgrad": (
        "torch divides by the largest second moment so far, bias-corrected afterwards, jax divides by the largest "
        "bias-corrected second moment so far: with torch's maximum the updates agree to N of 53 bits; optax has no "
        "argument for it",
        "",
    ),
    "amsgrad forgotten": (
        "torch divides by the largest second moment so far, bias-corrected afterwards, jax divides by the second "
        "moment: with torch's maximum the updates agree to N of 53 bits; optax has no argument for it",
        "",
    ),
    "nadam": (
        "torch has the Nesterov momentum of torch.optim.NAdam (momentum_decay 0.004), jax the Nesterov momentum of "
        "optax.nadam: with the Nesterov momentum of torch.optim.NAdam (momentum_decay 0.004) the updates agree to N of "
        "53 bits; optax has no argument for it",
        "",
    ),
    "nadam for adam": (
        "torch has plain momentum, jax the Nesterov momentum of optax.nadam: with plain momentum the updates agree to N of 53 bits",
        "optax.adam(...)",
    ),
    "radam": (
        "torch divides by (sqrt(v) + eps) / sqrt(1 - beta2^t), jax by sqrt(v / (1 - beta2^t)) + eps: with eps added "
        "before the bias correction the updates agree to N of 53 bits; optax has no argument for it",
        "",
    ),
    "adam for radam": (
        "torch rectifies the variance (RAdam), jax does not: with rectification the updates agree to N of 53 bits; "
        "optax has no argument for it",
        "",
    ),
    "adamax": (
        "beta2 is 0.999 in torch, 0.99 in jax: with beta2 0.999 the updates agree to N of 53 bits",
        "optax.adamax(..., b2=0.999)",
    ),
    "adamax for adam": (
        "torch steps as Adam, jax as Adamax: with Adam on both sides the updates agree to N of 53 bits",
        "optax.adam(learning_rate=0.001)",
    ),
    "rmsprop for adam": (
        "torch steps as Adam, jax as RMSprop: with Adam on both sides the updates agree to N of 53 bits",
        "optax.adam(learning_rate=0.001)",
    ),
    "adam for sgd": (
        "torch steps as SGD, jax as Adam: with SGD on both sides the updates agree to N of 53 bits",
        "optax.sgd(learning_rate=0.1)",
    ),
    "rmsprop's defaults": (
        "the decay of the second moment is 0.99 in torch, 0.9 (optax's default) in jax, and torch divides by sqrt(v) + "
        "eps, jax by sqrt(v + eps): with the decay of the second moment 0.99 and eps outside the root the updates agree"
        " to N of 53 bits",
        "optax.rmsprop(..., decay=0.99, eps_in_sqrt=False)",
    ),
    "rmsprop's root": (
        "torch divides by sqrt(v) + eps, jax by sqrt(v + eps): with eps outside the root the updates agree to N of 53 bits",
        "optax.rmsprop(..., eps_in_sqrt=False)",
    ),
    "rmsprop's decay": (
        "the decay of the second moment is 0.99 in torch, 0.9 (optax's default) in jax: with the decay of the second "
        "moment 0.99 the updates agree to N of 53 bits",
        "optax.rmsprop(..., decay=0.99)",
    ),
    "rmsprop's start": (
        "torch starts the accumulator at 0, jax at 1: with a start at 0 the updates agree to N of 53 bits",
        "optax.rmsprop(..., initial_scale=0)",
    ),
    "rmsprop not centered": (
        "torch divides by the root of the second moment less the squared mean (centered), jax by that of the second "
        "moment as it is: with the second moment less the squared mean (centered) the updates agree to N of 53 bits",
        "optax.rmsprop(..., centered=True)",
    ),
    "rmsprop without momentum": (
        "torch has momentum 0.9, jax none: with momentum 0.9 the updates agree to N of 53 bits",
        "optax.rmsprop(..., momentum=0.9)",
    ),
    "rmsprop corrected": (
        "jax corrects the bias of the second moment, torch does not: with no bias correction the updates agree to N of 53 bits",
        "optax.rmsprop(..., bias_correction=False)",
    ),
    "adagrad's defaults": (
        "torch starts the accumulator at 0, jax at 0.1 (optax's default), and torch divides by sqrt(v) + 1e-10, jax by "
        "sqrt(v + 1e-07): with a start at 0 and eps 1e-10 outside the root the updates agree to N of 53 bits; optax has"
        " no argument for it",
        "",
    ),
    "adagrad's root": (
        "torch divides by sqrt(v) + 1e-10, jax by sqrt(v + 1e-07): with eps 1e-10 outside the root the updates agree to"
        " N of 53 bits; optax has no argument for it",
        "",
    ),
    "adadelta's rho": (
        "rho is 0.9 in torch, 0.95 in jax: with rho 0.9 the updates agree to N of 53 bits",
        "optax.adadelta(..., rho=0.9)",
    ),
    "rprop": (
        "jax makes at each step the move of the step before (optax.rprop does), torch its own: with each step's own "
        "move the updates agree to N of 53 bits; optax has no argument for it",
        "",
    ),
    "lion's decay": (
        "torch has weight decay 0.01, jax weight decay 0.001 (optax's default): with the same weight decay the updates "
        "agree to N of 53 bits",
        "optax.lion(..., weight_decay=0.01)",
    ),
    "lion's beta": (
        "beta2 is 0.99 in torch, 0.95 in jax: with beta2 0.99 the updates agree to N of 53 bits",
        "optax.lion(..., b2=0.99)",
    ),
    "clip formula": (
        "torch clips the global norm of the gradients by 1 / (norm + 1e-06), jax the global norm of the gradients by 1 "
        "/ norm: with torch's clipping the updates agree to N of 53 bits",
        "optax.chain(optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.minimum(1.0, 1 / (optax.tree.norm(g) +"
        " 1e-06)), g)), optax.sgd(...))",
    ),
    "clip forgotten": (
        "torch clips the global norm of the gradients to 1, jax nothing in these steps: with torch's clipping the "
        "updates agree to N of 53 bits",
        "optax.chain(optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.minimum(1.0, 1 / (optax.tree.norm(g) +"
        " 1e-06)), g)), optax.sgd(...))",
    ),
    "clip in the class": (
        "torch clips the global norm of the gradients to 1, jax nothing in these steps, as it would if it clipped the "
        "updates: with torch's clipping the updates agree to N of 53 bits",
        "optax.chain(optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.minimum(1.0, 1 / (optax.tree.norm(g) +"
        " 1e-06)), g)), optax.adam(...))",
    ),
    "clip each": (
        "torch clips the global norm of the gradients to 1, jax each parameter's own norm of the gradients to 1: with "
        "torch's clipping the updates agree to N of 53 bits",
        "optax.chain(optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.minimum(1.0, 1 / (optax.tree.norm(g) +"
        " 1e-06)), g)), optax.sgd(...))",
    ),
    "clip the updates": (
        "torch clips the global norm of the gradients to 1, jax nothing in these steps, as it would if it clipped the "
        "updates: with torch's clipping the updates agree to N of 53 bits",
        "optax.chain(optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.minimum(1.0, 1 / (optax.tree.norm(g) +"
        " 1e-06)), g)), optax.adam(...))",
    ),
    "clip the updates, often": (
        "torch clips nothing, jax the global norm of the updates to 0.004: with no clipping the updates agree to N of 53 bits",
        "optax.adam(...)",
    ),
    "clip at another norm": (
        "torch clips the global norm of the gradients by 1 / (norm + 1e-06), jax the global norm of the gradients by "
        "0.5 / norm: with torch's clipping the updates agree to N of 53 bits",
        "optax.chain(optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.minimum(1.0, 1 / (optax.tree.norm(g) +"
        " 1e-06)), g)), optax.adam(...))",
    ),
    "clip at another value": (
        "torch clips each element of the gradients to 0.5, jax each element of the gradients to 1: with torch's "
        "clipping the updates agree to N of 53 bits",
        "optax.chain(optax.clip(0.5), optax.sgd(...))",
    ),
    "clip after the decay": (
        "torch clips the global norm of the gradients by 1 / (norm + 1e-06), jax the global norm of the gradients with "
        "their weight decay by 1 / norm: with torch's clipping the updates agree to N of 53 bits",
        "optax.chain(optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.minimum(1.0, 1 / (optax.tree.norm(g) +"
        " 1e-06)), g)), optax.add_decayed_weights(0.01), optax.sgd(...))",
    ),
    "schedule one step late": (
        "jax uses at each step the learning rate that torch uses one step earlier, and 0 at the first: with its "
        "schedule one step ahead the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=lambda step: schedule(step + 1))",
    ),
    "schedule one step early": (
        "jax uses at each step the learning rate that torch uses one step later (jax's learning rate is 0.9 times "
        "torch's at every step, or its gradient is multiplied by 0.9): with its schedule one step back the updates "
        "agree to N of 53 bits",
        "optax.sgd(..., learning_rate=lambda step: schedule(step - 1))",
    ),
    "no schedule": (
        "torch's learning rate is 0.1, times 0.1 every 4 steps, jax's is 0.1 at every step: with torch's learning rates"
        " the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=optax.exponential_decay(0.1, 4, 0.1, staircase=True))",
    ),
    "smooth for stairs": (
        "torch's learning rate is 0.1, times 0.1 every 4 steps, jax's falls as much but smoothly, at every step "
        "(staircase=False): with torch's learning rates the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=optax.exponential_decay(0.1, 4, 0.1, staircase=True))",
    ),
    "single precision": (
        "jax computes its learning rates in single precision: with learning rates in double precision the updates agree to N of 53 bits",
        "",
    ),
    "cosine over fewer steps": (
        "torch's learning rate goes from 0.1 along a half cosine over 10 steps to 0, jax's goes from 0.1 along a half "
        "cosine over 9 steps to 0: with torch's learning rates the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=optax.cosine_decay_schedule(0.1, 10))",
    ),
    "cosine to another end": (
        "torch's learning rate goes from 0.1 along a half cosine over 10 steps to 0.01, jax's goes from 0.1 along a "
        "half cosine over 10 steps to 0.001: with torch's learning rates the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=optax.cosine_decay_schedule(0.1, 10, alpha=0.1))",
    ),
    "another rate of decay": (
        "torch's learning rate is 0.1, times 0.9 a step, jax's is 0.1, times 0.95 a step: with torch's learning rates "
        "the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=optax.exponential_decay(0.1, 1, 0.9))",
    ),
    "warmup of fewer steps": (
        "torch's learning rate goes from 0.01 to 0.1 over 4 steps, jax's goes from 0.01 to 0.1 over 3 steps: with "
        "torch's learning rates the updates agree to N of 53 bits",
        "optax.sgd(..., learning_rate=optax.linear_schedule(0.01, 0.1, 4))",
    ),
    "rates without a name": (
        "jax's steps are those of other learning rates (0.3 for 0.1 at step 2, 0.2 for 0.1 at step 3, 0.4 for 0.01 at "
        "step 5, and others at 5 more steps), by its schedule or by another factor of a whole step: with torch's "
        "learning rates the updates agree to N of 53 bits",
        "",
    ),
    "rate inside the velocity": (
        "torch sums gradients and multiplies by the learning rate of the step, jax sums steps, each times its own "
        "learning rate: with the learning rate after momentum the updates agree to N of 53 bits",
        "optax.sgd(...)",
    ),
    "rmsprop's velocity": (
        "torch sums gradients and multiplies by the learning rate of the step, jax sums steps, each times its own "
        "learning rate: with the learning rate after momentum the updates agree to N of 53 bits; optax has no argument "
        "for it",
        "",
    ),
    "momentum under a schedule": (
        "torch has momentum 0.9, jax momentum 0.95: with momentum 0.9 the updates agree to N of 53 bits",
        "optax.sgd(..., momentum=0.9)",
    ),
    "schedule and decay": (
        "torch's learning rate goes from 0.001 along a half cosine over 20 steps to 0, jax's is 0.001 at every step, "
        "and torch has weight decay 0.01, jax weight decay 0.0001 (optax's default): with torch's learning rates and "
        "the same weight decay the updates agree to N of 53 bits",
        "optax.adamw(..., learning_rate=optax.cosine_decay_schedule(0.001, 20), weight_decay=0.01)",
    ),
    "gradients gathered": (
        "torch moves at every step, jax every 3 steps by the mean of their gradients: with a move at every step the "
        "updates agree to N of 53 bits",
        "optax.sgd(...)",
    ),
    "frozen": (
        "jax does not move b: with torch's learning rate for every parameter the updates agree to N of 53 bits",
        "",
    ),
    "one group's rate": (
        "jax moves b by 0.5 times as much as torch: with torch's learning rate for every parameter the updates agree to N of 53 bits",
        "",
    ),
    "rate and decay": (
        "torch's learning rate is 0.001, jax's 0.002, and torch has weight decay 0.01, jax weight decay 0.0001 (optax's"
        " default): with the learning rate 0.001 and the same weight decay the updates agree to N of 53 bits",
        "optax.adamw(..., learning_rate=0.001, weight_decay=0.01)",
    ),
    "beta and epsilon": (
        "torch has beta1 0.9, jax 0.95, and torch's eps is 1e-08, jax's 1e-06, or its gradient is multiplied by 0.01: "
        "with beta1 0.9 and eps 1e-08 the updates agree to N of 53 bits",
        "optax.adam(..., b1=0.9, eps=1e-08)",
    ),
    "root and decay of rmsprop": (
        "the decay of the second moment is 0.99 in torch, 0.9 (optax's default) in jax, and torch divides by sqrt(v) + "
        "eps, jax by sqrt(v + eps): with the decay of the second moment 0.99 and eps outside the root the updates agree"
        " to N of 53 bits",
        "optax.rmsprop(..., decay=0.99, eps_in_sqrt=False)",
    ),
    "a triple's epsilon": (
        "torch's eps is 1e-08, jax's 1e-06, or its gradient is multiplied by 0.01: with eps 1e-08 the updates agree to N of 53 bits",
        "",
    ),
}
RIGHT = {
    "sgd": (sgd, optax.sgd(0.1)),
    "momentum": (momentum, optax.sgd(0.1, 0.9)),
    "nesterov": (given(momentum, nesterov=True), optax.sgd(0.1, 0.9, nesterov=True)),
    "coupled decay": (given(momentum, weight_decay=0.01), optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9))),
    "adam": (adam, optax.adam(1e-3)),
    "adamw": (adamw, optax.adamw(1e-3, weight_decay=0.01)),
    "decay of the same size": (adamw, optax.chain(optax.adam(1e-3), optax.add_decayed_weights(-1e-5))),
    "rmsprop": (given(rmsprop, momentum=0.9), optax.rmsprop(1e-2, 0.99, momentum=0.9, eps_in_sqrt=False)),
    "centered": (given(rmsprop, centered=True), optax.rmsprop(1e-2, 0.99, centered=True, eps_in_sqrt=False)),
    "adamax": (given(optim.Adamax, lr=1e-3), optax.adamax(1e-3)),
    "adadelta": (given(optim.Adadelta, lr=0.5), optax.adadelta(0.5)),
    "lion": (Lion, optax.lion(1e-4, weight_decay=0.0)),
    "cosine": (scheduled(sgd, lambda o: schedulers.CosineAnnealingLR(o, 20)), optax.sgd(optax.cosine_decay_schedule(0.1, 20))),
    "clipped value": (clipped(adam, clip_value, 0.5), optax.chain(optax.clip(0.5), optax.adam(1e-3))),
    "a triple": (adam, triples.adam(1e-3)),
}
OUTSIDE = {
    "centralised": (sgd, optax.chain(optax.centralize(), optax.sgd(0.1))),
    "trust ratio": (adam, optax.lamb(1e-3)),
    "sign": (momentum, optax.chain(optax.scale_by_sign(), optax.sgd(0.1))),
    "a force": (sgd, by_hand(0, lambda t, p, g, _: (-0.1 * g - 1e-3 * jnp.sin(p), ()))),
    "noise": (sgd, optax.chain(optax.sgd(0.1), optax.add_noise(1e-3, 0.5, 0))),
    "no move": (sgd, optax.set_to_zero()),
    "infinite": (given(sgd, lr=float("inf")), optax.sgd(0.1)),
    "lookahead-like": (sgd, by_hand(1, lambda t, p, g, m: (-0.1 * m[0], (g,)))),
}
# what the dots of a line to write stand for, so that it can be run
DOTS = {
    "clip after the decay": "0.1",
    "masked decay": "1e-3, weight_decay=0.01",
    "mask forgotten": "1e-3, weight_decay=0.01",
    "maximize": "0.1",
    "no momentum": "0.1",
    "other momentum": "0.1",
    "momentum too many": "0.1",
    "no nesterov": "0.1, 0.9",
    "nesterov too many": "0.1, 0.9",
    "corrected average": "0.1",
    "no coupled decay": "0.1, 0.9",
    "decoupled for coupled": "0.1, 0.9",
    "decay after the sign": "0.1, 0.9",
    "rmsprop's defaults": "1e-2",
    "rmsprop's root": "1e-2, decay=0.99, eps=0.01",
    "rmsprop's decay": "1e-2, eps_in_sqrt=False",
    "rmsprop's start": "1e-2, 0.99, eps_in_sqrt=False",
    "rmsprop not centered": "1e-2, 0.99, eps_in_sqrt=False",
    "rmsprop without momentum": "1e-2, 0.99, eps_in_sqrt=False",
    "rmsprop corrected": "1e-2, 0.99, eps_in_sqrt=False",
    "root and decay of rmsprop": "1e-2, eps=0.01",
    "adadelta's rho": "0.5",
    "lion's decay": "1e-4",
    "lion's beta": "1e-4, weight_decay=0.0",
    "adamax": "1e-3",
    "clip formula": "0.1",
    "clip forgotten": "0.1",
    "clip each": "0.1",
    "clip at another value": "0.1",
    "gradients gathered": "0.1",
    "rate inside the velocity": "STAIRS, 0.9",
    "momentum under a schedule": "STAIRS",
}
ADAM = "1e-3"


def found(torch_side: Any, jax_side: Any, steps: int = 10, params: Any = None, seconds: float = 60.0) -> list[Cause]:
    prep = run.prepared(dlp.optimizer(torch=torch_side, jax=jax_side, params=params or PARAMS, steps=steps), 0, ["float64"])
    truth = reference.reference(prep)
    assert not truth.problem
    return optimizers.of(prep, truth, seconds)


def sentences(causes: list[Cause]) -> list[str]:
    return [re.sub(r"agree to \d+ of", "agree to N of", cause.sentence) for cause in causes]


SINGLE = ["jax computes its learning rates in single precision: with learning rates in double precision the updates agree to N of 53 bits"]


@pytest.mark.parametrize("name", PAIRS)
def test_a_planted_fault_is_named(name: str) -> None:
    causes = found(*PAIRS[name])
    assert (sentences(causes), [cause.write for cause in causes]) == ([SAID[name][0]], [SAID[name][1]])
    (cause,) = causes
    assert cause.family == "optimizer" and cause.side == "jax" and cause.before > 1e-9
    assert cause.bits >= (
        20 if "learning rate that" in cause.sentence or "steps, each" in cause.sentence or "STAIRS" in DOTS.get(name, "") else 24
    )
    assert f"agree to {cause.bits:.0f} of 53 bits" in cause.sentence


@pytest.mark.parametrize("name", [name for name, (_, write) in SAID.items() if "schedule(" not in write and " or " not in write and write])
def test_the_line_to_write_is_right(name: str) -> None:
    """Where the line leaves arguments out, they are those of the port with the fault."""
    torch_side = PAIRS[name][0]
    dots = DOTS.get(name, ADAM)
    line = SAID[name][1]
    if "learning_rate" in line:
        line = line.replace("..., ", "").replace("...", "")
    written = eval(line.replace("...", dots), {"optax": optax, "jax": jax, "jnp": jnp, "STAIRS": STAIRS})
    assert sentences(found(torch_side, written)) in ([], SINGLE)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_port_has_no_cause(name: str) -> None:
    assert found(*RIGHT[name]) == []


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_no_formula_explains_is_not_named(name: str) -> None:
    assert found(*OUTSIDE[name]) == []


# ---------------------------------------------------------------- few steps, little time, little data


def test_one_step_says_less() -> None:
    assert sentences(found(given(momentum, nesterov=True), optax.sgd(0.1, 0.9), steps=1)) == [
        "either (1) torch has Nesterov momentum, jax plain momentum, or (2) torch has momentum 0.9, jax none: with either changed the "
        "updates agree to N of 53 bits, and one step does not tell them apart"
    ]
    assert found(momentum, optax.sgd(0.1), steps=1) == []  # the same at the first step
    assert found(adam, optax.adam(1e-3, b2=0.99), steps=1) == []


def test_two_steps_show_no_schedule() -> None:
    late = PAIRS["schedule one step late"]
    assert sentences(found(*late, steps=2)) == [
        "jax's steps are those of other learning rates (0 for 0.025 at step 1, 0.025 for 0.05 at step 2), by its schedule or by another "
        "factor of a whole step: with torch's learning rates the updates agree to N of 53 bits"
    ]


def test_a_rate_of_zero_on_torchs_side() -> None:
    warm = scheduled(sgd, lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 4)))
    assert sentences(found(warm, optax.sgd(lambda step: 0.1 * jnp.minimum(1.0, (step + 1) / 4)))) == [
        "jax uses at each step the learning rate that torch uses one step later: with its schedule one step back the updates agree to N of 53 bits"
    ]
    assert found(given(sgd, lr=0.0), optax.sgd(0.1)) == []


def test_one_number_does_not_show_two() -> None:
    assert found(momentum, optax.sgd(0.2, 0.8), steps=2, params={"w": dlp.normal(1)}) == []


def test_nothing_is_named_when_the_time_is_up() -> None:
    assert found(*PAIRS["beta and epsilon"], seconds=0.0) == []
    assert found(*PAIRS["default decay"], seconds=0.0) == []


def test_only_updates_that_differ_are_leaves() -> None:
    (cause,) = found(*PAIRS["no schedule"])
    assert cause.leaves[:3] == ("update.5.w", "update.5.b", "update.6.w")
    (cause,) = found(*PAIRS["masked decay"])
    assert {leaf.rpartition(".")[2] for leaf in cause.leaves} == {"b"}


def test_every_element_is_verified() -> None:
    """A large parameter is looked at through some of its elements; one other element that the finding does not explain is enough against it."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=30_000)}
    grads = [{"w": rng.normal(size=30_000)} for _ in range(3)]
    hyper = [[{"params": ["w"], "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "dampening": 0.0, "nesterov": False}]] * 3
    (ours,) = optimizer_torch.formulas("SGD", hyper, ["w"])
    seen = optimizer_formula.record(params, grads, grads)
    torch_rows = [{"w": row} for row in optimizer_formula.simulate(ours, seen).moved]
    jax_rows = [{"w": -0.1 * g["w"]} for g in grads]
    (cause,) = optimizers.causes(torch_rows, jax_rows, params, grads, "SGD", hyper)
    assert cause.sentence.startswith("torch has momentum 0.9, jax none: with momentum 0.9 the updates agree to ")
    outside = 1 + int(np.flatnonzero(~np.isin(seen.grads[0], seen.thinned(20_000).grads[0]))[0])
    jax_rows[2]["w"][outside - 1] *= 1.001
    assert optimizers.causes(torch_rows, jax_rows, params, grads, "SGD", hyper) == []


# ---------------------------------------------------------------- torch's classes


CLASSES = {
    "SGD": given(sgd, momentum=0.8, dampening=0.3, weight_decay=0.1),
    "nesterov": given(sgd, momentum=0.8, nesterov=True, maximize=True),
    "Adam": given(adam, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    "amsgrad": given(adam, amsgrad=True),
    "AdamW": given(adamw, weight_decay=0.3),
    "groups": lambda params: adamw([{"params": params[:1], "lr": 0.1}, {"params": params[1:], "weight_decay": 0.0}], lr=0.2),
    "NAdam": given(optim.NAdam, lr=0.1, weight_decay=0.1),
    "NAdamW": given(optim.NAdam, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True),
    "RAdam": given(optim.RAdam, lr=0.1, eps=1e-3),
    "Adamax": given(optim.Adamax, lr=0.1, eps=1e-2),
    "RMSprop": given(rmsprop, centered=True, momentum=0.5, eps=1e-3),
    "Adagrad": given(adagrad, lr_decay=0.1, initial_accumulator_value=0.3, eps=1e-3, weight_decay=0.1),
    "Adadelta": given(optim.Adadelta, rho=0.8, eps=1e-3),
    "Rprop": given(optim.Rprop, lr=0.1, etas=(0.4, 1.3), step_sizes=(0.05, 0.2)),
    "ASGD": given(optim.ASGD, lr=0.1, lambd=0.1),
    "Lion": given(Lion, lr=0.1, weight_decay=0.1),
    "scheduled": scheduled(adamw, lambda o: schedulers.CosineAnnealingLR(o, 7)),
    "clipped": clipped(adam, clip_norm, 1.0),
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_formula_of_a_torch_class_gives_its_updates(name: str) -> None:
    prep = run.prepared(dlp.optimizer(torch=CLASSES[name], jax=optax.sgd(0.1), params=PARAMS, steps=8), 0, ["float64"])
    truth = reference.reference(prep)
    watched = optimizers.watched(prep)
    updates = [{n: truth.torch.leaves[f"update.{step}.{n}"] for n in PARAMS} for step in range(1, 9)]
    seen = optimizer_formula.record(watched.steps[0].params, [step.grads for step in watched.steps], updates)
    candidates = optimizer_torch.formulas(watched.steps[0].name, [step.groups for step in watched.steps], seen.names)
    own = optimizers.own(candidates, seen, 60.0)
    assert own is not None and optimizer_formula.relative(optimizer_formula.simulate(own, seen).moved, seen) < 1e-11


def test_groups_that_no_formula_has() -> None:
    group = {"params": ["w"], "lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
    assert optimizer_torch.formulas("Adam", [[group], [{**group, "betas": (0.8, 0.999)}]], ["w"]) == []  # a scheduler cycles the momentum
    assert optimizer_torch.formulas("Adam", [[group, {**group, "params": ["b"], "eps": 1e-6}]], ["w", "b"]) == []
    assert optimizer_torch.formulas("Muon", [[{"params": ["w"], "lr": 0.1}]], ["w"]) == []
    assert optimizer_torch.formulas("Adam", [], ["w"]) == []


# ---------------------------------------------------------------- models, and functions with an optimizer inside


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(5, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def net(params, x, slope=1.0):
    return jnp.tanh(slope * (x @ params["one.weight"].T) + params["one.bias"]) @ params["two.weight"].T + params["two.bias"]


def of_model(torch_side: Any, jax_side: Any, module: Any = None, apply: Callable = net, steps: int = 5) -> list[str]:
    spec = dlp.model(
        torch=module or Net(), jax=apply, inputs=[dlp.normal(16, 5), dlp.normal(16, 3)], steps=steps,
        loss=dlp.loss(torch=lambda z, y: ((z - y) ** 2).mean(), jax=lambda z, y: ((z - y) ** 2).mean()),
        optimizer=dlp.optimizer(torch=torch_side, jax=jax_side),
    )  # fmt: skip
    prep = run.prepared(spec, 0, ["float64"])
    return sentences(optimizers.of(prep, reference.reference(prep), 60.0))


DECAY = "torch has weight decay 0.01, jax weight decay 0.0001 (optax's default): with the same weight decay "


def test_a_models_training() -> None:
    assert of_model(adamw, optax.adamw(1e-3)) == [DECAY + "the updates agree to N of 53 bits"]
    assert of_model(adamw, optax.adamw(1e-3), steps=1) == [DECAY + "the updates agree to N of 53 bits"]
    assert of_model(adamw, optax.adamw(1e-3, weight_decay=0.01)) == []
    assert of_model(clipped(sgd, clip_norm, 0.1), optax.sgd(0.1)) == [
        "torch clips the global norm of the gradients to 0.1, jax nothing in these steps: with torch's clipping the updates agree to N of 53 bits"
    ]


def test_a_model_whose_gradients_differ_too() -> None:
    wrong = lambda params, x: net(params, x, 1.1)
    assert of_model(adamw, optax.adamw(1e-3), apply=wrong) == [DECAY + "on its own gradients jax's updates agree to N of 53 bits"]
    assert of_model(adamw, optax.adamw(1e-3, weight_decay=0.01), apply=wrong) == []


def test_a_frozen_parameter_is_left_out() -> None:
    module = Net()
    module.one.weight.requires_grad_(False)
    assert of_model(adamw, optax.adamw(1e-3), module) == [DECAY + "the updates agree to N of 53 bits"]


def steps_of(make: Callable, gather: int = 1) -> Callable:
    """A function of parameters and rows of gradients that steps a torch optimizer and returns the parameters."""

    def function(params, w, b):
        held = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
        optimizer = make(list(held.values()))
        for count, row in enumerate(zip(w, b, strict=True), 1):
            for p, g in zip(held.values(), row, strict=True):
                p.grad = g.clone() if p.grad is None else p.grad + g
            if count % gather == 0:
                optimizer.step()
                optimizer.zero_grad()
        return tuple(p.detach() for p in held.values())

    return function


def optax_steps(tx: Any) -> Callable:
    def function(params, w, b):
        state = tx.init(params)
        for k in range(len(w)):
            updates, state = tx.update({"w": w[k], "b": b[k]}, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"], params["b"]

    return function


def of_function(torch_side: Any, jax_side: Any, rows: int = 8) -> list[Cause]:
    spec = dlp.layer(
        torch=torch_side, jax=jax_side, params={"w": dlp.normal(6, 4), "b": dlp.normal(4)},
        inputs=[dlp.normal(rows, 6, 4), dlp.normal(rows, 4)], wrt=[],
    )  # fmt: skip
    prep = run.prepared(spec, 0, ["float64"])
    truth = reference.reference(prep)
    assert not truth.problem
    return optimizers.of(prep, truth, 60.0)


def test_an_optimizer_inside_a_function() -> None:
    """Only what all steps did together is known of jax's."""
    causes = of_function(steps_of(adamw), optax_steps(optax.adamw(1e-3)))
    assert sentences(causes) == [DECAY + "the updates agree to N of 53 bits"]
    assert causes[0].leaves == ("output.0", "output.1")
    assert of_function(steps_of(adamw), optax_steps(optax.adamw(1e-3, weight_decay=0.01))) == []
    assert of_function(lambda params, w, b: params["w"], lambda params, w, b: 2 * params["w"]) == []


def test_a_schedule_inside_a_function() -> None:
    def with_schedule(params, w, b):
        held = [p.detach().clone().requires_grad_() for p in params.values()]
        optimizer = sgd(held)
        schedule = schedulers.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
        for row in zip(w, b, strict=True):
            for p, g in zip(held, row, strict=True):
                p.grad = g.clone()
            optimizer.step()
            schedule.step()
        return tuple(p.detach() for p in held)

    assert sentences(of_function(with_schedule, optax_steps(optax.sgd(optax.linear_schedule(0.0, 0.1, 4))))) == [
        "jax uses at each step the learning rate that torch uses one step earlier, and 0 at the first: with its schedule one step ahead "
        "the updates agree to N of 53 bits"
    ]


def test_gradients_that_a_function_gathers() -> None:
    (cause,) = of_function(steps_of(sgd, gather=4), optax_steps(optax.MultiSteps(optax.sgd(0.1), 4)))
    assert sentences([cause]) == [
        "torch moves every 4 steps by the sum of their gradients, jax by the mean: with the sum the updates agree to N of 53 bits"
    ]
    assert cause.write == "optax.MultiSteps(optax.sgd(...), 4, use_grad_mean=False)"


def test_a_function_with_gradients_of_its_own() -> None:
    """jax's gradients are not seen: torch is run again with other numbers, until it gives what jax gives."""

    def trained(params, w, b):
        held = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
        optimizer = adamw(held.values())
        for row in w:
            optimizer.zero_grad()
            ((row * torch.tanh(held["w"])).sum() + held["b"].square().sum()).backward()
            optimizer.step()
        return tuple(p.detach() for p in held.values())

    def trained_in_jax(params, w, b):
        tx = optax.adamw(1e-3)
        state = tx.init(params)
        for row in w:
            grads = jax.grad(lambda p, row=row: (row * jnp.tanh(p["w"])).sum() + (p["b"] ** 2).sum())(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"], params["b"]

    assert sentences(of_function(trained, trained_in_jax)) == [DECAY + "the updates agree to N of 53 bits"]


def test_two_optimizers_in_a_function_are_one_too_many() -> None:
    def both(params, w, b):
        held = [p.detach().clone().requires_grad_() for p in params.values()]
        for p, rows in zip(held, (w, b), strict=True):
            optimizer = sgd([p])
            p.grad = rows[0].clone()
            optimizer.step()
        return tuple(p.detach() for p in held)

    assert of_function(both, optax_steps(optax.sgd(0.2))) == []


# ---------------------------------------------------------------- watching torch


def test_steps_are_watched_only_while_asked() -> None:
    torch_side, _ = run.frameworks()
    p = torch.ones(2, requires_grad=True)
    optimizer = Clipping([p], lr=0.1)  # its step calls that of Adam: one step
    with torch_side.OptimizerSteps({"p": p}, 100, {"lr": 0.2}) as watching:
        p.grad = torch.ones(2)
        optimizer.step()
    optimizer.step()
    (step,) = watching.steps
    assert step.name == "Adam"
    assert step.groups[0]["params"] == ["p"] and step.groups[0]["lr"] == 0.2
    assert step.params["p"].tolist() == [1.0, 1.0] and step.grads["p"].tolist() == [1.0, 1.0]
    assert np.allclose(watching.last["p"], 0.8)


def test_no_more_is_kept_than_there_is_room() -> None:
    torch_side, _ = run.frameworks()
    p = torch.ones(3, requires_grad=True)
    optimizer = sgd([p])
    with torch_side.OptimizerSteps({}, 7) as watching:
        for _ in range(4):
            p.grad = torch.ones(3)
            optimizer.step()
    assert [step.groups[0]["params"] for step in watching.steps] == [["0"], ["0"]]
