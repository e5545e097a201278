"""What one entry of the catalogue is: a torch entity beside its exact equivalents, as plain data. Imports no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_dlparity.draws import Draw

LIBRARIES = ("jax", "optax", "linen", "nnx", "equinox", "haiku")

Inputs = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A convention in which the two sides differ, and that is tested: where it disappears, the test says so.

    Args:
        leaf: the leaf that must disagree, such as "grad.input".
        case: the name of the case or edge in which it does.
        says: one sentence: "torch gives 0, jax NaN".
        source: where that is documented: an address, a name ("flax.nnx.GRUCell"), or a file and what stands there ("jax/_src/lax/lax.py, pow_p"); several
            with semicolons between.
        torch, jax: the number that each side gives at the place where they differ most, where it is always the same one.
        dtypes: the dtypes in which it shows; all where empty.
    """

    leaf: str
    case: str
    says: str
    source: str
    torch: float | None = None
    jax: float | None = None
    dtypes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Equivalent:
    """One way to write an entry's torch side in jax.

    Args:
        code: an expression, or `def`s of which the last is meant. A string, so that the atlas shows what ran.
        translation: arguments of torch and what they are called here: {"eps": "epsilon", "bias=False": "use_bias=False"}.
        channels_last: takes and gives (batch, ..., channels); the torch side then gets its inputs moved.
        options: further arguments of the spec, over those of the entry: param_map, train, wrt.
        differs: where it is known not to agree.
        words: what a reader must know, in a sentence or two.
        cases: names of the only cases it runs; all where empty.
        also: libraries that export the function of `jax.nn` in the code under the same name: the very same object.
    """

    code: str
    translation: Mapping[str, str] = field(default_factory=dict)
    channels_last: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    differs: tuple[Difference, ...] = ()
    words: str = ""
    cases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A torch entity, its equivalents by library, and the inputs over which they are compared.

    Args:
        name: unique in the catalogue, lower case with hyphens: "conv2d-strided".
        torch: code of the torch side, an expression or `def`s.
        jax: by library of LIBRARIES ("jax" is jax.numpy, jax.nn, jax.lax, jax.scipy), its equivalent or that one's code.
        cases: ordinary inputs by name: shapes that bite (odd, even, size 1, prime, batch of one). Every equivalent runs them all.
        edges: the entry's own edge inputs by name (zeros, ties, boundaries, large, tiny, infinities, NaN).
        kind: of the spec: layer, loss, optimizer, model.
        options: further arguments of the spec: wrt, params, train, steps, precision.
        of: the torch entity as users look for it: "torch.nn.Conv2d". By default the code up to its parenthesis.
        missing: libraries without an equivalent, each with the reason in words.
        notes: by topic, what differs between torch and the field's habits (defaults, layouts), with the sources in parentheses at the end.
        dtypes: the only dtypes it is for; all where empty.
    """

    name: str
    torch: str
    jax: Mapping[str, str | Equivalent]
    cases: Mapping[str, Inputs]
    edges: Mapping[str, Inputs] = field(default_factory=dict)
    kind: str = "layer"
    options: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[str, ...] = ()

    def equivalents(self) -> dict[str, Equivalent]:
        return {name: way if isinstance(way, Equivalent) else Equivalent(way) for name, way in self.jax.items()}


__all__ = ["LIBRARIES", "Difference", "Draw", "Entry", "Equivalent", "Inputs"]
