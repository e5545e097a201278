"""What one test asks for: options, ini values and markers merged, the nearest wins. Knows no pytest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pytest_dlparity import gate, matrix, tolerance, when
from pytest_dlparity.errors import SpecError
from pytest_dlparity.matrix import Cell, Device
from pytest_dlparity.tolerance import Tolerances


@dataclass(frozen=True)
class Asked:
    """The settings of one test."""

    devices: Any = "auto"
    dtypes: Any = "float32"
    modes: Any = "eager"
    seed: int = 0
    tolerance: Tolerances = "auto"
    strict: bool = False
    speed: bool = False
    localize: str = "auto"
    max_ratio: Any = None  # jax over torch
    max_regression: Any = None  # against a stored run
    spec: Any = None  # of a marker: a spec, or a function that makes one

    def cells(self, table: Mapping[str, Device]) -> tuple[Cell, ...]:
        return matrix.cells(self.devices, self.dtypes, self.modes, table)

    @property
    def timed(self) -> bool:
        """Whether there are timing items: a limit that nothing is held against would pass by not being looked at."""
        return self.speed or self.limited

    @property
    def limited(self) -> bool:
        """Whether what is timed is held against something."""
        return self.max_ratio is not None or self.max_regression is not None

    @property
    def names_devices(self) -> bool:
        """Whether devices were asked for by name: then an absent one is a failure, not a skip."""
        return "auto" not in ([name.strip() for name in self.devices.split(",")] if isinstance(self.devices, str) else self.devices)


_ARGUMENTS = tuple(field.name for field in fields(Asked))


def merged(base: Asked, markers: Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> Asked:
    """The settings after the markers, given nearest first.

    Raises:
        SpecError: a marker has an argument that means nothing.

    >>> merged(Asked(), [((), {"dtypes": ["bfloat16"]}), ((), {"dtypes": ["float16"], "seed": 3})])
    Asked(devices='auto', dtypes=['bfloat16'], modes='eager', seed=3, tolerance='auto', strict=False, speed=False, localize='auto', max_ratio=None, \
max_regression=None, spec=None)
    >>> merged(Asked(), [((), {"dtype": "float16"})])
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: the dlparity marker has no argument 'dtype'. Write dtypes=.
    """
    for args, given in reversed(markers):
        for name in given:
            if name not in _ARGUMENTS:
                near = difflib.get_close_matches(name, _ARGUMENTS, 1, 0.5)
                raise SpecError(
                    f"the dlparity marker has no argument {name!r}. "
                    + (f"Write {near[0]}=." if near else f"It has {', '.join(_ARGUMENTS)}.")
                )
        if len(args) > 1:
            raise SpecError(
                f"the dlparity marker has {len(args)} positional arguments. It takes one: a spec, or a function that makes one."
            )
        if args and "spec" in given:
            raise SpecError("the dlparity marker has two specs, one positional and one as spec=. Give one.")
        base = replace(base, **given, **({"spec": args[0]} if args else {}))
    return validated(base)


def validated(asked: Asked) -> Asked:
    """The same settings, once each is known to mean something."""
    if isinstance(asked.seed, bool) or not isinstance(asked.seed, int) or asked.seed < 0:
        raise SpecError(f"seed is {asked.seed!r}. Give a whole number that is not negative.")
    for name in ("strict", "speed"):
        if not isinstance(getattr(asked, name), bool):
            raise SpecError(f"{name} is {getattr(asked, name)!r}. Write True or False.")
    if asked.spec is not None and not callable(asked.spec) and type(asked.spec).__name__ != "Spec":
        raise SpecError(
            f"the dlparity marker got {asked.spec!r}. Give a spec, or a function that makes one: @pytest.mark.dlparity(spec=gelu)."
        )
    when.validated(asked.localize)
    return replace(
        asked,
        tolerance=tolerance.validated(asked.tolerance),
        max_ratio=gate.ratio_limit(asked.max_ratio, "max_ratio"),
        max_regression=gate.regression_limit(asked.max_regression, "max_regression"),
    )
