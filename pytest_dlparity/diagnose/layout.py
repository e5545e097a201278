"""The order of elements: how axes are merged and split, transposed weights, halves against pairs, which part of a split is which."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_dlparity.calls import Array, Call
from pytest_dlparity.diagnose.variant import Variant, differs, without

MOST = 4  # axes that are tried in every order


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which these elements could lie otherwise."""
    match call.name:
        case "reshape" | "view" | "flatten" | "unflatten":
            yield from _reshape(call)
        case "linear" | "matmul" | "mm" | "bmm" | "__matmul__" | "addmm":
            yield from _square(call)
        case "chunk" | "split" | "unbind" | "tensor_split":
            yield from _parts(call)
        case "cat" | "stack" | "concat" | "concatenate":
            yield from _joined(call)
        case "repeat_interleave" | "repeat" | "tile":
            yield from _repeated(call)
        case "einsum":
            yield from _einsum(call)
        case "__getitem__":
            yield from _half(call)
        case _:
            pass
    if call.name in ("chunk", "split", "cat", "concat", "concatenate"):
        yield from _pairs(call)


# ---------------------------------------------------------------- reshapes


def pieces(before: Sequence[int], after: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The axes of both shapes in the smallest groups that hold the same elements.

    >>> pieces((2, 3, 4), (6, 4)), pieces((6,), (2, 3)), pieces((2, 1), (2,))
    ([((0, 1), (0,)), ((2,), (1,))], [((0,), (0, 1))], [((0,), (0,)), ((1,), ())])
    """
    found, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        if (left and not right) or (right and not left):
            found.append((tuple(left), tuple(right)))
            i, j = i + len(left), j + len(right)
            continue
        a, b = before[i], after[j]
        while a != b:
            if a < b:
                left.append(left[-1] + 1)
                if left[-1] >= len(before):
                    return []
                a *= before[left[-1]]
            else:
                right.append(right[-1] + 1)
                if right[-1] >= len(after):
                    return []
                b *= after[right[-1]]
        found.append((tuple(left), tuple(right)))
        i, j = left[-1] + 1, right[-1] + 1
    return found


def _reshape(call: Call) -> Iterator[Variant]:
    if not isinstance(call["input"], Array) or call.out is None:
        return
    before, after = call["input"].shape, call.out.shape
    for left, right in pieces(before, after):
        if 1 < len(left) <= MOST and len(right) == 1 and sum(before[axis] > 1 for axis in left) > 1:
            yield from _merged(call, before, after, left)
        elif len(left) == 1 and 1 < len(right) <= MOST and sum(after[axis] > 1 for axis in right) > 1:
            yield from _divided(call, after, right)


def _merged(call: Call, before: Sequence[int], after: Sequence[int], axes: Sequence[int]) -> Iterator[Variant]:
    for order in itertools.permutations(axes):
        if order == tuple(axes):
            continue
        whole = list(range(len(before)))
        whole[axes[0] : axes[-1] + 1] = order
        words = f"axes {_listed(order)} of {list(before)} in this order"
        special = _title(axes, order, len(before))
        yield differs(
            f"{call.name} merging {order}", f"puts {words} into one{special}", f"{_listed(axes)}",
            lambda a, whole=whole: a["input"].permute(whole).reshape(after), "layout", change=f"permute{tuple(whole)} first in torch",
            write=f"{_jax(call, axes, len(before))}.reshape({', '.join(map(str, after))})", rank=0 if special else 1, meaning=f"merged {order}",
        )  # fmt: skip


def _title(axes: Sequence[int], order: Sequence[int], rank: int) -> str:
    if list(order) == [*axes[1:], axes[0]] and len(axes) >= 2 and rank >= 3:
        return " (channels last)"
    return " (channels first)" if list(order) == [axes[-1], *axes[:-1]] and len(axes) > 2 else ""


def _jax(call: Call, axes: Sequence[int], rank: int) -> str:
    if rank == 4 and list(axes) == [1, 2, 3]:
        return "jnp.transpose(x, (0, 3, 1, 2))"
    return "x, with its axes in torch's order,"


def _divided(call: Call, after: Sequence[int], axes: Sequence[int]) -> Iterator[Variant]:
    sizes = [after[axis] for axis in axes]
    for order in itertools.permutations(range(len(axes))):
        if list(order) == sorted(order):
            continue
        shape = [*after[: axes[0]], *(sizes[i] for i in order), *after[axes[-1] + 1 :]]
        back = [order.index(i) for i in range(len(axes))]
        whole = [*range(axes[0]), *(axes[0] + i for i in back), *range(axes[-1] + 1, len(after))]
        yield differs(
            f"{call.name} splitting {order}", f"splits an axis into {[sizes[i] for i in order]}", f"into {sizes}",
            lambda a, shape=shape, whole=whole: a["input"].reshape(shape).permute(whole), "layout", change="that order in torch",
            write=f"x.reshape({', '.join(map(str, after))})", rank=1, meaning=f"split {order}",
        )  # fmt: skip


def _listed(axes: Sequence[int]) -> str:
    return ", ".join(map(str, axes))


# ---------------------------------------------------------------- weights


def _square(call: Call) -> Iterator[Variant]:
    for name, array in call.arrays():
        if name in ("bias", "input") and call.name in ("linear", "addmm"):
            continue
        if len(array.shape) >= 2 and array.shape[-1] == array.shape[-2] > 1 and (array.name or call.name == "linear"):
            title = array.name or name
            yield differs(
                f"{call.name} {title} transposed", f"multiplies by the transpose of {title} {list(array.shape)}", f"by {title} as it is",
                lambda a, name=name: a.again(**{name: a[name].mT}), "layout", change="the transpose in torch", write="x @ weight.T",
            )  # fmt: skip
    if call.name == "linear" and call["bias"] is not None:
        yield differs(
            "linear without bias",
            "leaves out the bias",
            "has one",
            lambda a: a.again(bias=None),
            "missing",
            change="bias=None in torch",
            write="x @ weight.T + bias",
            meaning=without(call["bias"]),
        )
        yield differs(
            "linear bias twice", "adds the bias twice", "once", lambda a: a.again(bias=2 * a["bias"]), "missing", change="2 * bias in torch",
            write="x @ weight.T + bias",
        )  # fmt: skip


def _einsum(call: Call) -> Iterator[Variant]:
    equation = call["equation"]
    if not isinstance(equation, str) or "->" not in equation:
        return
    inputs, out = equation.replace(" ", "").split("->")
    arrays = list(call["operands"]) if isinstance(call["operands"], (list, tuple)) else []
    for place, (term, array) in enumerate(zip(inputs.split(","), arrays, strict=False)):
        if not isinstance(array, Array) or len(term) != len(array.shape):
            continue
        for i, j in itertools.combinations(range(len(term)), 2):
            if array.shape[i] == array.shape[j] > 1:
                letters = list(term)
                letters[i], letters[j] = letters[j], letters[i]
                other = ",".join("".join(letters) if k == place else t for k, t in enumerate(inputs.split(","))) + "->" + out
                yield differs(
                    f"einsum {other}", f"contracts {other}", f"contracts {equation}", lambda a, other=other: a.torch.einsum(other,
                    *a["operands"]), "layout",
                    change=f"{other!r} in torch", write=f"jnp.einsum({equation!r}, ...)",
                )  # fmt: skip


# ---------------------------------------------------------------- parts of an axis


def _parts(call: Call) -> Iterator[Variant]:
    if not isinstance(call.result, tuple) or not 2 <= len(call.result) <= MOST:
        return
    if len({part.shape for part in call.result if isinstance(part, Array)}) != 1:
        return
    count = len(call.result)
    for order in itertools.permutations(range(count)):
        if list(order) != sorted(order):
            yield differs(
                f"{call.name} in the order {order}", f"takes the {count} parts in the order {_listed(order)}", f"{_listed(range(count))}",
                lambda a, order=order: tuple(parts[i] for parts in [a.again()] for i in order), "order", change="that order in torch",
                write=f"jnp.split(x, {count}, axis), in torch's order",
            )  # fmt: skip


def _joined(call: Call) -> Iterator[Variant]:
    tensors = call["tensors"]
    if not isinstance(tensors, (list, tuple)) or not 2 <= len(tensors) <= MOST:
        return
    count = len(tensors)
    for order in itertools.permutations(range(count)):
        if list(order) != sorted(order):
            yield differs(
                f"{call.name} in the order {order}", f"joins the {count} parts in the order {_listed(order)}", f"{_listed(range(count))}",
                lambda a, order=order: a.again(tensors=[a["tensors"][i] for i in order]), "order", change="that order in torch",
                write=f"jnp.{'stack' if call.name == 'stack' else 'concatenate'}, in torch's order",
            )  # fmt: skip


PAIRS = "halves as pairs"
HALVES = {
    "jax": "takes neighbours as pairs (even and odd places)", "torch": "takes the two halves of the last axis", "family": "rotary",
    "write": "the two halves of the last axis", "change": "pairs of neighbours in torch",
}  # fmt: skip


def _is_last(call: Call) -> bool:
    array = call["input"] if isinstance(call["input"], Array) else call["tensors"][0] if call["tensors"] else None
    dim = call["dim"]
    return isinstance(array, Array) and isinstance(dim, int) and dim % max(len(array.shape), 1) == len(array.shape) - 1


def _pairs(call: Call) -> Iterator[Variant]:
    """Two halves of an axis against even and odd places: rotary embeddings come in both forms. All the calls change together."""
    if not _is_last(call):
        return
    words = HALVES | {"write": "x1, x2 = jnp.split(x, 2, axis=-1), joined by jnp.concatenate"}
    if call.name in ("chunk", "split") and isinstance(call.result, tuple) and len(call.result) == 2:
        yield _pair(call, lambda a: (a["input"][..., 0::2], a["input"][..., 1::2]), words)
    elif call.name in ("cat", "concat", "concatenate") and len(call["tensors"]) == 2:
        yield _pair(call, lambda a: a.torch.stack(tuple(a["tensors"]), -1).flatten(-2), words)


def _half(call: Call) -> Iterator[Variant]:
    index = call["index"]
    if not isinstance(call["input"], Array) or not isinstance(index, tuple) or not index or not isinstance(index[-1], slice):
        return
    last, size = index[-1], call["input"].shape[-1] if call["input"].shape else 0
    if len(index) > 1 and index[0] is not Ellipsis and len(index) != len(call["input"].shape):
        return
    words = HALVES
    if (last.start, last.stop, last.step) in ((None, size // 2, None), (0, size // 2, None)):
        yield _pair(call, lambda a: a["input"][(*index[:-1], slice(0, None, 2))], words)
    elif (last.start, last.step) == (size // 2, None) and last.stop in (None, size):
        yield _pair(call, lambda a: a["input"][(*index[:-1], slice(1, None, 2))], words)
    elif last.step == 2 and last.start in (None, 0, 1):
        start = size // 2 if last.start == 1 else 0
        words = words | {"jax": "takes the two halves of the last axis", "torch": "takes neighbours as pairs (even and odd places)"}
        yield _pair(
            call,
            lambda a: a["input"][(*index[:-1], slice(start, start + size // 2))],
            words | {"change": "halves in torch"},
            "pairs as halves",
        )


def _pair(call: Call, apply: Any, words: dict[str, str], key: str = PAIRS) -> Variant:
    return differs(f"{key}", words["jax"], words["torch"], apply, words["family"], change=words["change"], write=words["write"])._replace(
        fact=f"the jax side {words['jax']}, torch{{at}} {words['torch']}"
    )


def _repeated(call: Call) -> Iterator[Variant]:
    if not isinstance(call["input"], Array) or call.out is None:
        return
    shape, out = call["input"].shape, call.out.shape
    if call.name == "repeat_interleave" and isinstance(call["repeats"], int) and isinstance(call["dim"], int):
        times, axis = call["repeats"], call["dim"] % len(shape)
        counts = [times if i == axis else 1 for i in range(len(shape))]
        yield differs(
            "repeat_interleave as tile", "repeats the whole axis", "repeats each element in place", lambda a: a["input"].repeat(counts), "order",
            change="repeat in torch", write=f"jnp.repeat(x, {times}, axis={axis})",
        )  # fmt: skip
    elif call.name in ("repeat", "tile") and len(shape) == len(out):
        counts = [o // s if s else 1 for o, s in zip(out, shape, strict=True)]
        grown = [i for i, n in enumerate(counts) if n > 1]
        if len(grown) == 1 and 0 not in shape:
            yield differs(
                f"{call.name} as repeat_interleave", "repeats each element in place", "repeats the whole axis",
                lambda a: a["input"].repeat_interleave(counts[grown[0]], grown[0]), "order", change="repeat_interleave in torch",
                write=f"jnp.tile(x, {tuple(counts)})",
            )  # fmt: skip
