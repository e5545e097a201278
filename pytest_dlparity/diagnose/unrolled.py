"""Recurrent layers written out step by step, so that any part of one can be another. `t` is torch; arrays are [steps, batch, features] inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Cell = Callable[..., Any]  # (t, x, state, w_ih, w_hh, b_ih, b_hh) -> the next state


class Otherwise(NamedTuple):
    """What is done otherwise, and where: in one layer and direction, counted as torch orders the weights, or in all that it could mean."""

    group: int | None = None
    cell: Cell | None = None
    unread: bool = False  # the backward direction reads the steps from the first
    unturned: bool = False  # the backward direction gives its results in the order it made them
    swapped: bool = False  # its results come before the forward direction's

    def at(self, group: int) -> bool:
        return self.group in (None, group)


def lstm(t: Any, x: Any, state: Any, wi: Any, wh: Any, bi: Any, bh: Any, inner: str = "tanh", outer: str = "tanh") -> Any:
    h, c = state
    i, f, g, o = (x @ wi.T + bi + h @ wh.T + bh).chunk(4, -1)
    c = t.sigmoid(f) * c + t.sigmoid(i) * _activation(t, inner)(g)
    return t.sigmoid(o) * _activation(t, outer)(c), c


def gru(t: Any, x: Any, h: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
    """The reset gate after the matrix product, as torch has it."""
    (ri, zi, ni), (rh, zh, nh) = (x @ wi.T + bi).chunk(3, -1), (h @ wh.T + bh).chunk(3, -1)
    z = t.sigmoid(zi + zh)
    return (1 - z) * t.tanh(ni + t.sigmoid(ri + rh) * nh) + z * h


def gru_before(t: Any, x: Any, h: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
    """The reset gate before the matrix product: Cho et al. 2014 (arXiv:1406.1078), eq. 8."""
    (ri, zi, ni), (wr, wz, wn), (br, bz, bn) = (x @ wi.T + bi).chunk(3, -1), wh.chunk(3), bh.chunk(3)
    r, z = t.sigmoid(ri + h @ wr.T + br), t.sigmoid(zi + h @ wz.T + bz)
    return (1 - z) * t.tanh(ni + (r * h) @ wn.T + bn) + z * h


def rnn_tanh(t: Any, x: Any, h: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
    return t.tanh(x @ wi.T + bi + h @ wh.T + bh)


def rnn_relu(t: Any, x: Any, h: Any, wi: Any, wh: Any, bi: Any, bh: Any) -> Any:
    return t.relu(x @ wi.T + bi + h @ wh.T + bh)


CELLS: dict[str, Cell] = {"lstm": lstm, "gru": gru, "rnn_tanh": rnn_tanh, "rnn_relu": rnn_relu}


def _activation(t: Any, name: str) -> Callable[[Any], Any]:
    return (lambda x: x) if name == "identity" else getattr(t, name)


def run(a: Any, otherwise: Otherwise) -> Any:
    """What a bound call of a recurrent layer or cell gives, with something done otherwise. Dropout between layers is left out."""
    own = CELLS[a.name.removesuffix("_cell")]
    state = a["state"]
    if a["weights"] is None:
        weights = _four([a[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")])
        return (otherwise.cell or own)(a.torch, a["input"], tuple(state) if isinstance(state, (list, tuple)) else state, *weights)
    per, pair = 4 if a["has_biases"] else 2, isinstance(state, (list, tuple))
    groups = [_four(a["weights"][i : i + per]) for i in range(0, len(a["weights"]), per)]
    starts = list(zip(*state, strict=True)) if pair else list(state)
    x = a["input"].transpose(0, 1) if a["batch_first"] else a["input"]
    directions, ends = 2 if a["bidirectional"] else 1, []
    for first in range(0, len(groups), directions):
        outs = []
        for group in range(first, first + directions):
            cell = otherwise.cell if otherwise.cell is not None and otherwise.at(group) else own
            out, end = _direction(a.torch, cell, x, starts[group], groups[group], group > first, otherwise, group)
            outs.append(out)
            ends.append(end)
        swapped = otherwise.swapped and any(otherwise.at(group) for group in range(first, first + directions))
        x = a.torch.cat(outs[::-1] if swapped else outs, -1)
    y = x.transpose(0, 1) if a["batch_first"] else x
    return (y, *(a.torch.stack(parts) for parts in zip(*ends, strict=True))) if pair else (y, a.torch.stack(ends))


def _four(weights: Sequence[Any]) -> list[Any]:
    zero = weights[0].new_zeros(weights[0].shape[0])
    return [zero if w is None else w for w in (*weights, None, None)[:4]]


def _direction(
    t: Any, cell: Cell, x: Any, state: Any, weights: Sequence[Any], backward: bool, otherwise: Otherwise, group: int
) -> tuple[Any, Any]:
    here = otherwise.at(group)
    rows = x.flip(0) if backward and not (otherwise.unread and here) else x
    steps = []
    for row in rows:
        state = cell(t, row, state, *weights)
        steps.append(state[0] if isinstance(state, tuple) else state)
    out = t.stack(steps)
    return out.flip(0) if backward and not (otherwise.unturned and here) else out, state
