"""An optimizer spec -> its steps on both sides as source: as few steps, parameters and elements as still differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pytest_dlparity import run
from pytest_dlparity.compare import Verdict
from pytest_dlparity.excerpt import NoExcerpt, gap
from pytest_dlparity.job import Job
from pytest_dlparity.param_map import Carry
from pytest_dlparity.reference import Reference
from pytest_dlparity.run import Prepared
from pytest_dlparity.whole import APART

Arrays = dict[str, np.ndarray]
PLAIN = 0.01  # of the largest gap: a first step may hide in rounding what the second shows
ELEMENTS = 2  # of each axis that are tried; beyond, all are kept
LINES = 400  # of jax's functions


@dataclass(frozen=True)
class Steps:
    """The source of an optimizer spec. In jax's functions the parameters come in the order of their names, in torch's in that of the spec."""

    torch: str  # how the optimizer is made of `params`
    options: list[list[dict[str, Any]]]  # of each step, of each group: what a scheduler has set
    init: list[str]
    step: list[str]
    init_takes: list[int]  # of the parameters
    step_takes: list[int]  # of index, gradients, state, parameters
    params: Arrays
    grads: list[Arrays]
    constants: dict[str, Arrays] = field(default_factory=dict)  # arrays that jax's functions close over
    gap: float = 0.0


def steps(prep: Prepared, verdicts: Sequence[Verdict]) -> Steps:
    """The steps of a spec whose updates differ in float64.

    Raises:
        NoExcerpt: there is no such source, and why.
        Whatever the user's own code raises.
    """
    first = _first(prep)
    if first is None:
        raise NoExcerpt(
            "the updates differ in rounding alone, which a script of one process cannot show" if verdicts else "the updates agree"
        )
    for less in _fewer(prep, *first):
        try:
            if (found := _first(less)) is not None:
                return _made(less, found)
        except NoExcerpt:
            raise
        except Exception:  # noqa: BLE001  an optimizer may be written for all of its parameters
            continue
    raise NoExcerpt("the steps do not differ when they are run again")


def of_training(prep: Prepared, truth: Reference) -> Prepared:
    """A training loop's optimizer by itself, on the loop's parameters; its gradients are those of the first step, in every step.

    Raises:
        NoExcerpt: the loop has no gradients to give it.
    """
    torch_side, _ = run.frameworks()
    grads = {name: truth.torch.leaves[f"grad.{name}"] for name in prep.trained if f"grad.{name}" in truth.torch.leaves}
    if not grads:
        raise NoExcerpt("the training loop has no gradient that is compared")
    params, names = {name: prep.params[name] for name in grads}, tuple(grads)
    job = Job(
        "optimizer", (), wrt=names, trained=names, steps=prep.job.steps, torch_optimizer=prep.job.torch_optimizer,
        jax_optimizer=prep.job.jax_optimizer,
    )  # fmt: skip
    program = torch_side.Program(lambda: None, params=params, tree=dict.fromkeys(params))
    carries = tuple(Carry(name, name) for name in names)
    return Prepared(prep.spec, prep.seed, job, program, None, carries, params, {}, {}, [grads] * prep.job.steps, names, grid=prep.grid)


def _first(prep: Prepared) -> tuple[int, str, float] | None:
    """The first step in which an update differs in float64, and whose; both sides run on from their own results."""
    ready = run.torch_ready(prep, "cpu", "float64", False)
    torch = run.torch_outcome(prep, ready, "cpu", "float64").leaves
    jax = run.jax_outcome(prep, "cpu", "float64", True).leaves
    gaps = {
        (step, name): gap(torch[f"update.{step}.{name}"], jax[f"update.{step}.{name}"])
        for step in range(1, prep.job.steps + 1)
        for name in prep.params
    }
    plain = max(APART, PLAIN * max(gaps.values()))
    return next(((step, name, apart) for (step, name), apart in gaps.items() if apart >= plain), None)


def _fewer(prep: Prepared, step: int, name: str, _: float) -> Iterator[Prepared]:
    """The same spec with less of everything, the least first."""
    small = {n: np.ascontiguousarray(a[tuple(slice(ELEMENTS) for _ in a.shape)]) for n, a in prep.params.items()}
    for names, params in (([name], small), ([name], prep.params), (list(prep.params), small), (list(prep.params), prep.params)):
        cut = {n: params[n] for n in names}
        grads = [{n: np.ascontiguousarray(grad[n][tuple(slice(k) for k in cut[n].shape)]) for n in names} for grad in prep.batches[:step]]
        job = prep.job._replace(steps=step, wrt=tuple(names), trained=tuple(names))
        program = replace(prep.torch, params=cut, tree=dict.fromkeys(names))
        carries = tuple(carry for carry in prep.carries if carry.torch in names)
        yield replace(prep, job=job, torch=program, carries=carries, params=cut, batches=grads, trained=tuple(names), compiled={})


def _made(prep: Prepared, found: tuple[int, str, float]) -> Steps:
    torch_side, jax_side = run.frameworks()
    from pytest_dlparity.frameworks import jax_source, torch_source

    with torch_side.settings("float64", "highest"):
        torch, options = torch_source.optimizer(prep.job, prep.params, prep.batches)
    with jax_side.settings("float64", prep.spec.precision):
        params = jax_side.arrays(prep.params, "float64")
        functions = run.Functions(prep, "cpu", "float64", True)
        held = functions("init")(params)
        traced, _ = functions("init").traced(params)
        init = jax_source.program(traced, "jax_init", range(len(jax_side.flat(held))))
        grads = jax_side.arrays(prep.batches[0], "float64")
        traced, _ = functions("step").traced(np.int32(0), grads, held, params)
        step = jax_source.program(traced, "jax_step", range(len(params) + len(jax_side.flat(held))))
    if len(init.lines) + len(step.lines) > LINES:
        raise NoExcerpt(f"jax's step has more than {LINES} operations")
    constants: Mapping[str, Arrays] = {"init": init.constants, "step": step.constants}
    return Steps(
        torch, options, init.lines, step.lines, init.takes, step.takes, prep.params, prep.batches, dict(constants), found[2]
    )  # fmt: skip
