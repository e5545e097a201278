"""The torch side as calls: values in, named numpy leaves out. The only file that imports torch."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # private path, documented name; pinned by tests/test_torch_side.py

from pytest_dlparity import leaves
from pytest_dlparity.errors import SpecError
from pytest_dlparity.flow import Read, Step
from pytest_dlparity.job import Job

Tensor = torch.Tensor
Nudge = Callable[[Tensor], Tensor]
Arrays = dict[str, np.ndarray]

LARGE = 1 << 16  # elements of an array from which it is not copied to be read


def unmoved(tensor: Tensor) -> Tensor:
    """The nudge of an ordinary run."""
    return tensor


@dataclass
class Program:
    """The torch side with the numbers it was given: a module (our own copy) or a function, its parameters and its buffers."""

    call: Callable[..., Any]
    module: torch.nn.Module | None = None
    params: Arrays = field(default_factory=dict)
    buffers: Arrays = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)  # name of a parameter or buffer -> class name of its module
    frozen: frozenset[str] = frozenset()  # parameters that the user does not train
    tree: Any = None  # nesting of the params that a function gets as its first argument


def program(side: Any, params: Arrays, tree: Any, train: bool | None, has_inputs: bool) -> Program:
    """The torch side of a spec. A module's own numbers are its parameters; a function gets `params`.

    Raises:
        SpecError: a module together with `params`, or a side that is neither function nor module.
    """
    side = _made(side, has_inputs)
    if not isinstance(side, torch.nn.Module):
        if not callable(side):
            raise SpecError(f"the torch side is a {type(side).__name__}. Give a function of tensors or an nn.Module.")
        return Program(side, params=params, tree=tree)
    if tree is not None:
        raise SpecError("the torch side is a module, which has its own parameters. Leave params out, or give a function as the torch side.")
    module = copy.deepcopy(side)
    if train is not None:
        module.train(train)
    owners = {name: type(owner).__name__ for name, owner in module.named_modules()}
    made = Program(module, module, frozen=frozenset(name for name, p in module.named_parameters() if not p.requires_grad))
    for target, found in ((made.params, module.named_parameters()), (made.buffers, module.named_buffers())):
        for name, tensor in found:
            target[name] = master(tensor)
            made.layers[name] = owners.get(name.rpartition(".")[0], "")
    return made


def tied(module: Any) -> dict[str, str]:
    """Other names of shared parameters -> the first name, under which they are compared."""
    if not isinstance(module, torch.nn.Module):
        return {}
    first: dict[int, str] = {}
    return {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False) if first.setdefault(id(p), name) != name}


def is_module(side: Any) -> bool:
    return isinstance(side, torch.nn.Module)


def arity(side: Any) -> int | None:
    """How many positional arguments a side needs, None where it takes any number."""
    function = side.forward if isinstance(side, torch.nn.Module) else side
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return None
    if any(a.kind is a.VAR_POSITIONAL for a in arguments):
        return None
    return sum(a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD) and a.default is a.empty for a in arguments)


def _made(side: Any, has_inputs: bool) -> Any:
    """A module from its factory: a class, or a function without arguments where the spec has inputs."""
    if isinstance(side, torch.nn.Module) or not callable(side):
        return side
    if isinstance(side, type) and issubclass(side, torch.nn.Module):
        return side()
    if has_inputs and not isinstance(side, type) and _takes_nothing(side):
        return side()
    return side


def _takes_nothing(side: Any) -> bool:
    try:
        return not inspect.signature(side).parameters
    except (TypeError, ValueError):
        return False


# ---------------------------------------------------------------- settings


@contextlib.contextmanager
def settings(dtype: str, precision: str) -> Iterator[None]:
    """Gradients on, no TF32 unless asked for, doubles by default in a float64 run, torch's random state untouched; all restored."""
    default, matmul = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.allow_tf32
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        _seeded()
        try:
            if dtype in ("float64", "complex128"):
                torch.set_default_dtype(torch.float64)
            if precision == "highest":
                torch.set_float32_matmul_precision("highest")
                torch.backends.cudnn.allow_tf32 = False
            yield
        finally:
            torch.set_default_dtype(default)
            torch.set_float32_matmul_precision(matmul)
            torch.backends.cudnn.allow_tf32 = cudnn


def _seeded() -> None:
    """Torch's generators at a fixed seed. Where there is no accelerator, torch.manual_seed keeps a call, with its stack, for a CUDA that never comes."""
    if torch.accelerator.is_available():
        torch.manual_seed(0)
    else:
        torch.default_generator.manual_seed(0)


def available(device: str) -> str:
    """Why a torch device cannot be had here, "" when it can."""
    try:
        torch.empty(1, device=device)
    except Exception as error:  # noqa: BLE001  every kind of absence: no build, no driver, no such name
        return f"torch has no device {device!r} here ({_first_line(error).split('. ')[0]})"  # torch goes on with a page of backends
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------- values


def master(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers as they are kept: doubles, complex doubles, int64 or bool."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        return tensor.double().numpy().copy()
    return (tensor.to(torch.complex128) if tensor.is_complex() else tensor).numpy().copy()


def to_numpy(tensor: Any) -> np.ndarray:
    """A result as numpy; bfloat16 and float16 widened to float32, which holds them exactly."""
    if not isinstance(tensor, Tensor):
        return np.asarray(tensor)
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _torch_dtype(tensor_or_kind: Any, dtype: str) -> torch.dtype:
    """The dtype that a floating or complex tensor takes in a cell."""
    wide = dtype in ("float64", "complex128")
    if tensor_or_kind.is_complex():
        return torch.complex128 if wide else torch.complex64
    return getattr(torch, {"complex128": "float64", "complex64": "float32"}.get(dtype, dtype))


def _cast(tensor: Tensor, device: str, dtype: str) -> Tensor:
    inexact = tensor.is_floating_point() or tensor.is_complex()
    return tensor.to(device, _torch_dtype(tensor, dtype) if inexact else tensor.dtype)


def tensors(arrays: Mapping[str, np.ndarray], device: str, dtype: str) -> dict[str, Tensor]:
    return {name: _cast(torch.tensor(array), device, dtype) for name, array in arrays.items()}


def _views(arrays: Mapping[str, np.ndarray], device: str, dtype: str) -> dict[str, Tensor]:
    """The same, to be read only: large arrays that need no cast stay where they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that arrays may be read-only
        found = {name: torch.from_numpy(array) if array.size > LARGE else torch.tensor(array) for name, array in arrays.items()}
    return {name: _cast(tensor, device, dtype) for name, tensor in found.items()}


@dataclass
class Ready:
    """A program on its device in a dtype, with the numbers it starts from."""

    call: Callable[..., Any]
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    base: dict[str, Tensor]
    kept: dict[str, Tensor]
    inputs: dict[str, Tensor]
    loss: Callable[..., Any] | None = None
    draws: Any = None  # torch_sharing.Draws, where random draws are given numbers


def ready(made: Program, job: Job, params: Arrays, buffers: Arrays, inputs: Arrays, device: str, dtype: str, compiled: bool) -> Ready:
    """The torch side in one cell. Nothing of the user's is touched: the module is copied and cast."""
    base, kept = _views(params, device, dtype), tensors(buffers, device, dtype)
    loss = _cast_module(job.torch_loss, device, dtype) if isinstance(job.torch_loss, torch.nn.Module) else job.torch_loss
    if made.module is None:
        live = {name: t.clone().requires_grad_(name in job.wrt + job.trained) for name, t in base.items()}
        call = functools.partial(_with_params, made, live) if made.tree is not None else made.call
        held: dict[str, Tensor] = {}
    else:
        call = _cast_module(made.module, device, dtype)
        live, held = dict(call.named_parameters()), dict(call.named_buffers())
        for name, parameter in live.items():
            parameter.requires_grad_(name in job.wrt + job.trained)
    if compiled:
        _load_compiler()
        call = torch.compile(call)
    return Ready(call, live, held, base, kept, tensors(inputs, device, dtype), loss)


@functools.cache
def _load_compiler() -> None:
    """Loads what torch.compile loads at its first call, which warns of torch's own deprecated functions; where warnings are errors, that would fail."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # what keeps it from compiling is told of the user's own function
        warnings.simplefilter("ignore")
        torch.compile(torch.sin)(torch.zeros(1))


def _with_params(made: Program, live: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    return made.call(leaves.filled(made.tree, live), *args, **kwargs)


def _cast_module(module: torch.nn.Module, device: str, dtype: str) -> torch.nn.Module:
    module = copy.deepcopy(module)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = _cast(tensor.data, device, dtype)
    if dtype in ("float64", "complex128"):  # tensors kept outside parameters and buffers (rotary tables, masks) follow only upwards
        for part in module.modules():
            for name, value in vars(part).items():
                if isinstance(value, Tensor) and value.dtype is torch.float32:
                    setattr(part, name, _cast(value, device, dtype))
    return module


def _reset(side: Ready, nudge: Nudge) -> None:
    with torch.no_grad():
        for name, tensor in side.params.items():
            tensor.data.copy_(nudge(side.base[name]))
        for name, tensor in side.buffers.items():
            tensor.data.copy_(nudge(side.kept[name]))


# ---------------------------------------------------------------- running


class Result(NamedTuple):
    """Named leaves as tensors, still on their device."""

    leaves: dict[str, Tensor]
    fixed: frozenset[str] = frozenset()  # floating outputs that torch does not differentiate, though it does others


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def drawing(side: Ready) -> contextlib.AbstractContextManager[None]:
    """While it lasts, a side whose random draws are given numbers gets them, also where a backward pass computes something again."""
    return contextlib.nullcontext() if side.draws is None else side.draws.run()


def _drawing(run: Callable[..., Result]) -> Callable[..., Result]:
    @functools.wraps(run)
    def wrapped(side: Ready, *args: Any, **kwargs: Any) -> Result:
        with drawing(side):
            return run(side, *args, **kwargs)

    return wrapped


@_drawing
def evaluate(side: Ready, job: Job, cotangents: Callable[[str, tuple[int, ...]], np.ndarray], nudge: Nudge = unmoved) -> Result:
    """Outputs, gradients of every name in wrt, and the buffers as they are afterwards (`state.<name>`)."""
    _reset(side, nudge)
    inputs = {name: nudge(tensor).detach().requires_grad_(name in job.wrt) for name, tensor in side.inputs.items()}
    found, roots = _forward(side, job, inputs)
    diff = {name: (inputs | side.params)[name] for name in job.wrt}
    found = dict(found)
    targets = {name: t for name, t in roots.items() if t.requires_grad}
    fixed = frozenset(roots) - frozenset(targets) if targets else frozenset()
    if diff:
        weights = {name: _weight(job, name, t, cotangents, nudge) for name, t in roots.items() if name not in fixed}
        if targets:
            grads = torch.autograd.grad(list(targets.values()), list(diff.values()), [weights[n] for n in targets], allow_unused=True)
        else:
            grads = tuple(None for _ in diff)  # type: ignore[misc]  # torch leaves out None where allow_unused gives it
        for (name, at), grad in zip(diff.items(), grads, strict=True):
            found[f"grad.{name}"] = torch.zeros_like(at) if grad is None else grad
    found.update({f"state.{name}": tensor.clone() for name, tensor in side.buffers.items()})  # a later run writes into the buffer
    return Result({name: t.detach() if isinstance(t, Tensor) else torch.as_tensor(t) for name, t in found.items()}, fixed)


def _forward(side: Ready, job: Job, inputs: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(every output leaf, the floating ones to differentiate)."""
    with contextlib.nullcontext() if side.draws is None else side.draws.forward():
        return _once(side, job, inputs)


def _once(side: Ready, job: Job, inputs: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    output = side.call(**{n: inputs[n] for n in job.consumed}) if job.keywords else side.call(*(inputs[n] for n in job.consumed))
    found = leaves.named("loss" if job.kind == "loss" else "output", output, _is_tensor)
    roots = found
    if job.kind == "loss":
        _scalar("torch", found)
    if side.loss is not None:
        roots = leaves.named("loss", side.loss(output, *(inputs[n] for n in job.targets)), _is_tensor)
        _scalar("torch", roots)
        found = found | roots
    return found, {n: t for n, t in roots.items() if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())}


def _scalar(side: str, found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name != "loss" or getattr(value, "shape", ()) != ():
            shape = list(getattr(value, "shape", ()))
            raise SpecError(f"the {side} loss returns {name} of shape {shape}, not one number. Reduce it, with a mean for example.")


def _weight(job: Job, name: str, output: Tensor, cotangents: Callable[..., np.ndarray], nudge: Nudge) -> Tensor:
    if name == "loss":
        return torch.ones_like(output)
    made = torch.as_tensor(cotangents(name, tuple(output.shape)))
    if output.is_complex():
        made = torch.complex(made, torch.as_tensor(cotangents(name + ".imag", tuple(output.shape))))
    return nudge(made.to(output.device, output.dtype))


@_drawing
def train(side: Ready, job: Job, batches: Sequence[dict[str, Tensor]], nudge: Nudge = unmoved) -> Result:
    """The first step's outputs, loss and gradients, then each step's loss and update. batches[0] starts again when they run out."""
    _reset(side, nudge)
    optimizer, scheduler = make_optimizer(job.torch_optimizer, side.params)
    _nudge_hyperparameters(optimizer, nudge)
    seen: dict[str, Any] = {}
    for step in range(1, job.steps + 1):
        inputs = {name: nudge(tensor) for name, tensor in batches[(step - 1) % len(batches)].items()}
        if step == 1:
            inputs = {name: t.detach().requires_grad_(name in job.wrt) for name, t in inputs.items()}
        optimizer.zero_grad()
        found, roots = _forward(side, job, inputs)
        roots["loss"].backward()
        if step == 1:
            seen.update(found)
            at = inputs | side.params
            grads = {name: at[name].grad for name in job.wrt}
            seen.update({f"grad.{n}": torch.zeros_like(at[n]) if g is None else g.clone() for n, g in grads.items()})
            seen.update({f"state.{name}": tensor.clone() for name, tensor in side.buffers.items()})
        seen[f"loss.{step}"] = roots["loss"].detach()
        before = {name: tensor.detach().clone() for name, tensor in side.params.items()}
        for tensor in side.params.values():
            tensor.grad = None if tensor.grad is None else nudge(tensor.grad)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        seen.update({f"update.{step}.{name}": _difference(side.params[name], before[name]) for name in job.trained})
    return Result({name: t.detach() for name, t in seen.items()})


def _difference(after: Tensor, before: Tensor) -> Tensor:
    """What a step did, in double precision: the difference itself must not round."""
    wide = torch.promote_types(after.dtype, torch.float64)
    return after.detach().cpu().to(wide) - before.cpu().to(wide)


class OptimizerState(NamedTuple):
    """Where one step began: what `introduced` errors are measured from."""

    params: dict[str, Tensor]
    state: dict[str, dict[str, Any]]


def optimize(
    side: Ready, job: Job, grads: Sequence[dict[str, Tensor]], nudge: Nudge = unmoved, starts: Sequence[OptimizerState] = ()
) -> tuple[Result, list[OptimizerState]]:
    """Each step's update from the given gradients; with `starts`, each step begins at that state instead of where the last one ended."""
    _reset(side, nudge)
    optimizer, scheduler = make_optimizer(job.torch_optimizer, side.params)
    _nudge_hyperparameters(optimizer, nudge)
    seen: dict[str, Tensor] = {}
    states = []
    for step, gradient in enumerate(grads, 1):
        if starts:
            _feed(side, optimizer, starts[step - 1], nudge)
        states.append(_state_of(side, optimizer))
        before = {name: tensor.detach().clone() for name, tensor in side.params.items()}
        for name, tensor in side.params.items():
            tensor.grad = nudge(gradient[name]).clone()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        seen.update({f"update.{step}.{name}": _difference(tensor, before[name]) for name, tensor in side.params.items()})
    return Result(seen), states


def make_optimizer(factory: Callable[[list[Tensor]], Any], params: Mapping[str, Tensor]) -> tuple[torch.optim.Optimizer, Any]:
    """(optimizer, scheduler or None) as the user's factory makes them.

    Raises:
        SpecError: the factory returns something else, or an optimizer that needs a closure.
    """
    made = factory([tensor for tensor in params.values() if tensor.requires_grad])
    optimizer, scheduler = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SpecError(
            f"the torch side of the optimizer returned a {type(optimizer).__name__}. Return a torch.optim.Optimizer, "
            "or (optimizer, scheduler): torch=lambda params: torch.optim.SGD(params, lr=0.1)."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise SpecError(
            "torch.optim.LBFGS calls a closure several times in a step, so one step has no fixed gradient to compare. "
            "Compare the loss and its gradients with dlp.loss, and the result of a whole minimisation in a test of its own."
        )
    return optimizer, scheduler


def _state_of(side: Ready, optimizer: torch.optim.Optimizer) -> OptimizerState:
    state = {
        name: {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in optimizer.state.get(p, {}).items()}
        for name, p in side.params.items()
    }
    return OptimizerState({name: p.detach().clone() for name, p in side.params.items()}, state)


def _feed(side: Ready, optimizer: torch.optim.Optimizer, start: OptimizerState, nudge: Nudge) -> None:
    with torch.no_grad():
        for name, p in side.params.items():
            p.data.copy_(nudge(start.params[name].to(p)))
            for key, value in start.state[name].items():
                if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
                    value = nudge(value.to(p)).clone()  # the step writes into it
                elif isinstance(value, Tensor):
                    value = value.to(value.device if value.dim() == 0 else p.device).clone()
                optimizer.state[p][key] = value


def _nudge_hyperparameters(optimizer: torch.optim.Optimizer, nudge: Nudge) -> None:
    """The learning rate, betas and the rest are inputs too: a framework that keeps them in float32 has 1 - beta2 only to 6e-5."""
    if nudge is unmoved:
        return
    for group in optimizer.param_groups:
        for key, value in group.items():
            if key != "params" and isinstance(value, float):
                group[key] = _nudged_number(value, nudge)
            elif isinstance(value, tuple) and all(isinstance(part, float) for part in value):
                group[key] = tuple(_nudged_number(part, nudge) for part in value)


def _nudged_number(value: float, nudge: Nudge) -> float:
    moved = nudge(torch.tensor([value], dtype=torch.float64)).item()
    return (
        value + max(-1.0, min(1.0, (moved - value) / value / 2.0**-24)) * 2.0**-24 * value if value else value
    )  # never coarser than float32


class OptimizerStep(NamedTuple):
    """One step of an optimizer as plain data. Groups are those of param_groups, with names under "params"."""

    optimizer: int  # a number for each optimizer that stepped
    name: str  # the class in torch.optim that it is or inherits from, or its own
    groups: list[dict[str, Any]]
    params: Arrays  # before the step
    grads: Arrays  # of those that have one


class OptimizerSteps:
    """While open, every step of every torch optimizer is kept in `steps`, up to `most` numbers of parameters over all steps.

    Args:
        named: parameters by name; others are called by their place, "0", "1".
        altered: what every group holds from its first step on, in place of what it was given.
    """

    def __init__(self, named: Mapping[str, Tensor], most: int, altered: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.altered = altered
        self.names = {id(tensor): name for name, tensor in named.items()}
        self.most, self.kept, self.depth = most, 0, 0
        self.steps: list[OptimizerStep] = []
        self.last: Arrays = {}  # the parameters after the last of them

    def __enter__(self) -> OptimizerSteps:
        self.handles = [register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._after)]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _before(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.depth += 1
        for group in optimizer.param_groups:
            group.update(self.altered)
        of = self._named(optimizer)
        if self.depth > 1 or not self._has_room(of):  # a class that calls the step of its parent is one step
            return
        groups = [
            {key: _number(value) for key, value in group.items() if key != "params"} | {"params": [of[id(p)][0] for p in group["params"]]}
            for group in optimizer.param_groups
        ]
        homes = [c for c in type(optimizer).__mro__ if c.__module__.startswith("torch.optim") and c is not torch.optim.Optimizer]
        title_ = (homes[0] if homes else type(optimizer)).__name__
        params = {name: _copied(p) for name, p in of.values()}
        grads = {name: _copied(p.grad) for name, p in of.values() if p.grad is not None}
        self.steps.append(OptimizerStep(id(optimizer), title_, groups, params, grads))

    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.depth -= 1
        if not self.depth and self.kept <= self.most:
            self.last = {name: _copied(p) for name, p in self._named(optimizer).values()}

    def _named(self, optimizer: torch.optim.Optimizer) -> dict[int, tuple[str, Tensor]]:
        found = [p for group in optimizer.param_groups for p in group["params"]]
        return {id(p): (self.names.get(id(p), str(place)), p) for place, p in enumerate(found)}

    def _has_room(self, of: Mapping[int, tuple[str, Tensor]]) -> bool:
        self.kept += sum(p.numel() for _, p in of.values())
        return self.kept <= self.most


def _copied(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().to("cpu", copy=True).numpy()
    return array


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


# ---------------------------------------------------------------- rounding


def rounding(roundoff: float, seed: int, inward: bool = False) -> Nudge:
    """A nudge that moves every floating number by one rounding, up or down at random: x (1 +- u).

    `inward`: not, or towards zero by sqrt(2) u, which is as much in the root mean square.
    """
    low, step = (1 - math.sqrt(2) * roundoff, math.sqrt(2) * roundoff) if inward else (1 - roundoff, 2 * roundoff)
    signs = torch.Generator().manual_seed(seed)

    def nudge(tensor: Tensor) -> Tensor:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        sign = torch.randint(0, 2, tensor.shape, generator=signs, dtype=torch.int8).to(tensor.device).to(tensor.real.dtype)
        factor = sign.mul_(step).add_(low)  # in place: fresh memory of a leaf's size costs more than the arithmetic
        return tensor * factor if tensor.is_complex() else factor.mul_(tensor.detach())

    return nudge


def rounding_by_value(roundoff: float, seed: int, inward: bool = False) -> Nudge:
    """The same with a sign that hangs on the number, as rounding does: equal numbers move alike, so ties stay ties."""
    high, step = (1.0, math.sqrt(2) * roundoff) if inward else (1 + roundoff, 2 * roundoff)

    def nudge(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return torch.complex(nudge(tensor.real.contiguous()), nudge(tensor.imag.contiguous()))
        mixed = (tensor.double().contiguous().view(torch.int64) ^ (seed * 0x9E3779B97F4A7C15 % 2**63)) * 0x2545F4914F6CDD1D
        mixed = (mixed ^ (mixed >> 29)) * 0x369DEA0F31A53F85
        return tensor * (high - step * ((mixed >> 40) & 1)).to(tensor.dtype)

    return nudge


_EXACT = {  # results that need no rounding: moved, chosen or signed, never computed
    "clone", "_to_copy", "copy_", "detach", "cat", "stack", "gather", "index", "index_select", "embedding", "where", "relu", "relu_", "max", "min",
    "maximum", "minimum", "amax", "amin", "abs", "neg", "sign", "sort", "topk", "zeros_like", "ones_like", "fill_", "zero_", "zeros", "ones", "full",
    "full_like", "arange", "masked_fill", "masked_fill_", "constant_pad_nd", "max_pool2d_with_indices", "threshold_backward", "flip", "roll", "repeat",
    "scatter", "slice_scatter", "select_scatter", "new_zeros", "new_ones", "empty", "empty_like", "scalar_tensor", "lift_fresh", "clamp", "nan_to_num",
    "max_pool2d_with_indices_backward", "slice_backward", "select_backward", "gather_backward", "tril", "triu", "round", "floor", "ceil", "trunc",
}  # fmt: skip


class RoundEverywhere(TorchDispatchMode):
    """Monte Carlo arithmetic (Parker 1997): every operation's result is moved by one rounding, forward and backward."""

    def __init__(self, nudge: Nudge) -> None:
        super().__init__()
        self.nudge = nudge

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name.split("::")[-1] in _EXACT:
            return result
        return self._moved(func, result)

    def _moved(self, func: Any, result: Any) -> Any:
        several = isinstance(result, (tuple, list))
        parts = list(result) if several else [result]
        for index, (part, returned) in enumerate(zip(parts, func._schema.returns, strict=False)):
            if not isinstance(part, Tensor) or not part.is_floating_point():
                continue
            if returned.alias_info is None:
                parts[index] = self.nudge(part)
            elif returned.alias_info.is_write:
                part.copy_(self.nudge(part))
        return type(result)(parts) if several else parts[0]


class Casts(TorchDispatchMode):
    """Sees every cast of a double to a narrower float: the names of the narrower dtypes, and where the first one stands."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].dtype is torch.float64 and result.is_floating_point():
            dtype = str(result.dtype).removeprefix("torch.")
            if dtype != "float64" and dtype not in self.seen:
                self.seen[dtype] = _users_line()
        return result


_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")  # torch, this package, generated code


def _users_line() -> str:
    """file:line of the innermost frame that belongs to neither torch nor us."""
    frame = inspect.currentframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(_NOT_THE_USERS):
            return f"{path.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


# ---------------------------------------------------------------- one step, to be timed


def timed(side: Ready, job: Job, cotangents: Callable[[str, tuple[int, ...]], np.ndarray], backward: bool) -> Callable[[], Any]:
    """A step that runs forward, or forward and backward, on inputs that are on the device already."""
    _reset(side, unmoved)
    inputs = {name: t.detach().clone().requires_grad_(backward and name in job.wrt) for name, t in side.inputs.items()}
    diff = [{**inputs, **side.params}[name] for name in job.wrt]
    weights: dict[str, Tensor] = {}

    def forward() -> Any:
        with torch.no_grad():
            return _forward(side, job, inputs)[0]

    def both() -> Any:
        roots = {name: t for name, t in _forward(side, job, inputs)[1].items() if t.requires_grad}
        for name in roots.keys() - weights.keys():
            weights[name] = _weight(job, name, roots[name], cotangents, unmoved)
        return torch.autograd.grad(list(roots.values()), diff, [weights[name] for name in roots], allow_unused=True) if roots else ()

    return both if backward else forward


def training_timed(side: Ready, job: Job) -> Callable[[], Any]:
    """A step that runs forward, backward and the optimizer."""
    _reset(side, unmoved)
    optimizer, _ = make_optimizer(job.torch_optimizer, side.params)

    def step() -> Any:
        optimizer.zero_grad()
        _forward(side, job, side.inputs)[1]["loss"].backward()
        optimizer.step()

    return step


def optimizer_timed(side: Ready, job: Job, grads: Arrays, device: str, dtype: str) -> Callable[[], Any]:
    """A step of the optimizer alone, its gradients set."""
    _reset(side, unmoved)
    optimizer, _ = make_optimizer(job.torch_optimizer, side.params)
    for name, grad in tensors(grads, device, dtype).items():
        side.params[name].grad = grad
    return optimizer.step


def threads() -> int:
    return torch.get_num_threads()


def random_state() -> Any:
    """Torch's CPU random state: a run that moves it has drawn random numbers."""
    return torch.random.get_rng_state()


def set_random_state(state: Any) -> None:
    """Torch's CPU random state from a seed or from what random_state() gave."""
    state = torch.Generator().manual_seed(state).get_state() if isinstance(state, int) else state
    torch.random.set_rng_state(state)


def has_drawn(before: Any) -> bool:
    return not torch.equal(before, torch.random.get_rng_state())


def version() -> str:
    return str(torch.__version__)


def wait(device: str) -> None:
    """Blocks until the device has finished everything that was queued."""
    kind = torch.device(device).type
    if kind == "xla":  # lazy: nothing runs before this
        importlib.import_module("torch_xla").sync(wait=True)
    elif kind != "cpu":
        torch.accelerator.synchronize(torch.device(device))


def idle(device: str) -> bool:
    """Whether the device has finished everything that was queued, as far as it tells without waiting."""
    if torch.device(device).type not in ("cuda", "xpu"):  # the others have no streams to ask
        return True
    return bool(torch.accelerator.current_stream(torch.device(device)).query())


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Operations on the CPU in so many threads while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------- the flow of precision inside a half precision run

_HALVES = (torch.bfloat16, torch.float16)
_MOVEMENTS = {
    "view", "_unsafe_view", "reshape", "transpose", "t", "permute", "expand", "squeeze", "unsqueeze", "clone", "detach", "alias", "slice", "select",
    "split", "chunk", "unbind", "cat", "stack", "as_strided", "contiguous", "lift_fresh", "flip", "roll", "_reshape_alias", "split_with_sizes", "unfold",
}  # fmt: skip
_CASTS = {"_to_copy", "to", "type_as", "copy_"}
_OPENED = (
    "_softmax",
    "_log_softmax",
    "native_layer_norm",
    "gelu",
    "silu",
    "_safe_softmax",
)  # fused operations with values worth seeing inside


class Flow(TorchDispatchMode):
    """Records every operation on floating tensors, and whether the program casts up from half precision itself."""

    def __init__(self, half: torch.dtype, opened: Sequence[bool] | None = None) -> None:
        super().__init__()
        self.half = half
        self.given = None if opened is None else list(opened)
        self.opened: list[bool] = []  # of each fused operation: whether it was opened; the float64 run opens the same ones
        self.steps: list[Step] = []
        self.casts_up = False
        self.count = 0
        self.library = False  # inside a function of torch's that took half precision: its own casts are no choice of the program
        self.known: dict[int, tuple[int, bool, Tensor]] = {}  # id -> (number, rounded, the tensor: held so that its id stays its own)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        if name in _OPENED and (inside := torch._decomp.decomposition_table.get(func)) is not None:
            # what a fused operation does in float32 inside half precision is the library's promise, not the program's
            self.opened.append(
                args[0].dtype not in _HALVES if self.given is None else self.given[len(self.opened) : len(self.opened) + 1] == [True]
            )
            if self.opened[-1]:
                with self:
                    return inside(*args, **kwargs)
        result = func(*args, **kwargs)
        read = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_floating_point()]
        reads = [self._read(tensor) for tensor in read]
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, Tensor) and part.is_floating_point():
                self._made(name, reads, read, part)
        return result

    def _made(self, name: str, reads: list[Read], read: list[Tensor], part: Tensor) -> None:
        half = part.dtype in _HALVES
        if name in _CASTS and read:
            self.casts_up |= read[0].dtype in _HALVES and not half and not self.library
            self.known[id(part)] = (reads[0][0], reads[0][1] or half, part)
        elif name in _MOVEMENTS and len(reads) == 1:
            self.known[id(part)] = (*reads[0], part)
        else:
            self.count += 1
            rounded = half or self.library or (name in _MOVEMENTS and any(rounded for _, rounded in reads))
            self.known[id(part)] = (self.count, rounded, part)
            wide = part.detach().double()
            statistics = tuple(s.item() for s in (wide.mean(), wide.abs().mean(), wide.square().mean(), (wide * wide * wide).mean()))
            loses = not torch.equal(wide.to(self.half).double(), wide)
            self.steps.append(Step(name, () if name in _MOVEMENTS else tuple(reads), self.count, rounded, _users_line(), statistics, loses))

    def _read(self, tensor: Tensor) -> Read:
        if id(tensor) not in self.known:
            self.count += 1
            self.known[id(tensor)] = (self.count, tensor.dtype in _HALVES, tensor)
        return self.known[id(tensor)][:2]


class Calls(TorchFunctionMode):
    """Tells a flow when the program is inside a function of torch's that was called on half precision, a cast apart."""

    CASTS = frozenset({"to", "float", "double", "type", "type_as", "half", "bfloat16"})

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, before = getattr(func, "__name__", ""), self.flow.library
        given = torch.utils._pytree.tree_leaves((args, kwargs))
        half = any(isinstance(value, Tensor) and value.dtype in _HALVES for value in given)
        self.flow.library = before or (half and name not in self.CASTS and kwargs.get("dtype") is None)
        try:
            return func(*args, **kwargs)
        finally:
            self.flow.library = before


def flow(side: Ready, job: Job, half: str, opened: Sequence[bool] | None = None) -> Flow:
    """The operations of one forward run; `opened` says which fused operations to look into, as an earlier run did."""
    _reset(side, unmoved)
    with Flow(getattr(torch, half), opened) as seen, Calls(seen):
        _forward(side, job, side.inputs)
    return seen
