"""torch's optimizers as formulas, from the class and what its param_groups hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_dlparity.diagnose.optimizer_formula import Formula

Group = Mapping[str, Any]  # one of param_groups: its numbers, and under "params" the names
AVERAGE: Mapping[str, Any] = {"scale": "average", "dampening": None, "correct_first": True, "correct_second": True}


def formulas(name: str, hyper: Sequence[Sequence[Group]], names: Sequence[str]) -> list[Formula]:
    """What a torch optimizer may compute: its own formula, or for a class that torch does not have every one that its numbers fit.

    Args:
        name: of the class in torch.optim that it is or inherits from, or its own.
        hyper: the groups as they were at each step.
        names: of the parameters, in the order of the record.

    Empty where the groups hold what no formula here has: betas that change, groups with other betas.
    """
    if not hyper or not hyper[0] or not _steady(hyper):
        return []
    group = hyper[0][0]
    known = [name] if name in _CLASSES else [other for other in _CLASSES if _fits(other, group)]
    made = [_formula(other, group, hyper, names) for other in known]
    return [formula for formula in made if formula is not None]


def alterations(group: Group) -> Iterator[dict[str, Any]]:
    """Other values for one of a group's numbers: those of optax's defaults, those in use, and the other one of two."""
    for key, values in _OTHERS.items():
        if key in group:
            yield from ({key: value} for value in values if value != group[key])
    for key in ("nesterov", "amsgrad", "centered", "decoupled_weight_decay", "maximize"):
        if key in group:
            yield {key: not group[key]}


_OTHERS: Mapping[str, tuple[Any, ...]] = {
    "weight_decay": (1e-4, 0.0, 1e-3, 1e-2), "betas": ((0.9, 0.999), (0.9, 0.99), (0.9, 0.95), (0.9, 0.98)), "alpha": (0.9, 0.99),
    "rho": (0.9, 0.95), "momentum": (0.0, 0.9), "dampening": (0.0,), "eps": (1e-8, 1e-7, 1e-6, 1e-5, 1e-10, 1e-16, 0.0),
}  # fmt: skip


def _steady(hyper: Sequence[Sequence[Group]]) -> bool:
    """Whether everything but learning rate and weight decay is one number, for all groups and steps."""
    loose = {"params", "lr", "weight_decay", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}
    first = {key: value for key, value in hyper[0][0].items() if key not in loose}
    same = all(group.get(key) == value for groups in hyper for group in groups for key, value in first.items())
    return same and all(
        a["weight_decay"] == b["weight_decay"] for groups in hyper for a, b in zip(groups, hyper[0], strict=True) if "weight_decay" in a
    )


def _fits(name: str, group: Group) -> bool:
    return all(key in group for key in _NEEDS.get(name, ("?",)))


def _formula(name: str, group: Group, hyper: Sequence[Sequence[Group]], names: Sequence[str]) -> Formula | None:
    if not all(key in group for key in ("lr", *_NEEDS[name])):
        return None
    rates = np.array([[float(g["lr"]) for g in groups] for groups in hyper])
    lead = rates[:, int(np.argmax(np.abs(rates).max(0)))]
    shares = _shares(rates, lead)
    if shares is None:
        return None
    of = {n: i for i, g in enumerate(hyper[0]) for n in g["params"]}
    if set(of) != set(names):
        return None
    made = _CLASSES[name](Formula(lead, ascends=bool(group.get("maximize", False))), group)
    if any(share != 1 for share in shares):
        made = replace(made, shares=tuple(shares[of[n]] for n in names))
    return _decayed(made, name, group, [float(hyper[0][of[n]].get("weight_decay", 0.0)) for n in names])


def _shares(rates: np.ndarray, lead: np.ndarray) -> list[float] | None:
    """Each group's learning rate over the leading one's, where that is one number for all steps."""
    with np.errstate(all="ignore"):
        by = np.where(lead[:, None] == 0, np.nan, rates / lead[:, None])
    found = [float(column[np.isfinite(column)][0]) if np.isfinite(column).any() else 1.0 for column in by.T]
    return found if np.allclose(lead[:, None] * np.array(found), rates, rtol=1e-12, atol=0) else None


def _decayed(made: Formula, name: str, group: Group, decays: Sequence[float]) -> Formula | None:
    there = sorted({decay for decay in decays if decay})
    if not there or made.decay:
        return made if not there else None
    if len(there) > 1:
        return None
    decoupled = group.get("decoupled_weight_decay", name in ("AdamW", "Lion"))
    mask = None if all(decays) else tuple(bool(decay) for decay in decays)
    return replace(made, decay="decoupled" if decoupled else "coupled", weight_decay=there[0], decayed=mask)


# ---------------------------------------------------------------- the classes (torch 2.13, torch/optim/*.py, _single_tensor_*)


def _sgd(f: Formula, g: Group) -> Formula:
    if not g["momentum"]:
        return f
    nesterov = "sum" if g["nesterov"] else ""
    return replace(f, momentum=g["momentum"], dampening=g["dampening"], whole_start=bool(g["dampening"]), nesterov=nesterov)


def _betas(f: Formula, g: Group, **more: Any) -> Formula:
    return replace(f, momentum=g["betas"][0], beta2=g["betas"][1], eps=g["eps"], **{**AVERAGE, **more})


def _adam(f: Formula, g: Group) -> Formula:
    return _betas(f, g, amsgrad="raw" if g.get("amsgrad") else "")


def _nadam(f: Formula, g: Group) -> Formula:
    return _betas(f, g, nesterov="decayed", momentum_decay=g["momentum_decay"])


def _radam(f: Formula, g: Group) -> Formula:
    return _betas(f, g, rectified=True, eps_place="early")


def _adamax(f: Formula, g: Group) -> Formula:
    return _betas(f, g, scale="largest", correct_second=False, eps_place="inside")


def _rmsprop(f: Formula, g: Group) -> Formula:
    return replace(f, scale="average", beta2=g["alpha"], eps=g["eps"], centered=g["centered"], velocity=g["momentum"])


def _adagrad(f: Formula, g: Group) -> Formula:
    lr = f.lr / (1 + np.arange(len(f.lr)) * g["lr_decay"])
    return replace(f, lr=lr, scale="sum", start=g["initial_accumulator_value"], eps=g["eps"])


def _adadelta(f: Formula, g: Group) -> Formula:
    return replace(f, kind="adadelta", beta2=g["rho"], eps=g["eps"], eps_place="inside")


def _rprop(f: Formula, g: Group) -> Formula:
    (minus, plus), (smallest, largest) = g["etas"], g["step_sizes"]
    return replace(f, kind="rprop", eta_minus=minus, eta_plus=plus, smallest=smallest, largest=largest)


def _asgd(f: Formula, g: Group) -> Formula:
    """Its step; the average it keeps beside moves nothing. The decay is that of the formula, weight_decay is refused beside it."""
    counts = np.maximum(np.arange(len(f.lr)), 0)
    lr = f.lr / (1 + g["lambd"] * f.lr * counts) ** g["alpha"]
    return replace(f, lr=lr, decay="decoupled", weight_decay=g["lambd"])


def _lion(f: Formula, g: Group) -> Formula:
    return replace(f, kind="lion", momentum=g["betas"][0], beta2=g["betas"][1])


_CLASSES: Mapping[str, Callable[[Formula, Group], Formula]] = {
    "SGD": _sgd, "Adam": _adam, "AdamW": _adam, "NAdam": _nadam, "RAdam": _radam, "Adamax": _adamax, "RMSprop": _rmsprop,
    "Adagrad": _adagrad, "Adadelta": _adadelta, "Rprop": _rprop, "ASGD": _asgd, "Lion": _lion,
}  # fmt: skip
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "SGD": ("momentum", "dampening", "nesterov"), "Adam": ("betas", "eps"), "AdamW": ("betas", "eps"),
    "NAdam": ("betas", "eps", "momentum_decay"), "RAdam": ("betas", "eps"), "Adamax": ("betas", "eps"),
    "RMSprop": ("alpha", "eps", "centered", "momentum"), "Adagrad": ("lr_decay", "eps", "initial_accumulator_value"),
    "Adadelta": ("rho", "eps"), "Rprop": ("etas", "step_sizes"), "ASGD": ("lambd", "alpha"), "Lion": ("betas",),
}  # fmt: skip
