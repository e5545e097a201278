"""What the name of an array tells: the layer it belongs to, what it is there, and its place among the others."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar


class TorchLeaf(NamedTuple):
    """A parameter or buffer. A tensor with two names (tied weights) is listed once."""

    name: str
    shape: tuple[int, ...]
    layer: str = ""  # class name of the owning module: "Linear", "Conv2d"
    state: bool | None = None  # True a buffer, False a parameter, None: its name tells (running_mean)


class JaxLeaf(NamedTuple):
    """An array of a jax module."""

    path: str
    shape: tuple[int, ...]
    layer: str = ""
    state: bool = False


KINDS = {  # class name, in lower case and without "_" -> what it does with its parameters
    **dict.fromkeys(("linear", "nondynamicallyquantizablelinear", "dense", "densegeneral", "lineargeneral"), "linear"),
    **dict.fromkeys(("conv", "conv1d", "conv2d", "conv3d", "depthwiseconv1d", "depthwiseconv2d", "depthwiseconv3d"), "conv"),
    **dict.fromkeys((f"convtranspose{n}" for n in ("", "1d", "2d", "3d")), "transposed conv"),
    **dict.fromkeys((f"conv{n}transpose" for n in ("1d", "2d", "3d")), "transposed conv"),
    **dict.fromkeys((f"{kind}norm{n}" for kind in ("batch", "instance") for n in ("", "1d", "2d", "3d")), "norm"),
    **dict.fromkeys(("syncbatchnorm", "layernorm", "rmsnorm", "groupnorm", "exponentialmovingaverage"), "norm"),
    **dict.fromkeys(("embedding", "embeddingbag", "embed"), "embedding"),
    **dict.fromkeys(("rnn", "lstm", "gru", "rnncell", "lstmcell", "grucell", "optimizedlstmcell"), "recurrent"),
    **dict.fromkeys(("multiheadattention", "multiheaddotproductattention"), "attention"),
}

ROLES = {  # last part of a name -> what it is; any other name may be anything
    **dict.fromkeys(("weight", "kernel", "scale", "embedding", "embeddings", "w", "gamma"), "weight"),
    **dict.fromkeys(("bias", "b", "offset", "beta"), "bias"),
    **dict.fromkeys(("running_mean", "mean"), "mean"),
    **dict.fromkeys(("running_var", "var"), "var"),
}
STATISTICS = ("mean", "var")
ALIASES = {("mean_ema", "average"): "mean", ("var_ema", "average"): "var"}  # haiku's BatchNorm keeps its statistics one module deeper
COLLECTIONS = ("params", "batch_stats")  # how flax's own paths may begin
IGNORED = ("num_batches_tracked",)  # counts torch's steps; no jax library has it, and with a momentum torch does not read it


@dataclass(frozen=True, eq=False)  # itself and no other, and quick to look up
class Leaf:
    name: str
    shape: tuple[int, ...]
    told: bool  # the owning layer's class is known
    kind: str  # of the owning layer, "" where no rule knows it
    state: bool | None
    module: tuple[str | int, ...]
    last: str
    role: str

    @property
    def needed(self) -> bool:
        """True where a missing counterpart is wrong."""
        return self.state is not True or self.role in STATISTICS

    @functools.cached_property
    def look(self) -> tuple[object, ...]:
        """All that a rule or a shape can tell it by: leaves that look alike have the same counterparts."""
        return self.shape, self.told, self.kind, self.state, self.last, self.role, bool(self.module)

    def __str__(self) -> str:
        return f'"{self.name}" {list(self.shape)}'


def torch_leaves(leaves: Sequence[TorchLeaf]) -> list[Leaf]:
    made = []
    for leaf in leaves:
        *module, last = leaf.name.split(".")
        role = ROLES.get(last, "")
        state = True if leaf.state is None and role in STATISTICS else leaf.state
        made.append(Leaf(leaf.name, tuple(leaf.shape), bool(leaf.layer), _kind(leaf.layer), state, _tokens(module, set()), last, role))
    return made


def jax_leaves(leaves: Sequence[JaxLeaf]) -> list[Leaf]:
    parts = [split(leaf.path) for leaf in leaves]
    modules = {tuple(part[:end]) for part in parts for end in range(len(part))}
    matrices = {tuple(part[:-1]) for part, leaf in zip(parts, leaves, strict=True) if part[-1:] == ["0"] and len(leaf.shape) > 1}
    made = []
    for part, leaf in zip(parts, leaves, strict=True):
        *module, last = part if tuple(part[-2:]) not in ALIASES else (*part[:-2], ALIASES[part[-2], part[-1]])
        role = ROLES.get(last, "")
        if tuple(module) in matrices and not leaf.layer:  # stax: (W, b), but BatchNorm is (beta, gamma)
            role = {"0": "weight", "1": "bias"}.get(last, "")
        tokens = _tokens(module, modules)
        kind = _kind(leaf.layer or next((token for token in reversed(tokens) if isinstance(token, str)), ""))
        made.append(Leaf(leaf.path, tuple(leaf.shape), bool(leaf.layer), kind, leaf.state, tokens, last, role))
    return made


def split(path: str) -> list[str]:
    """
    >>> split("mlp/~/linear_0/w")
    ['mlp', 'linear_0', 'w']
    """
    return [part for part in re.split(r"[./]", path) if part not in ("", "~")]


def _kind(layer: str) -> str:
    return KINDS.get(layer.lower().replace("_", ""), "")


def _tokens(module: Sequence[str], modules: set[tuple[str, ...]]) -> tuple[str | int, ...]:
    """A module's path as words and numbers. "layers" before a number is how a library says Sequential, and no word.

    haiku counts linear, linear_1, linear_2: with `modules` a name without a number is the first.

    >>> _tokens(["layers_0", "Dense_1"], set()), _tokens(["encoder", "layers", "0", "fc2"], set())
    ((0, 'dense', 1), ('encoder', 0, 'fc', 2))
    >>> _tokens(["linear"], {("linear",), ("linear_1",)}), _tokens(["conv2_d"], set())
    (('linear', 0), ('conv2d',))
    """
    made: list[str | int] = []
    for end, part in enumerate(module):
        above = tuple(module[:end])
        if (*above, f"{part}_1") in modules and (*above, f"{part}_0") not in modules:
            part = f"{part}_0"
        match = re.fullmatch(r"(.*?)_*(\d+)", part)
        word, number = match.groups() if match else (part, None)
        made += [word.lower().replace("_", "")] * bool(word.strip("_")) + ([int(number)] if number else [])
    return tuple(token for token, after in itertools.zip_longest(made, made[1:]) if not (token == "layers" and isinstance(after, int)))


def alike(torch: Leaf, jax: Leaf) -> bool:
    """True where both may be the same thing, whatever their shapes: weight or bias, parameter or state."""
    return (torch.role == jax.role or "" in (torch.role, jax.role)) and torch.state in (None, jax.state)


def either(leaves: Sequence[Leaf], side: str) -> str:
    """
    >>> leaves = jax_leaves([JaxLeaf(name, (2,)) for name in "abcde"])
    >>> either(leaves[:2], "jax"), either(leaves, "jax")
    ('jax "a" [2] or jax "b" [2]', 'jax "a" [2], jax "b" [2], jax "c" [2] or 2 others')
    """
    shown = [f"{side} {leaf}" for leaf in leaves[:3]] + ([f"{len(leaves) - 3} others"] if len(leaves) > 3 else [])
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


K = TypeVar("K")
A = TypeVar("A")


def grouped(values: Iterable[A], key: Callable[[A], K]) -> dict[K, list[A]]:
    found: dict[K, list[A]] = {}
    for value in values:
        found.setdefault(key(value), []).append(value)
    return found


# ---------------------------------------------------------------- words that libraries have for the same thing

_WORDS = {  # of attention
    **dict.fromkeys(("q", "query", "wq", "qproj", "toq", "queryproj", "qlin"), "q"),
    **dict.fromkeys(("k", "key", "wk", "kproj", "tok", "keyproj", "klin"), "k"),
    **dict.fromkeys(("v", "value", "wv", "vproj", "tov", "valueproj", "vlin"), "v"),
}
_GATE = re.compile(r"(?:dense)?[ih]_?([ifgorzn])_?")  # of flax's recurrent cells: ii, if, ig, io; ir, iz, in
_FUSED = re.compile(r"qkv|in_proj|c_attn|query_key_value")
_PART = re.compile(r"(\d+)/(3|4)\b")


def meaning(path: str) -> str:
    """What the words of a jax path say of an array: which of query, key and value, or which gate; "" where they say nothing.

    >>> meaning("blocks.0.attn.query.kernel"), meaning("cell.hf.kernel"), meaning("wk"), meaning("fc.kernel")
    ('q', 'gate f', 'k', '')
    """
    *above, last = split(path)
    for word in (last, *above[-1:]):
        if found := _WORDS.get(word.lower().replace("_", "")):
            return found
    gate = _GATE.fullmatch(above[-1]) if above else None
    return f"gate {gate[1]}" if gate else ""


def meaning_of_part(name: str, pattern: str) -> str:
    """The same of a torch array or of the part of it that a pattern takes.

    >>> meaning_of_part("attn.in_proj_weight", "(1/3 h d) i -> i h d"), meaning_of_part("attn.q_proj.weight", "o i -> i o")
    ('k', 'q')
    >>> meaning_of_part("lstm.weight_hh_l0", "(1/4 o) i -> i o"), meaning_of_part("fc.weight", "")
    ('gate f', '')
    """
    part = _PART.search(pattern.partition("->")[0])
    if part and _FUSED.search(name) and part[2] == "3":
        return "qkv"[int(part[1])]
    if part and re.search(r"(weight|bias)_[ih]h", name):
        return f"gate {('rzn' if part[2] == '3' else 'ifgo')[int(part[1])]}"
    return meaning(name)
