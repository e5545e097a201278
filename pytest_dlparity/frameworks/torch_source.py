"""What torch computed as source: an operation as a line, and a run as its lines, in the words of torch's public functions."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx  # documented as torch.fx.experimental; pinned by tests/test_reproduce.py

from pytest_dlparity.frameworks import torch as torch_side
from pytest_dlparity.frameworks import torch_trace
from pytest_dlparity.job import Job

Size = Callable[[Sequence[int]], tuple[int, ...]]
HEADER = "import torch\n"


class NoSource(ValueError):
    """An operation cannot be written. The message names it."""


class Name(str):
    """A variable among the arguments of an operation."""

    __slots__ = ()


def text(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], size: Size = tuple, part: int | None = None, writes: bool = False
) -> str:
    """A right hand side. Tensors among the arguments are Names; `size` is what becomes of the lengths that are written into the operation.

    part: which of several results. writes: an operation that writes to its argument does so; else it gives what it would have written.

    Raises:
        NoSource: the operation is none of torch's, or an argument of it has no source.

    >>> text(torch.ops.aten.add.Tensor, [Name("x"), 1e-05], {}), text(torch.ops.aten.mm.default, [Name("a"), Name("b")], {})
    ('x + 1e-05', 'a @ b')
    >>> text(torch.ops.aten.masked_fill.Scalar, [Name("x"), Name("m"), -math.inf], {})
    'x.masked_fill(m, -torch.inf)'
    >>> text(torch.ops.aten.topk.default, [Name("x"), 3], {}, part=1)
    'torch.topk(x, 3)[1]'
    >>> text(torch.ops.aten.add_.Tensor, [Name("x"), 1], {}), text(torch.ops.aten.unbind.int, [Name("x"), 0], {})
    ('x + 1', 'torch.ops.aten.unbind.int(x, 0)[0]')
    >>> text(torch.ops.aten.sigmoid_backward.default, [Name("g"), Name("y")], {})
    'torch.ops.aten.sigmoid_backward.default(g, y)'
    >>> text(len, [Name("x")], {})
    Traceback (most recent call last):
    pytest_dlparity.frameworks.torch_source.NoSource: len is no operation of torch's
    """
    if not isinstance(func, torch._ops.OpOverload):
        return _plain(func, args)
    func = func if writes else _functional(func)
    given = _resized(func, args, size)
    if part is None and not writes and str(func._schema.returns[0].type).startswith("List"):
        part = 0
    library, _, name = func._schema.name.partition("::")
    if library not in ("aten", "prims"):
        raise NoSource(f"{library}.{name} is an operation of another library")
    made = _worded(name, func._overloadname, given, kwargs) if library == "aten" else None
    made = made or _called(f"torch.ops.{library}.{name}.{func._overloadname}", given, kwargs)
    return made if part is None else f"{made}[{part}]"


def _functional(func: Any) -> Any:
    """The operation that gives what this one writes."""
    library, _, name = func._schema.name.partition("::")
    if not name.endswith("_") or name.endswith("__"):
        return func
    found = getattr(getattr(torch.ops, library), name[:-1], None)
    if found is None or func._overloadname not in found.overloads():
        raise NoSource(f"{name} has no form that does not write to its argument")
    return getattr(found, func._overloadname)


def _plain(func: Any, args: Sequence[Any]) -> str:
    if getattr(func, "__name__", "") == "_copied":  # what copy_ leaves behind
        source, shape, dtype = args
        return f"{source}.to({dtype}).expand({_value(tuple(shape))})"
    raise NoSource(f"{getattr(func, '__name__', func)} is no operation of torch's")


# ---------------------------------------------------------------- words

_SIZES = frozenset("size sizes split_sizes input_sizes self_size shape input_size".split())
_SIGNS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "mm": "@", "bmm": "@", "mv": "@", "dot": "@", "matmul": "@", "eq": "==", "ne": "!=", "lt": "<",
    "le": "<=", "gt": ">", "ge": ">=", "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "pow": "**",
}  # fmt: skip
_METHODS = {
    "view": "reshape", "_unsafe_view": "reshape", "reshape": "reshape", "transpose": "transpose", "t": "t", "permute": "permute", "expand": "expand",
    "unsqueeze": "unsqueeze", "squeeze": "squeeze", "masked_fill": "masked_fill", "select": "select", "clone": "clone", "flip": "flip",
    "detach": "detach", "alias": "alias", "repeat": "repeat", "gather": "gather", "index_select": "index_select",
}  # fmt: skip
_FUNCTIONS = frozenset(
    """
    abs acos acosh amax amin any all argmax argmin asin asinh atan atan2 atanh bitwise_not cat ceil clamp clamp_min clamp_max cos cosh cumsum cumprod
    erf erfc erfinv exp exp2 expm1 floor fmod isfinite isnan lgamma digamma log log10 log1p log2 logical_and logical_not logical_or logsumexp max
    maximum mean min minimum prod reciprocal relu remainder round rsqrt sigmoid sign sin sinh sort sqrt square stack sum tan tanh topk tril triu
    trunc var where addmm baddbmm outer
    """.split()
)


def _worded(name: str, overload: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """The operation as a person writes it, None where that takes more than its arguments."""
    if name in _SIGNS and len(args) == 2 and not kwargs:
        return f"{_value(args[0])} {_SIGNS[name]} {_value(args[1])}"
    if name == "neg":
        return f"-{args[0]}"
    if name in ("_softmax", "_log_softmax") and args[2] is False:
        return f"torch.{name[1:]}({args[0]}, {args[1]})"
    if name == "convolution" and not args[6]:
        return _convolution(args)
    if name in _METHODS and args and isinstance(args[0], Name) and not kwargs:
        return f"{args[0]}.{_METHODS[name]}({', '.join(map(_value, args[1:]))})"
    if name == "_to_copy" and set(kwargs) <= {"dtype", "device"} and kwargs.get("dtype") is not None:
        return f"{args[0]}.to({kwargs['dtype']})"
    if name in _FUNCTIONS:
        return _called(f"torch.{name}", args, kwargs)
    return None


def _convolution(args: Sequence[Any]) -> str | None:
    x, weight, bias, stride, padding, dilation, _, _, groups = args
    options = {"bias": bias, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    plain = {"bias": (None,), "stride": (1,), "padding": (0,), "dilation": (1,), "groups": (1,)}
    told = {k: v for k, v in options.items() if not all(n in plain[k] for n in (v if isinstance(v, (list, tuple)) else [v]))}
    return _called(f"torch.nn.functional.conv{len(stride)}d", [x, weight], told) if 1 <= len(stride) <= 3 else None


def _called(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    return f"{function}({', '.join([*map(_value, args), *(f'{name}={_value(value)}' for name, value in kwargs.items())])})"


def _resized(func: Any, args: Sequence[Any], size: Size) -> list[Any]:
    names = [argument.name for argument in func._schema.arguments]
    return [
        list(size(value)) if name in _SIZES and isinstance(value, (list, tuple)) else value
        for name, value in zip(names, args, strict=False)
    ]


@functools.singledispatch
def _value(value: Any) -> str:
    """An argument in source.

    >>> _value([1, Name("x"), None, math.inf]), _value(torch.float64), _value((Name("x"),)), _value(math.nan), _value(torch.device("cpu"))
    ('[1, x, None, torch.inf]', 'torch.float64', '(x,)', 'torch.nan', '"cpu"')
    """
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
        return str(value)
    if isinstance(value, torch.device):
        return f'"{value.type}"'
    raise NoSource(f"an argument of type {type(value).__name__} has no source")


@_value.register(type(None))
@_value.register(bool)
@_value.register(int)
@_value.register(complex)
@_value.register(str)
def _simple(value: Any) -> str:
    return str(value) if isinstance(value, Name) else repr(value)


@_value.register(float)
def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else "torch.nan" if value != value else "torch.inf" if value > 0 else "-torch.inf"


@_value.register(list)
def _list(value: list[Any]) -> str:
    return f"[{', '.join(map(_value, value))}]"


@_value.register(tuple)
def _tuple(value: tuple[Any, ...]) -> str:
    return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"


def full(value: np.ndarray, shape: Sequence[int]) -> Name:
    """A constant of one number in source.

    >>> full(np.ones((2, 2), bool), (1, 2)), full(np.array(-np.inf), ())
    ('torch.full((1, 2), True, dtype=torch.bool)', 'torch.full((), -torch.inf, dtype=torch.float64)')
    """
    number, dtype = value.flat[0].item(), torch.from_numpy(value[:0].copy() if value.shape else value.reshape(1)).dtype
    return Name(f"torch.full({_value(tuple(shape))}, {_value(number)}, dtype={dtype})")


def results(source: str, function: str, tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """What a function of a piece of source gives: one tensor, or several. Run it in the settings of the dtype."""
    space: dict[str, Any] = {"torch": torch}
    exec(compile(source, "<reproducer>", "exec"), space)
    with torch.no_grad():
        found = space[function](*tensors)
    return [torch_side.to_numpy(part) for part in (found if isinstance(found, tuple) else (found,))]


def named(value: Any, name: Callable[[Any], Name]) -> Any:
    """Nested arguments with a Name in the place of every reference to a node."""
    if isinstance(value, torch_trace.Ref):
        return name(value)
    if isinstance(value, (tuple, list)):
        return type(value)(named(part, name) for part in value)
    return {key: named(part, name) for key, part in value.items()} if isinstance(value, dict) else value


# ---------------------------------------------------------------- a run


class Program(NamedTuple):
    """A run of the torch side as the lines of a function of arrays, which returns its leaves as a tuple."""

    lines: list[str]
    arguments: list[str]  # names of inputs, parameters and buffers, and of the other constants it closes over
    constants: dict[str, np.ndarray]  # the values of those others
    leaves: list[str]


def program(
    side: torch_side.Ready, job: Job, cotangents: Callable[[str, tuple[int, ...]], np.ndarray], name: str, leaves: Sequence[str]
) -> Program:
    """A run as far as these leaves take it, forward and backward, in the dtype in which it is ready.

    Raises:
        NoSource: it has an operation that cannot be written.
        Whatever the user's own code raises, or torch for what it cannot trace.
    """
    torch_side._reset(side, torch_side.unmoved)
    given: list[str] = []

    def run(*values: torch.Tensor) -> list[torch.Tensor]:
        inputs = {name: value.detach().requires_grad_(name in job.wrt) for name, value in zip(side.inputs, values, strict=True)}
        found, roots = torch_side._forward(side, job, inputs)
        if any(leaf.startswith("grad.") for leaf in leaves):
            found = found | _gradients(job, inputs | side.params, roots, cotangents)
        given[:] = [leaf for leaf in leaves if leaf in found]
        return [torch.as_tensor(found[leaf]).detach() for leaf in given]

    traced = make_fx(run)(*side.inputs.values())
    traced.graph.eliminate_dead_code()
    known = {id(tensor): name for name, tensor in {**side.params, **side.buffers}.items()}
    return _Writer(traced, list(side.inputs), known, given).program(name)


def _gradients(job: Job, values: Mapping[str, Any], roots: Mapping[str, Any], cotangents: Callable[..., np.ndarray]) -> dict[str, Any]:
    targets = {name: t for name, t in roots.items() if t.requires_grad}
    weights = [torch_side._weight(job, name, t, cotangents, torch_side.unmoved) for name, t in targets.items()]
    wanted = {name: values[name] for name in job.wrt}
    grads = (
        torch.autograd.grad(list(targets.values()), list(wanted.values()), weights, allow_unused=True) if targets else [None] * len(wanted)
    )
    return {f"grad.{name}": torch.zeros_like(at) if g is None else g for (name, at), g in zip(wanted.items(), grads, strict=True)}


class _Writer:
    """Writes a graph of torch.fx."""

    def __init__(self, traced: torch.fx.GraphModule, inputs: Sequence[str], known: Mapping[int, str], leaves: Sequence[str]) -> None:
        self.traced, self.inputs, self.known, self.leaves = traced, list(inputs), known, list(leaves)
        self.words: dict[torch.fx.Node, Name] = {}
        self.closed: dict[str, str] = {}  # attribute of the graph -> argument
        self.constants: dict[str, np.ndarray] = {}

    def program(self, name: str) -> Program:
        inputs = iter(self.inputs)
        places: list[str] = []
        body: list[str] = []
        result = "()"
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                places.append(next(inputs))
                self.words[node] = Name(f"x{len(places)}")
            elif node.op == "get_attr":
                self.words[node] = self.attribute(node.target)
            elif node.op == "call_function":
                right = self.call(node)
                self.words[node] = Name(right) if right.isidentifier() else Name(f"v{len(body) + 1}")
                body += [] if right.isidentifier() else [f"{self.words[node]} = {right}"]
            elif node.op == "output":
                result = _value(tuple(self.named(node.args[0])))
        used = set(re.findall(r"\w+", " ".join([*body, result])))
        taken = {f"x{n}": place for n, place in enumerate(places, 1) if f"x{n}" in used}
        arguments = [*taken, *(f"c{n}" for n in range(1, len(self.closed) + 1))]
        lines = [f"def {name}({', '.join(arguments)}):", *(f"    {line}" for line in body), f"    return {result}"]
        return Program(lines, [*taken.values(), *self.closed.values()], self.constants, self.leaves)

    def attribute(self, target: str) -> Name:
        if target not in self.closed:
            tensor = getattr(self.traced, target)
            self.closed[target] = self.known.get(id(tensor), target.strip("_"))
            if id(tensor) not in self.known:
                half = tensor.dtype in (torch.bfloat16, torch.float16)
                self.constants[self.closed[target]] = (tensor.detach().double().numpy() if half else torch_side.to_numpy(tensor)).copy()
        return Name(f"c{list(self.closed).index(target) + 1}")

    def call(self, node: torch.fx.Node) -> str:
        args, kwargs = self.named(node.args), self.named(node.kwargs)
        if node.target is operator.getitem:
            return f"{args[0]}[{args[1]}]"
        if getattr(node.target, "__name__", "") in ("detach.default", "lift_fresh_copy.default"):
            return str(args[0])
        return text(node.target, args, {name: value for name, value in kwargs.items() if name != "pin_memory"}, writes=True)

    def named(self, value: Any) -> Any:
        return torch.fx.node.map_arg(value, lambda node: self.words[node])


# ---------------------------------------------------------------- an optimizer


def optimizer(
    job: Job, params: Mapping[str, np.ndarray], grads: Sequence[Mapping[str, np.ndarray]]
) -> tuple[str, list[list[dict[str, Any]]]]:
    """(how an optimizer of torch's is made of a list `params`, for each step what a scheduler has set in each of its groups).

    Raises:
        NoSource: it is none of torch.optim's, or an option of it has no source.
    """
    live = {name: torch.tensor(array).requires_grad_() for name, array in params.items()}
    made, scheduler = torch_side.make_optimizer(job.torch_optimizer, live)
    if getattr(torch.optim, type(made).__name__, None) is not type(made):
        raise NoSource(f"{type(made).__name__} is none of torch.optim's optimizers")
    source = _optimizer(made, list(live.values()))
    seen = []
    for grad in grads:
        seen.append([{name: value for name, value in group.items() if name != "params"} for group in made.param_groups])
        for name, tensor in live.items():
            tensor.grad = torch.tensor(grad[name])
        made.step()
        if scheduler is not None:
            scheduler.step()
    moving = [{name for name, value in group.items() if any(step[at][name] != value for step in seen)} for at, group in enumerate(seen[0])]
    options = [[{name: step[at][name] for name in sorted(names)} for at, names in enumerate(moving)] for step in seen]
    return source, options if any(moving) else []


def _optimizer(made: torch.optim.Optimizer, params: list[torch.Tensor]) -> str:
    arguments = inspect.signature(type(made)).parameters
    groups = []
    for group in made.param_groups:
        told = {
            name: value
            for name, value in group.items()
            if name in arguments and name != "params" and (name == "lr" or not _same(value, arguments[name].default))
        }
        places = [next(at for at, tensor in enumerate(params) if tensor is one) for one in group["params"]]
        groups.append((places, told))
    name = f"torch.optim.{type(made).__name__}"
    if len(groups) == 1 and groups[0][0] == list(range(len(params))):
        return _called(name, [Name("params")], groups[0][1])
    written = [
        f'{{"params": [{", ".join(f"params[{at}]" for at in places)}], {", ".join(f"{key!r}: {_value(value)}" for key, value in told.items())}}}'
        for places, told in groups
    ]
    return f"{name}([{', '.join(written)}])"


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)
