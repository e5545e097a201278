"""Torch names and layouts against jax trees: what is matched, what is refused, and in which words."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings, strategies
from torch import nn

from pytest_dlparity import param_map
from pytest_dlparity.errors import SpecError
from pytest_dlparity.param_map import Carry, JaxLeaf, TorchLeaf

STATE = True


def torch_leaves(module: nn.Module) -> list[TorchLeaf]:
    """As the torch side lists them: parameters, then buffers."""
    layers = {name: type(inner).__name__ for name, inner in module.named_modules()}
    return [
        TorchLeaf(name, tuple(tensor.shape), layers[name.rpartition(".")[0]], state)
        for found, state in ((module.named_parameters(), False), (module.named_buffers(), True))
        for name, tensor in found
    ]


def leaves(layer: str, path: str, state: bool = False, **shapes: tuple[int, ...]) -> list[JaxLeaf]:
    """The arrays of one jax layer."""
    return [JaxLeaf(f"{path}.{name}" if path else name, shape, layer, state) for name, shape in shapes.items()]


def pairs(module: nn.Module | list[TorchLeaf], jax: list[JaxLeaf], given: Any = None) -> dict[str, Any]:
    """Torch name -> jax path, or (jax path, layout) where it is not as it is."""
    made = param_map.carries(torch_leaves(module) if isinstance(module, nn.Module) else module, jax, given)
    return {carry.torch: (carry.jax, carry.pattern) if carry.pattern else carry.jax for carry in made}


def refusal(module: nn.Module | list[TorchLeaf], jax: list[JaxLeaf], given: Any = None) -> str:
    with pytest.raises(SpecError) as caught:
        pairs(module, jax, given)
    return str(caught.value)


def unmatched(*lines: str) -> str:
    *wrong, line = lines
    return "\n".join(["torch and jax parameters cannot be matched without doubt:", *(f"  {text}" for text in wrong), line])


def unfit(*wrong: str) -> str:
    return "\n  ".join(["param_map does not fit the two sides:", *wrong])


def square_net(*kinds: str) -> nn.Sequential:
    """Layers of width 8, so that no shape tells one from another."""
    made = {"linear": lambda: nn.Linear(8, 8), "norm": lambda: nn.LayerNorm(8), "relu": nn.ReLU}
    return nn.Sequential(*(made[kind]() for kind in kinds))


MLP = ("linear", "relu", "linear", "norm", "linear")
MEANT = "if that is what is meant; what is left out is inferred."
GENERIC = 'Give both sides the same parameters, or say what belongs together: param_map={"torch name": "jax path"}.'

# ---------------------------------------------------------------- one layer, every library

LAYERS = [
    ("linen Dense", nn.Linear(8, 8), leaves("Dense", "", bias=(8,), kernel=(8, 8)), {"weight": ("kernel", "o i -> i o"), "bias": "bias"}),
    ("nnx Linear", nn.Linear(8, 4), leaves("Linear", "", bias=(4,), kernel=(8, 4)), {"weight": ("kernel", "o i -> i o"), "bias": "bias"}),
    ("equinox Linear", nn.Linear(8, 8), leaves("Linear", "", weight=(8, 8), bias=(8,)), {"weight": "weight", "bias": "bias"}),
    (
        "haiku Linear",
        nn.Linear(8, 8),
        leaves("Linear", "linear", w=(8, 8), b=(8,)),
        {"weight": ("linear.w", "o i -> i o"), "bias": "linear.b"},
    ),
    ("stax Dense", nn.Linear(8, 8), [JaxLeaf("0", (8, 8)), JaxLeaf("1", (8,))], {"weight": ("0", "o i -> i o"), "bias": "1"}),
    ("untold", nn.Linear(8, 8), [JaxLeaf("kernel", (8, 8)), JaxLeaf("bias", (8,))], {"weight": ("kernel", "o i -> i o"), "bias": "bias"}),
    ("one to one", nn.Linear(1, 1), leaves("Dense", "", bias=(1,), kernel=(1, 1)), {"weight": ("kernel", "o i -> i o"), "bias": "bias"}),
    ("no bias", nn.Linear(8, 8, bias=False), leaves("Dense", "Dense_0", kernel=(8, 8)), {"weight": ("Dense_0.kernel", "o i -> i o")}),
    (
        "flax Conv",
        nn.Conv2d(3, 3, 3),
        leaves("Conv", "", bias=(3,), kernel=(3, 3, 3, 3)),
        {"weight": ("kernel", "o i h w -> h w i o"), "bias": "bias"},
    ),
    (
        "flax Conv, grouped",
        nn.Conv2d(4, 8, 3, groups=4),
        leaves("Conv", "", kernel=(3, 3, 1, 8), bias=(8,)),
        {"weight": ("kernel", "o i h w -> h w i o"), "bias": "bias"},
    ),
    ("flax Conv, 1d", nn.Conv1d(3, 3, 3, bias=False), leaves("Conv", "", kernel=(3, 3, 3)), {"weight": ("kernel", "o i w -> w i o")}),
    (
        "flax Conv, 3d",
        nn.Conv3d(3, 3, 3, bias=False),
        leaves("Conv", "", kernel=(3,) * 5),
        {"weight": ("kernel", "o i d h w -> d h w i o")},
    ),
    (
        "haiku Conv2D",
        nn.Conv2d(3, 3, 3),
        leaves("Conv2D", "conv2_d", w=(3, 3, 3, 3), b=(3,)),
        {"weight": ("conv2_d.w", "o i h w -> h w i o"), "bias": "conv2_d.b"},
    ),
    (
        "haiku DepthwiseConv2D",
        nn.Conv2d(3, 6, 3, groups=3, bias=False),
        leaves("DepthwiseConv2D", "depthwise_conv2_d", w=(3, 3, 1, 6)),
        {"weight": ("depthwise_conv2_d.w", "o i h w -> h w i o")},
    ),
    (
        "stax Conv",
        nn.Conv2d(3, 3, 3),
        [JaxLeaf("0", (3, 3, 3, 3)), JaxLeaf("1", (1, 1, 1, 3))],
        {"weight": ("0", "o i h w -> h w i o"), "bias": ("1", "o -> 1 1 1 o")},
    ),
    (
        "equinox Conv2d",
        nn.Conv2d(3, 3, 3),
        leaves("Conv2d", "", weight=(3, 3, 3, 3), bias=(3, 1, 1)),
        {"weight": "weight", "bias": ("bias", "o -> o 1 1")},
    ),
    (
        "equinox Conv1d of one channel",
        nn.Conv1d(1, 1, 3),
        leaves("Conv1d", "", weight=(1, 1, 3), bias=(1, 1)),
        {"weight": "weight", "bias": ("bias", "o -> o 1")},
    ),
    (
        "flax ConvTranspose, transpose_kernel",
        nn.ConvTranspose2d(6, 5, 3),
        leaves("ConvTranspose", "", kernel=(3, 3, 5, 6), bias=(5,)),
        {"weight": ("kernel", "i o h w -> h w o i"), "bias": "bias"},
    ),
    ("flax LayerNorm", nn.LayerNorm(8), leaves("LayerNorm", "", bias=(8,), scale=(8,)), {"weight": "scale", "bias": "bias"}),
    ("flax RMSNorm", nn.RMSNorm(8), leaves("RMSNorm", "", scale=(8,)), {"weight": "scale"}),
    (
        "haiku LayerNorm",
        nn.LayerNorm(8),
        leaves("LayerNorm", "layer_norm", scale=(8,), offset=(8,)),
        {"weight": "layer_norm.scale", "bias": "layer_norm.offset"},
    ),
    (
        "flax BatchNorm",
        nn.BatchNorm2d(8),
        leaves("BatchNorm", "", bias=(8,), scale=(8,)) + leaves("BatchNorm", "", STATE, mean=(8,), var=(8,)),
        {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"},
    ),
    (
        "haiku BatchNorm",
        nn.BatchNorm2d(8),
        leaves("BatchNorm", "batch_norm", scale=(1, 1, 1, 8), offset=(1, 1, 1, 8))
        + leaves("ExponentialMovingAverage", "batch_norm.mean_ema", STATE, average=(1, 1, 1, 8), counter=(), hidden=(1, 1, 1, 8))
        + leaves("ExponentialMovingAverage", "batch_norm.var_ema", STATE, average=(1, 1, 1, 8), counter=(), hidden=(1, 1, 1, 8)),
        {
            "weight": ("batch_norm.scale", "o -> 1 1 1 o"),
            "bias": ("batch_norm.offset", "o -> 1 1 1 o"),
            "running_mean": ("batch_norm.mean_ema.average", "o -> 1 1 1 o"),
            "running_var": ("batch_norm.var_ema.average", "o -> 1 1 1 o"),
        },
    ),
    (
        "equinox BatchNorm",
        nn.BatchNorm1d(8),
        leaves("BatchNorm", "", weight=(8,), bias=(8,)) + leaves("BatchNorm", "", STATE, mean=(8,), var=(8,), counter=()),
        {"weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "var"},
    ),
    ("flax Embed", nn.Embedding(8, 8), leaves("Embed", "", embedding=(8, 8)), {"weight": "embedding"}),
    ("equinox Embedding", nn.Embedding(8, 8), leaves("Embedding", "", weight=(8, 8)), {"weight": "weight"}),
    ("haiku Embed", nn.Embedding(8, 8), leaves("Embed", "embed", embeddings=(8, 8)), {"weight": "embed.embeddings"}),
    (
        "equinox LSTMCell",
        nn.LSTMCell(16, 4, bias=False),
        leaves("LSTMCell", "", weight_ih=(16, 16), weight_hh=(16, 4)),
        {"weight_ih": "weight_ih", "weight_hh": "weight_hh"},
    ),
    ("nnx PReLU", nn.PReLU(), leaves("PReLU", "", negative_slope=()), {"weight": ("negative_slope", "1 ->")}),
    ("nothing", nn.ReLU(), [], {}),
    ("keys of a Dropout", nn.Dropout(), leaves("RngStream", "rngs", STATE, count=(), key=(2,)), {}),
]


@pytest.mark.parametrize(("module", "jax", "expected"), [pytest.param(*case[1:], id=case[0].replace(" ", "-")) for case in LAYERS])
def test_a_layer_in_every_library(module, jax, expected):
    assert pairs(module, jax) == expected


@pytest.mark.parametrize(("module", "jax"), [pytest.param(*case[1:3], id=case[0].replace(" ", "-")) for case in LAYERS])
def test_there_and_back_again(module, jax):
    shapes, tensors = {leaf.path: leaf.shape for leaf in jax}, module.state_dict()
    for carry in param_map.carries(torch_leaves(module), jax):
        array = tensors[carry.torch].numpy()
        there = param_map.to_jax(carry, array)
        assert there.shape == shapes[carry.jax] and there.dtype == array.dtype
        assert np.array_equal(param_map.to_torch(carry, there), array)


def test_the_transpose_is_a_transpose():
    (carry,) = param_map.carries([TorchLeaf("weight", (2, 2), "Linear")], [JaxLeaf("kernel", (2, 2), "Dense")])
    assert param_map.to_jax(carry, np.array([[1, 2], [3, 4]])).tolist() == [[1, 3], [2, 4]]


def test_an_array_of_its_own():
    """A view would let one side change the other's numbers."""
    array = np.zeros((2, 2))
    param_map.to_jax(Carry("weight", "kernel", "o i -> i o"), array)[:] = 1
    assert not array.any()


# ---------------------------------------------------------------- several layers


def dense(path: str, kernel: tuple[int, int] = (8, 8)) -> list[JaxLeaf]:
    return leaves("Dense", path, kernel=kernel, bias=(kernel[1],))


def sequence(module: nn.Module, jax: list[JaxLeaf]) -> list[str]:
    """The jax layers in the order of the torch layers."""
    return list(dict.fromkeys((path[0] if isinstance(path, tuple) else path).rpartition(".")[0] for path in pairs(module, jax).values()))


SEQUENCES = {
    "linen": (
        [*dense("Dense_0"), *dense("Dense_1"), *dense("Dense_2"), *leaves("LayerNorm", "LayerNorm_0", scale=(8,), bias=(8,))],
        "Dense_0 Dense_1 LayerNorm_0 Dense_2",
    ),
    "nnx": (
        [*dense("layers.0"), *dense("layers.2"), *leaves("LayerNorm", "layers.3", scale=(8,), bias=(8,)), *dense("layers.4")],
        "layers.0 layers.2 layers.3 layers.4",
    ),
    "setup": (
        [*dense("layers_0"), *dense("layers_1"), *leaves("LayerNorm", "layers_2", scale=(8,), bias=(8,)), *dense("layers_3")],
        "layers_0 layers_1 layers_2 layers_3",
    ),
    "equinox": (
        [
            *leaves("Linear", "layers.0", weight=(8, 8), bias=(8,)),
            *leaves("Linear", "layers.1", weight=(8, 8), bias=(8,)),
            *leaves("LayerNorm", "layers.2", weight=(8,), bias=(8,)),
            *leaves("Linear", "layers.3", weight=(8, 8), bias=(8,)),
        ],
        "layers.0 layers.1 layers.2 layers.3",
    ),
    "haiku": (
        [
            *leaves("LayerNorm", "layer_norm", scale=(8,), offset=(8,)),
            *leaves("Linear", "linear_2", w=(8, 8), b=(8,)),
            *leaves("Linear", "linear_1", w=(8, 8), b=(8,)),
            *leaves("Linear", "linear", w=(8, 8), b=(8,)),
        ],
        "linear linear_1 layer_norm linear_2",
    ),
    "words": ([*dense("fc1"), *dense("fc2"), *dense("fc3"), *leaves("LayerNorm", "norm", scale=(8,), bias=(8,))], "fc1 fc2 norm fc3"),
}


@pytest.mark.parametrize("library", SEQUENCES)
def test_layers_without_names_go_by_their_numbers(library):
    jax, expected = SEQUENCES[library]
    assert sequence(square_net(*MLP), jax) == expected.split()


def test_stax_counts_what_has_no_parameters():
    jax = [JaxLeaf("0.0", (8, 8)), JaxLeaf("0.1", (8,)), JaxLeaf("2.0", (8, 8)), JaxLeaf("2.1", (8,))]
    assert sequence(square_net("linear", "relu", "linear"), jax) == ["0", "2"]
    assert sequence(square_net("relu", "linear", "relu", "linear"), jax) == ["0", "2"]


def test_ten_come_after_nine():
    jax = [leaf for n in sorted(range(12), key=str) for leaf in dense(f"Dense_{n}")]
    assert sequence(square_net(*["linear"] * 12), jax) == [f"Dense_{n}" for n in range(12)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8)
        self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)


def batch_norm(path: str) -> list[JaxLeaf]:
    return leaves("BatchNorm", path, scale=(8,), bias=(8,)) + leaves("BatchNorm", path, STATE, mean=(8,), var=(8,))


def conv_net(conv: str, norm: str, linear: str, numbers: tuple[int, int]) -> list[JaxLeaf]:
    first, second = numbers
    return [
        *leaves("Conv", f"{conv}{first}", kernel=(3, 3, 3, 8), bias=(8,)),
        *leaves("Conv", f"{conv}{second}", kernel=(3, 3, 4, 8), bias=(8,)),
        *(leaf for n in numbers for leaf in (*batch_norm(f"{norm}{n}"), *dense(f"{linear}{n}"))),
    ]


def test_linen_counts_each_kind_apart():
    assert sequence(Net(), conv_net("Conv_", "BatchNorm_", "Dense_", (0, 1))) == [
        "Conv_0",
        "BatchNorm_0",
        "Conv_1",
        "BatchNorm_1",
        "Dense_0",
        "Dense_1",
    ]


def test_the_same_names_go_before_the_order():
    two = nn.ModuleDict({"fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 8)})
    assert sequence(two, [*dense("fc2"), *dense("fc1")]) == ["fc1", "fc2"]


def test_statistics_go_to_the_state():
    found = pairs(Net(), conv_net("conv", "bn", "fc", (1, 2)))
    assert found["bn2.running_var"] == "bn2.var" and "bn2.num_batches_tracked" not in found and len(found) == 16


def gpt(prefix: str, block: str, count: int, jax: bool) -> list[Any]:
    """Blocks of equal width: names alone tell query, key and value apart."""
    names = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.fc1", "mlp.fc2")
    made: list[Any] = []
    for index, name in itertools.product(range(count), names):
        path = f"{prefix}{block}{index}.{name}"
        made += (
            dense(path) if jax else [TorchLeaf(f"{path}.weight", (8, 8), "Linear", False), TorchLeaf(f"{path}.bias", (8,), "Linear", False)]
        )
    return made


@pytest.mark.parametrize("block", ["layers_", "layers.", "blocks_", "h_"])
def test_blocks_by_number_and_what_is_in_them_by_name(block):
    found = pairs(gpt("model.", "blocks.", 12, jax=False), gpt("", block, 12, jax=True))
    assert found["model.blocks.11.attn.k.weight"] == (f"{block}11.attn.k.kernel", "o i -> i o") and len(found) == 144


def test_a_shape_that_fits_only_one():
    two = nn.ModuleDict({"encode": nn.Linear(8, 4), "decode": nn.Linear(4, 8)})
    found = param_map.carries(torch_leaves(two), [*dense("down", (8, 4)), *dense("up", (4, 8))])
    assert [(carry.torch, carry.jax, carry.how) for carry in found] == [
        ("encode.weight", "down.kernel", "only shape left"),
        ("encode.bias", "down.bias", "only shape left"),
        ("decode.weight", "up.kernel", "only shape left"),
        ("decode.bias", "up.bias", "only shape left"),
    ]


def test_a_layer_goes_as_a_whole():
    """The biases are alike; the weights say whose they are."""
    two = nn.ModuleDict({"one": nn.Linear(4, 8), "two": nn.Linear(16, 8)})
    assert pairs(two, [*dense("b", (16, 8)), *dense("a", (4, 8))])["one.bias"] == "a.bias"


def test_a_kind_of_layer_tells_what_a_shape_does_not():
    two = nn.ModuleDict({"tokens": nn.Embedding(8, 4), "mix": nn.Linear(8, 4, bias=False)})
    jax = [*leaves("Dense", "a", kernel=(8, 4)), *leaves("Embed", "b", embedding=(8, 4))]
    assert pairs(two, jax) == {"tokens.weight": "b.embedding", "mix.weight": ("a.kernel", "o i -> i o")}


def test_how_it_was_decided():
    def how(module: nn.Module, jax: list[JaxLeaf], given: Any = None) -> set[str]:
        return {carry.how for carry in param_map.carries(torch_leaves(module), jax, given)}

    linear = nn.Linear(8, 8)
    assert how(linear, dense("")) == {"name"}
    assert how(linear, dense("Dense_0")) == {"only layer left"}
    assert how(linear, dense(""), {"weight": "kernel"}) == {"given", "its layer"}
    assert how(square_net("linear", "linear"), [*dense("Dense_0"), *dense("Dense_1")]) == {"number"}


def test_a_mask_may_stay_alone():
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.register_buffer("mask", torch.ones(8, 8))

    found = param_map.carries(
        [leaf._replace(layer="Linear") for leaf in torch_leaves(Masked())], [*dense(""), *leaves("Dense", "", STATE, cache=(8, 8))]
    )
    assert {carry.torch for carry in found} == {"weight", "bias"}


def test_five_hundred_leaves_take_no_time():
    sides = gpt("model.", "blocks.", 48, jax=False), gpt("", "h_", 48, jax=True)
    start = time.perf_counter()
    assert len(param_map.carries(*sides)) == 576
    assert time.perf_counter() - start < 3  # 0.06 s on a quiet machine


def test_a_model_that_does_not_match_at_all_is_refused_quickly_and_briefly():
    jax = [leaf._replace(path=leaf.path.replace("attn.", "x").replace("mlp.fc", "y")) for leaf in gpt("", "z.a", 48, jax=True)]
    start = time.perf_counter()
    message = refusal([leaf._replace(name=leaf.name.replace("blocks.", "b")) for leaf in gpt("", "blocks.", 48, jax=False)], jax[:-2])
    assert time.perf_counter() - start < 3
    assert len(message.splitlines()) == 23 and message.splitlines()[-2] == "  and 556 more."
    assert ", ...} if that is what is meant; what is left out is inferred." in message


# ---------------------------------------------------------------- never a guess

Q_K = nn.ModuleDict({"q": nn.Linear(8, 8), "k": nn.Linear(8, 8)})


def test_two_layers_alike_under_unrelated_names():
    assert refusal(Q_K, [*dense("a"), *dense("b")]) == unmatched(
        'torch "q.weight" [8, 8] may be jax "a.kernel" [8, 8] or jax "b.kernel" [8, 8].',
        'torch "q.bias" [8] may be jax "a.bias" [8] or jax "b.bias" [8].',
        'torch "k.weight" [8, 8] may be jax "a.kernel" [8, 8] or jax "b.kernel" [8, 8].',
        'torch "k.bias" [8] may be jax "a.bias" [8] or jax "b.bias" [8].',
        'Write param_map={"q.weight": ("a.kernel", "o i -> i o"), "q.bias": "a.bias", '
        '"k.weight": ("b.kernel", "o i -> i o"), "k.bias": "b.bias"} ' + MEANT,
    )


def test_the_line_to_write_works_as_it_stands():
    line = refusal(Q_K, [*dense("a"), *dense("b")]).splitlines()[-1]
    given = eval(line.removeprefix("Write param_map=").partition(" if that")[0])
    assert pairs(Q_K, [*dense("a"), *dense("b")], given) == given


def test_two_for_one():
    assert refusal(Q_K, dense("a")) == unmatched(
        'torch "q.weight" [8, 8] may be jax "a.kernel" [8, 8], and so may torch "k.weight" [8, 8].',
        'torch "q.bias" [8] may be jax "a.bias" [8], and so may torch "k.bias" [8].',
        'torch "k.weight" [8, 8] may be jax "a.kernel" [8, 8], and so may torch "q.weight" [8, 8].',
        'torch "k.bias" [8] may be jax "a.bias" [8], and so may torch "q.bias" [8].',
        'Write param_map={"q.weight": ("a.kernel", "o i -> i o"), "q.bias": "a.bias"} ' + MEANT,
    )


def test_one_for_two():
    message = refusal(
        nn.ModuleDict({"q": nn.Linear(8, 8, bias=False)}), leaves("Dense", "a", kernel=(8, 8)) + leaves("Dense", "b", kernel=(8, 8))
    )
    assert message == unmatched(
        'torch "q.weight" [8, 8] may be jax "a.kernel" [8, 8] or jax "b.kernel" [8, 8].',
        'Write param_map={"q.weight": ("a.kernel", "o i -> i o")} ' + MEANT,
    )


def test_a_square_array_of_no_layer():
    assert refusal([TorchLeaf("w", (8, 8))], [JaxLeaf("w", (8, 8))]) == unmatched(
        'torch "w" [8, 8] fits jax "w" [8, 8] as "a b -> a b" and as "a b -> b a", and no rule tells which.',
        'Write param_map={"w": ("w", "a b -> a b")} ' + MEANT,
    )
    assert pairs([TorchLeaf("w", (8, 4))], [JaxLeaf("w", (8, 4))]) == {"w": "w"}
    assert pairs([TorchLeaf("w", (8, 4))], [JaxLeaf("w", (4, 8))]) == {"w": ("w", "a b -> b a")}


def test_a_cube_of_no_layer():
    assert refusal([TorchLeaf("w", (2, 2, 2))], [JaxLeaf("w", (2, 2, 2))]) == unmatched(
        'torch "w" [2, 2, 2] fits jax "w" [2, 2, 2] as "a b c -> a b c" and as "a b c -> a c b", among others, and no rule tells which.',
        'Write param_map={"w": ("w", "a b c -> a b c")} ' + MEANT,
    )


@pytest.mark.parametrize("owner", ["MyDense", "Net"])
def test_a_square_kernel_of_a_layer_that_no_rule_knows(owner):
    assert refusal(nn.Linear(8, 8, bias=False), leaves(owner, "", kernel=(8, 8))) == unmatched(
        'torch "weight" [8, 8] fits jax "kernel" [8, 8] as "a b -> a b" and as "a b -> b a", and no rule tells which.',
        'Write param_map={"weight": ("kernel", "a b -> a b")} ' + MEANT,
    )


def test_a_square_w_of_no_haiku_module():
    assert "no rule tells which" in refusal(nn.Linear(8, 8, bias=False), [JaxLeaf("w", (8, 8))])
    assert pairs(nn.Linear(8, 8, bias=False), [JaxLeaf("linear.w", (8, 8))]) == {"weight": ("linear.w", "o i -> i o")}


def test_a_kernel_is_never_taken_as_it_is():
    """In and out are exchanged: a bug in the port, not another layout."""
    assert refusal(nn.Linear(3, 4, bias=False), leaves("Dense", "", kernel=(4, 3))) == unmatched(
        'torch "weight" [4, 3] goes with jax "kernel" [4, 3], but "o i -> i o" makes [3, 4] of the first.',
        'Write param_map={"weight": ("kernel", "a b -> a b")} ' + MEANT,
    )


def test_sizes_differ():
    assert refusal(nn.LayerNorm(8), leaves("LayerNorm", "", scale=(8,), bias=(9,))) == unmatched(
        'torch "bias" [8] goes with jax "bias" [9], but their sizes differ.', GENERIC
    )


def test_a_bias_that_one_side_has_not():
    two = nn.ModuleDict({"fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 8, bias=False)})
    jax = [*leaves("Dense", "fc1", kernel=(8, 8)), *dense("fc2")]
    assert refusal(two, jax) == unmatched(
        'torch "fc1.bias" [8] has no counterpart on the jax side.', 'jax "fc2.bias" [8] has no counterpart on the torch side.', GENERIC
    )


def test_one_side_is_empty():
    assert refusal([], dense("")) == unmatched(
        'jax "kernel" [8, 8] has no counterpart on the torch side.', 'jax "bias" [8] has no counterpart on the torch side.', GENERIC
    )
    assert refusal(nn.LayerNorm(8, bias=False), []) == unmatched('torch "weight" [8] has no counterpart on the jax side.', GENERIC)


def test_a_layer_more():
    """Neither the first nor the last of three is left out: which one, nobody can know."""
    message = refusal(square_net(*["linear"] * 3), [*dense("Dense_0"), *dense("Dense_1")])
    assert 'torch "0.weight" [8, 8] may be jax "Dense_0.kernel" [8, 8] or jax "Dense_1.kernel" [8, 8].' in message
    assert "as it is" not in message and message.count("may be") == 6


def test_names_that_speak_against_the_order():
    torch_side = nn.ModuleDict({"fc1": nn.Linear(8, 8, bias=False), "fc2": nn.Linear(8, 8, bias=False)})
    jax = [JaxLeaf("fc2.kernel", (8, 8), "Dense"), JaxLeaf("fc3.kernel", (8, 8), "Dense")]
    assert refusal(torch_side, jax).startswith(
        unmatched('torch "fc1.weight" [8, 8] may be jax "fc2.kernel" [8, 8] or jax "fc3.kernel" [8, 8].', "")
    )


def test_kinds_that_alternate_otherwise():
    jax = [*dense("block_0"), *dense("block_1"), *leaves("LayerNorm", "block_2", scale=(8,), bias=(8,))]
    assert "may be" in refusal(square_net("linear", "norm", "linear"), jax)


def test_kinds_that_alternate_otherwise_under_another_word():
    torch_side = nn.ModuleDict(
        {"block_0": nn.Linear(8, 8), "block_1": nn.LayerNorm(8), "block_2": nn.Linear(8, 8), "head": nn.Linear(8, 4)}
    )
    jax = [*dense("stage_0"), *dense("stage_1"), *leaves("LayerNorm", "stage_2", scale=(8,), bias=(8,)), *dense("head", (8, 4))]
    assert 'torch "block_2.weight" [8, 8] may be jax "stage_0.kernel" [8, 8] or jax "stage_1.kernel" [8, 8].' in refusal(torch_side, jax)


def test_a_layer_without_a_number_among_the_numbered():
    jax = [*dense("Dense_0"), *dense("Dense_1"), *dense("out")]
    message = refusal(nn.ModuleDict({"fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 8), "head": nn.Linear(8, 8)}), jax)
    assert (
        'torch "fc1.weight" [8, 8] may be jax "Dense_0.kernel" [8, 8], jax "Dense_1.kernel" [8, 8] or jax "out.kernel" [8, 8].' in message
    )


def test_weight_and_bias_are_never_exchanged():
    """stax.BatchNorm is (beta, gamma), where Dense is (kernel, bias): the places tell nothing, and the line to write knows."""
    assert refusal(nn.BatchNorm1d(6), [JaxLeaf("0", (6,)), JaxLeaf("1", (6,))]) == unmatched(
        'torch "weight" [6] may be jax "0" [6] or jax "1" [6].',
        'torch "bias" [6] may be jax "0" [6] or jax "1" [6].',
        'torch "running_mean" [6] has no counterpart on the jax side.',
        'torch "running_var" [6] has no counterpart on the jax side.',
        'Write param_map={"weight": "1", "bias": "0", "running_mean": None, "running_var": None} '
        f"{MEANT} None says that there is no counterpart.",
    )


def test_two_arrays_that_may_be_the_weight():
    assert refusal(nn.LayerNorm(8, bias=False), leaves("LayerNorm", "", scale=(8,), gamma=(8,))) == unmatched(
        'torch "weight" [8] may be jax "scale" [8] or jax "gamma" [8].', 'Write param_map={"weight": "scale"} ' + MEANT
    )


def test_a_parameter_is_never_state():
    assert refusal(nn.LayerNorm(8, bias=False), leaves("LayerNorm", "", STATE, scale=(8,))) == unmatched(
        'torch "weight" [8] has no counterpart on the jax side.', GENERIC
    )


def test_statistics_that_torch_does_not_keep():
    jax = batch_norm("")
    assert refusal(nn.BatchNorm1d(8, track_running_stats=False), jax) == unmatched(
        'jax "mean" [8] has no counterpart on the torch side.',
        'jax "var" [8] has no counterpart on the torch side.',
        f'Write param_map={{None: ["mean", "var"]}} {MEANT} None says that there is no counterpart.',
    )
    assert pairs(nn.BatchNorm1d(8, track_running_stats=False), jax, {None: ["mean", "var"]}) == {"weight": "scale", "bias": "bias"}


FLIPPED = "the kernel of a transposed convolution is flipped in space, which names do not show"


def test_a_transposed_convolution_of_equal_channels():
    assert refusal(nn.ConvTranspose2d(6, 6, 3), leaves("ConvTranspose", "", kernel=(3, 3, 6, 6), bias=(6,))) == unmatched(
        'torch "weight" [6, 6, 3, 3] fits jax "kernel" [3, 3, 6, 6] as "i o h w -> h w o i" if it has transpose_kernel=True; '
        f"if not, {FLIPPED}.",
        'Write param_map={"weight": ("kernel", "i o h w -> h w o i")} ' + MEANT,
    )


@pytest.mark.parametrize(
    ("jax", "path", "why"),
    [
        (leaves("ConvTranspose", "", kernel=(3, 3, 6, 5), bias=(5,)), '"kernel" [3, 3, 6, 5]', f"without transpose_kernel=True {FLIPPED}"),
        (leaves("Conv2DTranspose", "up", w=(3, 3, 5, 6), b=(5,)), '"up.w" [3, 3, 5, 6]', FLIPPED),
        (leaves("ConvTranspose2d", "", weight=(5, 6, 3, 3), bias=(5, 1, 1)), '"weight" [5, 6, 3, 3]', FLIPPED),
    ],
    ids=["flax", "haiku", "equinox"],
)
def test_a_transposed_convolution_that_is_flipped(jax, path, why):
    assert refusal(nn.ConvTranspose2d(6, 5, 3), jax) == unmatched(f'torch "weight" [6, 5, 3, 3] goes with jax {path}, but {why}.', GENERIC)


def test_gates_in_one_array():
    gates = "torch keeps the gates in one array, and names do not show where each one goes"
    jax = [JaxLeaf("dense_i.kernel", (3, 12), "Linear"), JaxLeaf("dense_h.kernel", (4, 12), "Linear")]
    assert refusal(nn.GRUCell(3, 4, bias=False), jax) == unmatched(
        f'torch "weight_ih" [12, 3] has no counterpart on the jax side: {gates}.',
        f'torch "weight_hh" [12, 4] has no counterpart on the jax side: {gates}.',
        'jax "dense_i.kernel" [3, 12] has no counterpart on the torch side.',
        'jax "dense_h.kernel" [4, 12] has no counterpart on the torch side.',
        GENERIC,
    )


def test_two_biases_in_one():
    biases = "torch has two biases in a layer, and names do not show where each one goes"
    assert refusal(nn.LSTMCell(3, 4), leaves("LSTMCell", "", weight_ih=(16, 3), weight_hh=(16, 4), bias=(16,))) == unmatched(
        f'torch "bias_ih" [16] has no counterpart on the jax side: {biases}.',
        f'torch "bias_hh" [16] has no counterpart on the jax side: {biases}.',
        'jax "bias" [16] has no counterpart on the torch side.',
        GENERIC,
    )


def test_query_key_and_value_in_one_array():
    fused = "torch keeps query, key and value in one array, and names do not show where each one goes"
    jax = [leaf for name in ("query", "key", "value", "output") for leaf in leaves("Linear", f"{name}_proj", weight=(8, 8))]
    message = refusal(nn.MultiheadAttention(8, 2, bias=False), jax)
    assert f'torch "in_proj_weight" [24, 8] has no counterpart on the jax side: {fused}.' in message


def test_heads_as_an_axis_of_their_own():
    torch_side = nn.ModuleDict({"query": nn.Linear(8, 8), "out": nn.Linear(8, 8)})
    jax = [*leaves("LinearGeneral", "query", kernel=(8, 2, 4), bias=(2, 4)), *leaves("LinearGeneral", "out", kernel=(2, 4, 8), bias=(8,))]
    message = refusal(torch_side, jax)
    assert message == unmatched(
        'torch "query.bias" [8] goes with jax "query.bias" [2, 4], but their sizes differ.',
        'torch "query.weight" [8, 8] goes with jax "query.kernel" [8, 2, 4], but their sizes differ.',
        'torch "out.weight" [8, 8] goes with jax "out.kernel" [2, 4, 8], but their sizes differ.',
        'Write param_map={"query.bias": ("query.bias", "(h d) -> h d", {"h": 2}), '
        '"query.weight": ("query.kernel", "(h d) i -> i h d", {"h": 2}), '
        '"out.weight": ("out.kernel", "o (h d) -> h d o", {"h": 2})} ' + MEANT,
    )
    given = eval(message.splitlines()[-1].removeprefix("Write param_map=").partition(" if that")[0])
    assert pairs(torch_side, jax, given)["out.bias"] == "out.bias"


@settings(max_examples=300, deadline=None)
@drawn(strategies.lists(strategies.sets(strategies.integers(0, 4)), min_size=1, max_size=5))
def test_only_what_is_so_in_every_assignment(choices):
    """Against all assignments, counted: of a whole that can be assigned in one way all pairs are found, of others no whole."""
    edges = {f"t{i}": sorted(others) for i, others in enumerate(choices)}
    right = sorted({other for others in edges.values() for other in others})
    ways = [way for way in itertools.permutations(right, len(edges)) if all(j in edges[t] for t, j in zip(edges, way, strict=True))]
    found = param_map._forced(edges)
    if len(right) == len(edges):
        assert (found == dict(zip(edges, ways[0], strict=True))) if len(ways) == 1 else len(found) < len(edges)
    assert all(dict(zip(edges, way, strict=True))[t] == j for way in ways for t, j in found.items())


@settings(max_examples=200, deadline=None)
@drawn(strategies.permutations(range(4)), strategies.lists(strategies.sampled_from([2, 3]), min_size=8, max_size=8))
def test_the_order_of_a_list_decides_nothing(order, widths):
    """Layers with unrelated names, a few of them alike: shuffled, the same answer or the same refusal."""
    torch_side = [TorchLeaf(f"{name}.weight", (widths[2 * i], widths[2 * i + 1]), "Linear") for i, name in enumerate("qkvo")]
    jax = [JaxLeaf(f"{name}.kernel", (widths[2 * i + 1], widths[2 * i]), "Dense") for i, name in enumerate("abcd")]

    def answer(jax: list[JaxLeaf]) -> Mapping[str, Any] | None:
        try:
            return pairs(torch_side, jax)
        except SpecError:
            return None

    assert answer(jax) == answer([jax[i] for i in order])
    assert (answer(jax) is not None) == (len({leaf.shape for leaf in jax}) == 4)


# ---------------------------------------------------------------- what the user gives


def test_the_map_of_a_single_layer():
    assert pairs(nn.LayerNorm(8), leaves("LayerNorm", "", scale=(8,), bias=(8,)), {"weight": "scale", "bias": "bias"}) == {
        "weight": "scale",
        "bias": "bias",
    }


def test_the_end_of_a_name_is_enough_where_one_name_has_it():
    jax = leaves("LayerNorm", "inner.norm", scale=(8,), bias=(8,))
    expected = {"norm.weight": "inner.norm.scale", "norm.bias": "inner.norm.bias"}
    assert pairs(nn.ModuleDict({"norm": nn.LayerNorm(8)}), jax, {"weight": "norm.scale", "bias": "bias"}) == expected


@pytest.mark.parametrize("path", ["a.kernel", "a/kernel", "params.a.kernel", "params/a/kernel", ("a.kernel",), ("a/kernel", "o i -> i o")])
def test_every_way_to_write_a_path(path):
    assert pairs(Q_K, [*dense("a"), *dense("b")], {"q.weight": path})["q.weight"] == ("a.kernel", "o i -> i o")


def test_a_haiku_path_as_haiku_writes_it():
    jax = leaves("Linear", "mlp.linear_0", w=(8, 8), b=(8,))
    assert pairs(nn.Linear(8, 8), jax, {"weight": "mlp/~/linear_0/w"})["weight"] == ("mlp.linear_0.w", "o i -> i o")


def test_a_part_decides_the_rest():
    found = pairs(Q_K, [*dense("a"), *dense("b")], {"q.weight": "b.kernel"})
    assert found == {"q.weight": ("b.kernel", "o i -> i o"), "q.bias": "b.bias", "k.weight": ("a.kernel", "o i -> i o"), "k.bias": "a.bias"}


def test_a_part_goes_before_names_and_numbers():
    swapped = pairs(square_net("linear", "linear"), [*dense("0"), *dense("1")], {"0.weight": "1.kernel"})
    assert swapped["1.bias"] == "0.bias" and swapped["0.bias"] == "1.bias"
    counted = pairs(
        square_net("linear", "relu", "linear", "linear"),
        [*dense("Dense_0"), *dense("Dense_1"), *dense("Dense_2")],
        {"2.weight": "Dense_1.kernel"},
    )
    assert counted["3.bias"] == "Dense_2.bias"


def test_a_module_that_holds_several_layers_is_none_of_them():
    jax = [JaxLeaf(f"both.{name}", shape) for name, shape in (("kq", (8, 8)), ("kk", (8, 8)), ("bias", (8,)))]
    given = {"q.weight": ("both.kq", "o i -> i o"), "k.weight": ("both.kk", "o i -> i o")}
    assert 'torch "q.bias" [8] may be jax "both.bias" [8], and so may torch "k.bias" [8].' in refusal(Q_K, jax, given)


def test_a_star_fills_the_star():
    jax = gpt("", "x_", 3, jax=True)
    given = {"blocks.*.weight": "x_*.kernel", "blocks.*.attn.*.bias": "x_*/attn/*/bias"}
    found = pairs(gpt("", "blocks.", 3, jax=False), jax, given)
    assert found["blocks.2.attn.k.weight"] == ("x_2.attn.k.kernel", "o i -> i o") and found["blocks.1.attn.v.bias"] == "x_1.attn.v.bias"


def test_a_whole_name_goes_before_a_star():
    given = {"*.weight": ("*.kernel", "o i -> i o"), "q.weight": "b.kernel", "k.weight": "a.kernel"}
    assert pairs(Q_K, [*dense("a"), *dense("b")], given)["k.weight"] == ("a.kernel", "o i -> i o")


def test_a_star_leaves_out_what_no_library_has():
    jax = leaves("Norm", "norm", weight=(8,), bias=(8,)) + leaves("Norm", "norm", STATE, running_mean=(8,), running_var=(8,))
    assert pairs(nn.ModuleDict({"bn": nn.BatchNorm1d(8)}), jax, {"bn.*": "norm.*"})["bn.running_var"] == "norm.running_var"


def test_tied_on_one_side_only():
    torch_side = [TorchLeaf("emb.weight", (8, 8), "Embedding")]
    jax = [*leaves("Embed", "embed", embedding=(8, 8)), *leaves("Dense", "head", kernel=(8, 8))]
    given = {"emb.weight": ["embed.embedding", ("head.kernel", "v d -> d v")]}
    assert param_map.carries(torch_side, jax, given) == (
        Carry("emb.weight", "embed.embedding", "", (), "given"),
        Carry("emb.weight", "head.kernel", "v d -> d v", (), "given"),
    )


def test_an_axis_that_is_several():
    """Flattened (c, h, w) against (h, w, c): the sizes of all three are known from one, and go both ways."""
    (carry,) = param_map.carries(
        [TorchLeaf("w", (4, 6), "Linear")],
        [JaxLeaf("kernel", (6, 4), "Dense")],
        {"w": ("kernel", "o (c h w) -> (h w c) o", {"h": 3, "w": 1})},
    )
    assert carry.sizes == (("c", 2), ("h", 3), ("w", 1))
    array = np.arange(24).reshape(4, 6)
    there = param_map.to_jax(carry, array)
    assert np.array_equal(there, array.reshape(4, 2, 3, 1).transpose(2, 3, 1, 0).reshape(6, 4))
    assert np.array_equal(param_map.to_torch(carry, there), array)


def test_torch_has_more_than_jax_says_so():
    found = pairs([TorchLeaf("w", (3,)), TorchLeaf("table", (4, 2))], [JaxLeaf("w", (3,))], {"table": None})
    assert found == {"w": "w"}


FORMS = 'Write a jax path, (path, "o i -> i o"), (path, "(h d) i -> i h d", {"h": 8}) or a list of these.'

WRONG = {
    "a torch name": (
        {"q.wieght": "a.kernel"},
        'param_map names torch "q.wieght", which is not there; close to it: "q.weight", "k.weight".',
    ),
    "a jax path": ({"q.weight": "a.kernal"}, 'param_map names jax "a.kernal", which is not there; close to it: "a.kernel", "b.kernel".'),
    "a path far from all": (
        {"q.weight": "zzz"},
        'param_map names jax "zzz", which is not there; close to it: "a.kernel", "a.bias", "b.kernel".',
    ),
    "an empty name": ({"": "a.kernel"}, 'param_map names torch "", which is not there; close to it: "q.weight", "q.bias", "k.weight".'),
    "a star for nothing": (
        {"v.*": "a.*"},
        'param_map names torch "v.*", which no name fits; close to it: "q.weight", "q.bias", "k.weight".',
    ),
    "a star too few": ({"*.weight": "a.kernel"}, 'param_map has 1 "*" in "*.weight" and 0 in "a.kernel". Write as many on both sides.'),
    "a star too many": ({"q.weight": "*.kernel"}, 'param_map has 0 "*" in "q.weight" and 1 in "*.kernel". Write as many on both sides.'),
    "a star that leads nowhere": (
        {"*.weight": "*.kernel"},
        'param_map names jax "q.kernel" (by "*.kernel"), which is not there; close to it: "b.kernel", "a.kernel".',
    ),
    "an end of several": (
        {"weight": "a.kernel"},
        'param_map names torch "weight", which may be torch "q.weight" [8, 8] or torch "k.weight" [8, 8]. Write the whole name.',
    ),
    "a path of several": (
        {"q.weight": "kernel"},
        'param_map names jax "kernel", which may be jax "a.kernel" [8, 8] or jax "b.kernel" [8, 8]. Write the whole name.',
    ),
    "one for two": (
        {"q.weight": "a.kernel", "k.weight": "a.kernel"},
        'param_map gives jax "a.kernel" to torch "q.weight" and torch "k.weight". '
        "A jax array takes the numbers of one; leave the others out.",
    ),
    "a number for a path": ({"q.weight": 3}, f'param_map["q.weight"] is 3. {FORMS}'),
    "a size that is none": (
        {"q.weight": ("a.kernel", "(h d) i -> i (h d)", {"h": 2.0})},
        f"param_map[\"q.weight\"] is ('a.kernel', '(h d) i -> i (h d)', {{'h': 2.0}}). {FORMS}",
    ),
    "a key that is no name": ({3: "a.kernel"}, "param_map has the key 3. Write the torch name of a parameter."),
    "no layout": (
        {"q.weight": ("a.kernel", "transposed")},
        'param_map lays out torch "q.weight" [8, 8] as "transposed", but it is not a layout, '
        'which looks like "o i -> i o" or "(h d) i -> i h d".',
    ),
    "an axis lost": (
        {"q.weight": ("a.kernel", "o i -> i")},
        'param_map lays out torch "q.weight" [8, 8] as "o i -> i", but every axis has to stand once on each side of it.',
    ),
    "an axis too many": (
        {"q.weight": ("a.kernel", "o i h -> h i o")},
        'param_map lays out torch "q.weight" [8, 8] as "o i h -> h i o", but its left side has 3 axes and [8, 8] has 2.',
    ),
    "an axis of length 2": (
        {"q.weight": ("a.kernel", "o 2 -> 2 o")},
        'param_map lays out torch "q.weight" [8, 8] as "o 2 -> 2 o", but 2 is no name of an axis.',
    ),
    "a size that is missing": (
        {"q.weight": ("a.kernel", "(h d) i -> i (d h)")},
        'param_map lays out torch "q.weight" [8, 8] as "(h d) i -> i (d h)", '
        'but the length of all but one of h, d is needed, as in {"h": 2}.',
    ),
    "a size that does not divide": (
        {"q.weight": ("a.kernel", "(h d) i -> i (d h)", {"h": 3})},
        'param_map lays out torch "q.weight" [8, 8] as "(h d) i -> i (d h)", '
        "but its axis (h d) is a multiple of 3, and [8, 8] has 8 there.",
    ),
    "a size of another axis": (
        {"q.weight": ("a.kernel", "o i -> i o", {"h": 3})},
        'param_map lays out torch "q.weight" [8, 8] as "o i -> i o", but it has no axis h.',
    ),
    "a length that is not 1": (
        {"q.weight": ("a.kernel", "o 1 -> 1 o")},
        'param_map lays out torch "q.weight" [8, 8] as "o 1 -> 1 o", but its axis 1 is 1, and [8, 8] has 8 there.',
    ),
    "a shape that is another": (
        {"q.weight": ("a.kernel", "(h d) i -> i h d", {"h": 2})},
        'param_map lays out torch "q.weight" [8, 8] as "(h d) i -> i h d", which makes [8, 2, 4], but jax "a.kernel" [8, 8] is to take it.',
    ),
    "sizes": ({"q.weight": "a.bias"}, 'param_map gives torch "q.weight" [8, 8] to jax "a.bias" [8], but their sizes differ.'),
    "a parameter left out": (
        {"q.weight": None},
        'param_map gives None for torch "q.weight" [8, 8], which is a parameter: the jax side has to get its numbers.',
    ),
    "a parameter left out in jax": (
        {None: "a.kernel"},
        'param_map says that torch has nothing for jax "a.kernel" [8, 8], which is a parameter: it has to get torch\'s numbers.',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_map_that_does_not_fit(case):
    given, sentence = WRONG[case]
    assert refusal(Q_K, [*dense("a"), *dense("b")], given) == unfit(sentence)


def test_all_that_is_wrong_with_a_map_is_said_at_once():
    assert refusal(Q_K, [*dense("a"), *dense("b")], {"v.weight": "a.kernel", "q.weight": "a.kern"}) == unfit(
        'param_map names torch "v.weight", which is not there; close to it: "q.weight", "k.weight".',
        'param_map names jax "a.kern", which is not there; close to it: "a.kernel", "b.kernel".',
    )


def test_two_stars_for_one_name():
    message = refusal(Q_K, [*dense("q"), *dense("k")], {"*.weight": "*.kernel", "q.*ght": ("q.kern*", "o i -> i o")})
    assert message == unfit('param_map names torch "q.weight" twice, by "*.weight" and by "q.*ght". Leave one out.')


def test_a_map_for_a_side_without_arrays():
    assert refusal(Q_K, [], {"q.weight": "kernel"}) == unfit('param_map names jax "kernel", which is not there; that side has no arrays.')


def test_no_map_at_all():
    assert (
        refusal(Q_K, [], [("q.weight", "kernel")])
        == "param_map is [('q.weight', 'kernel')]. Write a dict from torch names to jax paths: {\"weight\": \"kernel\"}."
    )


def test_a_path_without_the_layout_that_it_needs():
    assert refusal([TorchLeaf("w", (8, 8))], [JaxLeaf("mix", (8, 8))], {"w": "mix"}) == unmatched(
        'torch "w" [8, 8] fits jax "mix" [8, 8] as "a b -> a b" and as "a b -> b a", and no rule tells which.',
        'Write param_map={"w": ("mix", "a b -> a b")} ' + MEANT,
    )
    assert refusal(nn.Linear(3, 4, bias=False), leaves("Dense", "", kernel=(4, 3)), {"weight": "kernel"}) == unfit(
        'param_map gives torch "weight" [4, 3] to jax "kernel" [4, 3], but "o i -> i o" makes [3, 4] of the first. '
        'Write param_map={"weight": ("kernel", "a b -> a b")} if that is what is meant.'
    )


def test_a_layout_that_the_user_gives_goes_before_every_rule():
    assert pairs(nn.Linear(8, 8, bias=False), leaves("Dense", "", kernel=(8, 8)), {"weight": ("kernel", "o i -> o i")}) == {
        "weight": ("kernel", "o i -> o i")
    }
    up = leaves("ConvTranspose2d", "", weight=(6, 6, 3, 3), bias=(6, 1, 1))
    assert pairs(nn.ConvTranspose2d(6, 6, 3), up, {"weight": ("weight", "i o h w -> o i h w")})["weight"] == (
        "weight",
        "i o h w -> o i h w",
    )


def test_a_table_of_several_layouts():
    jax = [*leaves("LinearGeneral", "query", kernel=(8, 2, 4), bias=(2, 4))]
    given = {"q.weight": ("query.kernel", "(h d) i -> i h d", {"h": 2}), "q.bias": ("query.bias", "(h d) -> h d", {"h": 2})}
    assert param_map.table(param_map.carries(torch_leaves(nn.ModuleDict({"q": nn.Linear(8, 8)})), jax, given)).splitlines() == [
        "torch     jax           layout                      decided by",
        "q.weight  query.kernel  (h d) i -> i h d, h=2, d=4  given",
        "q.bias    query.bias    (h d) -> h d, h=2, d=4      given",
    ]
