"""Recurrent layers: the order of gates, which bias, where the reset gate stands, the direction."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_dlparity.calls import Array, Call, inside
from pytest_dlparity.diagnose import unrolled
from pytest_dlparity.diagnose.unrolled import Otherwise
from pytest_dlparity.diagnose.variant import Variant, differs, without

GATES = {"lstm": "ifgo", "gru": "rzn", "rnn_tanh": "h", "rnn_relu": "h"}  # in torch's order
TITLES = {"i": "input", "f": "forget", "g": "cell", "o": "output", "r": "reset", "z": "update", "n": "new"}


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this recurrent layer or cell could be made otherwise."""
    yield from _padded(call)
    kind = call.name.removesuffix("_cell")
    if kind not in GATES:
        return
    if call.name == kind and not isinstance(call["weights"], (list, tuple)):
        return  # a packed sequence, whose arguments are others
    yield from _orders(call, kind)
    yield from _biases(call, kind)
    if kind == "gru":
        yield from _gru(call)
    if kind == "lstm":
        yield from _lstm(call)
    if call.name == kind:
        yield from _sequence(call)
        if kind.startswith("rnn"):
            other = "rnn_relu" if kind == "rnn_tanh" else "rnn_tanh"
            yield differs(
                f"{kind} as {other}", f"has the activation {other[4:]}", kind[4:], lambda a: getattr(a.torch, other)(*a.args), "activation",
                change=f"{other[4:]} in torch", write=f"activation_fn={'jax.nn.relu' if kind == 'rnn_relu' else 'jnp.tanh'}",
            )  # fmt: skip


def _padded(call: Call) -> Iterator[Variant]:
    """A sequence cut to its length, and padded again afterwards: as one that is run with its padding. All such cuts and pads change together."""
    fact = "the jax side runs over the padding of a sequence, torch{at} cuts it to its length first"
    words: dict[str, Any] = {
        "key": "sequences with their padding", "fact": fact, "family": "mask", "change": "whole sequences in torch", "write": "seq_lengths=lengths",
    }  # fmt: skip
    index = call["index"]
    if call.name == "__getitem__" and isinstance(index, tuple) and isinstance(call["input"], Array) and call.out is not None:
        cut = [i for i, part in enumerate(index) if isinstance(part, slice) and part.start in (None, 0) and part.step is None and i > 0]
        axes = [
            i for i in cut if i < len(call["input"].shape) and isinstance(index[i].stop, int) and index[i].stop < call["input"].shape[i]
        ]
        if len(axes) == 1:
            whole = tuple(slice(None) if i == axes[0] else part for i, part in enumerate(index))
            yield Variant(apply=lambda a: a["input"][whole], **words)
    elif call.name == "pad" and not call["value"] and isinstance(call["input"], Array) and call.out is not None:
        pads = list(call["pad"])
        grown = [len(call["input"].shape) - 1 - i // 2 for i, n in enumerate(pads) if n]
        if len(grown) == 1 and not any(pads[::2]):
            axis, length, size = grown[0], call["input"].shape[grown[0]], call.out.shape[grown[0]]

            def emptied(a: Any) -> Any:
                x = a["input"]
                if x.shape[axis] != size:
                    return a.again()
                kept = (a.torch.arange(size) < length).reshape([-1 if i == axis else 1 for i in range(x.dim())])
                return x * kept

            yield Variant(apply=emptied, **words)


def _weights(a: Any) -> list[Any]:
    return list(a["weights"]) if a["weights"] is not None else [a[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]


def _made(a: Any, weights: Sequence[Any]) -> Any:
    if a["weights"] is not None:
        return a.again(weights=list(weights))
    return a.again(**dict(zip(("w_ih", "w_hh", "b_ih", "b_hh"), weights, strict=True)))


def _of_each(a: Any, change: Callable[[Any], Any], group: int | None = None) -> Any:
    """Every weight changed, or those of one layer and direction."""
    per = 4 if a["weights"] is None or a["has_biases"] else 2
    return _made(a, [w if w is None or group not in (None, i // per) else change(w) for i, w in enumerate(_weights(a))])


def _groups(call: Call) -> Iterator[tuple[int | None, str]]:
    """All layers and directions together, then each of several by itself, with its words."""
    yield None, ""
    weights = call["weights"] if isinstance(call["weights"], (list, tuple)) else ()
    count = len(weights) // (4 if call["has_biases"] else 2)
    for group in range(count) if count > 1 else ():
        first = weights[group * len(weights) // count]
        yield group, f" in {first.name}" if isinstance(first, Array) and first.name else f" in part {group + 1} of {count}"


def _orders(call: Call, kind: str) -> Iterator[Variant]:
    own = GATES[kind]
    for (group, words), order in itertools.product(_groups(call), itertools.permutations(own)):
        if "".join(order) != own:
            places = [order.index(gate) for gate in own]

            def permuted(a: Any, places: list[int] = places, group: int | None = group) -> Any:
                return _of_each(a, lambda w: a.torch.cat([w.chunk(len(places))[i] for i in places]), group)

            yield differs(
                f"{call.name} gates {''.join(order)}{words}", f"takes the rows of the weights{words} for the gates {', '.join(order)}",
                f"for {', '.join(own)}", permuted, "gates", write=f"{', '.join(own)} = jnp.split(gates, {len(own)}, axis=-1)",
            )  # fmt: skip


def _biases(call: Call, kind: str) -> Iterator[Variant]:
    has = call["b_ih"] is not None if call["weights"] is None else bool(call["has_biases"])
    if not has:
        return
    n = len(GATES[kind])
    for group, words in _groups(call):
        for which, other in (("b_ih", "b_hh"), ("b_hh", "b_ih")):
            yield differs(
                f"{call.name} without {which}{words}", f"leaves out {which}{words}", "adds both biases, b_ih and b_hh",
                lambda a, which=which, group=group: _biased(a, which, lambda w: w * 0, group), "missing", change=f"{which} = 0 in torch",
                write=f"{other} + {which} for the one bias", meaning=without(call[which]) if isinstance(call[which], Array) else "",
            )  # fmt: skip
            yield differs(
                f"{call.name} {other} twice{words}", f"adds {other} twice{words}", "adds b_ih and b_hh",
                lambda a, which=which, group=group: _twice(a, which, group), "missing", change=f"{other} for {which} in torch", write="b_ih + b_hh",
            )  # fmt: skip
        yield differs(
            f"{call.name} without biases{words}", f"leaves out the biases{words}", "adds both",
            lambda a, group=group: _made(a, [w if w is None or i % 4 < 2 or group not in (None, i // 4) else w * 0 for i, w in enumerate(_weights(a))]),
            "missing", change="biases of 0 in torch", write="b_ih + b_hh",
        )  # fmt: skip
        if kind == "lstm":
            yield differs(
                f"{call.name} forget bias{words}", f"adds {{c}} to the forget gate{words}", "adds nothing",
                lambda a, c, group=group: _biased(a, "b_ih", lambda w: _forget(a, w, n, c), group), "gates", change="the same in torch",
                write="a forget gate without an added constant", start=0.0, rank=1,
            )  # fmt: skip


def _biased(a: Any, which: str, function: Callable[[Any], Any], group: int | None) -> Any:
    place = {"b_ih": 2, "b_hh": 3}[which]
    return _made(a, [function(w) if i % 4 == place and group in (None, i // 4) else w for i, w in enumerate(_weights(a))])


def _twice(a: Any, which: str, group: int | None) -> Any:
    weights = _weights(a)
    place, source = (2, 3) if which == "b_ih" else (3, 2)
    return _made(a, [weights[i - place + source] if i % 4 == place and group in (None, i // 4) else w for i, w in enumerate(weights)])


def _forget(a: Any, bias: Any, n: int, c: float) -> Any:
    parts = list(bias.chunk(n))
    parts[1] = parts[1] + c
    return a.torch.cat(parts)


def _gru(call: Call) -> Iterator[Variant]:
    for group, words in _groups(call):
        yield differs(
            f"{call.name} reset before{words}", f"applies the reset gate before the matrix product{words}", "after it",
            lambda a, group=group: unrolled.run(a, Otherwise(group, unrolled.gru_before)), "gates", write="n = tanh(W_in x + b_in + r * (W_hn h + b_hn))",
        )  # fmt: skip

    def turned(a: Any) -> Any:
        def blocks(w: Any) -> Any:
            r, z, n = w.chunk(3)
            return a.torch.cat([r, -z, n])

        return _of_each(a, blocks)

    yield differs(f"{call.name} update gate", "keeps 1 - z of the old state", "keeps z", turned, "gates", write="h = (1 - z) * n + z * h")


def _lstm(call: Call) -> Iterator[Variant]:
    for group, words in _groups(call):
        for told, inner, outer in (
            ("no tanh of the cell in its output", "tanh", "identity"),
            ("a sigmoid in the place of the new cell's tanh", "sigmoid", "tanh"),
            ("relu in the place of the new cell's tanh", "relu", "tanh"),
            ("relu in the place of both tanh", "relu", "relu"),
        ):
            cell = functools.partial(unrolled.lstm, inner=inner, outer=outer)
            yield differs(
                f"{call.name} {told}{words}", f"has {told}{words}", "tanh in both places",
                lambda a, group=group, cell=cell: unrolled.run(a, Otherwise(group, cell)), "activation", write="h = sigmoid(o) * tanh(c)",
            )  # fmt: skip


def _sequence(call: Call) -> Iterator[Variant]:
    batch_first = bool(call["batch_first"])
    axis = 1 if batch_first else 0
    rank = len(call["input"].shape) if isinstance(call["input"], Array) else 0
    if rank != 3:
        return
    yield differs(
        f"{call.name} backwards", "runs from the last step to the first and gives its results in the order of the steps",
        "from the first to the last",
        lambda a: _turned(a, axis, True), "direction", write="reverse=False",
    )  # fmt: skip
    yield differs(
        f"{call.name} backwards, not turned back", "runs from the last step to the first and gives its results in the order it made them",
        "from the first to the last", lambda a: _turned(a, axis, False), "direction", write="reverse=False",
    )  # fmt: skip
    if call["bidirectional"]:
        yield from _directions(call)
    if any(isinstance(part, Array) for part in inside(call["state"])):
        yield differs(
            f"{call.name} zero state", "begins with a state of zeros", "with the given one",
            lambda a: a.again(state=_zeros(a["state"])), "state", change="zeros in torch", write="the initial state that torch gets",
        )  # fmt: skip


def _directions(call: Call) -> Iterator[Variant]:
    for group, words in _groups(call):
        if group is None or group % 2:
            yield differs(
                f"{call.name} backward not read backwards{words}", f"reads the steps from the first on in the backward direction{words}",
                "from the last on", lambda a, group=group: unrolled.run(a, Otherwise(group, unread=True)), "direction", write="x[::-1] for it",
            )  # fmt: skip
            yield differs(
                f"{call.name} backward not turned back{words}", f"gives the backward direction's results in the order it made them{words}",
                "in the order of the steps", lambda a, group=group: unrolled.run(a, Otherwise(group, unturned=True)), "direction", write="keep_order=True",
            )  # fmt: skip
            yield differs(
                f"{call.name} backward first{words}", f"puts the backward direction first{words}", "the forward direction",
                lambda a, group=group: unrolled.run(a, Otherwise(group, swapped=True)), "direction",
                write="jnp.concatenate([forward, backward], -1)",
            )  # fmt: skip


def _zeros(state: Any) -> Any:
    return [s * 0 for s in state] if isinstance(state, (list, tuple)) else state * 0


def _turned(a: Any, axis: int, back: bool) -> Any:
    y, *rest = a.again(input=a["input"].flip(axis))
    return (y.flip(axis) if back else y, *rest)
