"""The optax transformation that takes the same steps as a torch optimizer, with or without a scheduler of its learning rate.

optax's own pieces are put together with torch's numbers. Where optax has nothing of the kind, the recurrence stands here, one leaf at a time:
AMSGrad over the raw second moment, NAdam's momentum that grows, RAdam's and Adagrad's epsilon outside the root, Rprop that moves at once, Adafactor
with torch's two epsilons, Muon without bias correction in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
import torch

from pytest_dlparity.errors import SpecError

Rate = float | Callable[[Any], Any]  # a number, or a function of how many steps were taken before
Leaf = Any


@dataclass(frozen=True)
class Group:
    """One of param_groups: its numbers, and what a scheduler makes of the learning rate and the momentum."""

    numbers: Mapping[str, Any]
    rate: Rate
    momentum: Rate | None = None  # None: as in the numbers

    def __getitem__(self, key: Any) -> Any:
        return self.numbers[key]


def optax_like(optimizer: Any, groups: Any = None) -> optax.GradientTransformation:
    """The optax transformation that takes the same steps as this torch optimizer from its first one on.

    Args:
        optimizer: a torch.optim.Optimizer, or a pair (optimizer, learning rate scheduler) of which the scheduler steps after each step.
        groups: for parameter groups with different numbers, the index of its group for each parameter: a tree as of optax.multi_transform, or a
            function from the parameters to one.

    Where the shape counts (Muon's learning rate), parameters are taken to be in torch's layout.

    Raises:
        SpecError: there is none, with the reason.

    >>> optax_like(torch.optim.LBFGS([torch.zeros(1)]))
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: torch.optim.LBFGS calls a closure several times in a step, and an optax transformation sees one \
gradient. Give optax.lbfgs the loss itself.
    """
    torch_optimizer, scheduler = optimizer if type(optimizer) is tuple else (optimizer, None)
    make = _maker(torch_optimizer)
    if any(float(state.get("step", 0)) > 0 for state in torch_optimizer.state.values() if isinstance(state, dict)):
        raise SpecError(
            "the torch optimizer has taken steps already, and an optax transformation begins anew. Give it before its first step."
        )
    if scheduler is not None and scheduler.optimizer is not torch_optimizer:
        raise SpecError("the scheduler belongs to another optimizer. Give the pair that belongs together.")
    numbers = [{key: value for key, value in group.items() if key != "params"} for group in torch_optimizer.param_groups]
    if torch_optimizer.__class__.__name__ == "Adafactor" and any(p.ndim > 2 for g in torch_optimizer.param_groups for p in g["params"]):
        raise SpecError(
            "torch.optim.Adafactor factors the last two of three or more axes, which are others in the layout of a jax parameter."
        )
    made = [_group(group, scheduler, index) for index, group in enumerate(numbers)]
    if all(_same(group, numbers[0]) for group in numbers):
        return make(made[0])
    if groups is None:
        raise SpecError(
            f"the torch optimizer has {len(made)} parameter groups with different numbers. Say which parameter is in which: "
            'groups={"weight": 0, "bias": 1}.'
        )
    return optax.multi_transform({index: make(group) for index, group in enumerate(made)}, groups)


def _maker(optimizer: Any) -> Callable[[Group], optax.GradientTransformation]:
    name = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SpecError(f"optax_like is given {name}, not a torch.optim.Optimizer. Write optax_like(torch.optim.Adam(parameters)).")
    if name in REFUSED:
        raise SpecError(REFUSED[name])
    if name not in MAKERS or getattr(torch.optim, name, None) is not type(optimizer):
        raise SpecError(f"optax_like does not know the optimizer {name}. It knows {', '.join(MAKERS)}.")
    return MAKERS[name]


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(bool(a[key] == b[key]) for key in a)


def _group(numbers: Mapping[str, Any], scheduler: Any, index: int) -> Group:
    if scheduler is None:
        return Group(numbers, float(numbers["lr"]))
    if getattr(scheduler, "last_epoch", 0) > 0:
        raise SpecError("the scheduler has taken steps already, and an optax schedule begins at step 0. Give it before its first step.")
    return Group(numbers, schedule(scheduler, index), _cycled(scheduler, index) if getattr(scheduler, "cycle_momentum", False) else None)


REFUSED = {
    "LBFGS": "torch.optim.LBFGS calls a closure several times in a step, and an optax transformation sees one gradient. "
    "Give optax.lbfgs the loss itself.",
    "SparseAdam": "torch.optim.SparseAdam moves only the rows that a sparse gradient names, and jax's gradients are dense.",
}


# ---------------------------------------------------------------- optimizers


def _sgd(group: Group) -> optax.GradientTransformation:
    parts = _gradient(group)
    momentum, dampening = _momentum(group, group["momentum"]), group["dampening"]
    if momentum:
        if dampening:  # the first gradient enters whole
            parts.append(optax.scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, 1.0 - dampening)))
        parts.append(_trace(momentum, group["nesterov"]))
    return optax.chain(*parts, optax.scale_by_learning_rate(group.rate))


def _adam(group: Group) -> optax.GradientTransformation:
    b1, b2 = _momentum(group, group["betas"][0]), float(group["betas"][1])
    if group["amsgrad"]:
        scaled = _scale_by_raw_amsgrad(_constant(group, b1), b2, group["eps"])
    elif callable(b1):
        scaled = optax.inject_hyperparams(optax.scale_by_adam, ("b2", "eps"), jnp.float32)(b1=b1, b2=b2, eps=group["eps"])
    else:
        scaled = optax.scale_by_adam(b1, b2, group["eps"])
    return _decayed(group, scaled)


def _adamax(group: Group) -> optax.GradientTransformation:
    return _decayed(group, optax.scale_by_adamax(_constant(group), float(group["betas"][1]), group["eps"]))


def _nadam(group: Group) -> optax.GradientTransformation:
    return _decayed(group, _scale_by_nadam(_constant(group), float(group["betas"][1]), group["eps"], group["momentum_decay"]))


def _radam(group: Group) -> optax.GradientTransformation:
    return _decayed(group, _scale_by_radam(_constant(group), float(group["betas"][1]), group["eps"]))


def _rmsprop(group: Group) -> optax.GradientTransformation:
    scale_by = optax.scale_by_stddev if group["centered"] else optax.scale_by_rms
    momentum = _momentum(group, group["momentum"])
    return optax.chain(
        *_gradient(group),
        scale_by(decay=group["alpha"], eps=group["eps"], eps_in_sqrt=False),
        *([_trace(momentum, False)] if momentum else []),  # the learning rate comes after it; in optax.rmsprop before
        optax.scale_by_learning_rate(group.rate),
    )


def _adagrad(group: Group) -> optax.GradientTransformation:
    def rate(count: Any) -> Any:
        return _at(group.rate, count) / (1 + count * group["lr_decay"])

    scaled = _scale_by_sum(group["initial_accumulator_value"], group["eps"])
    return optax.chain(*_gradient(group), scaled, optax.scale_by_learning_rate(rate if group["lr_decay"] else group.rate))


def _adadelta(group: Group) -> optax.GradientTransformation:
    return optax.chain(*_gradient(group), optax.scale_by_adadelta(group["rho"], group["eps"]), optax.scale_by_learning_rate(group.rate))


def _rprop(group: Group) -> optax.GradientTransformation:
    (minus, plus), (least, most) = group["etas"], group["step_sizes"]
    return optax.chain(*_gradient(group), _scale_by_rprop(_at(group.rate, 0), minus, plus, least, most), optax.scale(-1.0))


def _asgd(group: Group) -> optax.GradientTransformation:
    """Without the average, which torch keeps in its state and does not use."""
    lambd, alpha = group["lambd"], group["alpha"]

    def rate(count: Any) -> Any:
        last = _at(group.rate, jnp.maximum(count - 1, 0))
        return jnp.where(count == 0, last, last / (1 + lambd * last * count) ** alpha)

    return optax.chain(*_gradient(group), optax.add_decayed_weights(lambd), optax.scale_by_learning_rate(rate))


def _adafactor(group: Group) -> optax.GradientTransformation:
    def rate(count: Any) -> Any:
        return jnp.minimum(_at(group.rate, count), 1 / jnp.sqrt(count + 1.0))

    eps1, eps2 = group["eps"]
    flip = [optax.scale(-1.0)] if group["maximize"] else []
    scaled = [
        _scale_by_factored(group["beta2_decay"], eps1),
        optax.clip_by_block_rms(group["d"]),
        optax.scale_by_param_block_rms(eps2),
        optax.scale_by_learning_rate(rate),
    ]
    return optax.chain(*flip, *scaled, *_shrunk(group))


def _muon(group: Group) -> optax.GradientTransformation:
    momentum = group["momentum"]
    averaged = optax.ema(momentum, debias=False)
    return optax.chain(
        _mixed(averaged, momentum) if group["nesterov"] else averaged,
        _orthogonal(group["ns_coefficients"], group["ns_steps"], group["eps"], group["adjust_lr_fn"]),
        optax.scale_by_learning_rate(group.rate),
        *_shrunk(group),
    )


MAKERS: dict[str, Callable[[Group], optax.GradientTransformation]] = {
    "SGD": _sgd, "Adam": _adam, "AdamW": _adam, "Adamax": _adamax, "NAdam": _nadam, "RAdam": _radam, "RMSprop": _rmsprop, "Adagrad": _adagrad,
    "Adadelta": _adadelta, "Rprop": _rprop, "ASGD": _asgd, "Adafactor": _adafactor, "Muon": _muon,
}  # fmt: skip


def _gradient(group: Group) -> list[optax.GradientTransformation]:
    """What a gradient goes through first: its sign, and weight decay that is coupled."""
    flip = [optax.scale(-1.0)] if group.numbers.get("maximize") else []
    decay = group.numbers.get("weight_decay", 0)
    return flip + ([optax.add_decayed_weights(float(decay))] if decay else [])


def _decayed(group: Group, scaled: optax.GradientTransformation) -> optax.GradientTransformation:
    """Weight decay before the scaling, or beside it where it is decoupled."""
    if not group.numbers.get("decoupled_weight_decay"):
        return optax.chain(*_gradient(group), scaled, optax.scale_by_learning_rate(group.rate))
    flip = [optax.scale(-1.0)] if group["maximize"] else []
    decay = [optax.add_decayed_weights(float(group["weight_decay"]))] if group["weight_decay"] else []
    return optax.chain(*flip, scaled, *decay, optax.scale_by_learning_rate(group.rate))


def _shrunk(group: Group) -> list[optax.GradientTransformation]:
    """Decoupled weight decay by the group's own learning rate, after a step of another rate. It sees the parameters as they were."""
    if not group["weight_decay"]:
        return []

    def update(count: Any, update: Leaf, param: Leaf) -> tuple[Leaf]:
        return ((update - (_at(group.rate, count - 1) * group["weight_decay"] * param)).astype(update.dtype),)

    return [_own(lambda param: (), update)]


def _at(rate: Rate, count: Any) -> Any:
    return rate(count) if callable(rate) else rate


def _momentum(group: Group, own: Any) -> Rate:
    return group.momentum if group.momentum is not None else float(own)


def _constant(group: Group, b1: Rate | None = None) -> float:
    """The first beta, where it does not change."""
    found = _momentum(group, group["betas"][0]) if b1 is None else b1
    if callable(found):
        raise SpecError(
            "the scheduler changes the first beta, which optax_like follows in Adam without amsgrad only. Write cycle_momentum=False."
        )
    return found


def _trace(momentum: Rate, nesterov: bool) -> optax.GradientTransformation:
    if callable(momentum):
        return optax.inject_hyperparams(optax.trace, ("nesterov",), jnp.float32)(decay=momentum, nesterov=nesterov)
    return optax.trace(momentum, nesterov)


# ---------------------------------------------------------------- what optax does not have


def _own(begin: Callable[[Leaf], tuple[Leaf, ...]], step: Callable[..., tuple[Leaf, ...]]) -> optax.GradientTransformation:
    """A transformation of each leaf by itself: begin(param) gives its state, step(number from 1, update, param, *state) update and state."""

    def init(params: Any) -> Any:
        return jnp.zeros([], jnp.int32), jax.tree.map(begin, params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        count, held = state[0] + 1, state[1]
        tree: Any
        leaves, tree = jax.tree.flatten(updates)
        weights = leaves if params is None else tree.flatten_up_to(params)
        found = [step(count, g, p, *own) for g, p, own in zip(leaves, weights, tree.flatten_up_to(held), strict=True)]
        return tree.unflatten([new[0] for new in found]), (count, tree.unflatten([new[1:] for new in found]))

    return optax.GradientTransformation(init, update)


def _moments(count: int) -> Callable[[Leaf], tuple[Leaf, ...]]:
    return lambda param: (jnp.zeros_like(param),) * count


def _averaged(old: Leaf, new: Leaf, beta: float) -> Leaf:
    return beta * old + (1 - beta) * new


def _scale_by_raw_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """torch keeps the maximum of the second moment (Reddi et al. 2018, algorithm 2); optax.scale_by_amsgrad that of the corrected one."""

    def step(t: Any, g: Leaf, p: Leaf, m: Leaf, v: Leaf, most: Leaf) -> tuple[Leaf, ...]:
        m, v = _averaged(m, g, b1), _averaged(v, g * g, b2)
        most = jnp.maximum(most, v)
        return m / (1 - b1**t) / (jnp.sqrt(most / (1 - b2**t)) + eps), m, v, most

    return _own(_moments(3), step)


def _scale_by_nadam(b1: float, b2: float, eps: float, decay: float) -> optax.GradientTransformation:
    """Momentum grows with the steps, and the bias correction is the product of what it was (Dozat 2016); optax.nadam's is constant."""

    def step(t: Any, g: Leaf, p: Leaf, m: Leaf, v: Leaf, product: Leaf) -> tuple[Leaf, ...]:
        now, after = (b1 * (1 - 0.5 * 0.96 ** (k * decay)) for k in (t, t + 1))
        m, v, product = _averaged(m, g, b1), _averaged(v, g * g, b2), product * now
        mixed = (1 - now) / (1 - product) * g + after / (1 - product * after) * m
        return (mixed / (jnp.sqrt(v / (1 - b2**t)) + eps)).astype(g.dtype), m, v, product

    return _own(lambda param: (*_moments(2)(param), jnp.ones([])), step)


def _scale_by_radam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Epsilon is added before the bias correction; in optax.scale_by_radam after."""
    most, wide = 2 / (1 - b2) - 1, -2 / math.log(b2)
    start = most - wide

    def step(t: Any, g: Leaf, p: Leaf, m: Leaf, v: Leaf) -> tuple[Leaf, ...]:
        m, v = _averaged(m, g, b1), _averaged(v, g * g, b2)
        s = -t * math.log(b2)  # small in the first steps, where the plain form loses all digits of float32: s / (e^s - 1) as a series
        series = start + t - wide * s**2 * (1 / 12 - s**2 / 720 + s**4 / 30240)
        correction = -jnp.expm1(-s)
        length = jnp.where(s < 0.1, series, most - 2 * t * jnp.exp(-s) / correction)
        rectified = jnp.sqrt(jnp.maximum((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length), 0))
        adaptive = jnp.sqrt(correction) / (jnp.sqrt(v) + eps)
        return m / (1 - b1**t) * jnp.where(length > 5, rectified * adaptive, 1), m, v

    return _own(_moments(2), step)


def _scale_by_sum(start: float, eps: float) -> optax.GradientTransformation:
    """Epsilon is added to the root; in optax.scale_by_rss to what is under it."""

    def step(t: Any, g: Leaf, p: Leaf, total: Leaf) -> tuple[Leaf, ...]:
        total = total + g * g
        return g / (jnp.sqrt(total) + eps), total

    return _own(lambda param: (jnp.full_like(param, start),), step)


def _scale_by_rprop(rate: Any, minus: float, plus: float, least: float, most: float) -> optax.GradientTransformation:
    """A step moves by its own gradient; optax.scale_by_rprop by that of the step before."""

    def step(t: Any, g: Leaf, p: Leaf, last: Leaf, size: Leaf) -> tuple[Leaf, ...]:
        sign = jnp.sign(g * last)
        size = jnp.clip(size * jnp.where(sign > 0, plus, jnp.where(sign < 0, minus, 1.0)), least, most).astype(g.dtype)
        g = jnp.where(sign < 0, 0, g)
        return jnp.sign(g) * size, g, size

    return _own(lambda param: (jnp.zeros_like(param), jnp.full_like(param, rate)), step)


def _scale_by_factored(decay: float, eps: float | None) -> optax.GradientTransformation:
    """Epsilon bounds the mean of the rows and, squared, the estimate; in optax.scale_by_factored_rms it is added to the squares."""

    def begin(param: Leaf) -> tuple[Leaf, ...]:
        if param.ndim < 2:
            return (jnp.zeros_like(param),)
        return jnp.zeros_like(param, shape=(param.shape[0], 1)), jnp.zeros_like(param, shape=(1, param.shape[1]))

    def step(t: Any, g: Leaf, p: Leaf, *held: Leaf) -> tuple[Leaf, ...]:
        small = jnp.finfo(g.dtype).eps if eps is None else eps
        enters = (t + 0.0) ** decay
        means = [g * g] if g.ndim < 2 else [jnp.mean(g * g, axis, keepdims=True) for axis in (1, 0)]
        held = tuple((old + enters * (new - old)).astype(g.dtype) for old, new in zip(held, means, strict=True))
        found = held[0] if g.ndim < 2 else held[0] * held[1] / jnp.maximum(held[0].mean(), small)
        return (g * jax.lax.rsqrt(jnp.maximum(found, small * small)), *held)

    return _own(begin, step)


def _mixed(averaged: optax.GradientTransformation, momentum: float) -> optax.GradientTransformation:
    """Nesterov's momentum of an average: average and gradient averaged once more, without the bias correction of optax.contrib.scale_by_muon."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        found, state = averaged.update(updates, state, params)
        return jax.tree.map(lambda m, g: _averaged(m, g, momentum), found, updates), state

    return optax.GradientTransformation(averaged.init, update)


def _orthogonal(coefficients: Sequence[float], steps: int, eps: float, adjust: str | None) -> optax.GradientTransformation:
    """Newton and Schulz's iteration in bfloat16, whatever the dtype, and the factor that torch takes from the shape."""
    a, b, c = coefficients

    def product(x: Leaf, y: Leaf) -> Leaf:
        return jnp.matmul(x, y, preferred_element_type=jnp.float32)

    def update(t: Any, g: Leaf, p: Leaf) -> tuple[Leaf]:
        turned = g.shape[0] > g.shape[1]
        x = (g.T if turned else g).astype(jnp.bfloat16)
        x = x / jnp.maximum(jnp.linalg.norm(x.astype(jnp.float32)), eps).astype(jnp.bfloat16)
        for _ in range(steps):
            gram = product(x, x.T).astype(jnp.bfloat16)
            inner = (b * gram.astype(jnp.float32) + c * product(gram, gram)).astype(jnp.bfloat16)
            x = (a * x.astype(jnp.float32) + product(inner, x)).astype(jnp.bfloat16)
        ratio = {"match_rms_adamw": 0.2 * math.sqrt(max(g.shape))}.get(adjust or "", math.sqrt(max(1, g.shape[0] / g.shape[1])))
        return ((x.T if turned else x).astype(g.dtype) * ratio,)

    return _own(lambda param: (), update)


# ---------------------------------------------------------------- schedules


def schedule(scheduler: Any, index: int = 0) -> Callable[[Any], Any]:
    """The optax schedule of a torch learning rate scheduler, for one of the optimizer's groups.

    Raises:
        SpecError: there is none, with the reason.
    """
    name = type(scheduler).__name__
    if name == "ReduceLROnPlateau":
        raise SpecError(
            "torch's ReduceLROnPlateau follows a metric, not the number of steps, so no optax schedule is like it. "
            "Look at optax.contrib.reduce_on_plateau."
        )
    if name not in SCHEDULES or getattr(torch.optim.lr_scheduler, name, None) is not type(scheduler):
        raise SpecError(f"optax_like does not know the scheduler {name}. It knows {', '.join(SCHEDULES)}.")
    return SCHEDULES[name](scheduler, index)


def _base(s: Any, i: int) -> float:
    return float(s.base_lrs[i])


def _multi_step(s: Any, i: int) -> Any:
    return optax.piecewise_constant_schedule(_base(s, i), {at: s.gamma**times for at, times in s.milestones.items()})


def _constant_factor(s: Any, i: int) -> Any:
    parts = [optax.constant_schedule(_base(s, i) * s.factor), optax.constant_schedule(_base(s, i))]
    return optax.join_schedules(parts, [s.total_iters])


def _cosine(s: Any, i: int) -> Any:
    """It rises again after T_max steps; optax.cosine_decay_schedule stays at its end."""
    base, end = _base(s, i), s.eta_min
    return lambda count: end + (base - end) * (1 + jnp.cos(jnp.pi * count / s.T_max)) / 2


def _restarts(s: Any, i: int) -> Any:
    base, end, times = _base(s, i), s.eta_min, s.T_mult
    cycles = 1 if times == 1 else math.ceil(math.log(2**31, times))
    lengths = [s.T_0 * times**k for k in range(cycles)]
    starts = np.minimum(np.cumsum([0, *lengths[:-1]]), 2**31 - 1)

    def rate(count: Any) -> Any:
        k = jnp.searchsorted(jnp.array(starts, jnp.int32), count, side="right") - 1
        done = count % s.T_0 if times == 1 else count - jnp.array(starts, jnp.int32)[k]
        return end + (base - end) * (1 + jnp.cos(jnp.pi * done / jnp.array(lengths, float)[k])) / 2

    return rate


def _one_cycle(s: Any, i: int, moving: str = "lr") -> Any:
    group = s.optimizer.param_groups[i]
    cosine = s._anneal_func_type == "cos"

    def rate(count: Any) -> Any:
        found: Any = 0.0
        begin = 0.0
        inside = jnp.zeros([], bool)
        for phase in s._schedule_phases:
            start, end = (group[phase[f"{side}_{moving}"]] for side in ("start", "end"))
            share = (count - begin) / (phase["end_step"] - begin)
            value = end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * share)) if cosine else (end - start) * share + start
            last = phase is s._schedule_phases[-1]
            here = ~inside & ((count <= phase["end_step"]) | last)
            found = jnp.where(here, value, found)
            inside, begin = inside | here, phase["end_step"]
        return found

    return rate


def _cyclic(s: Any, i: int) -> Any:
    return _cycle(s, _base(s, i), s.max_lrs[i])


def _cycle(s: Any, begin: float, top: float) -> Any:
    def rate(count: Any) -> Any:
        total = int(s.total_size) if s.total_size.is_integer() else s.total_size
        cycle, x = 1 + count // total, (count % total) / total
        height = jnp.where(x <= s.step_ratio, x / s.step_ratio, (x - 1) / (s.step_ratio - 1))
        return begin + (top - begin) * height * s.scale_fn(cycle if s.scale_mode == "cycle" else count)

    return rate


def _cycled(s: Any, i: int) -> Any:
    """The momentum or first beta of a scheduler that moves it against the learning rate."""
    if type(s).__name__ == "CyclicLR":
        return _cycle(s, s.max_momentums[i], s.base_momentums[i])
    return _one_cycle(s, i, "momentum")


def _lambda(s: Any, i: int) -> Any:
    factor = _python(s.lr_lambdas[i])
    return lambda count: _base(s, i) * factor(count)


def _multiplicative(s: Any, i: int) -> Any:
    made = [1.0]

    def product(count: int) -> float:
        while len(made) <= count:
            made.append(made[-1] * s.lr_lambdas[i](len(made)))
        return made[count]

    factor = _python(product)
    return lambda count: _base(s, i) * factor(count)


def _python(function: Callable[[int], float]) -> Callable[[Any], Any]:
    """A python function of the step: traced where it can be, called back from the compiled step where it cannot."""

    def called(count: Any) -> Any:
        try:
            return function(count) + jnp.zeros([])
        except (jax.errors.JAXTypeError, TypeError):
            pass
        shape = jax.ShapeDtypeStruct((), jnp.zeros([]).dtype)
        return jax.pure_callback(lambda at: np.asarray(function(int(at)), shape.dtype), shape, count)

    return called


def _sequential(s: Any, i: int) -> Any:
    names = [type(part).__name__ for part in s._schedulers]
    for name in names:
        if name in ("OneCycleLR", "CyclicLR", "SequentialLR", "ChainedScheduler") or (name == "MultiplicativeLR" and name != names[0]):
            raise SpecError(
                f"{name} inside SequentialLR goes on from numbers that the other schedulers left, which no optax schedule does."
            )
    return optax.join_schedules([schedule(part, i) for part in s._schedulers], s._milestones)


FACTORS = ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "MultiplicativeLR")


def _chained(s: Any, i: int) -> Any:
    """Factors of one learning rate are multiplied."""
    for part in s._schedulers:
        if type(part).__name__ not in FACTORS:
            raise SpecError(f"{type(part).__name__} inside ChainedScheduler sets a learning rate that is no factor of the others'.")
    rates = [schedule(part, i) for part in s._schedulers]
    base = _base(s._schedulers[0], i)
    return lambda count: base * math.prod(rate(count) / base for rate in rates)


SCHEDULES: dict[str, Callable[[Any, int], Any]] = {
    "StepLR": lambda s, i: optax.exponential_decay(_base(s, i), s.step_size, s.gamma, staircase=True),
    "MultiStepLR": _multi_step,
    "ConstantLR": _constant_factor,
    "LinearLR": lambda s, i: optax.linear_schedule(_base(s, i) * s.start_factor, _base(s, i) * s.end_factor, s.total_iters),
    "ExponentialLR": lambda s, i: optax.exponential_decay(_base(s, i), 1, s.gamma),
    "PolynomialLR": lambda s, i: optax.polynomial_schedule(_base(s, i), 0.0, s.power, s.total_iters),
    "CosineAnnealingLR": _cosine,
    "CosineAnnealingWarmRestarts": _restarts,
    "OneCycleLR": _one_cycle,
    "CyclicLR": _cyclic,
    "LambdaLR": _lambda,
    "MultiplicativeLR": _multiplicative,
    "SequentialLR": _sequential,
    "ChainedScheduler": _chained,
}
