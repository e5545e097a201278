"""Torch's random draws, answered with given numbers instead: forward, and where a checkpoint computes its forward pass again."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import sep
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode  # private path, documented name; pinned by tests/test_torch_side.py

from pytest_dlparity.errors import SpecError
from pytest_dlparity.frameworks import torch as torch_side
from pytest_dlparity.frameworks.torch_places import whose
from pytest_dlparity.job import Job
from pytest_dlparity.sharing import Drawn, Stream, certain

Given = dict[str, Any]
Tensor = torch.Tensor

_RANDOM = torch.Tag.nondeterministic_seeded
_OURS = str(Path(__file__).parents[1]) + sep
_CHOOSES = {"_fused_sdp_choice", "_nested_tensor_softmax_with_shape"}  # tagged as random, and draw nothing
_RATES = ("dropout_p", "dropout", "p")  # what fused operations call the rate of their dropout


class Draws(TorchDispatchMode):
    """Answers each random operation of a run with the numbers of a stream.

    A draw is known again by the state of torch's generator, as torch itself knows it: a checkpoint that computes its forward pass again sets
    that state back first. Each draw moves the state on to one that follows from the last.
    """

    def __init__(self, stream: Stream, module: Any = None, device: str = "cpu") -> None:
        super().__init__()
        self.stream = stream
        self.device = device
        self.names = {id(part): name for name, part in module.named_modules()} if isinstance(module, torch.nn.Module) else {}
        self.active = False  # inside a run: the mode is in place
        self.inside = False  # inside a forward pass: draws are the user's, whoever's generator they name
        self.generators: dict[int, Any] = {}  # by id, which they keep while they are held: those that the last forward pass named
        self.state: tuple[int, bytes] | None = None  # (seed, digest) of torch's generator after the last draw

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """A whole run: forward passes, and what is computed again in backward passes."""
        self.stream.again()
        self.state = None
        with self._in_place():
            yield
            self._unmoved()

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """One forward pass, inside a run or alone."""
        self.stream.forward()
        self.generators.clear()
        with self._in_place():
            self.inside = True
            try:
                yield
            finally:
                self.inside = False

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        if self.active:
            yield
            return
        self.active = True
        try:
            with (
                contextlib.nullcontext() if self.device == "cpu" else sdpa_kernel(SDPBackend.MATH),
                self,
            ):  # a GPU's fused kernels draw inside
                yield
        finally:
            self.active = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _RANDOM not in func.tags:
            return func(*args, **kwargs)
        given = _arguments(func, args, kwargs)
        name = func._schema.name.split("::")[-1]
        if not self._is_users(given.get("generator")) or _draws_nothing(name, given):
            return func(*args, **kwargs)
        answer = _ANSWERS.get(name.rstrip("_"))
        made = None if answer is None else answer(given, func, self._numbers)
        if made is None:
            raise SpecError(
                f"torch draws with aten.{name} {self._place()}, which cannot be shared. Draw the numbers with dlp and pass them in, "
                "or leave shared_randomness out and give train=False."
            )
        return _handed_out(made, given, name)

    def _is_users(self, generator: Any) -> bool:
        """Whether a draw belongs to the user: what a nudge of ours draws outside a forward pass comes from a generator of its own."""
        if generator is None or generator is torch.default_generator:
            return True
        if self.inside:
            self.generators[id(generator)] = generator
        return id(generator) in self.generators

    def _numbers(self, drawn: Drawn) -> np.ndarray:
        self._unmoved()
        digest = hashlib.sha256(torch.default_generator.get_state().numpy().tobytes()).digest()
        seed = int.from_bytes(digest[:7], "big")
        torch.default_generator.manual_seed(seed)
        self.state = seed, torch.default_generator.get_state().numpy().tobytes()
        drawn = drawn._replace(place=self._place())
        if drawn.is_certain:
            return certain(drawn)
        return self.stream.numbers(drawn, digest)

    def _unmoved(self) -> None:
        """Raises SpecError where something moved torch's generator since the last draw without setting its seed."""
        if self.state is None or torch.default_generator.initial_seed() != self.state[0]:
            return
        if torch.default_generator.get_state().numpy().tobytes() != self.state[1]:
            raise SpecError(
                "torch draws random numbers inside an operation that does not say so, after the last draw that was shared. Draw them with dlp "
                "and pass them in, or leave shared_randomness out."
            )

    def _place(self) -> str:
        """ "at model.py:12": the innermost frame that is the user's; else the innermost module of torch's that is being called."""
        module, frame, entered = "", inspect.currentframe(), False
        while frame is not None:
            path = frame.f_code.co_filename
            if not path.startswith(_OURS):
                entered = True
                if whose(path) == "user":
                    return f"at {path.rsplit('/', 1)[-1]}:{frame.f_lineno}"
                part = frame.f_locals.get("self")
                if not module and isinstance(part, torch.nn.Module):
                    module = f"in {type(part).__name__} {self.names.get(id(part), '')!r}".removesuffix(" ''")
            elif entered:
                break
            frame = frame.f_back
        return module


def drawn(side: torch_side.Ready, job: Job, stream: Stream) -> tuple[tuple[Drawn, ...], dict[str, Tensor]]:
    """(every draw of one forward pass on the numbers of a stream, its outputs)."""
    side = replace(side, draws=Draws(stream, side.call))
    torch_side._reset(side, torch_side.unmoved)
    found, _ = torch_side._forward(side, job, {name: t.detach().requires_grad_(name in job.wrt) for name, t in side.inputs.items()})
    return tuple(stream.sequence.draws), {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _arguments(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given:
    """The arguments of an operation by name, defaults filled in."""
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
    return {argument.name: argument.default_value for argument in func._schema.arguments} | named | dict(kwargs)


def _draws_nothing(name: str, given: Given) -> bool:
    """Whether an operation that may draw does not this time: no dropout is asked of it, or it does not train."""
    if name in _CHOOSES or given.get("train") is False or given.get("training") is False:
        return True
    rate = next((given[key] for key in _RATES if key in given), None)
    return name.rstrip("_") not in ("bernoulli", "geometric") and isinstance(rate, (int, float)) and rate == 0


def _handed_out(made: Any, given: Given, name: str) -> Any:
    """The numbers as the operation returns them: in its own tensor, in `out`, or new."""
    target = given["self"] if name.endswith("_") else given.get("out")
    return made if target is None else target.copy_(made)


# ---------------------------------------------------------------- one answer for each family of operations

Numbers = Callable[[Drawn], np.ndarray]


def _like(made: np.ndarray, given: Given, shape: Any = None) -> Tensor:
    """Numbers in the dtype and on the device that an operation asks for: its own arguments', else those of its tensor, else the defaults."""
    tensor = given.get("self")
    tensor = tensor if isinstance(tensor, Tensor) else given.get("out")
    dtype = given.get("dtype") or (torch.get_default_dtype() if tensor is None else tensor.dtype)
    device = given.get("device") or (None if tensor is None else tensor.device)
    if dtype.is_complex:
        raise SpecError(
            "torch draws complex numbers, which cannot be shared. Draw the real and the imaginary part, or pass the numbers in."
        )
    return torch.as_tensor(made).to(device=device, dtype=dtype)


def _shape(given: Given) -> tuple[int, ...]:
    return tuple(given["size"]) if "size" in given else tuple(given["self"].shape)


def _bernoulli(given: Given, func: Any, numbers: Numbers) -> Tensor:
    rate: Any = given.get("p", given["self"])
    made = numbers(Drawn("bernoulli", tuple(given["self"].shape), keep=_one(rate)))
    if made.dtype != bool:  # a probability for each element: it is True where its uniform number lies below
        return (torch.as_tensor(made).to(rate) < rate).to(given["self"].dtype)
    return _like(made, given)


def _one(rate: Any) -> float | None:
    """A probability that is one number, None for an array of several.

    >>> _one(torch.tensor([0.5, 0.5])), _one(torch.tensor([0.5, 0.25])), _one(0.25)
    (0.5, None, 0.25)
    """
    if not isinstance(rate, Tensor):
        return float(rate)
    known = rate.detach().double().unique()
    return known.item() if known.numel() == 1 else None


def _native_dropout(given: Given, func: Any, numbers: Numbers) -> tuple[Tensor, Tensor]:
    keep = 1 - float(given["p"])
    values = given["input"]
    mask = torch.as_tensor(numbers(Drawn("bernoulli", tuple(values.shape), keep=keep))).to(values.device)
    return values * mask * (1 / keep if keep else 0.0), mask


def _normal(given: Given, func: Any, numbers: Numbers) -> Tensor:
    mean, std = given.get("mean", 0.0), given.get("std", 1.0)
    tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
    if not tensors:
        made = _like(numbers(Drawn("normal", _shape(given))), given)
        return made if (mean, std) == (0.0, 1.0) else made * std + mean
    shape = torch.broadcast_shapes(*(value.shape for value in tensors))
    return _like(numbers(Drawn("normal", tuple(shape))), {"self": tensors[0]}) * std + mean


def _randn(given: Given, func: Any, numbers: Numbers) -> Tensor:
    return _like(numbers(Drawn("normal", _shape(given))), given)


def _rand(given: Given, func: Any, numbers: Numbers) -> Tensor:
    return _like(numbers(Drawn("uniform", _shape(given))), given)


def _uniform(given: Given, func: Any, numbers: Numbers) -> Tensor:
    low, high = given["from"], given["to"]
    made = _like(numbers(Drawn("uniform", _shape(given))), given)
    return made if (low, high) == (0.0, 1.0) else made * (high - low) + low


def _exponential(given: Given, func: Any, numbers: Numbers) -> Tensor:
    made = _like(numbers(Drawn("exponential", _shape(given))), given)
    return made if given["lambd"] == 1.0 else made / given["lambd"]


def _randint(given: Given, func: Any, numbers: Numbers) -> Tensor:
    bounds = int(given.get("low", 0)), int(given["high"])
    if not isinstance(given.get("dtype"), torch.dtype):  # a schema writes its default as a number
        given = given | {"dtype": None if "self" in given else torch.int64}
    return _like(numbers(Drawn("integers", _shape(given), bounds=bounds)), given)


def _random(given: Given, func: Any, numbers: Numbers) -> Tensor | None:
    if given.get("to") is None:
        return None  # every number of the dtype: there is no such draw in jax
    return _like(numbers(Drawn("integers", _shape(given), bounds=(int(given.get("from", 0)), int(given["to"])))), given)


def _multinomial(given: Given, func: Any, numbers: Numbers) -> Tensor | None:
    """One sample for each row: where log p plus a Gumbel number is largest, as jax.random.categorical draws it (Gumbel 1954; Yellott 1977)."""
    if given["num_samples"] != 1:
        return None
    weights = given["self"]
    noise = torch.as_tensor(numbers(Drawn("gumbel", tuple(weights.shape)))).to(
        weights.device, torch.promote_types(weights.dtype, torch.float32)
    )
    return (weights.log() + noise).argmax(-1, keepdim=True)


_ANSWERS: dict[str, Callable[[Given, Any, Numbers], Any]] = {
    "bernoulli": _bernoulli,
    "native_dropout": _native_dropout,
    "normal": _normal,
    "randn": _randn,
    "randn_like": _randn,
    "rand": _rand,
    "rand_like": _rand,
    "uniform": _uniform,
    "exponential": _exponential,
    "randint": _randint,
    "randint_like": _randint,
    "random": _random,
    "multinomial": _multinomial,
}
