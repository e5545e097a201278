"""Recurrent layers: the order of gates, which bias, where the reset gate stands, the direction."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_dlparity.calls import Array, Call, inside
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


# ---------------------------------------------------------------- written out, step by step


def _gru_before(t: Any, x: Any, h: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
    """The reset gate before the matrix product: Cho et al. 2014 (arXiv:1406.1078), eq. 8. torch has it after."""
    (ir, iz, inew), (hr, hz, hn) = wi.chunk(3), wh.chunk(3)
    (bir, biz, bin_), (bhr, bhz, bhn) = bi.chunk(3), bh.chunk(3)
    r = t.sigmoid(x @ ir.T + bir + h @ hr.T + bhr)
    z = t.sigmoid(x @ iz.T + biz + h @ hz.T + bhz)
    n = t.tanh(x @ inew.T + bin_ + (r * h) @ hn.T + bhn)
    return (1 - z) * n + z * h


def _gru(call: Call) -> Iterator[Variant]:
    yield differs(
        f"{call.name} reset before", "applies the reset gate before the matrix product", "after it", lambda a: _unrolled(a, _gru_before), "gates",
        write="n = tanh(W_in x + b_in + r * (W_hn h + b_hn))",
    )  # fmt: skip

    def turned(a: Any) -> Any:
        def blocks(w: Any) -> Any:
            r, z, n = w.chunk(3)
            return a.torch.cat([r, -z, n])

        return _of_each(a, blocks)

    yield differs(
        f"{call.name} update gate", "keeps 1 - z of the old state", "keeps z", turned, "gates", write="h = (1 - z) * n + z * h",
    )  # fmt: skip


def _lstm_with(t: Any, inner: Callable[[Any], Any], outer: Callable[[Any], Any]) -> Any:
    def cell(t: Any, x: Any, state: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
        h, c = state
        i, f, g, o = (x @ wi.T + bi + h @ wh.T + bh).chunk(4, -1)
        c = t.sigmoid(f) * c + t.sigmoid(i) * inner(g)
        return t.sigmoid(o) * outer(c), c

    return cell


def _lstm(call: Call) -> Iterator[Variant]:
    for words, inner, outer in (
        ("no tanh of the cell in its output", "tanh", "identity"),
        ("a sigmoid in the place of the new cell's tanh", "sigmoid", "tanh"),
        ("relu in the place of both tanh", "relu", "relu"),
    ):

        def made(a: Any, inner: str = inner, outer: str = outer) -> Any:
            functions = {name: getattr(a.torch, name) for name in ("tanh", "sigmoid", "relu")} | {"identity": lambda x: x}
            return _unrolled(a, _lstm_with(a.torch, functions[inner], functions[outer]))

        yield differs(f"{call.name} {words}", f"has {words}", "tanh in both places", made, "activation", write="h = sigmoid(o) * tanh(c)")


def _unrolled(a: Any, cell: Any) -> Any:
    """The layer with another cell, one step after the other. One direction, any number of layers.

    Raises:
        ValueError: both directions.
    """
    if a["weights"] is None:
        zero = a["w_ih"].new_zeros(a["w_ih"].shape[0])
        b_ih, b_hh = (zero if a[name] is None else a[name] for name in ("b_ih", "b_hh"))
        state = a["state"]
        return cell(a.torch, a["input"], tuple(state) if isinstance(state, (list, tuple)) else state, a["w_ih"], a["w_hh"], b_ih, b_hh)
    if a["bidirectional"]:
        raise ValueError("one direction only")
    per = 4 if a["has_biases"] else 2
    groups = [a["weights"][i : i + per] for i in range(0, len(a["weights"]), per)]
    x = a["input"].transpose(0, 1) if a["batch_first"] else a["input"]
    pair = isinstance(a["state"], (list, tuple))
    states = list(zip(*a["state"], strict=True)) if pair else list(a["state"])
    ends = []
    for weights, state in zip(groups, states, strict=True):
        zero = weights[0].new_zeros(weights[0].shape[0])
        given = (*weights, zero, zero)[:4]
        steps = []
        for row in x:
            state = cell(a.torch, row, state, *given)
            steps.append(state[0] if pair else state)
        x = a.torch.stack(steps)
        ends.append(state)
    y = x.transpose(0, 1) if a["batch_first"] else x
    if pair:
        return y, a.torch.stack([s[0] for s in ends]), a.torch.stack([s[1] for s in ends])
    return y, a.torch.stack(ends)


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
        half = call.result[0].shape[-1] // 2 if isinstance(call.result, tuple) and isinstance(call.result[0], Array) else 0

        def parts(a: Any, turn: bool, swap: bool) -> Any:
            y, *rest = a.again()
            one, two = y.split(half, -1)
            two = two.flip(axis) if turn else two
            return (a.torch.cat([two, one] if swap else [one, two], -1), *rest)

        if call["num_layers"] == 1:
            yield differs(
                f"{call.name} backward not turned back", "gives the backward direction in the order it was made", "in the order of the steps",
                lambda a: parts(a, True, False), "direction", change="the backward half flipped in torch", write="keep_order=True",
            )  # fmt: skip
        yield differs(
            f"{call.name} backward first", "puts the backward direction first", "the forward direction", lambda a: parts(a, False, True), "direction",
            change="the halves swapped in torch", write="jnp.concatenate([forward, backward], -1)",
        )  # fmt: skip
    if any(isinstance(part, Array) for part in inside(call["state"])):
        yield differs(
            f"{call.name} zero state", "begins with a state of zeros", "with the given one",
            lambda a: a.again(state=_zeros(a["state"])), "state", change="zeros in torch", write="the initial state that torch gets",
        )  # fmt: skip


def _zeros(state: Any) -> Any:
    return [s * 0 for s in state] if isinstance(state, (list, tuple)) else state * 0


def _turned(a: Any, axis: int, back: bool) -> Any:
    y, *rest = a.again(input=a["input"].flip(axis))
    return (y.flip(axis) if back else y, *rest)
