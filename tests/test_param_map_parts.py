"""Torch arrays that are taken apart, put together, turned round and added: the language, its inverse and its adjoint, and the sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings, strategies
from torch import nn

from pytest_dlparity import param_map
from pytest_dlparity.errors import SpecError
from pytest_dlparity.param_map import Carry, JaxLeaf, TorchLeaf, candidates, names, pattern

RNG = np.random.default_rng(0)


def made(carries: list[Carry], arrays: dict[str, np.ndarray], shape: tuple[int, ...], path: str = "j") -> np.ndarray:
    return param_map.jax_arrays(carries, arrays, {path: shape})[path]


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


# ---------------------------------------------------------------- what each word means

W = array(24, 5)
FUSED = {
    "a part": ("(1/3 h d) i -> i h d", (5, 2, 4), W[8:16].reshape(2, 4, 5).transpose(2, 0, 1)),
    "a part by turns": ("(h 1/3 d) i -> i h d", (5, 2, 4), W.reshape(2, 3, 4, 5)[:, 1].transpose(2, 0, 1)),
    "a cut": ("o[16:24] i -> i o", (5, 8), W[16:24].T),
    "a cut that is opened": ("(h d)[16:24] i -> i h d", (5, 2, 4), W[16:24].reshape(2, 4, 5).transpose(2, 0, 1)),
    "one row": ("3/24 i -> i", (5,), W[3]),
    "as it is": ("", (24, 5), W),
}


@pytest.mark.parametrize("case", FUSED)
def test_what_is_taken(case):
    text, shape, expected = FUSED[case]
    sizes = pattern.after(text, W.shape, {}, shape)[1] if text else ()
    assert np.array_equal(made([Carry("w", "j", text, sizes)], {"w": W}, shape), expected)


def test_what_is_filled():
    q, k = array(4, 5), array(4, 5)
    fused = made([Carry("q", "j", "o i -> i (0/2 o)"), Carry("k", "j", "o i -> i (1/2 o)")], {"q": q, "k": k}, (5, 8))
    assert np.array_equal(fused, np.concatenate([q.T, k.T], 1))
    stacked = made([Carry("q", "j", "o i -> 0/2 o i"), Carry("k", "j", "o i -> 1/2 o i")], {"q": q, "k": k}, (2, 4, 5))
    assert np.array_equal(stacked, np.stack([q, k]))
    uneven = made([Carry("q", "j", "o i -> o[0:4] i"), Carry("x", "j", "o i -> o[4:6] i")], {"q": q, "x": q[:2]}, (6, 5))
    assert np.array_equal(uneven, np.concatenate([q, q[:2]]))
    carries = [Carry(name, "j", f"(h d) i -> i (h {n}/2 d)", (("h", 2), ("d", 2))) for n, name in enumerate("qk")]
    by_turns = made(carries, {"q": q, "k": k}, (5, 8))
    assert np.array_equal(by_turns, np.stack([q.reshape(2, 2, 5), k.reshape(2, 2, 5)], 1).reshape(8, 5).T)


def test_gates_in_another_order():
    w = array(12, 5)
    carries = [Carry("w", "j", f"({part}/3 o) i -> i ({place}/3 o)", (("o", 4),)) for place, part in enumerate((1, 0, 2))]
    assert np.array_equal(made(carries, {"w": w}, (5, 12)), np.concatenate([w[4:8], w[:4], w[8:]]).T)


def test_a_kernel_turned_round():
    w = array(3, 4, 2, 2)
    assert np.array_equal(made([Carry("w", "j", "i o h w -> -h -w i o")], {"w": w}, (2, 2, 3, 4)), w.transpose(2, 3, 0, 1)[::-1, ::-1])


def test_what_is_filled_in_part_stays_the_users_array():
    w = array(4)
    made([Carry("w", "j", "o -> o[0:4]")], {"w": w}, (6,))[:] = 0
    assert w.all()


# ---------------------------------------------------------------- there and back


@settings(max_examples=150, deadline=None)
@drawn(strategies.data())
def test_every_candidate_comes_back(data):
    """Of any jax array and any candidates for it: the inverse gives back what was taken, and the adjoint is the adjoint."""
    h, d, i = (data.draw(strategies.integers(1, 3)) for _ in range(3))
    torch = names.torch_leaves(
        [
            TorchLeaf("in_proj_weight", (3 * h * d, i), "MultiheadAttention"),
            TorchLeaf("q.weight", (h * d, i)),
            TorchLeaf("k.weight", (h * d, i)),
        ]
        + [TorchLeaf(f"weight_{kind}_l0", (3 * h * d, n), "GRU") for kind, n in (("ih", i), ("hh", h * d))]
        + [TorchLeaf(f"bias_{kind}_l0", (3 * h * d,), "GRU") for kind in ("ih", "hh")]
    )
    shapes = [(i, h, d), (i, h * d), (i, 3 * h * d), (h * d,), (3 * h * d,), (h, d), (i, 2 * h * d), (2, i, h * d)]
    jax = names.jax_leaves([JaxLeaf("j", data.draw(strategies.sampled_from(shapes)))])[0]
    options = candidates.candidates(jax, torch, {(1, h, 3, d), (5, h, d)})
    if options:
        carries = list(data.draw(strategies.sampled_from(options)).carries)
        arrays = {leaf.name: array(*leaf.shape) for leaf in torch}
        sizes = {leaf.name: leaf.shape for leaf in torch}
        there = made(carries, arrays, jax.shape)
        again = param_map.torch_values(carries, {"j": there}, sizes)
        assert np.allclose(made(carries, again, jax.shape), there)
        cotangent = array(*jax.shape)
        grads = param_map.torch_gradients(carries, {"j": cotangent}, sizes)
        assert np.isclose(np.sum(there * cotangent), sum(np.sum(arrays[name] * grad) for name, grad in grads.items()))
        for carry in carries:
            pattern.checked(carry, sizes[carry.torch], jax.shape)


def test_the_gradient_of_a_sum_goes_to_both():
    carries = [Carry("b_ih", "b"), Carry("b_hh", "b", "+")]
    grads = param_map.torch_gradients(carries, {"b": np.array([1.0, 2.0])}, {"b_ih": (2,), "b_hh": (2,)})
    assert {name: grad.tolist() for name, grad in grads.items()} == {"b_ih": [1.0, 2.0], "b_hh": [1.0, 2.0]}


def test_what_is_shared_is_summed_and_what_is_split_is_not():
    tied = [Carry("w", "embed"), Carry("w", "head", "v d -> d v")]
    w = array(3, 2)
    assert np.allclose(param_map.torch_gradients(tied, {"embed": w, "head": w.T}, {"w": (3, 2)})["w"], 2 * w)
    assert np.array_equal(param_map.torch_values(tied, {"embed": w, "head": 0 * w.T}, {"w": (3, 2)})["w"], w)
    split = [Carry("w", "a", "(0/3 o) i -> o i"), Carry("w", "b", "(1/3 o) i -> o i"), Carry("w", "c", "(2/3 o) i -> o i")]
    grads = param_map.torch_gradients(split, {name: np.full((1, 2), n) for n, name in enumerate("abc")}, {"w": (3, 2)})
    assert grads["w"].tolist() == [[0, 0], [1, 1], [2, 2]]


# ---------------------------------------------------------------- as a user writes it


def carries(torch: dict[str, tuple[int, ...]], jax: dict[str, tuple[int, ...]], given: Any) -> tuple[Carry, ...]:
    return param_map.carries([TorchLeaf(*leaf) for leaf in torch.items()], [JaxLeaf(*leaf) for leaf in jax.items()], given)


def refusal(torch: dict[str, tuple[int, ...]], jax: dict[str, tuple[int, ...]], given: Any) -> str:
    with pytest.raises(SpecError) as caught:
        carries(torch, jax, given)
    return str(caught.value)


def unfit(*wrong: str) -> str:
    return "\n  ".join(["param_map does not fit the two sides:", *wrong])


QKV = {"query.kernel": (8, 2, 4), "key.kernel": (8, 2, 4), "value.kernel": (8, 2, 4)}
THREE = [(path, f"({k}/3 h d) i -> i h d") for k, path in enumerate(QKV)]


def test_query_key_and_value():
    found = carries({"in_proj_weight": (24, 8)}, QKV, {"in_proj_weight": THREE})
    assert found[1] == Carry("in_proj_weight", "key.kernel", "(1/3 h d) i -> i h d", (("h", 2), ("d", 4)), "given")


def test_a_star_in_parts():
    torch, jax = {f"h.{n}.qkv": (24, 8) for n in range(2)}, {f"b_{n}.{path}": shape for n in range(2) for path, shape in QKV.items()}
    found = carries(torch, jax, {"h.*.qkv": [(f"b_*.{path}", text) for path, text in THREE]})
    assert found[-1].jax == "b_1.value.kernel" and len(found) == 6


def test_two_biases():
    torch, jax = {"bias_ih": (8,), "bias_hh": (8,)}, {"bias": (8,)}
    assert carries(torch, jax, {"bias_ih": "bias", "bias_hh": ("bias", "+")}) == (
        Carry("bias_ih", "bias", "", (), "given"),
        Carry("bias_hh", "bias", "+", (), "given"),
    )
    recurrent = [TorchLeaf("bias_ih", (8,), "LSTMCell"), TorchLeaf("bias_hh", (8,), "LSTMCell")]
    found = param_map.carries(recurrent, [JaxLeaf("bias", (8,))], {"bias_ih": "bias", "bias_hh": ("bias", "+")})
    assert [carry.pattern for carry in found] == ["", "+"]


def test_the_text_to_paste_says_the_same():
    torch, jax = {"qkv": (24, 8), "o": (8, 8), "b1": (4,), "b2": (4,)}, {**QKV, "out": (8, 8), "b": (4,)}
    given = {"qkv": THREE, "o": ("out", "(h d) i -> i (d h)", {"h": 2}), "b1": "b", "b2": ("b", "+")}
    found = carries(torch, jax, given)
    text = param_map.written(found)
    assert text == (
        '{\n    "qkv": [("query.kernel", "(0/3 h d) i -> i h d"), ("key.kernel", "(1/3 h d) i -> i h d"), '
        '("value.kernel", "(2/3 h d) i -> i h d")],\n'
        '    "o": ("out", "(h d) i -> i (d h)", {"h": 2}),\n    "b1": "b",\n    "b2": ("b", "+"),\n}'
    )
    assert carries(torch, jax, eval(text)) == found


WRONG = {
    "a part that is missing": (
        {"w": THREE[:2]},
        'param_map takes 128 of the 192 numbers of torch "w" [24, 8]. Say where the others go.',
    ),
    "a part twice": (
        {"w": [("j", "(0/3 o) i -> i (0/3 o)"), ("j", "(1/3 o) i -> i (0/3 o)"), ("j", "(2/3 o) i -> i (2/3 o)")]},
        'param_map gives 64 of the 192 numbers of jax "j" to torch "w" and torch "w" and torch "w" at once. '
        'Where one is to be added to the other, begin its layout with "+".',
    ),
    "a hole": (
        {"w": [("j", "(0/3 o) i -> i (0/3 o)"), ("j", "(1/3 o) i -> i (2/3 o)")], "x": ("k", "o -> o")},
        'param_map fills 128 of the 192 numbers of jax "j" by torch "w" and torch "w". Say where the others come from.',
        'param_map takes 128 of the 192 numbers of torch "w" [24, 8]. Say where the others go.',
    ),
    "nothing to add to": (
        {"x": ("k", "+ o -> o")},
        'param_map fills 0 of the 8 numbers of jax "k". Say where the others come from.',
    ),
    "a part of too many": (
        {"w": ("query.kernel", "(3/3 h d) i -> i h d")},
        'param_map lays out torch "w" [24, 8] as "(3/3 h d) i -> i h d", but 3/3 is no part: parts are counted from 0, as in 0/3, 1/3 and 2/3.',
    ),
    "parts that do not divide": (
        {"w": ("query.kernel", "(0/5 o) i -> i o")},
        'param_map lays out torch "w" [24, 8] as "(0/5 o) i -> i o", but its axis (0/5 o) is a multiple of 5, and [24, 8] has 24 there.',
    ),
    "a cut too far": (
        {"w": ("query.kernel", "o[20:28] i -> i o")},
        'param_map lays out torch "w" [24, 8] as "o[20:28] i -> i o", but it cuts [20:28] out of an axis of 24.',
    ),
    "an empty cut": (
        {"w": ("query.kernel", "o[8:8] i -> i o")},
        'param_map lays out torch "w" [24, 8] as "o[8:8] i -> i o", but [8:8] is empty.',
    ),
    "a cut that is too small": (
        {"x": ("j", "o -> o[0:4] 3/24")},
        'param_map lays out torch "x" [8] as "o -> o[0:4] 3/24", but it fills [0:4] of an axis of 8 with 8.',
    ),
    "a flip on the left": (
        {"w": ("j", "-o i -> i o")},
        'param_map lays out torch "w" [24, 8] as "-o i -> i o", but an axis is turned round on its right side.',
    ),
    "added, and the shapes differ": (
        {"w": ("k", "+")},
        'param_map gives torch "w" [24, 8] to jax "k" [8], but their sizes differ.',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_map_of_parts_that_does_not_fit(case):
    given, *sentences = WRONG[case]
    assert refusal({"w": (24, 8), "x": (8,)}, {**QKV, "j": (8, 24), "k": (8,)}, given) == unfit(*sentences)


def test_two_for_one_without_a_plus():
    torch, jax = {"bias_ih": (8,), "bias_hh": (8,)}, {"bias": (8,)}
    assert refusal(torch, jax, {"bias_ih": "bias", "bias_hh": "bias"}) == unfit(
        'param_map gives jax "bias" to torch "bias_ih" and torch "bias_hh". A jax array takes the numbers of one; leave the others out.'
    )


def test_gates_that_are_kept_as_they_are_have_to_be_said():
    torch, jax = [TorchLeaf("weight_hh", (16, 4), "LSTMCell")], [JaxLeaf("w", (16, 4))]
    with pytest.raises(SpecError) as caught:
        param_map.carries(torch, jax, {"weight_hh": "w"})
    assert str(caught.value) == unfit(
        'param_map gives torch "weight_hh" [16, 4] to jax "w" [16, 4], but torch keeps the gates in one array, and names do not show where '
        'each one goes. Write param_map={"weight_hh": ("w", "a b -> a b")} if that is what is meant.'
    )
    assert param_map.carries(torch, jax, {"weight_hh": ("w", "a b -> a b")})[0].pattern == "a b -> a b"


# ---------------------------------------------------------------- words


def test_a_line_of_the_table():
    found = [
        Carry("in_proj_weight", "key.kernel", "(1/3 h d) i -> i h d", (("h", 2), ("d", 4)), "value"),
        Carry("b_hh", "b", "+", (), "given"),
    ]
    assert param_map.table(found).splitlines() == [
        "torch           jax         layout                          decided by",
        "in_proj_weight  key.kernel  (1/3 h d) i -> i h d, h=2, d=4  value",
        "b_hh            b           added                           given",
    ]


def test_every_layer_of_torch_is_a_candidate_for_its_own_copy():
    """As it is, whatever it is: the simplest candidate is always there."""
    for module in (nn.Linear(3, 4), nn.Conv2d(2, 3, 2), nn.LSTM(3, 4), nn.MultiheadAttention(4, 2), nn.ConvTranspose2d(2, 3, 2)):
        torch = names.torch_leaves([TorchLeaf(name, tuple(p.shape), type(module).__name__) for name, p in module.named_parameters()])
        for leaf in torch:
            jax = names.jax_leaves([JaxLeaf("x", leaf.shape)])[0]
            assert any(one.carries == (Carry(leaf.name, "x"),) for one in candidates.candidates(jax, torch))
