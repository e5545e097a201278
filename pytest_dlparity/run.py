"""(spec, cell, side) -> outcome: the named arrays that one side gives in one cell."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pytest_dlparity import draws, flow, param_map, proof, sharing, tolerance
from pytest_dlparity.errors import SpecError
from pytest_dlparity.flow import Value
from pytest_dlparity.job import Job
from pytest_dlparity.param_map import Carry
from pytest_dlparity.proof import Sides
from pytest_dlparity.sharing import Pair, Series, Shared, Stream
from pytest_dlparity.spec import Spec
from pytest_dlparity.tolerance import Format

Arrays = dict[str, np.ndarray]


@functools.cache
def frameworks() -> tuple[Any, Any]:
    """The two frameworks' files, imported when the first spec runs and not before."""
    from pytest_dlparity.frameworks import jax as jax_side
    from pytest_dlparity.frameworks import torch as torch_side

    return torch_side, jax_side


@dataclass(frozen=True)
class Outcome:
    """What one side gives in one cell."""

    leaves: Arrays
    fixed: frozenset[str] = frozenset()  # floating outputs that the side does not differentiate, though it does others
    starts: Any = None  # optimizers: the state in which each step began
    drew: bool = False  # the side drew random numbers
    free: Arrays = field(default_factory=dict)  # optimizers: the updates of a run in which every step begins where the last ended


@dataclass
class Prepared:
    """A spec with its numbers drawn and its parameters carried: everything that does not depend on the cell."""

    spec: Spec
    seed: int
    job: Job
    torch: Any
    jax: Any
    carries: tuple[Carry, ...]
    params: Arrays
    buffers: Arrays
    inputs: Arrays
    batches: list[Arrays]
    trained: tuple[str, ...]
    compiled: dict[Any, Any] = field(default_factory=dict)
    cotangents_seen: Arrays = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()  # outputs without a gradient in torch (updated running statistics): neither side's vjp has them

    def cotangent(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The fixed random cotangent of one output, the same for both sides and every cell."""
        made = self.cotangents_seen.get(name)
        if made is None or made.shape != shape:
            made = draws.drawn(draws.normal(*shape), self.seed, f"cotangent of {name}")
            made = self.cotangents_seen[name] = tolerance.on_grid(made, self.grid)
        return made

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    grid: tuple[Format, ...] = ()
    shared: Shared | None = None  # the random draws of both sides, paired

    def paths(self, name: str) -> list[Carry]:
        return [carry for carry in self.carries if carry.torch == name]

    @property
    def torch_shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in {**self.params, **self.buffers}.items()}

    @property
    def jax_shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: tuple(np.shape(array)) for path, array in {**self.jax.params, **self.jax.state}.items()}


def prepared(spec: Spec, seed: int, dtypes: Sequence[str]) -> Prepared:
    """Draws, modules, and the way from torch's parameters to jax's.

    Raises:
        SpecError: something in the spec cannot be run; the message says what to write.
    """
    grid = tolerance.grid(dtypes)
    if spec.kind == "loss" and not spec.inputs:
        raise SpecError(
            "dlp.loss has no inputs, so it cannot run by itself. Give them: inputs=[dlp.normal(32, 10), dlp.integers(32, high=10)]."
        )
    if spec.kind == "optimizer":
        return _prepared_optimizer(spec, seed, grid)
    made = sides(spec, seed, grid)
    torch_program, jax_program, job, params, buffers, inputs, _ = made
    carries = _carries(spec, made, seed, grid)
    floating = [n for n, a in {**inputs, **params}.items() if tolerance.is_inexact(a) and n not in torch_program.frozen]
    wrt = floating if spec.wrt is None else _checked_wrt(spec.wrt, {**inputs, **params})
    trained = tuple(n for n in params if n in floating) if spec.steps else ()
    batches = [_batch(batch, list(inputs), grid) for batch in spec.batches] or [inputs]
    prep = Prepared(
        spec, seed, job._replace(wrt=tuple(wrt), trained=trained), torch_program, jax_program, carries, params, buffers, inputs, batches, trained,
        grid=grid,
    )  # fmt: skip
    return _with_shared_draws(prep) if spec.shared_randomness else prep


def sides(spec: Spec, seed: int, grid: tuple[Format, ...]) -> Sides:
    """Both sides taken apart, with torch's numbers and the drawn inputs.

    Raises:
        SpecError: a side is none of the kinds that are known, or does not take these inputs.
    """
    _, jax_side = frameworks()
    torch_program, own, params, buffers, inputs = _torch_side(spec, seed, grid)
    job = _job(spec, list(inputs))
    args = jax_side.arrays({n: inputs[n] for n in job.consumed}, "float32")
    positional, keywords = ((), args) if job.keywords else (tuple(args.values()), {})
    with jax_side.settings("float32", spec.precision):
        jax_program = jax_side.program(
            spec.jax, own, spec.params_tree, {**params, **buffers}, positional, keywords, spec.train, spec.shared_randomness
        )
    return Sides(torch_program, jax_program, job, params, buffers, inputs, spec.precision)


def _torch_side(spec: Spec, seed: int, grid: tuple[Format, ...]) -> tuple[Any, Arrays, Arrays, Arrays, Arrays]:
    """The torch side taken apart, the drawn params of the spec, and what runs begin with: parameters, buffers, inputs."""
    torch_side, _ = frameworks()
    inputs = _drawn(spec.inputs, seed, grid)
    own = _drawn(spec.params or {}, seed, grid)
    with torch_side.settings("float32", "default"):
        program = torch_side.program(spec.torch, own, spec.params_tree, spec.train, bool(inputs))
    params, buffers = ({name: tolerance.on_grid(array, grid) for name, array in part.items()} for part in (program.params, program.buffers))
    return program, own, params, buffers, inputs


def reseeded(prep: Prepared, torch: Any, seed: int, dtypes: Sequence[str]) -> Prepared:
    """A spec with the numbers of another seed and matrix. What was carried and compiled serves again, so that many seeds cost little more than one.

    Args:
        torch: the torch side as it is made at that seed: a module has other parameters then.

    Raises:
        SpecError: the spec shares its random draws, which were paired for one seed.
    """
    spec, grid = replace(prep.spec, torch=torch), tolerance.grid(dtypes)
    if spec.shared_randomness:
        raise SpecError("shared_randomness=True pairs the draws of one seed. Check each seed by itself: dlp.check(spec, seed=1).")
    if spec.kind == "optimizer":
        return replace(_prepared_optimizer(spec, seed, grid), compiled=prep.compiled)
    program, _, params, buffers, inputs = _torch_side(spec, seed, grid)
    batches = [_batch(batch, list(inputs), grid) for batch in spec.batches] or [inputs]
    return replace(
        prep, spec=spec, seed=seed, torch=program, params=params, buffers=buffers, inputs=inputs, batches=batches,
        cotangents_seen={}, shapes={}, fixed=frozenset(), grid=grid,
    )  # fmt: skip


def _prepared_optimizer(spec: Spec, seed: int, grid: tuple[Format, ...]) -> Prepared:
    torch_side, _ = frameworks()
    if not spec.params:
        raise SpecError('dlp.optimizer has no params, so it cannot run by itself. Give them: params={"w": dlp.normal(64, 64)}.')
    params = _drawn(spec.params, seed, grid)
    for name, array in params.items():
        if not tolerance.is_inexact(array):
            raise SpecError(
                f"params[{name!r}] is of dtype {array.dtype.name}, which has no gradient. Give floating numbers to an optimizer."
            )
    grads = [
        _drawn({n: spec.inputs.get(n, draws.normal(*params[n].shape)) for n in params}, seed, grid, f"gradient {step} of ")
        for step in range(1, spec.steps + 1)
    ]
    job = Job(
        "optimizer", (), wrt=tuple(params), steps=spec.steps, torch_optimizer=spec.torch, jax_optimizer=spec.jax, trained=tuple(params)
    )
    program = torch_side.Program(lambda: None, params=params, tree=dict.fromkeys(params))
    identity = tuple(Carry(name, name) for name in params)
    return Prepared(spec, seed, job, program, None, identity, params, {}, {}, grads, tuple(params), grid=grid)


def _drawn(given: Mapping[str, draws.Draw], seed: int, grid: tuple[Format, ...], prefix: str = "") -> Arrays:
    return {name: _representable(name, draws.drawn(draw, seed, prefix + name), grid) for name, draw in given.items()}


def _representable(name: str, drawn: np.ndarray, grid: tuple[Format, ...]) -> np.ndarray:
    """The numbers on the grid. An infinity that was drawn is one in every format."""
    array = tolerance.on_grid(drawn, grid)
    smallest = min(grid, key=lambda f: f.largest, default=None)  # no format: carrying keeps the numbers as they are
    if smallest is not None and smallest.name == "float16" and tolerance.is_floating(array) and (np.isinf(array) & ~np.isinf(drawn)).any():
        raise SpecError(
            f"{name} has values beyond {smallest.largest:g}, the largest of float16. Draw smaller ones, or leave float16 out of dtypes."
        )
    return array


def _batch(batch: Sequence[np.ndarray], names: list[str], grid: tuple[Format, ...]) -> Arrays:
    return _drawn({name: draws.fixed(array) for name, array in zip(names, batch, strict=True)}, 0, grid)


def _job(spec: Spec, names: list[str]) -> Job:
    """Which inputs go to the side and which, after the output, to the loss."""
    torch_side, _ = frameworks()
    consumed, targets = names, []
    if spec.loss is not None:
        needs = torch_side.arity(spec.loss.torch)
        takes = torch_side.arity(spec.torch)
        if spec.params_tree is not None and takes:
            takes -= 1
        split = len(names) - (needs - 1) if needs else takes
        if split is None:
            raise SpecError(
                "neither the model nor its loss says how many inputs it takes. Give the loss a function with named arguments: lambda z, y: ..."
            )
        if split < 1 or split > len(names):
            raise SpecError(
                f"the model has {len(names)} inputs, and its loss takes {needs} arguments with the model's output first. Give the missing inputs."
            )
        consumed, targets = names[:split], names[split:]
    found = Job(spec.kind, tuple(consumed), tuple(targets), spec.keywords, steps=spec.steps)
    if spec.loss is not None:
        found = found._replace(torch_loss=spec.loss.torch, jax_loss=spec.loss.jax)
    if spec.optimizer is not None:
        found = found._replace(torch_optimizer=spec.optimizer.torch, jax_optimizer=spec.optimizer.jax)
    return found


def _checked_wrt(wrt: Sequence[str], known: Mapping[str, np.ndarray]) -> list[str]:
    for name in wrt:
        if name not in known:
            raise SpecError(f"wrt names {name!r}, which is neither an input nor a parameter. There are {', '.join(known)}.")
        if not tolerance.is_inexact(known[name]):
            raise SpecError(f"wrt names {name!r}, which is of dtype {known[name].dtype.name} and has no gradient. Leave it out.")
    return list(wrt)


def _carries(spec: Spec, made: Sides, seed: int, grid: tuple[Format, ...]) -> tuple[Carry, ...]:
    if made.jax.library == "function":
        if spec.param_map:
            raise SpecError(
                "param_map is given, but the jax side is a function: it gets torch's parameters by their torch names. Leave param_map out, "
                "or give a module as the jax side."
            )
        if spec.params_tree is None and made.torch.module is None and (made.params or made.buffers):
            raise SpecError("the torch side has parameters that the jax side cannot get.")
        return tuple(Carry(name, name, how="name") for name in {**made.params, **made.buffers})
    if made.torch.module is None and made.jax.params:
        raise SpecError(
            f"the jax side is a {made.jax.library} module with parameters and the torch side a function, so nothing would share them. "
            "Give an nn.Module as the torch side, or functions of `params` on both."
        )
    try:
        return param_map.carries(made.torch_leaves, made.jax_leaves, spec.param_map)
    except param_map.Doubt as doubt:
        if spec.shared_randomness:  # draws pair only once numbers are carried, and which goes where does not hang on the mode
            made = sides(replace(spec, train=False, shared_randomness=False), seed, grid)
        return proof.carries(made, spec.param_map, doubt)


# ---------------------------------------------------------------- the torch side


def torch_ready(prep: Prepared, device: str, dtype: str, compiled: bool) -> Any:
    torch_side, _ = frameworks()
    if compiled and prep.shared is not None:
        raise SpecError(
            "shared_randomness=True cannot run in the mode compiled: torch.compile draws inside its own kernels. Leave compiled out of the modes."
        )
    with torch_side.settings(dtype, prep.spec.precision):
        made = torch_side.ready(prep.torch, prep.job, prep.params, prep.buffers, prep.inputs, device, dtype, compiled)
    if prep.shared is None:
        return made
    from pytest_dlparity.frameworks import torch_sharing

    stream = Stream(prep.seed, prep.grid, max(1, prep.job.steps), prep.shared)
    return replace(made, draws=torch_sharing.Draws(stream, made.call, device))


def torch_outcome(prep: Prepared, ready: Any, device: str, dtype: str, nudge: Any = None, starts: Any = ()) -> Outcome:
    """One run of the torch side from its starting numbers, as numpy."""
    torch_side, _ = frameworks()
    with torch_side.settings(dtype, prep.spec.precision):
        before = torch_side.random_state()
        result, begun = _torch_run(prep, ready, device, dtype, nudge or torch_side.unmoved, starts)
        found = _added(prep, {name: torch_side.to_numpy(tensor) for name, tensor in result.leaves.items()})
        return Outcome(found, result.fixed, begun, ready.draws is None and torch_side.has_drawn(before))


def torch_nudged(
    prep: Prepared, ready: Any, dtype: str, roundoff: float, seed: int, starts: Any, everywhere: bool, inward: bool = False
) -> Arrays:
    """The leaves of the CPU reference under rounding-sized perturbations, of its inputs alone or of every result.

    `inward`: towards zero only, for a program that refuses numbers beyond a bound on which it was given some (a probability of 1).
    """
    torch_side, _ = frameworks()
    inside = torch_side.RoundEverywhere(torch_side.rounding_by_value(roundoff, seed, inward)) if everywhere else contextlib.nullcontext()
    with inside:
        return torch_outcome(prep, ready, "cpu", dtype, torch_side.rounding(roundoff, seed, inward), starts).leaves


def _torch_run(prep: Prepared, ready: Any, device: str, dtype: str, nudge: Any, starts: Any) -> tuple[Any, Any]:
    torch_side, _ = frameworks()
    if prep.job.kind == "optimizer":
        grads = [torch_side.tensors(grad, device, dtype) for grad in prep.batches]
        return torch_side.optimize(ready, prep.job, grads, nudge, starts)
    if prep.job.steps:
        batches = [torch_side.tensors(batch, device, dtype) for batch in prep.batches]
        return torch_side.train(ready, prep.job, batches, nudge), None
    return torch_side.evaluate(ready, prep.job, prep.cotangent, nudge), None


# ---------------------------------------------------------------- the jax side


def jax_outcome(prep: Prepared, platform: str, dtype: str, jit: bool, starts: Any = (), roundoff: float = 0.0) -> Outcome:
    """One run of the jax side, under torch's names and in torch's layout. Its function is compiled once per dtype and platform.

    With a `roundoff`, every argument and every result inside is moved by one rounding of that size.
    """
    _, jax_side = frameworks()
    with jax_side.settings(dtype, prep.spec.precision, platform):
        if prep.job.kind == "optimizer":
            return _jax_optimizer(prep, Functions(prep, platform, dtype, jit, roundoff), dtype, starts)
        params, state = jax_start(prep, dtype)
        if prep.job.steps:
            found = _jax_trajectory(prep, Functions(prep, platform, dtype, jit, roundoff), dtype, params, state)
        else:
            run = Functions(prep, platform, dtype, jit, roundoff)("evaluate")
            result = run(params, state, jax_side.arrays(prep.inputs, dtype), jax_side.arrays(cotangents(prep), dtype))
            found = Outcome(_named(prep, result))
        if prep.shared is not None:
            _nothing_left(prep)
        return found


def cotangents(prep: Prepared) -> Arrays:
    """The cotangent of each output: random numbers, or zeros where torch has no gradient."""
    return prep.cotangents_seen | {name: np.zeros(prep.shapes[name]) for name in prep.fixed}


def jax_start(prep: Prepared, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Torch's numbers in jax's layout, by jax path; what torch has no counterpart of keeps the module's own values."""
    _, jax_side = frameworks()
    given = param_map.jax_arrays(prep.carries, {**prep.params, **prep.buffers}, prep.jax_shapes)
    return tuple(
        jax_side.arrays({path: given.get(path, value) for path, value in part.items()}, dtype) for part in (prep.jax.params, prep.jax.state)
    )


class Functions(NamedTuple):
    """The compiled jax functions of a spec in one cell; cells that can share a compilation do."""

    prep: Prepared
    platform: str
    dtype: str
    jit: bool
    roundoff: float = 0.0

    def __call__(self, what: str) -> Any:
        _, jax_side = frameworks()
        held, key = self.prep.compiled, (what, *self[1:4])
        if key not in held:
            held[key] = self._made(what)
        if not self.roundoff:
            return held[key]
        if ("rounded", *key) not in held:
            held["rounded", *key] = jax_side.Rounded(held[key])
        held["rounded", *key].roundoff = self.roundoff
        return held["rounded", *key]

    def _made(self, what: str) -> Any:
        _, jax_side = frameworks()
        prep = self.prep
        cheap = self.dtype in ("float64", "complex128") and self.platform == "cpu"
        if what == "evaluate":
            return jax_side.evaluation(prep.jax, prep.job, _jax_paths(prep, prep.job.wrt), cheap, self.jit)
        if what == "forward":
            return jax_side.evaluation(prep.jax, prep.job._replace(wrt=()), [], cheap, self.jit)
        if what == "train":
            return jax_side.train_step(prep.jax, prep.job, _jax_paths(prep, prep.job.trained), _optimizer(prep), cheap, self.jit)
        return getattr(jax_side, f"optimizer_{what}")(_optimizer(prep), cheap, self.jit)


def _jax_paths(prep: Prepared, names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(carry.jax for name in names for carry in prep.paths(name)))


def _optimizer(prep: Prepared) -> Any:
    _, jax_side = frameworks()
    if "optimizer" not in prep.compiled:
        prep.compiled["optimizer"] = jax_side.optimizer(prep.job.jax_optimizer, prep.params)
    return prep.compiled["optimizer"]


def _named(prep: Prepared, result: Any) -> Arrays:
    """A jax result under torch's names."""
    _, jax_side = frameworks()
    found = {name: jax_side.to_numpy(value) for name, value in result.leaves.items()}
    found |= {f"grad.{name}": jax_side.to_numpy(value) for name, value in result.inputs.items() if name in prep.job.wrt}
    params, state = ({path: jax_side.to_numpy(value) for path, value in part.items()} for part in (result.params, result.state))
    grads = param_map.torch_gradients(prep.carries, params, prep.torch_shapes)
    found |= {f"grad.{name}": array for name, array in grads.items() if name in prep.job.wrt}
    return found | {f"state.{name}": array for name, array in param_map.torch_values(prep.carries, state, prep.torch_shapes).items()}


def jax_gradients(prep: Prepared) -> list[Arrays]:
    """The gradients of each step of jax's float64 trajectory, under torch's names."""
    _, jax_side = frameworks()
    seen: list[Arrays] = []
    with jax_side.settings("float64", prep.spec.precision, "cpu"):
        _jax_trajectory(prep, Functions(prep, "cpu", "float64", True), "float64", *jax_start(prep, "float64"), seen)
    return seen


def _jax_trajectory(
    prep: Prepared, functions: Functions, dtype: str, params: Any, state: Any, gradients: list[Arrays] | None = None
) -> Outcome:
    _, jax_side = frameworks()
    step = functions("train")
    paths = _jax_paths(prep, prep.job.trained)
    held = functions._replace(roundoff=0.0)("init")({path: params[path] for path in paths})
    found: Arrays = {}
    for index in range(prep.job.steps):
        inputs = jax_side.arrays(prep.batches[index % len(prep.batches)], dtype)
        if prep.shared is not None:
            inputs |= jax_side.named_numbers(prep.shared.for_jax(index))
        result, after, held = step(np.int32(index), params, state, held, inputs)
        if index == 0:
            found |= _named(prep, result)
        found[f"loss.{index + 1}"] = jax_side.to_numpy(result.leaves["loss"])
        if gradients is not None:
            by_path = {path: jax_side.to_numpy(value) for path, value in result.params.items()}
            gradients.append(param_map.torch_gradients(prep.carries, by_path, prep.torch_shapes))
        moved = {path: _difference(jax_side.to_numpy(after[path]), jax_side.to_numpy(params[path])) for path in paths}
        found |= {f"update.{index + 1}.{name}": array for name, array in _updates(prep, moved).items()}
        params, state = after, {**state, **result.state}
    return Outcome(found)


def _difference(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What a step did, in double precision: the difference itself must not round. What is infinite already stays without a number."""
    with np.errstate(invalid="ignore"):
        moved: np.ndarray = after.astype(np.promote_types(after.dtype, np.float64)) - before
    return moved


def _updates(prep: Prepared, by_path: Arrays) -> Arrays:
    """Updates under torch's names. Two jax leaves of one torch parameter must move alike; the first speaks for both."""
    moved = param_map.torch_values(prep.carries, by_path, prep.torch_shapes)
    return {name: moved[name] for name in prep.job.trained if not all(carry.is_added for carry in prep.paths(name))}


def _added(prep: Prepared, found: Arrays) -> Arrays:
    """Torch's leaves with the updates of parameters that jax keeps as one sum added up: how much of it each had, the sum does not tell."""
    if not any(carry.is_added for carry in prep.carries):
        return found
    made: Arrays = {}
    for step, updates in _by_step(found).items():
        moved = param_map.summed(prep.carries, prep.torch_shapes, prep.jax_shapes, updates)
        made |= {f"{step}{name}": array for name, array in (moved if step else updates).items()}
    return made


def _by_step(found: Arrays) -> dict[str, Arrays]:
    """Leaves by the step of an update ("update.3."), and the others ("") as they are."""
    steps: dict[str, Arrays] = {}
    for leaf, array in found.items():
        step = ".".join(leaf.split(".", 2)[:2]) + "." if leaf.startswith("update.") else ""
        steps.setdefault(step, {})[leaf.removeprefix(step)] = array
    return steps


def _jax_optimizer(prep: Prepared, functions: Functions, dtype: str, starts: Any) -> Outcome:
    _, jax_side = frameworks()
    params = jax_side.arrays(prep.params, dtype)
    held = functions._replace(roundoff=0.0)("init")(params)
    step = functions("step")
    found, begun = {}, []
    for index, grads in enumerate(prep.batches):
        if starts:
            params, held = (jax_side.like(start, now) for start, now in zip(starts[index], (params, held), strict=True))
        begun.append((params, held))
        after, held = step(np.int32(index), jax_side.arrays(grads, dtype), held, params)
        for name in params:
            found[f"update.{index + 1}.{name}"] = _difference(jax_side.to_numpy(after[name]), jax_side.to_numpy(params[name]))
        params = after
    return Outcome(found, starts=begun)


# ---------------------------------------------------------------- shared randomness


def _with_shared_draws(prep: Prepared) -> Prepared:
    """The spec with its random draws paired, as one forward pass in float64 shows them; in float32 where a side does not run in float64."""
    try:
        return _paired(prep, "float64")
    except SpecError:
        raise
    except Exception:  # noqa: BLE001  the user's code may raise anything; if it raises in float32 too, that is what is seen
        return _paired(prep, "float32")


def _paired(prep: Prepared, dtype: str) -> Prepared:
    """The same. Where draws can be laid out in several ways, each is tried until the outputs agree."""
    torch_side, jax_side = frameworks()
    from pytest_dlparity.frameworks import torch_sharing

    with torch_side.settings(dtype, prep.spec.precision):
        torch, outputs = torch_sharing.drawn(torch_ready(prep, "cpu", dtype, False), prep.job, Stream(prep.seed, prep.grid))
        truth = {name: torch_side.to_numpy(value) for name, value in outputs.items()}
    with jax_side.settings(dtype, prep.spec.precision):
        events = jax_side.drawn(prep.jax, prep.job, *jax_start(prep, dtype), jax_side.arrays(prep.inputs, dtype))
    jax = Series("jax")
    happening = tuple(event._replace(number=jax.number(event.drawn, event.keys)) for event in events)
    ways, gaps = sharing.ways(torch, jax.draws), []

    def taking(way: tuple[Pair, ...], doubt: str = "") -> Prepared:
        shared = Shared(torch, tuple(jax.draws), way, happening, prep.seed, prep.grid, doubt)
        return replace(prep, shared=shared, jax=jax_side.with_numbers(prep.jax, shared.for_jax(0)), compiled={})

    for way in ways if len(ways) > 1 else ():
        tried = replace(taking(way), job=prep.job._replace(wrt=(), steps=0))
        gaps.append(sharing.gap(truth, jax_outcome(tried, "cpu", dtype, True).leaves))
        if gaps[-1] < sharing.AGREES:
            break
    chosen, doubt = sharing.clear_way(gaps or [0.0], torch, jax.draws, ways[0])
    return taking(ways[chosen], doubt)


def _nothing_left(prep: Prepared) -> None:
    """Raises SpecError where the jax side draws by itself after all draws of its forward pass were given."""
    _, jax_side = frameworks()
    traced = [trace for made in prep.compiled.values() for trace in getattr(made, "traces", {}).values()]
    if place := jax_side.still_draws(traced):
        raise SpecError(
            f"jax draws random numbers {place}, outside the forward pass, in a derivative of its own or in the optimizer, which cannot be shared. "
            "Take them out, or leave shared_randomness out."
        )


def unshared(prep: Prepared) -> Prepared:
    """The spec as it runs by itself, every side with its own random numbers: what is to be timed."""
    return prep if prep.shared is None else replace(prep, shared=None, jax=replace(prep.jax, shared=None), compiled={})


# ---------------------------------------------------------------- the flow of precision


def torch_flow(prep: Prepared, dtype: str) -> list[Value] | None:
    """The values inside torch's forward run in a half precision dtype; None where the program does not cast up itself."""
    torch_side, _ = frameworks()
    with torch_side.settings(dtype, prep.spec.precision):
        half = torch_side.flow(torch_ready(prep, "cpu", dtype, False), prep.job, dtype)
    if not half.casts_up:
        return None
    with torch_side.settings("float64", prep.spec.precision):
        double = torch_side.flow(torch_ready(prep, "cpu", "float64", False), prep.job, dtype, half.opened)
    return flow.values(half.steps, double.steps)


def jax_flow(prep: Prepared, dtype: str) -> list[Value] | None:
    """The values inside jax's forward run in a half precision dtype."""
    _, jax_side = frameworks()
    steps = []
    for which in (dtype, "float64"):
        with jax_side.settings(which, prep.spec.precision):
            params, state = jax_start(prep, which)
            args: tuple[Any, ...] = (params, state, jax_side.arrays(prep.inputs, which), {})
            steps.append(jax_side.flow(Functions(prep, "cpu", which, True)("forward"), args, dtype if which == "float64" else ""))
    return flow.values(*steps)
