"""Fourier transforms: lengths, axes and norms, of real and complex numbers, with their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_dlparity.catalog.entry import Entry, Equivalent
from pytest_dlparity.draws import normal

REAL = {"odd": (normal(3, 7),), "even": (normal(2, 8),), "one": (normal(2, 1),)}
COMPLEX = {name: (*inputs, *inputs) for name, inputs in REAL.items()}
PLANE = {"odd": (normal(2, 3, 5),), "even": (normal(4, 6),)}
HALF = {"odd": (normal(2, 3), normal(2, 3)), "even": (normal(1, 5), normal(1, 5))}
FLOATS = ("float32",)  # torch has no complex half precision on a CPU
WORDS = "Where the function itself takes complex numbers, torch's gradient is the conjugate of jax's."


def entry(name: str, arguments: str, cases: Mapping[str, Any], *, is_complex: bool = False, label: str = "") -> Entry:
    """A function that both frameworks call by one name; `arguments` are written as torch's, and dim is jax's axis."""
    takes, given = ("x, y", ("torch.complex(x, y)", "lax.complex(x, y)")) if is_complex else ("x", ("x", "x"))
    jax = arguments.replace("dim=", "axis=" if name in ("fft", "ifft") else "axes=")
    return Entry(
        label or name,
        f"lambda {takes}: torch.fft.{name}({given[0]}{arguments})",
        {
            "jax": Equivalent(
                f"lambda {takes}: jnp.fft.{name}({given[1]}{jax})", translation={"dim": "axis, axes"}, words=WORDS * is_complex
            )
        },
        cases,
        of=f"torch.fft.{name}",
        dtypes=FLOATS,
    )


def entries() -> Iterator[Entry]:
    for name in ("fft", "ifft"):
        yield entry(name, "", COMPLEX, is_complex=True)
        for norm in ("ortho", "forward"):
            yield entry(name, f', norm="{norm}"', {"odd": COMPLEX["odd"]}, is_complex=True, label=f"{name}-{norm}")
    yield entry("fft", "", REAL, label="fft-real")
    yield entry("fft", ", n=5, dim=0", {"longer": (normal(3, 2),), "shorter": (normal(7, 2),)}, label="fft-length")
    for name in ("rfft", "ihfft"):
        yield entry(name, "", REAL)
    yield entry("rfft", ', norm="ortho"', {"odd": REAL["odd"]}, label="rfft-ortho")
    for name in ("irfft", "hfft"):
        yield entry(name, "", HALF, is_complex=True)
        yield entry(name, ", n=5", {"odd": HALF["odd"]}, is_complex=True, label=f"{name}-odd")
    yield entry("fft2", "", PLANE)
    yield entry("rfft2", "", PLANE)
    yield entry("fftn", ", dim=(0, 2)", {"odd": PLANE["odd"]})
    yield entry("ifftn", "", PLANE)
    yield entry("rfftn", "", PLANE)
    yield entry("ifft2", "", {name: (*inputs, *inputs) for name, inputs in PLANE.items()}, is_complex=True)
    yield entry("irfft2", "", {"even": (normal(4, 4), normal(4, 4))}, is_complex=True)
    yield entry("fftshift", "", REAL)
    yield entry("ifftshift", ", dim=1", {"odd": REAL["odd"]})
    yield Entry(
        "fft-frequencies",
        "lambda x: x * torch.fft.fftfreq(7, 0.5).to(x.dtype)",
        {"jax": "lambda x: x * jnp.fft.fftfreq(7, 0.5).astype(x.dtype)"},
        {"odd": (normal(3, 7),)},
        of="torch.fft.fftfreq",
    )
    yield Entry(
        "fft-convolution",
        "lambda x, y: torch.fft.irfft(torch.fft.rfft(x, 11) * torch.fft.rfft(y, 11), 11)",
        {"jax": "lambda x, y: jax.vmap(jnp.convolve)(x, y)"},
        {"odd": (normal(2, 7), normal(2, 5))},
        of="torch.fft.rfft",
        dtypes=FLOATS,
    )
    yield Entry(
        "stft",
        "lambda x: torch.stft(x, 8, 4, window=torch.hann_window(8, dtype=x.dtype), center=False, return_complex=True)",
        {
            "jax": Equivalent(
                "lambda x: jax.scipy.signal.stft(x, window='hann', nperseg=8, noverlap=4, boundary=None, padded=False)[2] * 4",
                words="scipy's divides by the sum of the window (4 here), torch's does not; center=True is boundary='even' up to the edge.",
            )
        },
        {"odd": (normal(2, 29),), "one frame": (normal(1, 8),)},
        dtypes=FLOATS,
    )


ENTRIES: tuple[Entry, ...] = tuple(entries())
