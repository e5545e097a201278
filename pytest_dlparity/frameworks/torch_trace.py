"""The torch side's run as a trace: every operation forward and backward, with its line, its module, its call and its fingerprint.

A dispatch mode sees the operations, below autograd and in the backward pass too; a function mode sees the calls that the user wrote.
Fused operations are shown from the inside (`torch_inside`). No tensor is kept: a fingerprint is taken and the tensor forgotten.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MethodWrapperType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_dlparity.frameworks import torch as torch_side
from pytest_dlparity.frameworks import torch_inside
from pytest_dlparity.frameworks.torch_known import Known
from pytest_dlparity.frameworks.torch_places import NOWHERE, Place, Places, ends
from pytest_dlparity.job import Job
from pytest_dlparity.trace import MASKED, Fingerprint, Node, Trace, fingerprint

Tensor = torch.Tensor
Cotangents = Callable[[str, tuple[int, ...]], np.ndarray]

SMALL = 4096  # elements of a parameter up to which it has a fingerprint: larger ones cost time and are known by name
_WIDE = {
    torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128, torch.complex32: torch.complex128,
}  # fmt: skip
_MOVES = set(
    """
    view _unsafe_view reshape _reshape_alias transpose t permute squeeze unsqueeze alias detach clone contiguous _to_copy to lift_fresh flip roll
    flatten unflatten movedim swapaxes swapdims rot90 slice select narrow split split_with_sizes unsafe_split unsafe_split_with_sizes chunk
    unsafe_chunk unbind expand diagonal view_as expand_as reshape_as ravel squeeze_ view_copy adjoint numpy_T mT matrix_H mH T H
    """.split()
)  # where the number of elements stays, the values do
_SILENT = {"detach", "alias", "lift_fresh", "view"}  # results that are no nodes where they look at the same memory in the same way
_LIKE = set(
    "zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty new_empty_strided".split()
)  # these read a shape, no values
_FILLS = set(
    "fill zero uniform normal bernoulli random exponential geometric cauchy log_normal copy".split()
)  # in place: the old values are gone
_REARRANGED = set("transpose_ t_ squeeze_ unsqueeze_ as_strided_ detach_ swapaxes_ swapdims_".split())  # in place, but no value is written
_LEAVES_TORCH = set("numpy item tolist __array__ __float__ __int__ __index__ __complex__ __dlpack__ data_ptr".split())
_MADE_OUTSIDE = {"as_tensor", "asarray", "frombuffer", "tensor"}
_NO_CALLS = set(
    "dim size numel stride is_floating_point is_complex is_contiguous element_size storage_offset requires_grad_ get_device".split()
)
_ATTRIBUTES = {"T", "H", "mT", "mH", "real", "imag", "data"}  # those of a tensor that compute; the others (shape, dtype) are no calls


@dataclass(slots=True)
class Ref:
    """Stands for the value of a node among the arguments of an operation."""

    index: int


class Again(NamedTuple):
    """How a node was computed: func(*args, **kwargs), or one `part` of what that gives. Tensors are Refs."""

    func: Callable[..., Any]
    args: Any
    kwargs: Any
    part: int | None = None


def trace(
    side: torch_side.Ready,
    job: Job,
    cotangents: Cotangents,
    keep: Collection[int] = frozenset(),
    backward: bool = True,
    plain: bool = False,
    room: int = 0,
) -> Trace:
    """One run of the torch side, operation by operation, forward and (where there is something to differentiate) backward.

    Run it in the settings of a float64 run. Casts to narrower floats are not done: what the casts would hide shows. A program that cannot
    run in that way (it asks a tensor for its dtype, looks at its bits, or differentiates by itself where nothing is saved for gradients) is run
    a second time as it is; so is one that fails by itself.

    plain: a run as it is: nothing is widened. Of an operation in a narrower dtype than double the result is torch's own, its parts are in double.
    room: elements of other values that are kept too, the first ones first.
    keep: nodes whose `value` is wanted; numbers are the same in every run of the same program. Parameters of more than SMALL elements have no
    fingerprint. outputs: the leaves of the reference (`output`, `loss`, `grad.x`) and `state.<buffer>` where the run wrote to the buffer.

    Raises:
        Whatever the user's own code raises.
    """
    start, random = time.perf_counter(), torch_side.random_state()
    asked = _Asked(side, job, cotangents, frozenset(keep), backward and bool(job.wrt), room)
    recorder = _Recorder(asked, plain)
    try:
        outputs = _traced(recorder)
    except Exception:
        if plain or not recorder.changed:
            raise
        torch_side.set_random_state(random)
        recorder = _Recorder(asked, plain=True)
        outputs = _traced(recorder)
    return Trace("torch", recorder.nodes, outputs, time.perf_counter() - start)


def replay(node: Node, values: Mapping[int, np.ndarray]) -> np.ndarray:
    """The node's value, computed again from other values of the nodes that its `again` refers to.

    Raises:
        ValueError: the node is an input, a constant or random: it has no operation that could run again.
        KeyError: a value is missing.
    """
    if node.again is None:
        raise ValueError(f"node {node.index} ({node.operation or node.kind}) has no operation that could run again.")
    func, args, kwargs, part = node.again
    with torch.no_grad():
        result = func(*[_filled(value, values) for value in args], **{name: _filled(value, values) for name, value in kwargs.items()})
    if part is not None or isinstance(result, (tuple, list)):  # also of a split into one
        result = result[part or 0]
    return torch_side.to_numpy(result)


def _filled(value: Any, values: Mapping[int, np.ndarray]) -> Any:
    if isinstance(value, Ref):
        return torch.tensor(values[value.index])
    return type(value)(_filled(part, values) for part in value) if isinstance(value, (tuple, list)) else value


class _Asked(NamedTuple):
    side: torch_side.Ready
    job: Job
    cotangents: Cotangents
    keep: frozenset[int]
    backward: bool
    room: int


def _traced(recorder: _Recorder) -> dict[str, int]:
    """Runs the program under the recorder and names its outputs."""
    side, job = recorder.asked.side, recorder.asked.job
    torch_side._reset(side, torch_side.unmoved)
    inputs = {name: tensor.detach().clone().requires_grad_(name in job.wrt) for name, tensor in side.inputs.items()}
    recorder.begin(inputs)
    with torch_side.drawing(side), recorder.running():  # draws are answered below: what is drawn is one operation
        found, roots = torch_side._forward(side, job, inputs)
        outputs = {name: recorder.output(value) for name, value in found.items()}
        outputs |= {f"state.{n}": at for n, t in side.buffers.items() if recorder.nodes[at := recorder.output(t)].kind != "param"}
        targets = {name: t for name, t in roots.items() if t.requires_grad}
        if recorder.asked.backward and targets:
            outputs |= _differentiated(recorder, inputs | side.params, targets)
    return outputs


def _differentiated(recorder: _Recorder, values: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, int]:
    job, cotangents = recorder.asked.job, recorder.asked.cotangents
    diff = {name: values[name] for name in job.wrt}
    with recorder.paused():
        weights = {name: torch_side._weight(job, name, t, cotangents, torch_side.unmoved) for name, t in targets.items()}
        for name, weight in weights.items():
            recorder.given(weight, "const", f"cotangent.{name}", "cotangent")
    recorder.backward = True
    grad = recorder.into[torch.autograd.grad]
    grads = grad(list(targets.values()), list(diff.values()), list(weights.values()), allow_unused=True)
    return {f"grad.{name}": recorder.output(g) for name, g in zip(diff, grads, strict=True) if g is not None}


# ---------------------------------------------------------------- operations


class _Operation(NamedTuple):
    """What is known of an operation from its schema."""

    name: str
    func: Any
    written: tuple[int | str, ...] = ()  # arguments that it writes to: positions, and names of those given by keyword
    reads: bool = True  # whether the result hangs on values: not that of zeros_like
    random: bool = False
    fills: bool = False  # whether what it writes to had values that matter: not for fill_
    views: bool = False  # whether the result is the same memory
    scales: bool = False  # whether it multiplies the first by the second
    bits: bool = False  # whether it takes the bits of a number for another
    composite: Callable[..., Any] | None = None
    opening: torch_inside.Opening | None = None


_OPERATIONS: dict[int, _Operation] = {}  # by the id of a function that lives as long as its entry


def _operation(func: Any) -> _Operation:
    if (found := _OPERATIONS.get(id(func))) is None:
        found = _OPERATIONS[id(func)] = _described(func)
    return found


def _described(func: Any) -> _Operation:
    if not hasattr(func, "_schema"):  # a higher order operation (cond, while_loop): nothing is known of its inside
        return _Operation(str(func.name()), func)
    schema = func._schema
    library, _, full = schema.name.partition("::")
    ours = library in ("aten", "prims")
    name = full if full.endswith("__") else full.removesuffix("_")
    written = tuple(
        argument.name if argument.kwarg_only else position
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write and full not in _REARRANGED
    )
    written = (3, 4) if name == "native_batch_norm" else written  # which its schema keeps to itself
    return _Operation(
        name if ours else f"{library}.{name}",
        func,
        written,
        name not in _LIKE,
        torch.Tag.nondeterministic_seeded in func.tags,
        name != full and name in _FILLS,
        any(returned.alias_info is not None and not returned.alias_info.is_write for returned in schema.returns),
        name in ("mul", "div", "neg") and len(schema.arguments) <= 2,
        func is torch.ops.aten.view.dtype,
        torch_inside.composite(func) if ours else None,
        torch_inside.opening(func) if ours else None,
    )


def _is_narrow(operation: _Operation, tensors: list[Tensor], args: Any, kwargs: Any) -> bool:
    """Whether narrow numbers go in or are asked for."""
    for tensor in tensors:
        if tensor.dtype in _WIDE:
            return True
    if (dtype := kwargs.get("dtype")) is not None and dtype in _WIDE:
        return True
    for value in args:
        if isinstance(value, torch.dtype) and value in _WIDE:
            return True
    return operation.bits and args[0].is_floating_point()


def _tensors(*values: Any) -> list[Tensor]:
    """The tensors among arguments and in their lists, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(*value)
    return found


def _referred(indices: dict[int, int], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments with Refs for tensors."""
    refer = lambda tensor: Ref(indices[id(tensor)])
    return tuple(_replaced(value, refer) for value in args), {name: _replaced(value, refer) for name, value in kwargs.items()}


def _factor(name: str, args: Any) -> float | None:
    """The number by which an operation multiplies each element of the one tensor that it reads."""
    number = -1.0 if name == "neg" else args[1]
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or not number:
        return None
    return 1 / number if name == "div" else float(number)


def _replaced(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """An argument with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
        return type(value)(change(part) if isinstance(part, Tensor) else part for part in value)
    return value


def _is_faithful(source: torch.dtype, target: torch.dtype) -> bool:
    """Whether a cast keeps every value."""
    return source == target or torch.promote_types(source, target) == target


def _copied(source: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What `copy_` leaves in a tensor of this shape."""
    return source.to(dtype).expand(shape)


def _targets(operation: _Operation, args: Any, kwargs: Any) -> dict[int | str, list[Tensor]]:
    """The tensors that an operation writes to, by argument."""
    given = {**dict(enumerate(args)), **kwargs}
    return {at: _tensors(given[at]) for at in operation.written if at in given}


def _is_move(made: _Made, tensor: Tensor) -> bool:
    """Whether the result has the values of the first that was read, all of them and no others."""
    source = made.source
    if source is None or source.numel() != tensor.numel() or not _is_faithful(source.dtype, tensor.dtype):
        return False
    name = made.operation.name
    return (name in _MOVES and not made.operation.bits) or (name == "copy" and made.operation.fills)


def _agree(inner: Tensor, outer: Tensor) -> bool:
    """Whether two results of one computation are the same but for rounding, in a sample of their elements."""
    if inner.shape != outer.shape or inner.dtype != outer.dtype:
        return False
    step = max(1, inner.numel() // 32)
    a, b = (tensor.reshape(-1)[::step].tolist() for tensor in (inner, outer))
    room = 2**13 * torch.finfo(outer.dtype).eps if outer.is_floating_point() else 0.0
    room *= max((abs(value) for value in b if math.isfinite(value)), default=0.0) if room else 0.0
    return all(x == y or abs(x - y) <= room or (x != x and y != y) for x, y in zip(a, b, strict=True))


def _stands(operation: _Operation, inside: torch_inside.Inside, tensors: list[Tensor]) -> bool:
    """Whether what was found inside can be handed on as the result: torch would lay it out in the same way."""
    when = operation.opening.stands if operation.opening else "never"
    if inside.written or len(inside.outputs) != len(operation.func._schema.returns):
        return False
    return when == "always" or (when == "contiguous" and all(tensor.is_contiguous() and tensor.numel() for tensor in tensors))


def _fingerprint(tensor: Tensor) -> Fingerprint | None:
    """None where torch cannot say what the values are (sparse and quantized tensors)."""
    try:
        with np.errstate(all="ignore"):
            plain = tensor.dtype is torch.float64 and not tensor.requires_grad and not tensor.is_neg()
            return fingerprint(tensor.numpy() if plain else torch_side.to_numpy(tensor))
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def _derived(made: _Made, source: Fingerprint | None, result: Tensor) -> Fingerprint | None:
    """The fingerprint of a result from that of the one array it is made of, where that is enough to know it."""
    if source is None or not source.count or result.dtype is not torch.float64:
        return None
    if made.operation.name == "expand":
        times = result.numel() // source.count
        return source._replace(count=result.numel(), nans=source.nans * times, masked=source.masked * times, huge=source.huge * times)
    factor = made.factor
    if factor is None or source.masked or source.huge or not max(abs(source.low), abs(source.high)) * abs(factor) < -MASKED:
        return None
    low, high = sorted((source.low * factor, source.high * factor))
    size = abs(factor)
    return source._replace(
        mean=source.mean * factor, absolute=source.absolute * size, square=source.square * size**2, cube=source.cube * factor**3, low=low, high=high
    )  # fmt: skip


def _attributes(root: torch.nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors that modules hold: a loss's own parameters, and those kept as plain attributes."""
    for path, module in root.named_modules():
        for name, value in (*vars(module).items(), *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if isinstance(value, Tensor):
                yield ".".join(part for part in (prefix, path, name) if part), value


@contextlib.contextmanager
def _light_collections() -> Iterator[None]:
    """Python's garbage collector leaves alone what is there already: nodes are many, and would have it go over all of torch time and again."""
    if gc.get_freeze_count():  # somebody else's
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _nothing(tensor: Tensor) -> None:
    """What is kept of a tensor that is saved for a gradient that nobody asked for."""


def _missing(kept: None) -> Tensor:
    raise RuntimeError("the program differentiates inside its forward pass")


class _CannotPromote(Exception):
    """The program looks at the bits of a number that it believes to be narrower."""


# ---------------------------------------------------------------- recording


class _Recorder(TorchDispatchMode):
    """The nodes of a run, in order."""

    supports_higher_order_operators = True

    def __init__(self, asked: _Asked, plain: bool = False) -> None:
        super().__init__()
        self.asked, self.plain = asked, plain
        self.nodes: list[Node] = []
        self.known = Known()
        self.places = Places(ends(_traced, _differentiated))
        self.place = NOWHERE
        self.depth = 0  # inside fused operations
        self.quiet = False
        self.backward = False
        self.drops = not plain and not asked.backward  # what is saved for gradients that nobody asked for
        self.changed = self.drops  # whether the run may differ from one without a trace
        self.room = asked.room  # elements
        self.empty: set[int] = set()  # nodes that nothing was written to yet
        self.escaped: dict[int, None] = {}  # nodes whose values left torch
        self.probabilities: list[list[Tensor]] = []
        self.into = torch_inside.gone_into(self.probabilities)

    def begin(self, inputs: dict[str, Tensor]) -> None:
        """The nodes that are there before the run: inputs, parameters, buffers, and tensors that modules keep as plain attributes."""
        side = self.asked.side
        for name, tensor in inputs.items():
            self.given(tensor, "input", name)
        for name, tensor in {**side.params, **side.buffers}.items():
            self.given(tensor, "param", name)
        for prefix, root in (("", side.call), ("loss", side.loss)):
            if isinstance(root, torch.nn.Module):
                self.places.named(root, prefix)
                for name, tensor in _attributes(root, prefix):
                    self.given(tensor, "const", name)

    def given(self, tensor: Tensor, kind: str, name: str, operation: str = "") -> None:
        if self.known.find(tensor) is None:
            self.place = NOWHERE
            taken = None if kind == "param" and tensor.numel() > SMALL else _fingerprint(tensor)
            self.known.add(tensor, self._node(operation, tensor, kind, (), taken=taken, name=name))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything that torch does is recorded; torch's settings and hooks are as before afterwards."""
        fast = torch.backends.mha.get_fastpath_enabled()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_light_collections())
            stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
            torch.backends.mha.set_fastpath_enabled(False)  # which makes one operation of a whole layer
            if self.drops:
                stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_nothing, _missing))
            stack.enter_context(self.places.watched())
            stack.enter_context(self)
            stack.enter_context(_Calls(self))
            yield

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    def output(self, value: Any) -> int:
        """The node of something that the program returned."""
        with self.paused():
            self.place = NOWHERE
            if isinstance(value, Tensor):
                return self._index(value)
            return self._from_outside(torch.as_tensor(value))

    def escape(self, tensor: Tensor) -> None:
        """The tensor's values leave torch: what comes in later may be made of them."""
        with self.paused():
            index = self._index(tensor)
        if self.nodes[index].data and tensor.is_floating_point():
            self.escaped[index] = None

    def made_outside(self, value: Any) -> None:
        """The place of a tensor that was just made of numbers."""
        if isinstance(value, Tensor) and self.known.find(value) is None:
            with self.paused():
                self.place = self.places.here(sys._getframe(1))
                self._index(value)

    def place_of(self, tensor: Tensor) -> Place:
        found = self.known.find(tensor)
        if found is None:
            return NOWHERE
        node = self.nodes[found.node]
        return Place(node.frames, node.module, node.call, node.call_number)

    # ---------------- an operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.quiet:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # what is done here is no call of the user's; private, pinned by tests/test_torch_trace.py
            operation = _operation(func)
            if self.depth == 0:
                self.place = self._place(operation)
            tensors = _tensors(*args, *kwargs.values())
            if not self.plain and _is_narrow(operation, tensors, args, kwargs):
                args, kwargs = self._promoted(operation, args, kwargs)
                tensors = _tensors(*args, *kwargs.values())
            if operation.composite is not None and (result := self._inside(operation.composite, args, kwargs)) is not NotImplemented:
                return result
            inside = None if operation.opening is None else self._opened(operation, args, kwargs, tensors)
            if inside is not None and not inside.narrow and _stands(operation, inside.found, tensors):
                outputs = inside.found.outputs
                return outputs if len(operation.func._schema.returns) > 1 else outputs[0]
            return self._run(operation, args, kwargs, tensors, inside)

    def _place(self, operation: _Operation) -> Place:
        frame = sys._getframe(2)
        return self.places.behind(frame, operation.name == "add") if self.backward else self.places.here(frame)

    def _inside(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What the parts of a fused operation give, each of them recorded. Where they fail the operation itself has the word."""
        self.depth += 1
        try:
            with self:
                return function(*args, **kwargs)
        except Exception:  # noqa: BLE001
            return NotImplemented
        finally:
            self.depth -= 1

    def _opened(self, operation: _Operation, args: Any, kwargs: Any, tensors: list[Tensor]) -> _Opened | None:
        """The inside of a fused operation. In a narrow dtype its parts are computed in double, as kernels keep more digits inside as well."""
        assert operation.opening is not None
        first, narrow = len(self.nodes), self.plain and any(tensor.dtype in _WIDE for tensor in tensors)
        if narrow:
            args, kwargs = tuple(self._widened(value) for value in args), {name: self._widened(value) for name, value in kwargs.items()}
        found = self._inside(operation.opening.run, args, kwargs)
        return None if found is NotImplemented else _Opened(found, narrow, first)

    def _widened(self, value: Any) -> Any:
        return _WIDE.get(value, value) if isinstance(value, torch.dtype) else _replaced(value, self._wide)

    def _promoted(self, operation: _Operation, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with wide dtypes for narrow ones; what is written to stays."""
        self.changed = True
        if operation.bits:
            raise _CannotPromote

        kept = operation.written
        args = tuple(value if at in kept else self._widened(value) for at, value in enumerate(args))
        return args, {name: value if name in kept else self._widened(value) for name, value in kwargs.items()}

    def _wide(self, tensor: Tensor) -> Tensor:
        if tensor.dtype not in _WIDE:
            return tensor
        index, widened = self._index(tensor), tensor.to(_WIDE[tensor.dtype])
        self.known.add(widened, index)
        return widened

    def _run(self, operation: _Operation, args: Any, kwargs: Any, tensors: list[Tensor], inside: _Opened | None) -> Any:
        """Runs the operation and records what it gives. Where its inside is known, its results are the nodes found there."""
        targets = _targets(operation, args, kwargs) if operation.written else {}
        made = self._before(operation, args, kwargs, tensors, targets)
        result = operation.func(*args, **kwargs)
        parts = list(result) if isinstance(result, (tuple, list)) else [result]
        outputs = inside.found.outputs if inside else ()
        for number, part in enumerate(parts):
            if isinstance(part, Tensor) and not any(part is tensor for tensor in tensors):
                index = self._within(inside, outputs[number], part) if inside and number < len(outputs) else None
                if index is None and self._is_silent(made, part):
                    continue
                self.known.add(part, self._result(made, part, parts) if index is None else index)
        for at, written in targets.items():
            for tensor in written if inside is None or at in inside.found.written else ():
                index = self._within(inside, inside.found.written[at], tensor) if inside else None
                self.known.write(tensor, self._result(made, tensor, parts) if index is None else index)
        return result

    def _before(
        self, operation: _Operation, args: Any, kwargs: Any, tensors: list[Tensor], targets: dict[int | str, list[Tensor]]
    ) -> _Made:
        """What the operation reads, before it writes to it."""
        written = {id(tensor): at for at, several in targets.items() for tensor in several} if targets else {}
        indices: dict[int, int] = {}
        reads: list[int] = []
        source = None
        for tensor in tensors if operation.reads else ():
            key = id(tensor)
            if key in written and (operation.fills or isinstance(written[key], str)):
                continue
            index = indices[key] = self._index(tensor, operation.views or key in written)
            reads.append(index)
            source = tensor if source is None else source
        again = None
        if reads and operation.fills and operation.name == "copy":
            again = Again(_copied, (Ref(reads[0]), tuple(args[0].shape), args[0].dtype), {})
        elif reads and not operation.random and len(reads) == len(tensors):
            again = Again(operation.func, *_referred(indices, args, kwargs))
        factor = _factor(operation.name, args) if operation.scales and len(reads) == 1 else None
        return _Made(operation, tuple(reads), source, again, factor)

    def _is_silent(self, made: _Made, part: Tensor) -> bool:
        """Whether the result is no node of its own: the same memory again, and not because the user detached it."""
        if made.operation.name not in _SILENT or made.source is None or not self.known.shares(part, made.source):
            return False
        return made.operation.name != "detach" or self.places.call not in ("detach", "data") or self.depth > 0

    def _result(self, made: _Made, tensor: Tensor, parts: list[Any]) -> int:
        """A new node for something that the operation gave or wrote."""
        operation, reads, again = made.operation, made.reads, made.again
        if again is not None and (len(parts) != 1 or parts[0] is None):
            number = next((i for i, part in enumerate(parts) if part is tensor), None)
            again = None if number is None else again._replace(part=number)
        source = self.nodes[reads[0]].print if reads else None
        if reads:
            is_empty = operation.views and reads[0] in self.empty and not self.known.filled(tensor)
        else:
            is_empty = operation.name.startswith(("empty", "new_empty")) and tensor.numel() > 0
        if is_empty:
            self.empty.add(len(self.nodes))
        if not reads:
            return self._node(operation.name, tensor, "const", (), taken=None if is_empty else _fingerprint(tensor))
        if _is_move(made, tensor):
            return self._node(operation.name, tensor, "move", reads, again, taken=source)
        taken = None if is_empty else _derived(made, source, tensor) or _fingerprint(tensor)
        return self._node(operation.name, tensor, "op", reads, again, taken=taken)

    def _within(self, inside: _Opened, inner: Any, outer: Tensor) -> int | None:
        """The node of a result as it was found inside of the operation, if it is what the operation gave."""
        if not isinstance(inner, Tensor) or not (inner.shape == outer.shape if inside.narrow else _agree(inner, outer)):
            return None
        found = self.known.find(inner)
        if found is None or found.writers or (inside.narrow and found.node < inside.first):
            return None
        if inside.narrow:  # the parts are in double, the result is rounded
            node = self.nodes[found.node]
            node.dtype, node.print = str(outer.dtype).removeprefix("torch."), _fingerprint(outer)
            node.value = None if node.value is None else np.array(torch_side.to_numpy(outer))
        return found.node

    # ---------------- nodes

    def _index(self, tensor: Tensor, unfilled: bool = False) -> int:
        """The node that a tensor is now; a new one where nobody has seen it or it was written to by way of another view.

        `unfilled`: it may be memory that nothing was written to yet.
        """
        found = self.known.find(tensor)
        if found is None:
            index = self._from_outside(tensor)
        elif found.writers:
            is_empty = found.node in self.empty and not self.known.filled(tensor)
            if is_empty:
                self.empty.add(len(self.nodes))
            taken = None if is_empty else _fingerprint(tensor)
            index = self._node("written", tensor, "op", (found.node, *found.writers), taken=taken)
        elif found.node in self.empty and not unfilled:
            index = self._from_outside(tensor, filled=True)
            self.known.write(tensor, index)  # by something that torch does not know of: other views may have changed too
            return index
        else:
            return found.node
        self.known.add(tensor, index)
        return index

    def _from_outside(self, tensor: Tensor, filled: bool = False) -> int:
        """A tensor that no operation made: a constant, or, where values have left torch before, perhaps what became of them."""
        if filled or self.escaped:
            return self._node("outside", tensor, "op", tuple(self.escaped), taken=_fingerprint(tensor), data=True)
        made = self.places.call if self.places.call in _MADE_OUTSIDE else ""
        return self._node(made, tensor, "const", (), taken=_fingerprint(tensor))

    def _node(
        self, operation: str, tensor: Tensor, kind: str, reads: tuple[int, ...], again: Again | None = None, *, taken: Fingerprint | None,
        name: str = "", data: bool = False,
    ) -> int:  # fmt: skip
        index, (frames, module, call, number) = len(self.nodes), self.place
        wanted = index in self.asked.keep
        value = np.array(torch_side.to_numpy(tensor)) if (wanted or self._has_room(tensor)) and index not in self.empty else None
        taken = fingerprint(value) if kind == "param" and wanted and value is not None else taken
        data = data or kind == "input" or any(self.nodes[read].data for read in reads)
        backward = self.backward and not torch.is_grad_enabled()  # a checkpoint runs forward code again, with gradients on
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        node = Node(index, operation, reads, shape, dtype, kind, taken, frames, module, call, number, name, data, backward, again, value)
        self.nodes.append(node)
        return index


    def _has_room(self, tensor: Tensor) -> bool:
        size = tensor.numel()
        if size > self.room:
            return False
        self.room -= size
        return True


class _Opened(NamedTuple):
    """The inside of an operation."""

    found: torch_inside.Inside
    narrow: bool  # computed in double, for an operation in a narrower dtype
    first: int  # node of it


class _Made(NamedTuple):
    """An operation as it is recorded: what it read, and how to run it again."""

    operation: _Operation
    reads: tuple[int, ...]
    source: Tensor | None  # the first that it read
    again: Again | None
    factor: float | None  # by which it multiplies the only one


# ---------------------------------------------------------------- calls


class _Calls(TorchFunctionMode):
    """The functions of torch's that the user calls, the outermost of each call; attention is run as a textbook has it."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder, self.places = recorder, recorder.places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _called(func)
        if not name or self.recorder.quiet:
            return func(*args, **kwargs)
        if func is torch.nn.functional.multi_head_attention_forward:  # what it calls says more than its own name
            with self:
                return self.recorder.into[func](*args, **kwargs)
        if name in _LEAVES_TORCH and args and isinstance(args[0], Tensor):
            self.recorder.escape(args[0])
        outer = self.places.call, self.places.number
        self.places.call, self.places.number = name.strip("_") if name.startswith("__") else name, next(self.places.numbers)
        try:
            self._mark_given(_tensors(*args, *kwargs.values()))
            if (inside := self.recorder.into.get(func)) is None:
                result = self._result(func, args, kwargs)
            else:
                with self:
                    result = inside(*args, **kwargs)
            if name in _MADE_OUTSIDE:
                self.recorder.made_outside(result)
            return self._marked(result, args)
        finally:
            self.places.call, self.places.number = outer

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        if self.recorder.plain and any(tensor.dtype in _WIDE for tensor in _tensors(*args, *kwargs.values())):
            return func(*args, **kwargs)
        seen = self.recorder.probabilities[-1] if self.recorder.probabilities else None
        return torch_inside.attention(*args, **kwargs, seen=seen)

    def _mark_given(self, tensors: list[Tensor]) -> None:
        """Autograd nodes made outside of any call, by a function of the user's: they stand where their result was made."""
        for tensor in tensors if self.recorder.asked.backward else ():
            if self.places.unmarked(tensor):
                self.places.mark(tensor, self.recorder.place_of(tensor))

    def _marked(self, result: Any, args: Any) -> Any:
        """The result, the autograd nodes behind it marked with this place."""
        if self.recorder.asked.backward:
            for tensor in _tensors(*args[:1]) if result is None else _tensors(result):  # __setitem__ gives nothing
                if self.places.unmarked(tensor):
                    self.places.mark(tensor, self.places.here(sys._getframe(1)))
        return result


@functools.cache
def _called(func: Any) -> str:
    """The name of a function of torch's, "" where it computes nothing.

    >>> _called(Tensor.T.__get__), _called(Tensor.shape.__get__), _called(torch.nn.functional.gelu), _called(Tensor.size)
    ('T', '', 'gelu', '')
    """
    name = str(getattr(func, "__name__", ""))
    if isinstance(func, MethodWrapperType):  # an attribute
        attribute = func.__self__.__name__  # type: ignore[attr-defined]  # of its getset_descriptor
        return attribute if attribute in _ATTRIBUTES else ""
    return "" if name in _NO_CALLS else name.partition(".")[0]
