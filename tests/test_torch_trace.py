"""The torch side's trace: which operations, from what, where in the user's program, and that tracing changes and keeps nothing."""

from __future__ import annotations

import functools
import gc
import inspect
import tracemalloc
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import pytest_dlparity as dlp
from pytest_dlparity import run, tracing
from pytest_dlparity.frameworks import torch as torch_side
from pytest_dlparity.frameworks import torch_inside, torch_known, torch_places, torch_trace
from pytest_dlparity.job import Job
from pytest_dlparity.trace import Node, Trace, alike, fingerprint

F = torch.nn.functional
nn = torch.nn
Arrays = Mapping[str, Any]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def cotangent(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return numbers(*shape, seed=len(name))


def prepared(
    side: Any, inputs: Arrays, wrt: list[str] | None = None, loss: Any = None, targets: int = 0, params: Arrays | None = None
) -> Any:
    """(Ready, Job) in float64."""
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    tree = None if params is None else {name: name for name in params}
    with torch_side.settings("float32", "default"):
        program = torch_side.program(side, dict(params or {}), tree, None, True)
    names = list(arrays)
    known = {**arrays, **program.params}
    wrt = [name for name, array in known.items() if array.dtype.kind in "fc"] if wrt is None else wrt
    job = Job("layer", tuple(names[: len(names) - targets]), tuple(names[len(names) - targets :]), wrt=tuple(wrt), torch_loss=loss)
    with torch_side.settings("float64", "highest"):
        return torch_side.ready(program, job, program.params, program.buffers, arrays, "cpu", "float64", False), job


def traced(side: Any, inputs: Arrays, keep: Any = (), backward: bool = True, plain: bool = False, **settings: Any) -> Trace:
    ready, job = prepared(side, inputs, **settings)
    with torch_side.settings("float64", "highest"):
        return torch_trace.trace(ready, job, cotangent, keep, backward, plain)


def checked(side: Any, inputs: Arrays, **settings: Any) -> Trace:
    """The trace, after two runs have been found equal node by node, and their outputs those of `evaluate`."""
    ready, job = prepared(side, inputs, **settings)
    with torch_side.settings("float64", "highest"):
        truth = {name: torch_side.to_numpy(leaf).copy() for name, leaf in torch_side.evaluate(ready, job, cotangent).leaves.items()}
    with torch_side.settings("float64", "highest"):
        first = torch_trace.trace(ready, job, cotangent)
    with torch_side.settings("float64", "highest"):
        again = torch_trace.trace(ready, job, cotangent, frozenset(range(len(first.nodes))))
    assert [shown(node) for node in first.nodes] == [shown(node) for node in again.nodes]
    assert first.outputs == again.outputs and first.outputs.keys() <= truth.keys()
    for name in truth:
        if name in first.outputs:
            np.testing.assert_allclose(again.nodes[first.outputs[name]].value, truth[name], rtol=1e-10, atol=1e-12)
        else:
            assert name.startswith(("state.", "grad."))
    return again


def shown(node: Node) -> Any:
    return (
        node.operation,
        node.reads,
        node.shape,
        node.dtype,
        node.kind,
        node.print,
        node.frames,
        node.module,
        node.call,
        node.call_number,
        node.data,
    )


def ops(trace: Trace, operation: str, backward: bool | None = None) -> list[Node]:
    return [node for node in trace.nodes if node.operation == operation and backward in (None, node.backward)]


def only(trace: Trace, operation: str, backward: bool | None = None) -> Node:
    (found,) = ops(trace, operation, backward)
    return found


def line_of(text: str) -> int:
    """The number of the only line of this file that ends with a comment."""
    (found,) = (
        number for number, line in enumerate(inspect.getsource(inspect.getmodule(line_of)).splitlines(), 1) if line.endswith(f"# {text}")
    )
    return found


# ---------------------------------------------------------------- what is computed


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.inner, self.outer = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)  # the norm
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.outer(F.gelu(self.inner(x)))  # the gelu


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


TOKENS = {"tokens": np.array([[1, 2, 3], [4, 0, 9]])}

CASES: dict[str, tuple[Any, Arrays]] = {
    "model": (Model, TOKENS),
    "conv": (lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()), {"x": numbers(2, 2, 5, 5)}),
    "transposed conv": (lambda: nn.ConvTranspose1d(2, 3, 2), {"x": numbers(2, 2, 5)}),
    "batch norm": (lambda: nn.BatchNorm2d(3), {"x": numbers(4, 3, 2, 2)}),
    "batch norm, evaluated": (lambda: nn.BatchNorm1d(3).eval(), {"x": numbers(4, 3)}),
    "batch norm without state": (lambda: nn.BatchNorm1d(3, track_running_stats=False), {"x": numbers(4, 3)}),
    "group norm": (lambda: nn.GroupNorm(2, 4), {"x": numbers(2, 4, 3)}),
    "instance norm": (lambda: nn.InstanceNorm1d(3), {"x": numbers(2, 3, 4)}),
    "rms norm": (lambda: nn.RMSNorm(4), {"x": numbers(2, 4)}),
    "lstm": (lambda: nn.LSTM(3, 2, bidirectional=True, batch_first=True), {"x": numbers(2, 3, 3)}),
    "gru": (lambda: nn.GRU(3, 2), {"x": numbers(3, 2, 3)}),
    "rnn cell": (lambda: nn.RNNCell(3, 2), {"x": numbers(2, 3)}),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), {"x": numbers(2, 3, 8)}),
    "encoder, evaluated": (lambda: nn.TransformerEncoderLayer(8, 2, 12, norm_first=True).eval(), {"x": numbers(3, 2, 8)}),
    "decoder": (lambda: nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0), {"x": numbers(3, 2, 8), "m": numbers(4, 2, 8)}),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), {"x": numbers(2, 4)}),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), {"x": numbers(2, 4)}),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_an_ordinary_run(name: str) -> None:
    side, inputs = CASES[name]
    trace = checked(side, inputs)
    assert any(node.backward for node in trace.nodes) and all(
        node.print is not None for node in trace.nodes if node.kind == "op" and not node.operation.startswith("empty")
    )


OPENED: dict[str, Callable[[torch.Tensor], Any]] = {
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "layer_norm, transposed": lambda x: F.layer_norm(x.transpose(0, 1), (3,)).contiguous().view(-1),
    "softmax": lambda x: x.softmax(0),
    "softmax, transposed": lambda x: x.t().softmax(0),
    "log_softmax": lambda x: x.log_softmax(-1),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "silu_": lambda x: F.silu(x * 2, inplace=True),
    "mish": F.mish,
    "elu": lambda x: F.elu(x, 0.7),
    "elu_": lambda x: F.elu(x * 2, 0.7, inplace=True),
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "softplus": lambda x: F.softplus(x, 2.0, 1.0),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "logsigmoid": F.logsigmoid,
    "glu": F.glu,
    "logsumexp": lambda x: x.logsumexp(1),
    "var": lambda x: x.var(0),
    "var, biased": lambda x: x.var((0, 1), correction=0, keepdim=True),
    "std": lambda x: x.std(),
    "var_mean": lambda x: torch.var_mean(x, 1),
    "std_mean": lambda x: torch.std_mean(x, 1, keepdim=True),
    "norm": lambda x: x.norm(dim=1),
    "addmm": lambda x: torch.addmm(x[0], x, x.T.exp() @ x, beta=0.5, alpha=2),
    "baddbmm": lambda x: torch.baddbmm(x[None], x[None, :, :3], x[None]),
    "addcmul": lambda x: torch.addcmul(x, x, x.exp(), value=0.3),
    "lerp": lambda x: torch.lerp(x, x.exp(), 0.3),
    "mse_loss": lambda x: F.mse_loss(x, x.sin().detach()),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, x.sin().detach(), beta=0.3),
    "huber_loss": lambda x: F.huber_loss(x, x.sin().detach(), delta=0.3),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.tensor([1, 0, 3]), label_smoothing=0.1),
    "nll_loss": lambda x: F.nll_loss(x.log_softmax(1), torch.tensor([1, -100, 3]), reduction="sum"),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy(x.sigmoid(), (x > 0).double()),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, (x > 0).double()),
    "soft_margin_loss": lambda x: F.soft_margin_loss(x, x.sign().detach()),
}
# torch's own kernel of hardsigmoid's gradient multiplies by a sixth of float32, also in double: it is no sum of its parts, and stays closed
CLOSED = (
    "native_",
    "_softmax",
    "_log_softmax",
    "addmm",
    "baddbmm",
    "var",
    "std",
    "_loss",
    "gelu",
    "silu",
    "mish",
    "elu",
    "glu",
    "norm",
    "logsumexp",
)


@pytest.mark.parametrize("name", OPENED)
def test_fused_operations_are_opened_and_give_what_they_gave(name: str) -> None:
    trace = checked(OPENED[name], {"x": numbers(3, 4)})
    closed = {node.operation for node in trace.nodes if any(word in node.operation for word in CLOSED)}
    assert closed == set()
    called = name.split(",")[0].split()[0].replace("logsigmoid", "log_sigmoid")
    assert len([node for node in trace.nodes if called.strip("_") in node.call or called in ("norm", "var", "std")]) > 1


def test_the_table_of_decompositions_still_has_what_is_opened_with_it() -> None:
    names = torch_inside._BY_TABLE | torch_inside._POINTWISE | torch_inside._PLAIN
    known = {func._schema.name.removeprefix("aten::") for func in torch_inside.decomposition_table if hasattr(func, "_schema")}
    assert names - known == set()


def test_the_inside_of_a_layer_norm_is_a_textbook() -> None:
    x = numbers(2, 3, 8)
    trace = checked(nn.LayerNorm(8), {"x": x})
    forward = [node for node in trace.nodes if node.call == "layer_norm" and not node.backward]
    assert [node.operation for node in forward] == ["mean", "sub", "mul", "mean", "add", "rsqrt", "mul", "mul", "add"]
    np.testing.assert_allclose(forward[3].value[..., 0], x.var(-1))
    assert {node.call_number for node in forward} == {forward[0].call_number}


def test_a_part_that_is_not_what_the_whole_gave_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = torch_inside.Opening(lambda *args: torch_inside.Inside((args[0].exp(),)), "never")
    monkeypatch.setattr(torch_inside, "opening", lambda func: wrong if func is torch.ops.aten.cumsum.default else None)
    monkeypatch.setattr(torch_trace, "_OPERATIONS", {})
    trace = traced(lambda x: x.cumsum(0), {"x": numbers(4)})
    assert trace.nodes[trace.outputs["output"]].operation == "cumsum"


def test_a_decomposition_that_fails_leaves_the_operation_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(torch_inside, "opening", lambda func: torch_inside.Opening(fails, "always"))
    monkeypatch.setattr(torch_trace, "_OPERATIONS", {})
    trace = traced(nn.BatchNorm1d(3), {"x": numbers(4, 3)})
    assert trace.nodes[trace.outputs["output"]].operation == "native_batch_norm"
    assert trace.outputs["state.running_mean"] == trace.outputs["output"] + 3 and ops(trace, "native_batch_norm")[-1].kind == "op"


def test_running_statistics_move_once_and_are_outputs() -> None:
    x = numbers(6, 3)
    trace = checked(nn.BatchNorm1d(3, momentum=0.5), {"x": x})
    np.testing.assert_allclose(trace.nodes[trace.outputs["state.running_mean"]].value, x.mean(0) / 2)
    assert trace.nodes[trace.outputs["state.num_batches_tracked"]].value == 1
    assert "state.running_mean" not in checked(nn.BatchNorm1d(3).eval(), {"x": x}).outputs


# ---------------------------------------------------------------- attention


def attended(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    return np.einsum("...ld,...sd->...ls", q, k)


def has(trace: Trace, values: np.ndarray) -> bool:
    wanted = fingerprint(values)
    return any(node.print is not None and node.kind == "op" and alike(node.print, wanted) for node in trace.nodes)


def test_scores_of_attention_exist_raw_scaled_and_masked() -> None:
    q, k, v = numbers(2, 2, 3, 4), numbers(2, 2, 3, 4, seed=1), numbers(2, 2, 3, 5)
    trace = checked(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), {"q": q, "k": k, "v": v})
    raw = attended(q, k)
    masked = np.where(np.tril(np.ones((3, 3), bool)), raw / 2, -np.inf)
    shares = np.exp(masked) / np.exp(masked).sum(-1, keepdims=True)
    assert has(trace, raw) and has(trace, raw / 2) and has(trace, masked) and has(trace, shares)
    assert {node.call for node in trace.nodes if node.kind in ("op", "move")} == {"scaled_dot_product_attention"}


KEPT = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
ATTENTION: dict[str, Callable[..., Any]] = {
    "scale": lambda q, k: F.scaled_dot_product_attention(q, k, k, scale=0.3),
    "which torch": lambda q, k: F.scaled_dot_product_attention(query=q, key=k, value=k, dropout_p=0.0),
    "bool mask with an empty row": lambda q, k: F.scaled_dot_product_attention(q, k, k, KEPT),
    "float mask with an empty row": lambda q, k: F.scaled_dot_product_attention(q, k, k, torch.where(KEPT, 0.5, -torch.inf)),
    "grouped": lambda q, k: F.scaled_dot_product_attention(q, k[:, :1], k[:, :1], enable_gqa=True),
    "two axes": lambda q, k: F.scaled_dot_product_attention(q[0, 0], k[0, 0], k[0, 0]),
    "dropout": lambda q, k: F.scaled_dot_product_attention(q, k, k, dropout_p=0.5),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_textbook_attention_is_torchs(name: str) -> None:
    checked(ATTENTION[name], {"q": numbers(2, 2, 3, 4), "k": numbers(2, 2, 3, 4, seed=1)})


def test_attention_refuses_what_torch_refuses() -> None:
    with pytest.raises(RuntimeError, match="Explicit attn_mask should not be set when is_causal=True"):
        traced(lambda q: F.scaled_dot_product_attention(q, q, q, KEPT, is_causal=True), {"q": numbers(1, 3, 4)})


HEADS = functools.partial(nn.MultiheadAttention, 4, 2, batch_first=True)
PADDED = torch.tensor([[False, False, True], [False, False, False]])
MULTIHEAD: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], tuple[int, ...]]] = {
    "with weights": (HEADS, lambda m, x: m(x, x, x), (2, 3, 4)),
    "without": (HEADS, lambda m, x: m(x, x, x, need_weights=False)[0], (2, 3, 4)),
    "weights of each head": (HEADS, lambda m, x: m(x, x, x, average_attn_weights=False), (2, 3, 4)),
    "one example": (HEADS, lambda m, x: m(x, x, x), (3, 4)),
    "padding": (HEADS, lambda m, x: m(x, x, x, key_padding_mask=PADDED), (2, 3, 4)),
    "causal": (HEADS, lambda m, x: m(x, x, x, attn_mask=~torch.ones(3, 3).tril().bool(), is_causal=True), (2, 3, 4)),
    "more": (functools.partial(HEADS, add_bias_kv=True, add_zero_attn=True, kdim=4), lambda m, x: m(x, x, x), (2, 3, 4)),
}


class Attending(nn.Module):
    def __init__(self, heads: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.heads, self.call = heads, call

    def forward(self, x: torch.Tensor) -> Any:
        return self.call(self.heads, x)


@pytest.mark.parametrize("name", MULTIHEAD)
def test_multi_head_attention_goes_by_way_of_raw_scores(name: str) -> None:
    heads, call, shape = MULTIHEAD[name]
    trace = checked(Attending(heads(), call), {"x": numbers(*shape)})
    calls = [node.call for node in trace.nodes if node.module == "heads"]
    assert "scaled_dot_product_attention" in calls and "linear" in calls and "multi_head_attention_forward" not in calls


def test_a_row_without_keys_is_nan_where_torch_has_nan() -> None:
    module = Attending(HEADS(), lambda m, x: m(x, x, x, attn_mask=torch.ones(3, 3).triu().bool())[0])
    trace = traced(module, {"x": numbers(2, 3, 4)}, keep=range(1000), wrt=[])
    assert np.isnan(trace.nodes[trace.outputs["output"]].value[:, 0]).all()


def test_the_fast_path_is_off_while_tracing_and_on_again() -> None:
    trace = traced(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval(), {"x": numbers(2, 3, 8)}, wrt=[])
    assert ops(trace, "_transformer_encoder_layer_fwd") == [] and ops(trace, "bmm")
    assert torch.backends.mha.get_fastpath_enabled()


def test_recurrent_layers_are_open() -> None:
    trace = checked(nn.LSTM(3, 2), {"x": numbers(4, 2, 3)})
    assert len(ops(trace, "sigmoid")) == 3 * 4 and len(ops(trace, "tanh")) == 2 * 4
    assert [node.operation for node in trace.nodes if "lstm" in node.operation or "rnn" in node.operation] == []


# ---------------------------------------------------------------- where


def test_module_path_line_and_call() -> None:
    trace = checked(Model(), TOKENS)
    for number in (0, 1):
        norms = [node for node in trace.nodes if node.call == "layer_norm" and node.module == f"blocks.{number}.norm"]
        assert {node.frames[0].line for node in norms} == {line_of("the norm")} and {node.backward for node in norms} == {True, False}
        gelus = [node for node in trace.nodes if node.call == "gelu" and node.module == f"blocks.{number}"]
        assert {node.frames[0].line for node in gelus} == {line_of("the gelu")} and {node.backward for node in gelus} == {True, False}
        assert {str(node.frames[0]) for node in gelus} == {f"test_torch_trace.py:{line_of('the gelu')}"}
    frames = norms[0].frames
    assert [frame.function for frame in frames] == ["Block.forward", "Model.forward"] and frames[0].file == __file__


def test_calls_of_one_function_have_numbers_of_their_own() -> None:
    trace = checked(lambda x: F.gelu(F.gelu(x)), {"x": numbers(4)})
    numbers_ = [
        {node.call_number for node in trace.nodes if node.backward is backward and node.call == "gelu"} for backward in (False, True)
    ]
    assert len(numbers_[0]) == 2 and numbers_[0] == numbers_[1]


NAMES: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "operators": (lambda x: 1 - x, "rsub"),
    "indexing": (lambda x: x[0], "getitem"),
    "attributes": (lambda x: x.mT, "mT"),
    "in place": (lambda x: (x * 1).relu_(), "relu_"),
    "einsum": (lambda x: torch.einsum("ij->ji", x), "einsum"),
    "outermost": (lambda x: F.cross_entropy(x, torch.tensor([0, 1])), "cross_entropy"),
    "overloads": (lambda x: torch.ops.aten.sin.default(x), "sin"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_call_is_the_outermost(name: str) -> None:
    side, called = NAMES[name]
    trace = checked(side, {"x": numbers(2, 3)})
    assert trace.nodes[trace.outputs["output"]].call == called


def test_modules_in_functions_and_losses_have_paths() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double()

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MSELoss()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.inner(z * self.weight, y) * 2

    trace = checked(lambda x: net(x), {"x": numbers(4, 3), "y": numbers(4, 2)}, loss=Loss(), targets=1)
    modules = [node.module for node in trace.nodes if node.kind == "op" and not node.backward]
    assert list(dict.fromkeys(modules)) == ["Sequential.0", "Sequential.1", "loss", "loss.inner"]
    assert [node.name for node in trace.nodes if node.kind == "const" and node.name] == ["loss.weight", "cotangent.loss"]
    assert list(trace.outputs)[:2] == ["output", "loss"]


def test_the_root_has_the_name_of_its_class() -> None:
    assert only(traced(nn.Tanh(), {"x": numbers(3)}), "tanh").module == "Tanh"


def test_functions_of_params_are_followed() -> None:
    trace = checked(lambda p, x: torch.tanh(x @ p["w"]), {"x": numbers(2, 3)}, params={"w": numbers(3, 4)})
    assert [node.name for node in trace.nodes if node.kind == "param"] == ["w"]
    assert only(trace, "tanh").frames[0].file == __file__


def test_frames_are_the_users_and_end_where_the_user_was_called() -> None:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    nested = functools.partial(functools.partial(inner))
    frames = only(traced(lambda x: nested(x), {"x": numbers(3)}), "sin").frames
    assert [frame.function.rpartition(".")[2] for frame in frames] == ["inner", "<lambda>"]
    assert {frame.file for frame in frames} == {__file__}


def test_library_frames_count_only_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    einops = pytest.importorskip("einops")
    mine = traced(lambda x: einops.rearrange(x, "a b -> b a"), {"x": numbers(2, 3)})
    assert {frame.file for node in mine.nodes for frame in node.frames} == {__file__}
    theirs = traced(functools.partial(einops.rearrange, pattern="a b -> b a"), {"x": numbers(2, 3)})
    assert all("einops" in node.frames[0].file for node in theirs.nodes if node.kind in ("op", "move") and not node.backward)


def test_directories_are_compared_as_prefixes() -> None:
    assert torch_places.whose("/home/me/torch/nn/model.py") == "user"
    assert torch_places.whose(torch.__file__) == "" and torch_places.whose(torch.__file__.replace("torch", "torchaudio")) == "library"


# ---------------------------------------------------------------- the backward pass


def test_a_mode_sees_the_backward_pass_in_the_calling_thread() -> None:
    trace = traced(lambda x: x.tanh(), {"x": numbers(3)})
    assert only(trace, "tanh_backward").backward and not only(trace, "tanh").backward


def test_gradients_stand_where_their_operation_stands() -> None:
    def side(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = x.exp() + b  # the bias
        return y * y.sin()  # the product

    trace = checked(side, {"x": numbers(4, 3), "b": numbers(3)})
    summed = only(trace, "sum", backward=True)  # what broadcasting repeated
    assert summed.frames[0].line == line_of("the bias") and summed.call == "add"
    assert {node.frames[0].line for node in ops(trace, "cos")} == {line_of("the product")}
    (gathered,) = (node for node in ops(trace, "add", backward=True) if len(node.reads) == 2)  # y was used twice
    assert gathered.frames == () and gathered.call == "" and gathered.call_number == -1


def test_cotangents_are_constants_with_names() -> None:
    trace = checked(lambda x: (x.exp(), x.sin()), {"x": numbers(3)})
    found = ops(trace, "cotangent")
    assert [(node.kind, node.name, node.data) for node in found] == [
        ("const", "cotangent.output.0", False),
        ("const", "cotangent.output.1", False),
    ]
    assert only(trace, "cos").data


def test_nothing_to_differentiate_and_nothing_asked() -> None:
    assert not any(node.backward for node in traced(torch.sin, {"x": numbers(3)}, wrt=[]).nodes)
    assert not any(node.backward for node in traced(torch.sin, {"x": numbers(3)}, backward=False).nodes)
    constant = traced(lambda x: x.detach().sin(), {"x": numbers(3)})
    assert list(constant.outputs) == ["output"]


def test_inputs_without_a_gradient_have_no_entry() -> None:
    trace = traced(lambda x, y: x.sin() + y.detach(), {"x": numbers(3), "y": numbers(3)})
    assert list(trace.outputs) == ["output", "grad.x"]


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()  # rounds

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 3  # straight through


def test_functions_with_a_gradient_of_their_own_show_both() -> None:
    trace = checked(lambda x: Rounded.apply(x.exp()).sin(), {"x": numbers(4)})
    assert only(trace, "round").frames[0].line == line_of("rounds")
    (through,) = (node for node in ops(trace, "mul", backward=True) if node.frames[0].line == line_of("straight through"))
    assert through.data


class Sinh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sinh(x.detach().numpy()))  # out of sight

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.cosh(ctx.saved_tensors[0])


def test_a_function_that_leaves_torch_is_one_opaque_node() -> None:
    trace = checked(lambda x: Sinh.apply(x * 3).sin(), {"x": numbers(4)})
    opaque = only(trace, "outside")
    assert opaque.kind == "op" and opaque.data and opaque.frames[0].line == line_of("out of sight") and opaque.again is None
    assert [trace.nodes[read].operation for read in opaque.reads] == ["detach"]


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def part(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)[:, None]
        return F.scaled_dot_product_attention(y, y, y).squeeze(1).exp()  # again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.part, x, use_reentrant=False).sin()


def test_what_a_checkpoint_runs_again_is_forward() -> None:
    trace = checked(Checkpointed(), {"x": numbers(3, 4)})
    exps = [node for node in ops(trace, "exp") if node.call == "exp"]
    assert [node.backward for node in exps] == [False, False] and [node.module for node in exps] == ["Checkpointed"] * 2
    assert {node.frames[0].line for node in exps} == {line_of("again")}
    assert {node.module for node in ops(trace, "mm", backward=True)} == {"inner"}


def test_gradients_inside_the_forward_pass() -> None:
    def force(x: torch.Tensor) -> torch.Tensor:
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)  # the force
        return gradient.tanh()

    trace = checked(force, {"x": numbers(3)})
    (slope,) = (node for node in ops(trace, "mul", backward=False) if len(node.reads) == 2)
    assert slope.call == "grad" and slope.frames[0].line == line_of("the force")
    forward = traced(force, {"x": numbers(3)}, backward=False)  # where what is saved for gradients is first dropped, then kept
    assert len(forward.nodes) == sum(not node.backward and node.operation != "cotangent" for node in trace.nodes)


# ---------------------------------------------------------------- which tensor is which


def test_a_tensor_at_the_address_of_a_dead_one_is_not_taken_for_it() -> None:
    addresses = []

    def side(x: torch.Tensor) -> torch.Tensor:
        total = x
        for number in range(20):
            fresh = torch.from_numpy(np.full(1000, float(number)))  # no operation: only its memory tells
            fresh = torch.ones(1000) if number % 2 else fresh
            addresses.append(fresh.data_ptr())
            total = total + fresh
            del fresh
        return total

    trace = checked(side, {"x": numbers(1000)})
    assert len(set(addresses)) < len(addresses)  # the trap was set
    assert len({node.reads[1] for node in ops(trace, "add", backward=False)}) == 20


def test_without_forgetting_the_trap_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remembers(torch_known.Known):
        def _storage(self, tensor: torch.Tensor, make: bool = False) -> Any:
            return self.storages.setdefault(tensor.data_ptr(), torch_known._Storage(None))  # type: ignore[arg-type]

    monkeypatch.setattr(torch_trace, "Known", Remembers)
    trace = traced(lambda x: sum((torch.from_numpy(np.full(1000, float(n))) for n in range(20)), x), {"x": numbers(1000)}, wrt=[])
    assert len({node.reads[1] for node in ops(trace, "add")}) < 20


def test_the_memory_of_a_view_is_known_and_forgotten() -> None:
    known = torch_known.Known()
    tensor = torch.zeros(4, 3)
    known.add(tensor, 1)
    known.add(tensor[1], 2)
    assert known.find(tensor) == (1, ()) and known.find(tensor[1]) == (2, ()) and known.find(tensor[2]) is None
    detached = tensor.detach()
    known.add(detached, 3)
    assert known.find(detached) == (3, ()) and known.find(tensor) == (1, ())
    known.write(tensor[1], 4)
    assert known.find(tensor) == (1, (4,)) and known.find(detached) == (3, (4,)) and known.find(tensor[1]) == (4, ())
    del tensor, detached
    assert known.storages == {} and known.apart == {}


def test_the_python_object_of_a_storage_lives_as_long_as_the_storage() -> None:
    tensor = torch.ones(3, requires_grad=True).exp()
    ref, at = weakref.ref(tensor.untyped_storage()), id(tensor.untyped_storage())
    result = tensor.sum()
    del tensor  # autograd has it
    assert ref() is not None and id(ref()) == at
    del result
    assert ref() is None


def test_writing_in_place_makes_a_new_node_and_views_follow() -> None:
    def side(x: torch.Tensor) -> Any:
        y = x * 2
        first, last = y[0], y[1]
        first.add_(1)
        return y.sin(), last.cos(), first.exp()

    trace = checked(side, {"x": numbers(2, 3)}, wrt=[])
    written = only(trace, "written")
    product, added = only(trace, "mul"), only(trace, "add")
    assert written.reads == (product.index, added.index) and only(trace, "sin").reads == (written.index,)
    assert only(trace, "exp").reads == (added.index,)
    assert trace.nodes[only(trace, "cos").reads[0]].operation == "select"  # where nothing was written


def test_rows_written_one_by_one() -> None:
    def side(x: torch.Tensor) -> torch.Tensor:
        rows = torch.empty(3, 2)
        for row in range(3):
            rows[row] = x[row].exp()
        return rows @ x.T

    trace = checked(side, {"x": numbers(3, 2)})
    whole = trace.nodes[only(trace, "mm", backward=False).reads[0]]
    assert whole.operation == "written" and whole.data and whole.print == fingerprint(np.exp(numbers(3, 2)))
    assert {node.kind for node in ops(trace, "copy", backward=False)} == {"move"} and only(trace, "empty").print is None


def test_memory_that_is_read_and_was_never_written_came_from_outside() -> None:
    trace = traced(lambda x: x + torch.empty(3), {"x": numbers(3)})
    outside = only(trace, "outside")
    assert outside.data and outside.kind == "op" and only(trace, "add").reads == (0, outside.index)


def test_detached_tensors_are_apart_from_what_they_were_detached_from() -> None:
    trace = checked(lambda x: (lambda y: y.detach() * y)(x.exp()), {"x": numbers(3)})
    detached, product = only(trace, "detach"), ops(trace, "mul")[0]
    assert product.reads == (detached.index, only(trace, "exp").index) and detached.kind == "move"


def test_what_is_saved_for_gradients_is_no_node() -> None:
    assert ops(traced(lambda x: x.softmax(0).exp(), {"x": numbers(3)}), "detach") == []


def test_tied_parameters_are_one_node() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    module[2].weight = module[0].weight
    trace = checked(module, {"x": numbers(2, 3)})
    (weight,) = (node for node in trace.nodes if node.kind == "param")
    assert weight.name == "0.weight"
    turned = [node for node in ops(trace, "t", backward=False) if node.reads == (weight.index,)]
    assert [node.module for node in turned] == ["0", "2"]


def test_a_returned_input_is_the_node_of_the_input() -> None:
    trace = checked(lambda x: (x, x.view(3), x.sin()), {"x": numbers(3)})
    assert trace.outputs["output.0"] == trace.outputs["output.1"] == 0 and trace.nodes[0].name == "x"


def test_kinds() -> None:
    table = torch.arange(3.0, dtype=torch.float64)

    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("buffer", torch.ones(3))
            self.plain = torch.full((3,), 2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.buffer * self.plain + table + torch.zeros_like(x) + torch.tensor([1.0, 2.0, 4.0]))[None].expand(2, 3).clone()

    trace = checked(Kinds(), {"x": numbers(3)}, wrt=[])
    found = [(node.kind, node.operation, node.name) for node in trace.nodes]
    assert found == [
        ("input", "", "x"), ("param", "", "buffer"), ("const", "", "plain"), ("op", "mul", ""), ("op", "mul", ""), ("const", "", ""),
        ("op", "add", ""), ("const", "zeros_like", ""), ("op", "add", ""), ("const", "tensor", ""), ("op", "add", ""), ("move", "unsqueeze", ""),
        ("op", "expand", ""), ("move", "clone", ""),
    ]  # fmt: skip
    assert [node.data for node in trace.nodes if node.kind == "const"] == [False] * 4


def test_random_draws_are_constants_until_they_hang_on_an_input() -> None:
    trace = traced(lambda x: torch.rand(3) + torch.randn_like(x) + torch.bernoulli(x), {"x": np.full(3, 0.5)}, wrt=[])
    assert [(only(trace, name).kind, only(trace, name).data) for name in ("rand", "randn_like", "bernoulli")] == [
        ("const", False), ("const", False), ("op", True),
    ]  # fmt: skip


def test_a_dropout_draws_what_it_draws_without_a_trace() -> None:
    trace = checked(lambda x: F.dropout(x, 0.5), {"x": numbers(50)})
    assert only(trace, "bernoulli").kind == "const"


def test_shared_draws_are_constants_too() -> None:
    def port(x: Any) -> Any:
        return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x / 0.5, 0.0)

    spec = dlp.layer(nn.Dropout(0.5), port, inputs=[dlp.normal(4, 6)], shared_randomness=True, train=True)
    prep = run.prepared(spec, 0, ["float32"])
    truth = run.torch_outcome(prep, run.torch_ready(prep, "cpu", "float64", False), "cpu", "float64").leaves["output"]
    for _ in range(2):
        trace = tracing.torch_trace(prep, range(100))
        np.testing.assert_array_equal(trace.nodes[trace.outputs["output"]].value, truth)
        assert only(trace, "bernoulli").kind == "const"


def test_numbers_that_left_torch_are_behind_what_comes_in_later() -> None:
    def side(x: torch.Tensor) -> Any:
        largest = x.abs().max().item()
        return x * torch.tensor([largest, 1.0, 1.0]), largest

    trace = checked(side, {"x": numbers(3)}, wrt=[])
    largest = only(trace, "max")
    assert [node.reads for node in ops(trace, "outside")] == [(largest.index,)] * 2 and all(node.data for node in ops(trace, "outside"))


def test_control_flow_that_hangs_on_data_is_run() -> None:
    def side(x: torch.Tensor) -> torch.Tensor:
        while x.square().sum() > 1:
            x = x / 2
        return x

    assert len(ops(checked(side, {"x": np.full(4, 4.0)}), "div", backward=False)) == 3


def test_transformed_functions() -> None:
    trace = checked(lambda x: torch.vmap(lambda row: F.scaled_dot_product_attention(row, row, row).exp())(x), {"x": numbers(2, 3, 4)})
    assert {node.call for node in trace.nodes if node.backward and node.frames} == {"scaled_dot_product_attention", "exp"}
    slopes = checked(lambda x: torch.func.grad(lambda y: y.sin().sum())(x), {"x": numbers(3)})
    assert only(slopes, "cos", backward=False).data


def test_a_higher_order_operation_is_one_opaque_node() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = traced(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), {"x": numbers(3)}, wrt=[])
    assert only(trace, "cond").data and only(trace, "cond").reads[1:] == (0,)


def test_custom_operations_are_opaque_nodes_with_their_library() -> None:
    with torch.library._scoped_library("dlparity_test", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: torch.from_numpy(x.numpy() * 2), "CPU")
        trace = traced(torch.ops.dlparity_test.twice, {"x": numbers(3)}, wrt=[])
    assert [(node.operation, node.reads) for node in trace.nodes[1:]] == [("dlparity_test.twice", (0,))]


def test_inference_mode_is_seen_through() -> None:
    def side(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return F.layer_norm(F.linear(x, torch.eye(4)), (4,))

    assert [node.operation for node in checked(side, {"x": numbers(3, 4)}, wrt=[]).nodes][3:5] == ["mm", "mean"]


# ---------------------------------------------------------------- narrow dtypes


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x).half()
        one = torch.ones(4, dtype=torch.float32) + torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float32)
        return F.softmax(y.float() * one, -1, dtype=torch.float32) @ torch.eye(4, dtype=torch.float32)


def test_casts_to_narrower_floats_are_not_done_and_seen() -> None:
    trace = traced(Narrow(), {"x": numbers(2, 4)})
    assert {node.dtype for node in trace.nodes if node.kind in ("op", "move")} == {"float64"}
    casts = ops(trace, "_to_copy", backward=False)
    assert [node.kind for node in casts] == ["move"] * len(casts) and [node.call for node in casts] == ["half", "float", "softmax"]
    assert casts[0].print == trace.nodes[casts[0].reads[0]].print


def test_a_program_that_looks_at_its_dtype_is_run_as_it_is() -> None:
    def side(x: torch.Tensor) -> torch.Tensor:
        y = x.half()
        assert y.dtype is torch.float16
        return y.double()

    trace = checked(side, {"x": numbers(3)}, wrt=[])
    assert [(node.kind, node.dtype) for node in ops(trace, "_to_copy")] == [("op", "float16"), ("move", "float64")]


def test_a_program_that_looks_at_bits_is_run_as_it_is() -> None:
    trace = checked(lambda x: (x.float().view(torch.int32) & 1).double() + x.float(), {"x": numbers(3)})
    assert only(trace, "view").kind == "op" and only(trace, "bitwise_and").dtype == "int32"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_a_narrow_run_results_are_torchs_own_and_their_parts_in_double(dtype: torch.dtype) -> None:
    weight = torch.ones(8, dtype=dtype)
    x = numbers(4, 8) * 0.01 + 100
    side = lambda x: F.gelu(F.layer_norm(x.to(dtype), (8,), weight)).float()
    ready, job = prepared(side, {"x": x}, wrt=[])
    with torch_side.settings("float64", "highest"):
        wide = torch_trace.trace(ready, job, cotangent)
        narrow = torch_trace.trace(ready, job, cotangent, range(100), plain=True)
        truth = side(torch.from_numpy(x)).double().numpy()
    assert [name for name in narrow.steps() if name != "_to_copy"] == [name for name in wide.steps() if name != "_to_copy"]
    np.testing.assert_array_equal(narrow.nodes[narrow.outputs["output"]].value, truth)
    own = str(dtype).removeprefix("torch.")  # of what the operation gives: mean, 1 / deviation and the result
    found = [node.dtype for node in narrow.nodes if node.call == "layer_norm" and node.kind == "op"]
    assert found == [own, "float64", "float64", "float64", "float64", own, "float64", own]


def test_attention_in_a_narrow_run_is_torchs_own() -> None:
    module = Attending(HEADS(), lambda m, x: m(x, x, x)[0])
    ready, job = prepared(module, {"x": numbers(2, 3, 4)}, wrt=[])
    for tensor in (*ready.params.values(), *ready.base.values(), *ready.inputs.values()):
        tensor.data = tensor.data.float()
    with torch_side.settings("float32", "highest"):
        truth = torch_side.evaluate(ready, job, cotangent).leaves["output"].numpy()
        trace = torch_trace.trace(ready, job, cotangent, range(200), plain=True)
        direct = torch_trace.trace(*prepared_narrow(), cotangent, range(200), plain=True)
    np.testing.assert_array_equal(trace.nodes[trace.outputs["output"]].value, truth)
    rounded = numbers(2, 3, 4).astype(np.float32).astype(np.float64)
    assert has(direct, attended(rounded, rounded)) and only(direct, "amax").dtype == "float64"


def prepared_narrow() -> Any:
    ready, job = prepared(lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]), {"x": numbers(2, 3, 4)}, wrt=[])
    ready.inputs["x"] = ready.inputs["x"].float()
    return ready, job


# ---------------------------------------------------------------- running nodes again


def test_nodes_run_again_on_other_values() -> None:
    trace = checked(Model(), TOKENS)
    values = {node.index: node.value for node in trace.nodes}
    seen = set()
    for node in trace.nodes:
        if node.again is not None:
            seen.add(node.operation)
            np.testing.assert_allclose(torch_trace.replay(node, values), node.value, rtol=1e-12, atol=1e-14)
        else:
            assert node.kind in ("input", "param", "const")
    assert {"mm", "mul", "select", "embedding", "erf", "mean", "add"} <= seen
    assert any(node.again is not None and node.again.part is not None for node in traced(lambda x: x.chunk(2), {"x": numbers(4)}).nodes)


def test_in_place_operations_run_again_and_leave_what_they_were_given() -> None:
    trace = checked(lambda x: (x * 1).add_(2).mul_(x), {"x": numbers(3)}, wrt=[])
    values = {node.index: node.value for node in trace.nodes}
    before = {index: value.copy() for index, value in values.items()}
    for name in ("add", "mul"):
        node = ops(trace, name)[-1]
        np.testing.assert_array_equal(torch_trace.replay(node, values), node.value)
    assert all(np.array_equal(values[index], before[index]) for index in values)
    other = {**values, 0: np.full(3, 7.0)}
    np.testing.assert_array_equal(torch_trace.replay(ops(trace, "mul")[-1], other), values[only(trace, "add").index] * 7)


def test_a_split_into_one_part_runs_again_as_that_part() -> None:
    trace = traced(lambda x: torch.split(x, 3)[0] * 2, {"x": numbers(3)}, range(10))
    node = next(node for node in trace.nodes if node.operation.startswith("split"))
    np.testing.assert_array_equal(torch_trace.replay(node, {i: trace.nodes[i].value for i in node.reads}), node.value)


def test_values_are_kept_while_there_is_room() -> None:
    ready, job = prepared(lambda x: (x * 2).sin().cos(), {"x": numbers(5)}, wrt=[])
    with torch_side.settings("float64", "highest"):
        trace = torch_trace.trace(ready, job, cotangent, backward=False, room=12)
    assert [node.value is not None for node in trace.nodes] == [True, True, False, False]


def test_what_has_no_operation_cannot_run_again() -> None:
    with pytest.raises(ValueError, match=r"^node 0 \(input\) has no operation that could run again\.$"):
        torch_trace.replay(traced(torch.sin, {"x": numbers(3)}).nodes[0], {})
    drawn = only(traced(lambda x: torch.bernoulli(x), {"x": np.full(3, 0.5)}, wrt=[]), "bernoulli")
    with pytest.raises(ValueError, match=r"^node 1 \(bernoulli\) has no operation that could run again\.$"):
        torch_trace.replay(drawn, {0: np.full(3, 0.5)})


# ---------------------------------------------------------------- fingerprints


def test_fingerprints_are_those_of_the_values() -> None:
    trace = checked(Model(), TOKENS)
    masked = checked(ATTENTION["bool mask with an empty row"], {"q": numbers(1, 2, 3, 4), "k": numbers(1, 2, 3, 4)})
    scaled = checked(lambda x: (-(x * 3) / -2.0).expand(2, 3, 4) + (x / 0.25).neg(), {"x": numbers(3, 4)})
    for node in (*trace.nodes, *masked.nodes, *scaled.nodes):
        assert node.print is not None and node.value is not None
        assert alike(node.print, fingerprint(node.value), 1e-12), node


def test_large_parameters_have_none_unless_their_value_is_kept() -> None:
    module = nn.Linear(100, 50)
    first = traced(module, {"x": numbers(2, 100)}, wrt=[])
    assert [node.print is None for node in first.nodes if node.kind == "param"] == [True, False] and only(first, "t").print is None
    kept = traced(module, {"x": numbers(2, 100)}, keep=[1], wrt=[])
    assert kept.nodes[1].print is not None and [node.index for node in kept.nodes if node.value is not None] == [1]


# ---------------------------------------------------------------- nothing is kept, nothing is changed


def test_no_tensor_outlives_the_trace() -> None:
    made: list[Any] = []

    def side(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        made.append(weakref.ref(y))
        return y.sin()

    trace = traced(side, {"x": numbers(3)})
    gc.collect()
    assert [ref() for ref in made] == [None] and trace.outputs
    tensors = [
        value
        for node in trace.nodes
        if node.again
        for value in (*node.again.args, *node.again.kwargs.values())
        if isinstance(value, torch.Tensor)
    ]
    assert tensors == []


@pytest.mark.parametrize("wrt", [[], ["x"]])
def test_without_a_backward_pass_tensors_die_on_the_way(wrt: list[str]) -> None:
    made: list[Any] = []
    alive = []

    def side(x: torch.Tensor) -> torch.Tensor:
        for _ in range(10):
            x = x.exp().sin()
            made.append(weakref.ref(x.untyped_storage()))
            alive.append(sum(ref() is not None for ref in made))
        return x

    traced(side, {"x": numbers(3)}, backward=False, wrt=wrt)
    assert max(alive) <= 2


def test_values_are_copies_and_only_those_asked_for() -> None:
    tracemalloc.start()
    trace = traced(lambda x: (x * 1).add_(1).exp(), {"x": numbers(3)}, keep=[1], wrt=[])
    tracemalloc.stop()
    np.testing.assert_array_equal(trace.nodes[1].value, numbers(3))
    assert [node.value is not None for node in trace.nodes] == [False, True, False, False]


def hooks() -> list[int]:
    module = torch.nn.modules.module
    return [len(module._global_forward_pre_hooks), len(module._global_forward_hooks), len(module._global_forward_hooks_always_called)]


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_modes_and_settings_are_as_before(fails: bool) -> None:
    outer = torch.ones(3, dtype=torch.float64, requires_grad=True) * 2

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x) * outer
            if fails:
                raise ZeroDivisionError("the model's own")
            return y

    before = hooks(), torch.backends.mha.get_fastpath_enabled(), gc.get_freeze_count(), torch.get_default_dtype()
    ready, job = prepared(lambda x: Failing()(x), {"x": numbers(3)})
    with torch_side.settings("float64", "highest"):
        if fails:
            with pytest.raises(ZeroDivisionError, match=r"^the model's own$"):
                torch_trace.trace(ready, job, cotangent)
        else:
            torch_trace.trace(ready, job, cotangent)
    assert before == (hooks(), torch.backends.mha.get_fastpath_enabled(), gc.get_freeze_count(), torch.get_default_dtype())
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0 and torch.overrides._len_torch_function_stack() == 0
    seen: list[Any] = []
    handle = outer.grad_fn.register_prehook(seen.append)
    outer.sum().backward()
    assert len(seen) == 1
    handle.remove()


def test_inputs_that_a_program_writes_to_are_whole_again_in_the_next_run() -> None:
    ready, job = prepared(lambda x: x.add_(1), {"x": numbers(3)}, wrt=[])
    with torch_side.settings("float64", "highest"):
        first, second = (torch_trace.trace(ready, job, cotangent) for _ in range(2))
    assert first.nodes[0].print == second.nodes[0].print == fingerprint(numbers(3))


def test_random_state_moves_as_in_an_ordinary_run() -> None:
    ready, job = prepared(lambda x: F.dropout(x, 0.5), {"x": numbers(3)})
    after = []
    for once in (torch_side.evaluate, torch_trace.trace):
        with torch_side.settings("float64", "highest"):
            once(ready, job, cotangent)
            after.append(torch_side.random_state())
    assert torch.equal(*after)


def test_private_names_are_where_they_were() -> None:
    with torch_trace._Calls(SimpleNamespace(places=None)), torch._C.DisableTorchFunction():  # type: ignore[arg-type]
        assert torch.ones(2).sum() == 2  # no mode is asked
    assert not torch._C._functorch.is_functorch_wrapped_tensor(torch.ones(2))
    assert torch._C._dispatch_has_kernel_for_dispatch_key("aten::linear", "CompositeImplicitAutograd")
    assert isinstance(torch.ones(2, requires_grad=True).exp().grad_fn.metadata, dict)
