"""What is inside torch's fused operations, as the operations of a textbook.

Most of it is torch's own table of decompositions. Written here is what that table keeps closed (var), computes in another order than a
textbook (group norm scales before it subtracts), or what lies above the operations (attention).
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._decomp import decomposition_table  # private path, documented name; pinned by tests/test_torch_trace.py

Tensor = torch.Tensor
F = torch.nn.functional
aten = torch.ops.aten

# Opened by torch's table, forward and backward.
_BY_TABLE = set(
    """
    _fused_rms_norm _fused_rms_norm_backward _log_softmax_backward_data _safe_softmax _softmax_backward_data _weight_norm_interface addcdiv addcmul
    addmv addr binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits celu dist elu elu_backward gelu gelu_backward
    glu glu_backward hardsigmoid hardsigmoid_backward hardswish hardswish_backward huber_loss huber_loss_backward leaky_relu leaky_relu_backward
    lerp linalg_vector_norm log_sigmoid_backward log_sigmoid_forward logit logsumexp mish mish_backward mse_loss mse_loss_backward
    native_batch_norm_backward native_group_norm_backward native_layer_norm_backward nll_loss2d_backward nll_loss2d_forward nll_loss_backward
    nll_loss_forward selu silu silu_backward smooth_l1_loss smooth_l1_loss_backward soft_margin_loss soft_margin_loss_backward softplus
    softplus_backward
    """.split()
)
# Of these, those with large results whose parts are worth no second run: torch lays them out as it does their parts.
_POINTWISE = {"gelu", "gelu_backward", "silu", "silu_backward"}
# The same where everything that goes in is contiguous.
_PLAIN = set("_softmax _log_softmax native_layer_norm _softmax_backward_data _log_softmax_backward_data native_layer_norm_backward".split())


@dataclass
class Inside:
    """What a fused operation is made of gave: its outputs, and by position or name the arguments that it writes to as they are afterwards."""

    outputs: tuple[Any, ...]
    written: dict[int | str, Tensor] = field(default_factory=dict)


class Opening(NamedTuple):
    """How to look into a fused operation."""

    run: Callable[..., Inside]  # gives NotImplemented where there is nothing to see
    stands: str  # when its outputs can stand for the operation's own: "always", where all that goes in is "contiguous", "never"


def composite(func: Any) -> Callable[..., Any] | None:
    """The operations that torch itself makes of one that has no kernel; None for one that has."""
    made: Callable[..., Any] = func.decompose
    return made if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd") else None


def opening(func: Any) -> Opening | None:
    """How to look into an operation; None where nothing is inside."""
    full = func._schema.name.split("::")[-1]
    name = full if full.endswith("__") else full.removesuffix("_")
    results = [argument.name for argument in func._schema.arguments if argument.is_out]
    target: int | str | None = 0 if name != full else results[0] if len(results) == 1 else None
    if target is not None:  # the inside of silu_, and of silu with out=, is that of silu
        func = getattr(getattr(aten, name, None), func._overloadname if target == 0 else "default", None)
    always = func in _INSTEAD or name in _POINTWISE
    table: Callable[..., Any] | None = decomposition_table.get(func) if name in _BY_TABLE else None
    found = _INSTEAD.get(func) or _BESIDE.get(func) or table
    if found is None or len(results) > 1:
        return None

    def run(*args: Any, **kwargs: Any) -> Any:
        given = found(*args, **{key: value for key, value in kwargs.items() if key != target})
        if given is NotImplemented or isinstance(given, Inside):
            return given
        outputs = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        return Inside(outputs) if target is None else Inside((), {target: outputs[0]})

    return Opening(run, "never" if target is not None else "always" if always else "contiguous" if name in _PLAIN else "never")


# ---------------------------------------------------------------- parts that are as cheap as the whole, and laid out like it


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _added(bias, aten.mm(a, b), beta, alpha)


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _added(bias, aten.bmm(a, b), beta, alpha)


def _added(bias: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product
    return product + (bias if beta == 1 else bias * beta)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    if bias is None:
        return NotImplemented
    return aten.convolution(x, weight, None, *rest) + bias.view(-1, *[1] * (weight.dim() - 2))


_INSTEAD: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _baddbmm,
    aten.convolution.default: _convolution,
}

# ---------------------------------------------------------------- parts of what has a layout of its own


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Any:
    exponentials = torch.exp(x - torch.amax(x, dim, keepdim=True)) if x.numel() else torch.exp(x)
    return exponentials / exponentials.sum(dim, keepdim=True)


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Any:
    shifted = x - torch.amax(x, dim, keepdim=True) if x.numel() else x
    return shifted - torch.exp(shifted).sum(dim, keepdim=True).log()


def _normalized(x: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x normalised, mean, variance, 1 / deviation)."""
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    variance = (centred * centred).mean(dims, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    return centred * inverse, mean, variance, inverse


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    normalized, mean, _, inverse = _normalized(x, list(range(-len(shape), 0)), eps)
    return _affine(normalized, weight, bias), mean, inverse


def _group_norm(x: Tensor, weight: Any, bias: Any, n: int, channels: int, size: int, groups: int, eps: float) -> Any:
    normalized, mean, _, inverse = _normalized(x.reshape(n, groups, -1), [2], eps)
    shape = [1, channels, *[1] * (x.dim() - 2)]
    weight, bias = (None if part is None else part.reshape(shape) for part in (weight, bias))
    return _affine(normalized.reshape(x.shape), weight, bias), mean.squeeze(2), inverse.squeeze(2)


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float
) -> Inside:
    shape = [1, -1, *[1] * (x.dim() - 2)]
    weight, bias = (None if part is None else part.reshape(shape) for part in (weight, bias))
    if not training:
        inverse = torch.rsqrt(running_var + eps)
        return Inside((_affine((x - running_mean.reshape(shape)) * inverse.reshape(shape), weight, bias),))
    normalized, mean, variance, inverse = _normalized(x, [0, *range(2, x.dim())], eps)
    written: dict[int | str, Tensor] = {}
    if running_mean is not None:
        written[3] = running_mean * (1 - momentum) + mean.reshape(-1) * momentum
    if running_var is not None:
        count = x.numel() // x.shape[1]
        written[4] = running_var * (1 - momentum) + variance.reshape(-1) * (count / (count - 1)) * momentum
    return Inside((_affine(normalized, weight, bias), mean.reshape(-1), inverse.reshape(-1)), written)


def _batch_norm_no_stats(x: Tensor, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Inside:
    return _batch_norm(x, weight, bias, None, None, training, momentum, eps)


def _batch_norm_evaluated(x: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float) -> Inside:
    return _batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps)


def _variance(x: Tensor, dim: Sequence[int] | None, correction: Any, keepdim: bool) -> Any:
    """(variance, mean); with `correction` 1 the unbiased one."""
    if x.is_complex():
        return NotImplemented
    dims = list(dim) if dim else list(range(x.dim()))
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    count = math.prod(x.shape[d] for d in dims)
    variance = (centred * centred).sum(dims, keepdim=keepdim) / max(0, count - (1 if correction is None else correction))
    return variance, mean if keepdim else mean.squeeze(dims)


def _var(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return found if (found := _variance(x, dim, correction, keepdim)) is NotImplemented else found[0]


def _var_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return _variance(x, dim, correction, keepdim)


def _std(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return found if (found := _variance(x, dim, correction, keepdim)) is NotImplemented else found[0].sqrt()


def _std_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return found if (found := _variance(x, dim, correction, keepdim)) is NotImplemented else (found[0].sqrt(), found[1])


_BESIDE: dict[Any, Callable[..., Any]] = {
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _log_softmax,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit.default: _batch_norm,
    aten._native_batch_norm_legit.no_stats: _batch_norm_no_stats,
    aten._native_batch_norm_legit_no_training.default: _batch_norm_evaluated,
    aten.var.correction: _var,
    aten.var_mean.correction: _var_mean,
    aten.std.correction: _std,
    aten.std_mean.correction: _std_mean,
    aten._scaled_dot_product_flash_attention_for_cpu.default: lambda q, k, v, p=0.0, causal=False, *, attn_mask=None, scale=None: attention(
        q, k, v, attn_mask, 0.0, causal, scale=scale
    ),  # in narrow dtypes only: in double `attention` is called in its place
}

# ---------------------------------------------------------------- attention


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """torch's scaled_dot_product_attention of (..., L, E), (..., S, E) and (..., S, V), with scores, masked scores and probabilities as tensors.

    `seen` gets the probabilities; with it a row that attends to nothing is NaN, as in torch's own softmax, and not zero.
    """
    if (is_causal and attn_mask is not None) or min(query.dim(), key.dim(), value.dim()) < 2 or query.is_nested:  # torch knows what to say
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        key, value = (t.repeat_interleave(query.size(-3) // t.size(-3), -3) for t in (key, value))
    raw = query @ key.transpose(-2, -1)
    scores = raw * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    empty = _empty_rows(attn_mask) if seen is None and attn_mask is not None else None
    masked = _masked(scores, attn_mask)
    masked = masked if empty is None else masked.masked_fill(empty, 0.0)
    probabilities = masked.softmax(-1)
    probabilities = probabilities if empty is None else probabilities.masked_fill(empty, 0.0)
    probabilities = F.dropout(probabilities, dropout_p) if dropout_p else probabilities
    if seen is not None:
        seen.append(probabilities)
    return probabilities @ value


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask


def _empty_rows(mask: Tensor) -> Tensor | None:
    """Which rows attend to nothing, as (..., L, 1); None where all attend to something."""
    kept = mask if mask.dtype is torch.bool else None
    try:
        given = mask.detach().numpy()  # not an operation, so not a node
        if (given if kept is not None else ~np.isneginf(given)).any(-1).all():
            return None
    except RuntimeError:  # under vmap nobody can look
        pass
    return ~(mask != -math.inf if kept is None else kept).any(-1, keepdim=True)


# ---------------------------------------------------------------- functions of torch's that are gone into


def unwatched(function: Any) -> Callable[..., Any]:
    """A function of torch's that does not hand itself to torch function modes; what it calls is handed to them as ever."""
    names = {**function.__globals__, **{name: _no for name in function.__globals__ if name.startswith("has_torch_function")}}
    copied = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _no(*args: Any) -> bool:
    return False


_BACKWARD = (torch.autograd.grad, Tensor.backward)  # they may run forward code again, for a checkpoint
_heads = unwatched(F.multi_head_attention_forward)
_arguments = inspect.signature(F.multi_head_attention_forward)


def _multi_head_attention(seen: list[list[Tensor]], *args: Any, **kwargs: Any) -> Any:
    """torch's multi_head_attention_forward by way of scaled_dot_product_attention, whose probabilities it returns where they are asked for.

    In a narrower dtype than double, and where torch has something to say against the arguments, it is torch's own.
    """
    given = _arguments.bind(*args, **kwargs)
    given.apply_defaults()
    asked = given.arguments
    if not asked["need_weights"] or (asked["is_causal"] and asked["attn_mask"] is None) or asked["query"].dtype is not torch.float64:
        return _heads(*args, **kwargs)
    asked.update(need_weights=False, is_causal=False)
    seen.append([])
    try:
        output, _ = _heads(*given.args, **given.kwargs)
    finally:
        found = seen.pop()
    weights = found[0].mean(1) if asked["average_attn_weights"] else found[0]
    return output, weights if asked["query"].dim() == 3 else weights.squeeze(0)


def gone_into(seen: list[list[Tensor]]) -> dict[Any, Callable[..., Any]]:
    """Functions of torch's inside which its functions are watched -> what to call in their place; `seen` is a stack for `attention`."""
    into: dict[Any, Callable[..., Any]] = {function: unwatched(function) for function in _BACKWARD}
    return into | {F.multi_head_attention_forward: functools.partial(_multi_head_attention, seen)}
