"""The random draws of a traced jax function: found in its jaxpr, and replaced by given numbers. Nothing of jax is patched.

`jax.random.bernoulli` and its like are jitted functions, so each is one equation of a jaxpr, under the name of a function in jax's own random module,
and a vmap over keys makes it one draw for all examples. Names that jax changes one day are not found, and a draw that is not found is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from pytest_dlparity.errors import SpecError
from pytest_dlparity.frameworks.jax_frames import JAX, OURS, PYTHON
from pytest_dlparity.frameworks.jax_rounding import closed
from pytest_dlparity.sharing import Drawn, Event

# jitted functions of jax's random module (private names, pinned by tests/test_sharing.py) and what they draw
KINDS = {
    "_bernoulli": "bernoulli",
    "_uniform": "uniform",
    "_normal": "normal",
    "_randint": "integers",
    "_gumbel": "gumbel",
    "_exponential": "exponential",
}
RANDOM = frozenset({"random_bits", "random_gamma", "rng_uniform", "rng_bit_generator", "threefry2x32"})
OPENED = frozenset({"jit", "pjit", "closed_call", "core_call", "named_call"})
REMAT = frozenset({"checkpoint", "remat", "remat2"})
NUMBERS = "~draw."  # an input of a training step with this name: the numbers of one draw


class Site(NamedTuple):
    """One equation that draws."""

    drawn: Drawn
    equation: Any


class Loop(NamedTuple):
    """A scan whose body draws."""

    order: range
    inside: tuple[Site | Loop, ...]


Sites = tuple[Site | Loop, ...]


# ---------------------------------------------------------------- what a function draws


def events(function: Callable[..., Any], *args: Any) -> list[Event]:
    """Every draw of function(*args), in order.

    Raises:
        SpecError: numbers are drawn in a way or in a place that cannot be given from outside.
    """
    found = jax.make_jaxpr(function)(*args)
    tree = sites(found.jaxpr)
    flat = list(_flat(tree))
    if not flat:
        return []
    notes = jax.jit(lambda *flat_args: _noted(found.jaxpr, found.consts, flat_args)[1])(*jax.tree.leaves(args))
    known = [[np.asarray(part) for part in note] for note in notes]
    return [_event(flat[site], site, at, known[site]) for site, at in _happening(tree)]


def _event(site: Site, index: int, at: tuple[int, ...], note: list[np.ndarray]) -> Event:
    keys, *operands = (part[at] for part in note)
    drawn = site.drawn
    if drawn.kind == "bernoulli":
        rate = operands[0].reshape(-1)
        drawn = drawn._replace(keep=float(rate[0]) if rate.size and np.all(rate == rate[0]) else None)
    if drawn.kind in ("integers", "uniform") and any(bound.size != 1 for bound in operands):
        raise SpecError(
            f"jax draws between arrays of bounds {drawn.place}, which cannot be shared. Give two numbers, and scale what is drawn."
        )
    if drawn.kind == "integers":
        drawn = drawn._replace(bounds=(int(operands[0].item()), int(operands[1].item())))
    return Event(drawn, index, at, tuple(key.tobytes() for key in keys.reshape(-1, keys.shape[-1])))


def sites(jaxpr: Jaxpr) -> Sites:
    """The equations that draw, as they are nested in loops.

    Raises:
        SpecError: one draws what torch has no like of, or inside a branch, a while loop or a function with a derivative of its own.
    """
    found: list[Site | Loop] = []
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if not _draws(equation):
            continue
        if (kind := _kind(equation)) is not None:
            found.append(Site(Drawn(kind, tuple(_aval(equation).shape), _place(equation)), equation))
        elif name == "scan":
            rounds = range(params["length"])
            found.append(Loop(rounds[::-1] if params["reverse"] else rounds, sites(params["jaxpr"].jaxpr)))
        elif name in OPENED | REMAT and not _is_random(params):
            found += sites(_opened(equation)[0])
        else:
            raise SpecError(_refused(equation))
    return tuple(found)


def _refused(equation: Any) -> str:
    name, place = equation.primitive.name, f" {_place(equation)}".rstrip()
    what = str(equation.params.get("name", "")).strip("_") if name in OPENED else name
    if name in OPENED | RANDOM:
        said = f"jax draws with {what}{place}, which cannot be shared"
    else:
        words = {
            "cond": "a branch of jax.lax.cond",
            "while": "a jax.lax.while_loop",
            "custom_jvp_call": "a jax.custom_jvp",
            "custom_vjp_call": "a jax.custom_vjp",
        }
        said = f"jax draws inside {words.get(name, name)}{place}, where numbers cannot be given from outside"
    return f"{said}. Draw the numbers with dlp and pass them in, or leave shared_randomness out and give train=False."


def _kind(equation: Any) -> str | None:
    """What an equation draws, where it is a call of one of jax's own random functions."""
    kind = KINDS.get(equation.params.get("name", "")) if equation.primitive.name in OPENED else None
    if kind is None or not _is_random(equation.params) or jnp.issubdtype(_aval(equation).dtype, jnp.complexfloating):
        return None
    return kind


def _aval(equation: Any) -> Any:
    """Shape and dtype of what an equation draws."""
    return equation.outvars[0].aval


def _opened(equation: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """What is inside of a call or a checkpoint: sites() has refused everything else that draws."""
    inside = closed(equation.params)
    assert inside is not None
    return inside


def _is_random(params: dict[str, Any]) -> bool:
    """Whether a called function is one of jax's random module that takes a key."""
    inner = closed(params)
    if inner is None:
        return False
    file = str(getattr(inner[0].debug_info, "func_filename", None) or "")
    inside = file.startswith(JAX) and "random" in file.removeprefix(JAX)
    return inside and bool(inner[0].invars) and jnp.issubdtype(inner[0].invars[0].aval.dtype, jax.dtypes.prng_key)


def _draws(equation: Any) -> bool:
    """Whether random numbers come from an equation or from inside it."""
    if equation.primitive.name == "scan" and not equation.params["length"]:
        return False
    return equation.primitive.name in RANDOM or any(_draws(inner) for body in _bodies(equation.params) for inner in body.eqns)


def _bodies(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            body: Any = getattr(part, "jaxpr", part)
            if hasattr(body, "eqns"):
                yield body


def left(jaxpr: Jaxpr) -> str:
    """Where a jaxpr still draws, "" where it does not."""
    for equation in jaxpr.eqns:
        if _draws(equation):
            inside = "" if _kind(equation) else next(filter(None, map(left, _bodies(equation.params))), "")
            return inside or _place(equation) or "somewhere"
    return ""


def _flat(tree: Sites) -> Iterator[Site]:
    for part in tree:
        if isinstance(part, Loop):
            yield from _flat(part.inside)
        else:
            yield part


def _happening(tree: Sites) -> list[tuple[int, tuple[int, ...]]]:
    """(number of the site, rounds of the loops around it) of every draw, in the order in which they happen."""
    return list(_unrolled(tree, 0, ()))


def _unrolled(tree: Sites, first: int, at: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    for part in tree:
        if isinstance(part, Loop):
            for index in part.order:
                yield from _unrolled(part.inside, first, (*at, index))
            first += len(list(_flat(part.inside)))
        else:
            yield first, at
            first += 1


def _place(equation: Any) -> str:
    """Where an equation stands, "at model.py:12": the innermost frame that is the user's; else the innermost of a library on jax."""
    traceback = getattr(equation.source_info, "traceback", None)
    library = ""
    for frame in traceback.frames if traceback is not None else ():
        path = frame.file_name
        if path.startswith(OURS):
            break
        if path.startswith(("<", JAX, *PYTHON)) and "site-packages" not in path.removeprefix(JAX):
            continue
        short = f"{path.rsplit('/', 1)[-1]}:{frame.line_num}"
        if "site-packages" not in path:
            return f"at {short}"
        if not library:
            library = f"in {path.rpartition('site-packages/')[2].split('/')[0]}'s {short}"
    return library


# ---------------------------------------------------------------- running a jaxpr again


def _noted(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> tuple[list[Any], list[list[Any]]]:
    """(results, what is known of each draw: its keys as numbers, then its operands). Loops put their rounds in front."""
    notes: list[list[Any]] = []
    values = _Values(jaxpr, consts, args)
    for equation, operands in values.stops():
        if _kind(equation) is not None:
            results = equation.primitive.bind(*operands, **equation.params)
            more = [[jax.random.key_data(operands[0]), *operands[1:]]]
        elif equation.primitive.name == "scan":
            results, more = _scanned(equation.params, operands, [], _noted_round)
        else:
            results, more = _noted(*_opened(equation), operands)
        notes += more
        values.set(equation, results)
    return values.results(), notes


def _replayed(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], numbers: Iterator[Any]) -> list[Any]:
    """The results where each draw gives the next of `numbers`. Loops take theirs round by round."""
    values = _Values(jaxpr, consts, args)
    for equation, operands in values.stops():
        if _kind(equation) is not None:
            results = [_answer(equation, operands, _next(numbers))]
        elif equation.primitive.name == "scan":
            mine = [_next(numbers) for _ in _flat(sites(equation.params["jaxpr"].jaxpr))]
            results, _ = _scanned(equation.params, operands, mine, _replayed_round)
        elif equation.primitive.name in REMAT:
            results = _remat(equation, operands, numbers)
        else:
            results = _replayed(*_opened(equation), operands, numbers)
        values.set(equation, results)
    return values.results()


def _noted_round(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], _: list[Any]) -> tuple[list[Any], Any]:
    return _noted(jaxpr, consts, args)


def _replayed_round(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], numbers: list[Any]) -> tuple[list[Any], Any]:
    return _replayed(jaxpr, consts, args, iter(numbers)), []


def _remat(equation: Any, operands: list[Any], numbers: Iterator[Any]) -> list[Any]:
    """A checkpoint again. Its numbers are arguments, so what it computes a second time gets the same ones."""
    body, consts = _opened(equation)
    mine = [_next(numbers) for _ in _flat(sites(body))]

    def again(operands: list[Any], mine: list[Any]) -> list[Any]:
        return _replayed(body, consts, operands, iter(mine))

    kept = {name: equation.params[name] for name in ("prevent_cse", "policy") if name in equation.params}
    found: list[Any] = jax.checkpoint(again, **kept)(operands, mine)
    return found


def _scanned(
    params: dict[str, Any], operands: list[Any], numbers: list[Any], run: Callable[..., tuple[list[Any], Any]]
) -> tuple[list[Any], Any]:
    """A scan again: run(jaxpr of the body, its consts, its operands, numbers of this round) -> (its results, more that is to be stacked)."""
    consts, carried, body = params["num_consts"], params["num_carry"], params["jaxpr"]
    fixed, start, rows = operands[:consts], operands[consts : consts + carried], operands[consts + carried :]

    def step(held: list[Any], row: tuple[list[Any], list[Any]]) -> tuple[list[Any], tuple[list[Any], Any]]:
        results, more = run(body.jaxpr, body.consts, [*fixed, *held, *row[0]], row[1])
        return results[:carried], (results[carried:], more)

    last, (stacked, more) = jax.lax.scan(step, start, (rows, numbers), length=params["length"], reverse=params["reverse"])
    return [*last, *stacked], more


class _Values:
    """The values of a jaxpr's variables, computed up to each equation that draws, which the caller answers."""

    def __init__(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> None:
        self.jaxpr = jaxpr
        self.at = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(self, atoms: Iterable[Any]) -> list[Any]:
        return [atom.val if isinstance(atom, Literal) else self.at[atom] for atom in atoms]

    def stops(self) -> Iterator[tuple[Any, list[Any]]]:
        """Every equation that draws, with its operands. What lies between is computed as jax would, and keeps its place in the source."""
        segment: list[Any] = []
        for equation in self.jaxpr.eqns:
            if _draws(equation):
                self._compute(segment)
                segment = []
                yield equation, self.read(equation.invars)
            else:
                segment.append(equation)
        self._compute(segment)

    def set(self, equation: Any, results: Sequence[Any]) -> None:
        self.at.update(zip(equation.outvars, results, strict=True))

    def results(self) -> list[Any]:
        return self.read(self.jaxpr.outvars)

    def _compute(self, equations: list[Any]) -> None:
        if equations:
            made = [var for equation in equations for var in equation.outvars if type(var).__name__ != "DropVar"]
            own = set(made)
            read = dict.fromkeys(v for e in equations for v in e.invars if not isinstance(v, Literal) and v not in own)
            part = self.jaxpr.replace(constvars=[], invars=list(read), outvars=made, eqns=equations)
            self.at.update(zip(made, jaxpr_as_fun(ClosedJaxpr(part, ()))(*(self.at[var] for var in read)), strict=True))


def _next(numbers: Iterator[Any]) -> Any:
    found = next(numbers, None)
    if found is None:
        raise SpecError(_otherwise("more random numbers than in its first run"))
    return found


def _otherwise(what: str) -> str:
    return (
        f"jax draws {what}. Randomness is shared only where every run draws alike: leave shared_randomness out, or draw with dlp and pass "
        "the draws in."
    )


def _answer(equation: Any, operands: list[Any], numbers: Any) -> Any:
    """Given numbers as one draw returns them."""
    wanted = _aval(equation)
    if tuple(numbers.shape) != tuple(wanted.shape):
        place = f" {_place(equation)}".rstrip()
        raise SpecError(_otherwise(f"the shape {list(wanted.shape)}{place}, where its first run drew {list(numbers.shape)}"))
    match _kind(equation):
        case "bernoulli" if not jnp.issubdtype(numbers.dtype, jnp.bool_):  # a probability for each element: its uniform numbers are given
            return _replayed(*_opened(equation), operands, iter([numbers]))[0]
        case "uniform":
            low, high = (jnp.reshape(bound, ()) for bound in operands[1:])
            made = jnp.asarray(numbers, wanted.dtype)
            return jnp.asarray(made * (high - low) + low, wanted.dtype)
    return jnp.asarray(numbers, wanted.dtype)


# ---------------------------------------------------------------- the program with given numbers


class Given:
    """A forward pass in which every draw gives what it is told: of a training step by inputs called NUMBERS, else `numbers`."""

    def __init__(self, numbers: Sequence[np.ndarray]) -> None:
        self.numbers = list(numbers)

    def __call__(self, function: Callable[..., Any], params: Any, state: Any, inputs: dict[str, Any]) -> Any:
        given = [inputs.get(f"{NUMBERS}{index}", numbers) for index, numbers in enumerate(self.numbers)]
        args = params, state, {name: value for name, value in inputs.items() if not name.startswith(NUMBERS)}
        found, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        rest = iter(given)
        results = _replayed(found.jaxpr, found.consts, jax.tree.leaves(args), rest)
        if next(rest, None) is not None:
            raise SpecError(_otherwise("fewer random numbers than in its first run"))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)
