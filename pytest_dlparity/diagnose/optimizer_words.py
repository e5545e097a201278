"""Two formulas in words: what each library does where they differ, and how optax writes torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity.diagnose.optimizer_formula import Formula

# optax's defaults (optax 0.2.8, _src/alias.py), by alias and argument, where they can be met unawares
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
    "nadam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "nadamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
    "adamax": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adamaxw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
    "amsgrad": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "radam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "rmsprop": {"decay": 0.9, "eps": 1e-8, "eps_in_sqrt": True, "initial_scale": 0.0, "centered": False},
    "adagrad": {"initial_accumulator_value": 0.1, "eps": 1e-7},
    "adadelta": {"rho": 0.9, "eps": 1e-6},
    "lion": {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-3},
}


def number(value: float) -> str:
    """
    >>> number(0.01), number(1e-8), number(1.0), number(0.1234567891)
    ('0.01', '1e-08', '1', '0.123457')
    """
    return f"{value:.6g}"


def changed(torch: Formula, jax: Formula) -> tuple[str, ...]:
    """The switches and numbers in which two formulas differ."""
    return tuple(field.name for field in fields(Formula) if not _same(getattr(torch, field.name), getattr(jax, field.name)))


def _same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


class Said(NamedTuple):
    what: str  # both sides: "torch starts the accumulator at 0, jax at 0.1"
    repair: str  # "the accumulator started at 0"
    schedule: str = ""  # the learning rate to write, where schedules differ and optax has torch's


def differences(torch: Formula, jax: Formula, names: Sequence[str]) -> list[Said]:
    """What the two formulas do differently, a sentence for each part."""
    apart = set(changed(torch, jax))
    if family(torch) != family(jax):
        return [Said(f"torch steps as {family(torch)}, jax as {family(jax)}", f"{family(torch)} on both sides")]
    said = []
    for parts, words in _PARTS:
        if apart & parts:
            found = words(torch, jax, apart, names)
            if found is not None:
                said.append(found)
    return said


def family(f: Formula) -> str:
    if f.kind != "moments":
        return {"adadelta": "Adadelta", "rprop": "Rprop", "lion": "Lion"}[f.kind]
    if not f.scale:
        return "SGD"
    if f.scale == "largest":
        return "Adamax"
    if f.scale == "sum":
        return "Adagrad"
    return "Adam" if f.momentum else "RMSprop"


def _ascent(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    if t.ascends:
        return Said("torch steps along the gradient (maximize=True), jax against it", "the sign turned")
    return Said("jax steps along the gradient, torch against it", "the sign turned")


def _gain(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    return Said(f"jax multiplies the gradient by {number(j.gain)}, torch does not", "the gradient as it is")


def _rate(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    times = number(float(j.lr[np.argmax(np.abs(t.lr))] / t.lr[np.argmax(np.abs(t.lr))]))
    factor = f", or its gradient is multiplied by {times}" if j.is_linear else ""
    if t.varies:
        return Said(f"jax's learning rate is {times} times torch's at every step{factor}", "torch's learning rate")
    return Said(f"torch's learning rate is {number(t.lr[0])}, jax's {number(j.lr[0])}{factor}", f"the learning rate {number(t.lr[0])}")


def _shares(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    ours, theirs = t.shares or (1.0,) * len(names), j.shares or (1.0,) * len(names)
    groups: dict[str, list[str]] = {}
    for name, a, b in zip(names, ours, theirs, strict=True):
        if a != b:
            groups.setdefault(number(b / a) if a else "1", []).append(name)
    parts = [
        f"moves {_listed(of)} by {by} times as much as torch" if by != "0" else f"does not move {_listed(of)}" for by, of in groups.items()
    ]
    return Said(f"jax {' and '.join(parts)}", "torch's learning rate for every parameter")


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _every(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    def said(f: Formula) -> str:
        return "at every step" if f.every == 1 else f"every {f.every} steps by the {'mean' if f.mean else 'sum'} of their gradients"

    if t.every == j.every:
        one, other = ("mean", "sum") if t.mean else ("sum", "mean")
        return Said(f"torch moves every {t.every} steps by the {one} of their gradients, jax by the {other}", f"the {one}")
    return Said(f"torch moves {said(t)}, jax {said(j)}", f"a move {said(t)}")


def _clip(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    def said(f: Formula) -> str:
        if not f.clip:
            return "nothing in these steps" if f is j else "nothing"
        what = {"gradient": "gradients", "decayed": "gradients with their weight decay", "update": "updates"}[f.clips]
        of = {
            "global": f"the global norm of the {what}", "each": f"each parameter's own norm of the {what}", "value": f"each element of the {what}",
        }[f.clip]  # fmt: skip
        if t.clip_eps == j.clip_eps or not (t.clip and j.clip) or "value" in (t.clip, j.clip):
            return f"{of} to {number(f.clip_at)}"
        return f"{of} by {number(f.clip_at)} / {f'(norm + {number(f.clip_eps)})' if f.clip_eps else 'norm'}"

    return Said(f"torch clips {said(t)}, jax {said(j)}", "torch's clipping" if t.clip else "no clipping")


def _decay(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    def said(f: Formula) -> str:
        if not f.decay:
            return "no weight decay"
        default = " (optax's default)" if f is j and "weight_decay" in apart and _is_default(j, "weight_decay", j.weight_decay) else ""
        if f.weight_decay < 0 and not f.varies:
            by = -f.weight_decay * (1 if f.decay == "outright" else float(f.lr[0]))
            return f"{number(by)} times the parameter added to each update, which grows it"
        where = {
            "coupled": "added to the gradient", "decoupled": "added to the update (decoupled)",
            "outright": "taken from the parameter without the learning rate",
        }[f.decay]  # fmt: skip
        form = f" {where}" if t.decay != j.decay else ""
        on = ""
        if t.decay and j.decay and t.decayed != j.decayed:
            on = f" on {_listed([n for n, d in zip(names, f.decayed, strict=True) if d])} only" if f.decayed else " on every parameter"
        return f"weight decay {number(f.weight_decay)}{default}{form}{on}"

    plain = "the same weight decay" if t.decay else "no weight decay"
    return Said(f"torch has {said(t)}, jax {said(j)}", plain)


def _momentum(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    if t.scale and t.momentum and j.momentum and apart & {"momentum"} and not apart & {"dampening", "correct_first"}:
        return Said(f"torch has beta1 {number(t.momentum)}, jax {number(j.momentum)}", f"beta1 {number(t.momentum)}")

    def said(f: Formula) -> str:
        if not f.momentum:
            return "none" if f is j else "no momentum"
        plain = f"momentum {number(f.momentum)}"
        if not apart & {"dampening", "whole_start", "correct_first"} or not (t.momentum and j.momentum):
            return plain
        corrected = ", bias-corrected" if f.correct_first else ""
        if f.dampening is None:
            return f"{plain} as an average (gradients times {number(1 - f.momentum)}{corrected})"
        if not f.dampening:
            return f"{plain} as a sum of gradients{corrected}"
        return f"{plain} with dampening {number(f.dampening)} {'from the second step on' if f.whole_start else 'from the first step on'}"

    return Said(f"torch has {said(t)}, jax {said(j)}", "no momentum" if not t.momentum else said(t))


def _nesterov(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    def said(f: Formula) -> str:
        return {
            "": "plain momentum", "sum": "Nesterov momentum", "shifted": "the Nesterov momentum of optax.nadam",
            "decayed": f"the Nesterov momentum of torch.optim.NAdam (momentum_decay {number(f.momentum_decay)})",
        }[f.nesterov]  # fmt: skip

    return Said(f"torch has {said(t)}, jax {said(j)}", said(t))


def _inside(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said | None:
    if not t.varies:
        return None
    said = "{} sums gradients and multiplies by the learning rate of the step, {} sums steps, each times its own learning rate"
    return Said(said.format("jax", "torch") if t.lr_inside else said.format("torch", "jax"), "the learning rate after momentum")


def _second(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    default = " (optax's default)" if _is_default(j, "b2", j.beta2) or _is_default(j, "decay", j.beta2) else ""
    name = "rho" if t.kind == "adadelta" else "beta2" if t.momentum else "the decay of the second moment"
    return Said(f"{name} is {number(t.beta2)} in torch, {number(j.beta2)}{default} in jax", f"{name} {number(t.beta2)}")


def _start(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    default = " (optax's default)" if _is_default(j, "initial_accumulator_value", j.start) else ""
    return Said(f"torch starts the accumulator at {number(t.start)}, jax at {number(j.start)}{default}", f"a start at {number(t.start)}")


def _correction(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said | None:
    if "late" in apart:
        return Said(f"jax counts the steps of the bias correction from {1 + j.late}, torch from 1", "steps counted from 1")
    which = [word for word, field in (("first", "correct_first"), ("second", "correct_second")) if field in apart]
    if not which or (which == ["first"] and apart & {"momentum", "dampening"} and not t.scale):
        return None
    what = "of the first and the second moment" if len(which) == 2 else f"of the {which[0]} moment"
    ours = t.correct_second if "correct_second" in apart else t.correct_first
    said = f"{'torch' if ours else 'jax'} corrects the bias {what}, {'jax' if ours else 'torch'} does not"
    return Said(said, "bias correction" if ours else "no bias correction")


def _variance(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    def said(f: Formula) -> str:
        return "of the gradient less its mean" if f.belief else "less the squared mean (centered)" if f.centered else "as it is"

    return Said(
        f"torch divides by the root of the second moment {said(t)}, jax by that of the second moment {said(j)}",
        f"the second moment {said(t)}",
    )


def _amsgrad(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    def said(f: Formula) -> str:
        return {
            "": "divides by the second moment", "raw": "divides by the largest second moment so far, bias-corrected afterwards",
            "corrected": "divides by the largest bias-corrected second moment so far",
        }[f.amsgrad]  # fmt: skip

    return Said(f"torch {said(t)}, jax {said(j)}", "torch's maximum" if t.amsgrad else "no maximum")


def _epsilon(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    same = "eps" not in apart
    default = " (optax's default)" if _is_default(j, "eps", j.eps) and not same else ""
    if "eps_root" in apart:
        return Said(f"torch has eps_root {number(t.eps_root)}, jax {number(j.eps_root)}", f"eps_root {number(t.eps_root)}")
    if "eps_place" not in apart:
        by = (t.eps / j.eps) ** (0.5 if t.eps_place == "inside" and t.scale != "largest" else 1.0) if j.eps else 0.0
        factor = f", or its gradient is multiplied by {number(by)}" if j.is_scale_free and by and not default else ""
        return Said(f"torch's eps is {number(t.eps)}, jax's {number(j.eps)}{default}{factor}", f"eps {number(t.eps)}")

    def said(f: Formula) -> str:
        eps = "eps" if same else number(f.eps)
        if f.scale == "largest":
            return f"max(v, |g| + {eps})" if f.eps_place == "inside" else f"max(v, |g|) + {eps}"
        if f.eps_place == "early":
            return f"(sqrt(v) + {eps}) / sqrt(1 - beta2^t)"
        corrected = f.correct_second and "early" in (t.eps_place, j.eps_place)
        return f"sqrt(v + {eps})" if f.eps_place == "inside" else f"sqrt(v{' / (1 - beta2^t)' if corrected else ''}) + {eps}"

    place = {"outside": "outside the root", "inside": "inside the root", "early": "added before the bias correction"}[t.eps_place]
    if t.scale == "largest":
        place = "inside the maximum" if t.eps_place == "inside" else "outside the maximum"
    return Said(f"torch divides by {said(t)}, jax by {said(j)}", f"eps {place}" if same else f"eps {number(t.eps)} {place}")


def _rectified(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    one, other = ("torch", "jax") if t.rectified else ("jax", "torch")
    return Said(f"{one} rectifies the variance (RAdam), {other} does not", "rectification" if t.rectified else "no rectification")


def _velocity(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    def said(f: Formula) -> str:
        if not f.velocity:
            return "none" if f is j else "no momentum"
        return f"{'Nesterov ' if f.velocity_nesterov else ''}momentum {number(f.velocity)}"

    where = " after the division by the root"
    return Said(f"torch has {said(t)}{where if t.momentum or j.momentum else ''}, jax {said(j)}", said(t))


def _rprop(t: Formula, j: Formula, apart: set[str], names: Sequence[str]) -> Said:
    if "behind" in apart:
        return Said("jax makes at each step the move of the step before (optax.rprop does), torch its own", "each step's own move")
    words = {"eta_minus": "eta_minus", "eta_plus": "eta_plus", "smallest": "smallest step", "largest": "largest step"}
    parts = [f"{words[of]} is {number(getattr(t, of))} in torch, {number(getattr(j, of))} in jax" for of in words if of in apart]
    return Said(" and ".join(parts), "torch's step sizes")


Words = Callable[[Formula, Formula, set[str], Sequence[str]], Said | None]
_PARTS: tuple[tuple[set[str], Words], ...] = (
    ({"ascends"}, _ascent),
    ({"gain"}, _gain),
    ({"lr"}, _rate),
    ({"shares"}, _shares),
    ({"every", "mean"}, _every),
    ({"clip", "clip_at", "clip_eps", "clips"}, _clip),
    ({"decay", "weight_decay", "decayed"}, _decay),
    ({"momentum", "dampening", "whole_start"}, _momentum),
    ({"nesterov", "momentum_decay"}, _nesterov),
    ({"lr_inside"}, _inside),
    ({"beta2"}, _second),
    ({"start"}, _start),
    ({"correct_first", "correct_second", "late"}, _correction),
    ({"centered", "belief"}, _variance),
    ({"amsgrad"}, _amsgrad),
    ({"eps", "eps_place", "eps_root"}, _epsilon),
    ({"rectified"}, _rectified),
    ({"velocity", "velocity_nesterov"}, _velocity),
    ({"behind", "eta_minus", "eta_plus", "smallest", "largest"}, _rprop),
)
SPOKEN = frozenset().union(*(parts for parts, _ in _PARTS))


# ---------------------------------------------------------------- how optax writes it


MASK = "<the parameters that decay>"  # until their names are known


class Alias(NamedTuple):
    name: str
    args: dict[str, tuple[Any, tuple[str, ...]]]  # argument: its value, the switches and numbers that it stands for


def alias(f: Formula) -> Alias | None:
    """The optax optimizer of a formula, clipping and coupled decay apart; None where optax has none."""
    if f.kind == "rprop":
        return Alias("rprop", {"learning_rate": (f.lr[0], ("lr",))}) if f.behind else None
    of = ("lr",) if f.ascends else ("lr", "ascends")  # a learning rate of None does not turn the sign
    rate: dict[str, tuple[Any, tuple[str, ...]]] = {"learning_rate": ("schedule" if f.varies else f.lr[0], of)}
    if f.kind == "adadelta":
        return Alias("adadelta", rate | {"rho": (f.beta2, ("beta2",)), "eps": (f.eps, ("eps",))}) if f.eps_place == "inside" else None
    if f.kind == "lion":
        return Alias("lion", rate | {"b1": (f.momentum, ("momentum",)), "b2": (f.beta2, ("beta2",))} | _decay_argument(f))
    if not f.scale:
        return _sgd(f, rate)
    if f.scale == "average" and not f.momentum:
        return _rmsprop(f, rate)
    if f.scale == "sum":
        good = f.eps_place == "inside" and not f.momentum and not f.velocity
        args = {"initial_accumulator_value": (f.start, ("start",)), "eps": (f.eps, ("eps", "eps_place"))}
        return Alias("adagrad", rate | args) if good else None
    return _adam(f, rate)


def _decay_argument(f: Formula) -> dict[str, tuple[Any, tuple[str, ...]]]:
    return {"weight_decay": (f.weight_decay, ("weight_decay", "decay")), "mask": (f.decayed and MASK, ("decayed",))}


def _sgd(f: Formula, rate: dict[str, Any]) -> Alias | None:
    if (f.dampening != 0 and f.momentum) or f.correct_first or f.velocity or (f.lr_inside and f.varies):
        return None
    args = {"momentum": (f.momentum or None, ("momentum", "dampening", "whole_start", "correct_first"))}
    return Alias("sgd", rate | args | {"nesterov": (f.nesterov == "sum", ("nesterov",))})


def _rmsprop(f: Formula, rate: dict[str, Any]) -> Alias | None:
    if f.eps_place == "early" or f.belief or f.amsgrad or f.rectified or (f.velocity and f.varies and not f.lr_inside):
        return None
    return Alias("rmsprop", rate | {
        "decay": (f.beta2, ("beta2",)), "eps": (f.eps, ("eps",)), "initial_scale": (f.start, ("start",)),
        "eps_in_sqrt": (f.eps_place == "inside", ("eps_place",)), "centered": (f.centered, ("centered",)),
        "momentum": (f.velocity or None, ("velocity", "momentum", "dampening")), "nesterov": (f.velocity_nesterov, ("velocity_nesterov",)),
        "bias_correction": (f.correct_second, ("correct_second",)),
    })  # fmt: skip


def _adam(f: Formula, rate: dict[str, Any]) -> Alias | None:
    full = f.dampening is None and f.correct_first and not f.velocity and not f.centered and not f.late and not f.start
    if not full or f.nesterov == "decayed" or f.amsgrad == "raw" or not (f.correct_second or f.scale == "largest"):
        return None
    if f.eps_place != ("inside" if f.scale == "largest" else "outside"):
        return None
    special = [name for name, on in (("radam", f.rectified), ("amsgrad", f.amsgrad), ("adabelief", f.belief)) if on]
    if len(special) > 1 or (special and f.nesterov):
        return None
    name = special[0] if special else "adamax" if f.scale == "largest" else "nadam" if f.nesterov else "adam"
    args = rate | {"b1": (f.momentum, ("momentum", "dampening")), "b2": (f.beta2, ("beta2",)), "eps": (f.eps, ("eps", "eps_place"))}
    if name in ("adam", "nadam"):
        args |= {"eps_root": (f.eps_root, ("eps_root", "eps_place"))}
    if f.decay == "decoupled":
        if name not in ("adam", "nadam", "adamax"):
            return None
        name, args = name + "w", args | _decay_argument(f)
    return Alias(name, args)


def _is_default(f: Formula, argument: str, value: float) -> bool:
    found = alias(f)
    return found is not None and argument in found.args and DEFAULTS.get(found.name, {}).get(argument) == value


def line(f: Formula, apart: set[str], names: Sequence[str], schedule: str = "") -> str:
    """How optax writes a formula, with the arguments that `apart` changes and dots for the others; "" where it has no words for it.

    Args:
        schedule: the learning rate as optax writes it, where that is not a number.
    """
    inner, alone = _inner(f, apart, schedule)
    if not inner:
        return ""
    before = []
    if apart & {"ascends"} and f.ascends:
        before.append("optax.scale(-1.0)")
    if f.clip and apart & {"clip", "clip_at", "clip_eps", "clips"}:
        if f.clips == "update":
            return f"optax.chain({inner}, {_clipping(f)})"
        before.append(_clipping(f))
    if f.decay and apart & {"decay", "weight_decay", "decayed", "clips"} and not alone:
        mask = f", mask={MASK}" if f.decayed else ""
        before.append(f"optax.add_decayed_weights({number(f.weight_decay)}{mask})")
    written = f"optax.chain({', '.join([*before, inner])})" if before else inner
    written = written.replace(MASK, str(dict(zip(names, f.decayed or (), strict=False))))
    if f.every > 1 and apart & {"every", "mean"}:
        return f"optax.MultiSteps({written}, {f.every}{'' if f.mean else ', use_grad_mean=False'})"
    return written


def _inner(f: Formula, apart: set[str], schedule: str) -> tuple[str, bool]:
    """(the optimizer itself, whether it decays the weights)."""
    found = alias(f)
    if found is None:
        return "", False
    if f.decay == "decoupled" and "weight_decay" not in found.args:
        if found.name != "sgd" or f.nesterov:
            return "", False
        if not f.momentum:
            return _call(found, apart, schedule), False
        parts = (f"optax.trace({number(f.momentum)})", f"optax.add_decayed_weights({number(f.weight_decay)})")
        return f"optax.chain({', '.join(parts)}, optax.scale_by_learning_rate(...))", True
    if f.decay == "outright":
        return f"optax.chain({_call(found, apart, schedule)}, optax.add_decayed_weights({number(-f.weight_decay)}))", True
    return _call(found, apart, schedule), f.decay == "decoupled"


def whole(f: Formula, names: Sequence[str]) -> str:
    """How optax writes a formula, with all that is not its default."""
    written = line(f, {field.name for field in fields(Formula)}, names)
    found = alias(f)
    if found is None:
        return ""
    plain = {name: value for name, value in found.args.items() if name == "learning_rate" or not _is_plain(found.name, name, value[0])}
    short = ", ".join(f"{name}={_value(value)}" for name, (value, _) in plain.items())
    return written.replace(_call(found, {field.name for field in fields(Formula)}, ""), f"optax.{found.name}({short})")


def _is_plain(name: str, argument: str, value: Any) -> bool:
    known = DEFAULTS.get(name, {})
    return bool(known[argument] == value) if argument in known else not value


def _call(found: Alias, apart: set[str], schedule: str) -> str:
    shown = {name: _value(value) for name, (value, of) in found.args.items() if apart & set(of)}
    if shown.get("learning_rate") == "schedule" or schedule:
        shown = ({"learning_rate": schedule} if schedule else {}) | {n: v for n, v in shown.items() if n != "learning_rate"}
    args = [f"{name}={value}" for name, value in shown.items()]
    every = len(args) == len(found.args)
    return f"optax.{found.name}({', '.join(args if every else ['...', *args])})"


def _value(value: Any) -> str:
    return str(value) if value is None or isinstance(value, (bool, str)) else number(float(value))


def _clipping(f: Formula) -> str:
    at = number(f.clip_at)
    if f.clip == "value":
        return f"optax.clip({at})"
    eps = f" + {number(f.clip_eps)}" if f.clip_eps else ""
    if f.clip == "each":
        return f"optax.stateless_with_tree_map(lambda g, _: g * jnp.minimum(1.0, {at} / (jnp.linalg.norm(g){eps})))"
    if not eps:
        return f"optax.clip_by_global_norm({at})"
    factor = f"jnp.minimum(1.0, {at} / (optax.tree.norm(g){eps}))"
    return f"optax.stateless(lambda g, _: jax.tree.map(lambda x: x * {factor}, g))"
