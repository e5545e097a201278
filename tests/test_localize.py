"""Where two sides part: every kind of answer, each from a fault as a person would write it, and what is said where nothing can be told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pytest_dlparity as dlp
from pytest_dlparity import locate as stage
from pytest_dlparity.locate import Localization, Place, localize

HERE = Path(__file__)
WIDTH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 12)
        self.down = nn.Linear(12, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)  # @norm
        h = F.gelu(self.up(h))  # @gelu
        return x + self.down(h)  # @join


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)
        for parameter in self.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def net(**bug: Any) -> Callable[..., Any]:
    """The jax side, with a fault in the middle block."""

    def apply(p: dict[str, Any], x: Any) -> Any:
        for k in range(3):
            here = bug if k == 1 else {}
            n = f"blocks.{k}"
            mean = x.mean(-1, keepdims=True)
            var = ((x - mean) ** 2).mean(-1, keepdims=True)
            h = (x - mean) / jnp.sqrt(var + here.get("eps", 1e-5))  # @jax_norm
            h = h * p[f"{n}.norm.weight"] + p[f"{n}.norm.bias"]
            h = jax.nn.gelu(h @ p[f"{n}.up.weight"].T + p[f"{n}.up.bias"], approximate=here.get("tanh", False))  # @jax_gelu
            if here.get("stop"):
                h = jax.lax.stop_gradient(h)  # @jax_stop
            h = h @ p[f"{n}.down.weight"].T + p[f"{n}.down.bias"]  # @jax_down
            x = h if here.get("alone") else x + h  # @jax_join
        return x @ p["head.weight"].T + p["head.bias"]

    return apply


def line(mark: str) -> int:
    return next(number for number, text in enumerate(HERE.read_text().splitlines(), 1) if text.endswith(f"# @{mark}"))


def of_net(**bug: Any) -> Localization:
    return localize(dlp.layer(torch=Net(), jax=net(**bug), inputs=[dlp.normal(4, WIDTH)]))


def where(place: Place | None) -> tuple[str, int] | None:
    return place and (Path(place.file).name, place.line)


@pytest.mark.parametrize(
    ("bug", "torch_mark", "jax_mark", "module", "backward"),
    [
        ({"eps": 1e-6}, "norm", "jax_norm", "blocks.1.norm", False),
        ({"tanh": True}, "gelu", "jax_gelu", "blocks.1", False),
        ({"alone": True}, "join", "jax_down", "blocks.1", False),
        ({"stop": True}, "join", "jax_stop", "blocks.1.down", True),
    ],
    ids=["epsilon", "gelu", "residual", "gradient"],
)
def test_the_line_and_the_module_of_a_fault(bug: Any, torch_mark: str, jax_mark: str, module: str, backward: bool) -> None:
    found = of_net(**bug)
    assert (found.status, found.backward) == ("parts", backward)
    assert found.torch is not None and found.torch.module == module
    assert (where(found.torch), where(found.jax)) == ((HERE.name, line(torch_mark)), (HERE.name, line(jax_mark)))
    assert found.certain is not backward


def test_the_whole_message() -> None:
    said = re.sub(r" (?=\d+ of|\d)", " ", str(of_net(eps=1e-6)))
    assert said == "\n".join(
        [
            "the two sides part in blocks.1.norm, on the way forward to output",
            f"  both have  torch  layer_norm (mean) at test_localize.py:{line('norm')} in blocks.1.norm [4, 1]",
            f"             jax    mean (div) at test_localize.py:{line('jax_norm') - 1} [4, 1]",
            f"  they part  torch  layer_norm (add) at test_localize.py:{line('norm')} in blocks.1.norm [4, 1]",
            f"             jax    add at test_localize.py:{line('jax_norm')} [4, 1]",
            f"  torch  test_localize.py:{line('norm')}  h = self.norm(x)  # @norm",
            f'  jax    test_localize.py:{line("jax_norm")}  h = (x - mean) / jnp.sqrt(var + here.get("eps", 1e-5))  # @jax_norm',
            "  there: jax = torch - 9e-06",
            "  with torch's value there, jax agrees in all that follows",
            "  along the way, values of torch that jax has too:",
            "    blocks.0: all 19",
            *said.splitlines()[11:],
        ]
    )
    assert said.splitlines()[11].startswith("    blocks.1.norm: 4 of 9, the last apart by ")
    assert said.splitlines()[-1].startswith("    head: 0 of 2, the last apart by ")


def test_what_one_side_leaves_out_is_said() -> None:
    found = of_net(alone=True)
    assert found.culprit == "jax leaves out torch's add"


def test_a_stopped_gradient_is_said() -> None:
    assert of_net(stop=True).culprit == "jax stops the gradient there and torch does not"


def test_a_right_port_agrees() -> None:
    found = of_net()
    assert (found.status, str(found)) == ("agree", "the two sides agree in every leaf, in float64")


def attention(p: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    causal = torch.ones(6, 6, dtype=torch.bool).tril()  # @causal
    scores = (x @ p["q"]) @ (x @ p["k"]).mT / 2  # @scores
    return scores.masked_fill(~causal, -torch.inf).softmax(-1) @ x  # @masked


def jax_attention(offset: int = 0, scale: float = 2.0, swap: bool = False, axis: int = -1) -> Callable[..., Any]:
    def apply(p: dict[str, Any], x: Any) -> Any:
        causal = jnp.tril(jnp.ones((6, 6), bool), offset)  # @jax_causal
        q, k = (x @ p["k"], x @ p["q"]) if swap else (x @ p["q"], x @ p["k"])
        scores = q @ jnp.swapaxes(k, -1, -2) / scale  # @jax_scores
        scores = jnp.where(causal, scores, -jnp.inf)  # @jax_masked
        return jax.nn.softmax(scores, axis) @ x  # @jax_softmax

    return apply


def of_attention(**bug: Any) -> Localization:
    params = {"q": dlp.normal(4, 3), "k": dlp.normal(4, 3)}
    return localize(dlp.layer(torch=attention, jax=jax_attention(**bug), params=params, inputs=[dlp.normal(2, 6, 4)]))


def test_a_wrong_mask_is_found_where_it_is_made() -> None:
    found = of_attention(offset=1)
    assert (where(found.torch), where(found.jax)) == ((HERE.name, line("causal")), (HERE.name, line("jax_causal")))
    assert found.culprit == (
        "a constant is not the same on both sides (equal on 86% of the elements; they differ on diagonal +1 only); "
        "with jax's in its place torch's operation gives jax's value"
    )
    assert found.certain


def test_another_scale_is_a_factor() -> None:
    found = of_attention(scale=np.sqrt(3))
    assert where(found.jax) == (HERE.name, line("jax_scores"))
    assert found.relation == "jax = torch * 1.1547"


def test_swapped_operands_are_the_same_values_transposed() -> None:
    found = of_attention(swap=True)
    assert where(found.jax) == (HERE.name, line("jax_scores"))
    assert found.culprit == (
        "an operand is not the same on both sides (the same values with the axes permuted to [0, 2, 1]); "
        "with jax's in its place torch's operation gives jax's value"
    )


def test_a_transposed_square_weight() -> None:
    torch_side, jax_side = (lambda p, x: x @ p["w"], lambda p, x: x @ p["w"].T)
    found = localize(dlp.layer(torch=torch_side, jax=jax_side, params={"w": dlp.normal(5, 5)}, inputs=[dlp.normal(3, 5)]))
    assert found.culprit == "with the parameter w in another arrangement torch's operation gives jax's value"
    assert found.certain


def test_layouts_are_seen_through() -> None:
    """NCHW against NHWC, and the fault is behind both."""

    def torch_side(p: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(torch.tanh(F.conv2d(x, p["k"], padding=1)), 2)

    def jax_side(p: dict[str, Any], x: Any) -> Any:
        y = jax.lax.conv_general_dilated(
            x.transpose(0, 2, 3, 1), p["k"].transpose(2, 3, 1, 0), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = jax.nn.sigmoid(y)  # @jax_sigmoid
        return jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").transpose(0, 3, 1, 2)

    found = localize(dlp.layer(torch=torch_side, jax=jax_side, params={"k": dlp.normal(3, 2, 3, 3)}, inputs=[dlp.normal(2, 2, 6, 6)]))
    assert where(found.jax) == (HERE.name, line("jax_sigmoid"))
    assert found.last_torch is not None and found.last_torch.operation in ("convolution", "conv2d")
    assert found.certain


def test_inside_a_scan() -> None:
    def torch_side(x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(3, dtype=x.dtype)
        for row in x:
            h = torch.tanh(row + 0.5 * h)
        return h

    def jax_side(x: Any) -> Any:
        def step(h: Any, row: Any) -> Any:
            return jnp.tanh(row + 0.25 * h), None  # @jax_step

        return jax.lax.scan(step, jnp.zeros(3, x.dtype), x)[0]

    found = localize(dlp.layer(torch=torch_side, jax=jax_side, inputs=[dlp.normal(5, 3)]))
    assert where(found.jax) == (HERE.name, line("jax_step"))


def test_two_faults_are_both_listed() -> None:
    torch_side, jax_side = (lambda x: torch.tanh(x) * torch.sin(x.cumsum(0))), (lambda x: jnp.arctan(x) * jnp.cos(x.cumsum(0)))
    found = localize(dlp.layer(torch=torch_side, jax=jax_side, inputs=[dlp.normal(5, 3)]))
    assert [pair[0].operation for pair in [(found.torch, found.jax), *found.more] if pair[0]] == ["tanh", "sin"]
    assert not found.certain


# ---------------------------------------------------------------- nothing can be told


def reason(torch_side: Any, jax_side: Any, *inputs: Any, **more: Any) -> str:
    found = localize(dlp.layer(torch=torch_side, jax=jax_side, inputs=list(inputs) or [dlp.normal(4, 3)], **more))
    assert found.status == "unknown"
    assert str(found) == f"where the two sides part cannot be told: {found.reason}"
    assert (found.torch, found.jax, found.certain) == (None, None, False)
    return found.reason


def test_a_random_side() -> None:
    side = lambda x: x + torch.rand(4, 3)
    assert reason(side, lambda x: x) == "the torch side drew random numbers, so its two runs are not the same."


def test_a_side_that_gives_another_value_each_time() -> None:
    count = iter(range(1, 1000))
    side = lambda x: x * next(count)
    assert reason(side, lambda x: x * 0.5) == "the torch side is not deterministic: two runs on the same numbers give two values of output."


def test_an_optimizer_has_no_place() -> None:
    spec = dlp.optimizer(torch=lambda p: torch.optim.SGD(p, lr=0.1), jax=__import__("optax").sgd(0.2), params={"w": dlp.normal(3)}, steps=2)
    assert localize(spec).reason == "an optimizer's step is one formula: its cause says more than a line."


def test_a_loop_too_long_to_follow() -> None:
    jax_side = lambda x: jax.lax.fori_loop(0, 100_000, lambda _, h: h * 0.5 + x, x)
    assert reason(lambda x: x, jax_side).startswith("one side cannot be traced: TooLong: the jax side computes more than 200000 values")


def test_what_cannot_be_traced_leaves_the_verdict_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(stage.tracing, "jax_trace", broken)
    spec = dlp.layer(torch=torch.sin, jax=jnp.cos, inputs=[dlp.normal(3)])
    assert localize(spec).reason == "the trace does not fit: MemoryError."
    report = dlp.check(spec, localize="auto")
    assert report["output"].status == "semantics"


def test_no_float64() -> None:
    side = lambda x: jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32).astype(jnp.float32) if x.dtype == jnp.float32 else 1 / 0
    found = localize(dlp.layer(torch=torch.sin, jax=side, inputs=[dlp.normal(3)]))
    assert (found.status, found.reason.split(":")[0]) == ("unknown", "there is no float64 run")


def test_no_spec() -> None:
    with pytest.raises(dlp.SpecError, match=r"^3 is no spec. Make one with dlp.layer, dlp.loss, dlp.optimizer or dlp.model.$"):
        localize(3)  # type: ignore[arg-type]


def test_a_leaf_that_only_one_side_returns_is_no_agreement() -> None:
    found = localize(dlp.layer(torch=lambda x: (x, x * 2), jax=lambda x: (x,), inputs=[dlp.normal(3)], wrt=[]))
    assert str(found) == "where the two sides part cannot be told: only torch returns output.1."


def test_a_whole_layer_that_one_side_leaves_out() -> None:
    torch_side = lambda p, x: torch.tanh(F.layer_norm(x @ p["w"], (5,)) @ p["v"])
    jax_side = lambda p, x: jnp.tanh((x @ p["w"]) @ p["v"])
    found = localize(dlp.layer(torch_side, jax_side, params={"w": dlp.normal(4, 5), "v": dlp.normal(5, 5)}, inputs=[dlp.normal(3, 4)]))
    assert (found.culprit, found.certain) == ("jax leaves out torch's layer_norm", True)


def test_complex_values_are_followed_too() -> None:
    found = localize(dlp.layer(torch=lambda x: torch.fft.fft(x) * 2, jax=lambda x: jnp.fft.fft(x) * 3, inputs=[dlp.normal(4, 6)], wrt=[]))
    assert found.status == "parts"
    assert (found.certain, found.relation) == (True, "jax = torch * 1.5")


def test_a_slice_that_starts_elsewhere() -> None:
    shifted = lambda x: jnp.tanh(x)[:, 1::2] + jnp.sin(x[:, :3])  # @shifted
    found = localize(dlp.layer(lambda x: torch.tanh(x)[:, ::2] + torch.sin(x[:, :3]), shifted, inputs=[dlp.normal(5, 6)]))
    assert found.torch is not None and found.jax is not None
    assert (found.torch.operation, found.jax.operation, found.certain) == ("slice", "slice", True)
    assert where(found.jax) == (HERE.name, line("shifted"))


def test_another_resizing_with_the_same_mean_is_no_way_back() -> None:
    def normed(x: Any) -> Any:
        return (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True)

    def torch_side(x: torch.Tensor) -> torch.Tensor:
        return normed(F.interpolate(x.tanh(), scale_factor=2, mode="bilinear"))

    def jax_side(x: Any) -> Any:
        y = jax.image.resize(jnp.tanh(x), (2, 3, 8, 8), "nearest")  # @resized
        return (y - y.mean((2, 3), keepdims=True)) / y.std((2, 3), keepdims=True, ddof=1)

    found = localize(dlp.layer(torch_side, jax_side, inputs=[dlp.normal(2, 3, 4, 4)], wrt=[]))
    assert found.torch is not None
    assert (found.torch.call, where(found.jax), found.certain) == ("interpolate", (HERE.name, line("resized")), True)


def test_a_branch_that_one_side_has_not_ends_where_it_joins() -> None:
    def branched(p: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        short = torch.tanh(x @ p["s"])
        return F.relu(x @ p["w"] + short)  # @joined

    alone = lambda p, x: jax.nn.relu(x @ p["w"])  # @alone
    given = {"s": dlp.normal(4, 4), "w": dlp.normal(4, 4)}
    found = localize(dlp.layer(branched, alone, params=given, inputs=[dlp.normal(3, 4)]))
    assert (found.culprit, found.certain) == ("jax leaves out torch's add", True)
    assert (where(found.torch), where(found.jax)) == ((HERE.name, line("joined")), (HERE.name, line("alone")))


def test_an_operand_turned_by_jax_belongs_to_torchs_operation_that_reads_it() -> None:
    def convolved(p: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        h = F.softplus(x)
        return F.conv1d(h, p["k"])  # @convolved

    def turned(p: dict[str, Any], x: Any) -> Any:
        h = jax.nn.softplus(x)
        h = h[:, :, ::-1]  # @turned
        return jax.lax.conv_general_dilated(h, p["k"], (1,), "VALID")

    found = localize(dlp.layer(convolved, turned, params={"k": dlp.normal(3, 2, 3)}, inputs=[dlp.normal(2, 2, 9)], wrt=[]))
    assert (where(found.torch), where(found.jax)) == ((HERE.name, line("convolved")), (HERE.name, line("turned")))


def test_a_running_mean_is_followed() -> None:
    from flax import nnx

    class Norm(nnx.Module):
        def __init__(self) -> None:
            self.mean = nnx.BatchStat(jnp.zeros(4))

        def __call__(self, x: Any) -> Any:
            mean = x.mean(0)
            self.mean[...] = 0.5 * self.mean[...] + 0.5 * mean  # @kept
            return x - mean

    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean(0)
            self.mean.mul_(0.9).add_(0.1 * mean.detach())
            return x - mean

    found = localize(dlp.layer(torch=Torch(), jax=Norm(), inputs=[dlp.normal(6, 4)], train=True))
    assert (found.status, found.leaf, where(found.jax)) == ("parts", "state.mean", (HERE.name, line("kept")))
