"""The torch side run again with calls changed: which functions of torch it calls, and the same run with another call in their place."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pytest_dlparity.calls import Array, Call, Signature, signature
from pytest_dlparity.frameworks.torch import Ready
from pytest_dlparity.job import Job

_OPTIM = str(Path(torch.optim.__file__).parent)
_TORCH, _OURS = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])
# What says something about a tensor or sets it up: no change of these could explain a difference
_LEFT_ALONE = frozenset(
    "size dim numel nelement ndimension stride is_complex is_floating_point item tolist requires_grad_ __set__ __len__ __repr__ __format__ __bool__ "
    "is_contiguous data_ptr storage_offset element_size type get_device is_signed is_tensor __hash__ retain_grad numpy "
    "_record_function_enter_new _has_compatible_shallow_copy_type finfo iinfo __contains__ "
    "register_hook __int__ __float__ __index__ __deepcopy__ _record_function_exit._RecordFunction".split()
)
_WRAPPERS = frozenset({"forward", "wrapper", "decorate_context", "<lambda>", "handle_torch_function", "fn", "inner"})
_PROPERTIES = frozenset("T mT H mH real imag data".split())
# Python functions whose own calls are of more use than they are
_OPENED = frozenset({"multi_head_attention_forward"})
# Names of the arguments of functions that do not tell them
_SIGNATURES: Mapping[str, Signature] = {
    name: signature(text)
    for names, text in {
        "gelu": "input approximate='none'",
        "linear": "input weight bias=None",
        "conv1d conv2d conv3d": "input weight bias=None stride=1 padding=0 dilation=1 groups=1",
        "conv_transpose1d conv_transpose2d conv_transpose3d": "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1",
        "avg_pool2d avg_pool3d": "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None",
        "avg_pool1d": "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True",
        "scaled_dot_product_attention": "query key value attn_mask=None dropout_p=0.0 is_causal=False scale=None enable_gqa=False",
        "max_pool1d max_pool2d max_pool3d": "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False",
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d": "input output_size return_indices=False",
        "pad": "input pad mode='constant' value=None",
        "pixel_shuffle pixel_unshuffle channel_shuffle": "input factor",
        "_weight_norm": "v g dim=0",
        "lstm gru rnn_tanh rnn_relu": "input state weights has_biases num_layers dropout train bidirectional batch_first",
        "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell": "input state w_ih w_hh b_ih=None b_hh=None",
        "layer_norm": "input normalized_shape weight=None bias=None eps=1e-5 cudnn_enable=True",
        "rms_norm": "input normalized_shape weight=None eps=None",
        "group_norm": "input num_groups weight=None bias=None eps=1e-5 cudnn_enabled=True",
        "softmax log_softmax softmin": "input dim=None dtype=None",
        "logsumexp": "input dim keepdim=False",
        "sigmoid tanh relu relu_ exp log sqrt rsqrt erf erfinv abs neg sign round floor ceil trunc reciprocal square log1p expm1": "input",
        "sum mean nansum nanmean prod amax amin all any": "input dim=None keepdim=False",
        "max min median mode argmax argmin": "input dim=None keepdim=False",
        "var std var_mean std_mean": "input dim=None unbiased=None keepdim=False",
        "norm": "input p='fro' dim=None keepdim=False",
        "linalg_vector_norm": "input ord=2 dim=None keepdim=False",
        "cumsum cumprod logcumsumexp cummax cummin": "input dim",
        "clamp clip": "input min=None max=None",
        "flatten": "input start_dim=0 end_dim=-1",
        "reshape view": "input *shape",
        "permute": "input *dims",
        "transpose swapaxes": "input dim0 dim1",
        "flip": "input *dims",
        "roll": "input shifts dims=None",
        "cat concat concatenate stack": "tensors dim=0",
        "chunk tensor_split": "input chunks dim=0",
        "split": "input split_size dim=0",
        "sort": "input dim=-1 descending=False stable=False",
        "argsort": "input dim=-1 descending=False stable=False",
        "topk": "input k dim=-1 largest=True sorted=True",
        "gather": "input dim index",
        "index_select": "input dim index",
        "scatter scatter_add": "input dim index src",
        "masked_fill": "input mask value",
        "where": "condition input other",
        "tril triu": "input diagonal=0",
        "matmul mm bmm __matmul__ __rmatmul__": "input other",
        "mul __mul__ __rmul__ div __truediv__ true_divide floor_divide remainder fmod pow __pow__ maximum minimum fmax fmin add sub __add__ __sub__ "
        "__rsub__ __rdiv__ rsub __rpow__ mul_ div_ atan2 eq ne lt le gt ge": "input other",
        "add_ sub_": "input other alpha=1",
        "__getitem__": "input index",
        "pairwise_distance": "x1 x2 p=2.0 eps=1e-6 keepdim=False",
        "cosine_similarity": "x1 x2 dim=1 eps=1e-8",
        "leaky_relu": "input negative_slope=0.01",
        "elu celu": "input alpha=1.0",
        "softplus": "input beta=1.0 threshold=20.0",
        "hann_window hamming_window blackman_window bartlett_window": "window_length periodic=True",
        "one_hot": "input num_classes=-1",
        "repeat tile": "input *repeats",
        "repeat_interleave": "input repeats dim=None",
        "addmm baddbmm": "input mat1 mat2",
        "einsum": "equation *operands",
        "dropout": "input p=0.5 train=True",
        "to": "input target",
    }.items()
    for name in names.split()
}  # fmt: skip


def named(func: Any) -> str:
    """What a function of torch is called; "" for what no change could explain."""
    name = str(getattr(func, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(func, "__self__", None), "__name__", ""))
        return name if name in _PROPERTIES else ""
    return "" if name in _LEFT_ALONE else name


@functools.lru_cache(maxsize=512)
def _signature(func: Any, name: str) -> Signature:
    if name in _SIGNATURES and not inspect.isfunction(func):
        return _SIGNATURES[name]
    try:
        told = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return _SIGNATURES.get(name, Signature(("input",), {}))
    if name in _SIGNATURES and next(iter(told), None) is not None and next(iter(told)).kind is inspect.Parameter.VAR_POSITIONAL:
        return _SIGNATURES[name]  # (*args, **kwargs): one of two functions, chosen by an argument
    names = tuple("*" + p.name if p.kind is p.VAR_POSITIONAL else p.name for p in told if p.kind is not p.VAR_KEYWORD)
    return Signature(names, {p.name: p.default for p in told if p.default is not p.empty})


class Bound:
    """A call on its way: its arguments with their tensors, to be made as it is or with some of them changed."""

    def __init__(self, func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.func, self.name, self.args, self.kwargs = func, name, list(args), dict(kwargs)
        self.torch = torch
        self._signature = _signature(func, name)
        self._values = self._signature.bound(self.args, self.kwargs)

    def __getitem__(self, argument: str) -> Any:
        return self._values.get(argument)

    def arguments(self) -> dict[str, Any]:
        return dict(self._values)

    def again(self, **changes: Any) -> Any:
        """The call's result, with these arguments in the place of its own."""
        args, kwargs = list(self.args), dict(self.kwargs)
        for name, value in changes.items():
            if "*" + name in self._signature.names:
                place = self._signature.names.index("*" + name)
                together = len(args) == place + 1 and isinstance(args[place], (tuple, list))  # permute((0, 1)), not permute(0, 1)
                args[place:] = [tuple(value)] if together else value
            elif (place := self._place(name)) < len(args):
                args[place] = value
            else:
                kwargs[name] = value
        return self.func(*args, **kwargs)

    def _place(self, argument: str) -> int:
        if argument.startswith("#"):
            return int(argument[1:])
        return self._signature.names.index(argument) if argument in self._signature.names else len(self.args)


Change = Callable[[Bound], Any]


class _Watching(TorchFunctionMode):
    """Counts the calls that could matter; what is to be done with each, the subclass says."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = named(func)
        if not name or _in_an_optimizer():
            return func(*args, **kwargs)
        if name in _OPENED:
            with self, _opened():
                return func(*args, **kwargs)
        index, self.count = self.count, self.count + 1
        return self.made(index, Bound(func, name, args, kwargs))

    def made(self, index: int, call: Bound) -> Any:
        raise NotImplementedError

    def begins(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> None:
        """The side, or its loss, is about to be called with these."""


@contextmanager
def _opened() -> Iterator[None]:
    """Inside, functions of torch.nn.functional run themselves instead of asking the mode, which sees the calls they make.

    The names are private: a test pins them.
    """
    space = vars(torch.nn.functional)
    kept = {name: space[name] for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")}
    space.update(dict.fromkeys(kept, lambda *_: False))
    try:
        yield
    finally:
        space.update(kept)


def _in_an_optimizer() -> bool:
    """Whether the call is part of an optimizer's step: what is different there is no matter of single calls."""
    frame = inspect.currentframe()
    for _ in range(12):  # from here to the step: its decorators and its inner function
        if frame is None:
            return False
        if frame.f_code.co_filename.startswith(_OPTIM):
            return True
        frame = frame.f_back
    return False


class _Recording(_Watching):
    def __init__(self, names: dict[int, str], job: Job) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.names = names  # id of a parameter, buffer or input -> its name
        self.job = job
        self.modules: list[str] = []
        self._made: dict[int, tuple[Any, int]] = {}  # id -> (the tensor while it lives, the call that gave it)

    def made(self, index: int, call: Bound) -> Any:
        arguments = {name: self._described(value) for name, value in call.arguments().items()}
        result = call.func(*call.args, **call.kwargs)
        file, line, within = _users_frame()
        given = frozenset(call._signature.bound(call.args, call.kwargs)) - frozenset(call._signature.defaults)
        given |= frozenset(call.kwargs)
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, torch.Tensor):
                self._made[id(part)] = (weakref.ref(part), index)
        described = self._described(result)
        described = tuple(described) if isinstance(described, list) else described
        self.calls.append(
            Call(
                index,
                call.name,
                arguments,
                described,
                file,
                line,
                self.modules[-1] if self.modules else "",
                within if within != call.name else "",
                given,
            )
        )
        return result

    def begins(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> None:
        self.names |= {id(value): name for value, name in zip(args, names, strict=False)} | {
            id(value): name for name, value in kwargs.items()
        }

    def _described(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            held, index = self._made.get(id(value), (None, -1))
            index = index if held is not None and held() is value else -1
            return Array(tuple(value.shape), str(value.dtype).removeprefix("torch."), index, self.names.get(id(value), ""))
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._described, value)) if type(value) in (list, tuple) else tuple(map(self._described, value))
        return value


def _users_frame() -> tuple[str, int, str]:
    """(file, line) of the innermost frame that belongs to neither torch nor us, and the function of torch's that it called, where that is a python one.

    ("", 0) where the call came straight from a module of torch's.
    """
    frame = inspect.currentframe()
    inner, within = True, ""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_OURS):
            if not inner or frame.f_code.co_name == "the_users_side":
                break
        else:
            inner = False
            if not path.startswith((_TORCH, "<")):
                return path, frame.f_lineno, within
            name = frame.f_code.co_name
            within = within if name.startswith("_") or name in _WRAPPERS else name
        frame = frame.f_back
    return "", 0, within


class _Changing(_Watching):
    def __init__(self, changes: Mapping[int, Change]) -> None:
        super().__init__()
        self.changes = changes

    def made(self, index: int, call: Bound) -> Any:
        change = self.changes.get(index)
        return call.func(*call.args, **call.kwargs) if change is None else change(call)


def _inside(mode: _Watching, side: Ready, job: Job) -> Ready:
    """The side with its calls (and its loss's) seen by a mode."""

    def seen(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
        def the_users_side(*args: Any, **kwargs: Any) -> Any:
            mode.begins(args, kwargs, names)
            with mode:
                return function(*args, **kwargs)

        return the_users_side

    loss = None if side.loss is None else seen(side.loss, ("", *job.targets))
    return replace(side, call=seen(side.call, job.consumed), loss=loss)


def recording(side: Ready, job: Job) -> tuple[Ready, list[Call], Callable[[], None]]:
    """(the side to run, the calls that the run will fill, how to take the hooks off again)."""
    names = {id(tensor): name for part in (side.params, side.buffers) for name, tensor in part.items()}
    mode = _Recording(names, job)
    hooks = ExitStack()
    module = side.call if isinstance(side.call, torch.nn.Module) else None
    for name, part in module.named_modules() if module is not None else ():
        hooks.callback(part.register_forward_pre_hook(lambda *_, name=name: mode.modules.append(name)).remove)
        hooks.callback(part.register_forward_hook(lambda *_: _left(mode.modules), always_call=True).remove)
    return _inside(mode, side, job), mode.calls, hooks.close


def _left(modules: list[str]) -> None:
    if modules:
        modules.pop()


def changing(side: Ready, job: Job, changes: Mapping[int, Change]) -> Ready:
    """The side with these calls, by index, made another way. Good for one run."""
    return _inside(_Changing(changes), side, job)
