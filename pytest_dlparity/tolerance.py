"""What a dtype can hold, and the conventional tolerances for those who want them.

The unit roundoff of a format with a significand of p bits (the hidden bit counted) is 2^-p with rounding to nearest
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 2.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np

from pytest_dlparity.errors import SpecError


class Format(NamedTuple):
    """A floating point format: its name, the bits of its significand and the numpy type that holds its values."""

    name: str
    significand: int
    scalar: type

    @property
    def roundoff(self) -> float:
        """Unit roundoff: the largest relative error of rounding one number to this format."""
        return 2.0**-self.significand

    @property
    def tiny(self) -> float:
        """Where numbers begin to lose bits: the smallest normal number, which processors may flush to zero; float16 keeps its subnormal ones."""
        found = ml_dtypes.finfo(self.scalar)
        return float(found.smallest_subnormal if self.name == "float16" else found.tiny)

    @property
    def largest(self) -> float:
        return float(ml_dtypes.finfo(self.scalar).max)


FORMATS = {
    format.name: format
    for format in (
        Format("float64", 53, np.float64),
        Format("float32", 24, np.float32),
        Format("float16", 11, np.float16),
        Format("bfloat16", 8, ml_dtypes.bfloat16),
    )
}
TF32 = Format("tf32", 11, np.float32)  # NVIDIA Ampere whitepaper: 10 explicit bits, float32's exponent
PROBE = Format("probe", 40, np.float64)  # small enough to be linear, large enough to stand above float64's own rounding
COMPLEX = {"complex128": "float64", "complex64": "float32"}  # a complex dtype -> the format of its two parts
DTYPES = (*FORMATS, *COMPLEX)


def format_of(dtype: str) -> Format:
    """The floating format behind a dtype of the matrix.

    >>> format_of("complex64").name, format_of("bfloat16").roundoff
    ('float32', 0.00390625)
    """
    return FORMATS[COMPLEX.get(dtype, dtype)]


def grid(dtypes: Sequence[str]) -> tuple[Format, ...]:
    """The formats that every master number must fit, the one with the widest range first.

    A float16 number that is a bfloat16 number too, and so on: fewer bits than the coarsest, never more range than the narrowest.
    """
    formats = {format_of(dtype) for dtype in dtypes}
    return tuple(sorted(formats, key=lambda format: (-format.significand, format.largest)))


def on_grid(array: np.ndarray, formats: tuple[Format, ...]) -> np.ndarray:
    """The values of a floating or complex array rounded to formats one after the other, held in double precision; others as they are.

    Rounded towards zero, so that numbers of [0, 1) stay below 1 and no draw leaves the domain of the function it is for.

    >>> on_grid(np.array([0.1, 0.999]), (FORMATS["bfloat16"],)).tolist()
    [0.099609375, 0.99609375]
    >>> on_grid(np.array([3]), (FORMATS["bfloat16"],))
    array([3])
    """
    if array.dtype.kind == "c":
        return on_grid(array.real, formats) + 1j * on_grid(array.imag, formats)
    if not is_floating(array):
        return array
    for format in formats:
        with np.errstate(over="ignore"):
            narrow: np.ndarray = array.astype(format.scalar)
            grown = np.isfinite(narrow) & (np.abs(narrow.astype(np.float64)) > np.abs(array))
            array = np.where(grown, np.nextafter(narrow, np.zeros_like(narrow)), narrow)
    return array.astype(np.float64)


def is_floating(array: np.ndarray) -> bool:
    """Whether numpy or ml_dtypes hold real floating numbers in it (numpy says kind 'V' of bfloat16)."""
    return array.dtype.kind == "f" or array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def is_inexact(array: np.ndarray) -> bool:
    return is_floating(array) or array.dtype.kind == "c"


@dataclass(frozen=True)
class Tolerance:
    """The conventional test |torch - jax| <= atol + rtol |jax|, element by element.

    Both must be given: with one of them a test can pass because of the other.

    Raises:
        SpecError: one of them is missing, negative or not a number.

    >>> Tolerance(rtol=1e-3)
    Traceback (most recent call last):
    pytest_dlparity.errors.SpecError: Tolerance gives rtol but not atol. Give both: Tolerance(rtol=0.001, atol=1e-05). \
With one of them a test can pass because of the other.
    """

    rtol: float = None  # type: ignore[assignment]  # so that a missing one is answered in words, not by python's TypeError
    atol: float = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for have, lack, example in (("rtol", "atol", (self.rtol, 1e-5)), ("atol", "rtol", (1e-3, self.atol))):
            if getattr(self, have) is not None and getattr(self, lack) is None:
                raise SpecError(
                    f"Tolerance gives {have} but not {lack}. Give both: Tolerance(rtol={example[0]}, atol={example[1]}). "
                    "With one of them a test can pass because of the other."
                )
        if self.rtol is None:
            raise SpecError("Tolerance gives neither rtol nor atol. Give both: Tolerance(rtol=1e-3, atol=1e-5).")
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise SpecError(f"Tolerance has {name}={value!r}. Give a finite number that is not negative, such as 1e-5.")


# torch.testing.assert_close, its table of defaults (PyTorch documentation, torch.testing)
CONVENTIONAL = {
    "float16": Tolerance(rtol=1e-3, atol=1e-5),
    "bfloat16": Tolerance(rtol=1.6e-2, atol=1e-5),
    "float32": Tolerance(rtol=1.3e-6, atol=1e-5),
    "float64": Tolerance(rtol=1e-7, atol=1e-7),
    "complex64": Tolerance(rtol=1.3e-6, atol=1e-5),
    "complex128": Tolerance(rtol=1e-7, atol=1e-7),
}

Tolerances = str | Tolerance | Mapping[str, Tolerance]


def validated(tolerance: Tolerances) -> Tolerances:
    """A tolerance as it was given, once it is known to mean something.

    Raises:
        SpecError: it is neither "auto", "conventional", a Tolerance nor a dict of dtypes to Tolerances.
    """
    if isinstance(tolerance, Tolerance) or tolerance in ("auto", "conventional"):
        return tolerance
    if isinstance(tolerance, str):
        return _parsed(tolerance)
    if isinstance(tolerance, Mapping) and tolerance:
        for dtype, one in tolerance.items():
            if dtype not in DTYPES:
                raise SpecError(f"tolerance is given for {dtype!r}, which is no dtype. The dtypes are {', '.join(DTYPES)}.")
            if not isinstance(one, Tolerance):
                raise SpecError(f"tolerance for {dtype} is {one!r}. Write dlp.Tolerance(rtol=1e-3, atol=1e-5).")
        return dict(tolerance)
    raise SpecError(
        f'tolerance is {tolerance!r}. Write "auto", "conventional", dlp.Tolerance(rtol=1e-3, atol=1e-5), or a dict from dtypes to Tolerances.'
    )


def for_dtype(tolerance: Tolerances, dtype: str) -> Tolerance | None:
    """The conventional tolerance of one dtype, None where the verdict is measured ("auto").

    >>> for_dtype({"bfloat16": Tolerance(1e-2, 1e-2)}, "float32") is None
    True
    """
    if isinstance(tolerance, Tolerance):
        return tolerance
    if isinstance(tolerance, Mapping):
        return tolerance.get(dtype)
    return CONVENTIONAL[dtype] if tolerance == "conventional" else None


def _parsed(text: str) -> Tolerances:
    """`rtol=1e-3,atol=1e-5`, as an option or an ini value is written."""
    parts = dict(re.findall(r"(rtol|atol)\s*=\s*([-+.\deE]+)", text))
    if not parts or re.sub(r"(rtol|atol)\s*=\s*[-+.\deE]+|[,\s]", "", text):
        raise SpecError(f'tolerance is {text!r}. Write "auto", "conventional" or "rtol=1e-3,atol=1e-5".')
    try:
        return Tolerance(**{name: float(value) for name, value in parts.items()})
    except SpecError:
        raise
    except ValueError:
        raise SpecError(f'tolerance is {text!r}. Write "auto", "conventional" or "rtol=1e-3,atol=1e-5".') from None
