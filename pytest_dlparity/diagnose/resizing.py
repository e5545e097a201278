"""Images made larger and smaller: where a sample is taken, with which weights, what an edge holds; pixels moved into channels; sampling windows."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pytest_dlparity.calls import Call
from pytest_dlparity.diagnose.variant import Variant, differs

Kernel = Callable[[np.ndarray], np.ndarray]

WINDOWS = frozenset({"hann_window", "hamming_window", "blackman_window", "bartlett_window"})
WEIGHTED = {"bilinear": "linear", "linear": "linear", "trilinear": "linear", "bicubic": "cubic"}


def variants(call: Call) -> Iterator[Variant]:
    """Every way in which this resampling could be made otherwise."""
    if call.name in ("interpolate", "upsample"):
        yield from _interpolate(call)
    elif call.name in WINDOWS:
        yield from _window(call)
    elif call.name in ("pixel_shuffle", "pixel_unshuffle"):
        yield from _shuffle(call)
    elif call.name == "grid_sample":
        yield from _grid(call)


# ---------------------------------------------------------------- weights


def triangle(t: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(t))


def cubic(a: float) -> Kernel:
    """The cubic convolution kernel (Keys 1981, IEEE ASSP 29, eq. 4 with its free parameter a)."""

    def kernel(t: np.ndarray) -> np.ndarray:
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    return kernel


def weights(n: int, m: int, kernel: Kernel, aligned: bool = False, antialias: bool = False, renormalised: bool = False) -> np.ndarray:
    """The m x n matrix that resizes n samples to m. At an edge the outermost sample is repeated, or the weights inside are made to sum to 1.

    >>> weights(2, 4, triangle)[0].tolist(), weights(3, 2, triangle, aligned=True).tolist()
    ([1.0, 0.0], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    """
    at = np.arange(m) * (n - 1) / (m - 1) if aligned and m > 1 else (np.arange(m) + 0.5) * n / m - 0.5
    wide = max(n / m, 1.0) if antialias else 1.0
    reach = math.ceil(2 * wide) + 1
    matrix = np.zeros((m, n))
    for row, centre in enumerate(at):
        places = np.arange(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        value = kernel((centre - places) / wide)
        if renormalised:
            inside = (places >= 0) & (places < n)
            places, value = places[inside], value[inside]
        value = value / value.sum()
        np.add.at(matrix[row], np.clip(places, 0, n - 1), value)
    return matrix


def _resized(a: Any, out: tuple[int, ...], made: Callable[[int, int], np.ndarray]) -> Any:
    x = a["input"]
    for axis, m in enumerate(out, x.dim() - len(out)):
        matrix = a.torch.as_tensor(made(x.shape[axis], m), dtype=x.dtype)
        x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return x


def _interpolate(call: Call) -> Iterator[Variant]:
    mode, aligned, antialias = call["mode"] or "nearest", bool(call["align_corners"]), bool(call["antialias"])
    if call.out is None:
        return
    out = call.out.shape[2:]
    line = "the weights of torch's interpolate as a matrix: jax.image.resize has others"
    if mode in WEIGHTED:
        smooth = WEIGHTED[mode] == "cubic"
        own_kernel = cubic(-0.75) if smooth and not antialias else cubic(-0.5) if smooth else triangle
        kernels = {"": own_kernel}
        if smooth:
            kernels = {", a=-0.75": cubic(-0.75), ", a=-0.5": cubic(-0.5)}
        own = _words(mode, aligned, antialias, antialias)
        own_kind = (", a=-0.5" if antialias else ", a=-0.75") if smooth else ""
        smaller = any(m < n for m, n in zip(out, call["input"].shape[2:], strict=True))  # else antialiasing does nothing
        sizes = list(zip(call["input"].shape[2:], out, strict=True))
        seen = {_shown([weights(n, m, kernels[own_kind], aligned, antialias, antialias) for n, m in sizes])}
        for which, corner, anti, edge in itertools.product(kernels, (False, True), (False, True) if smaller else (False,), (False, True)):
            made = functools.partial(weights, kernel=kernels[which], aligned=corner, antialias=anti, renormalised=edge)
            matrices = _shown([made(n, m) for n, m in sizes])
            if matrices not in seen:  # two ways of saying one thing are one
                seen.add(matrices)
                words = _words(mode, corner, anti, edge) + which
                yield differs(
                    f"{call.name} {words}", f"resizes by {words}", f"by {own}{own_kind}", lambda a, made=made: _resized(a, out, made), "resize",
                    write=line, meaning=f"resize {words}",
                )  # fmt: skip
    for other in ("nearest", "nearest-exact"):
        if other != mode:
            told = {"nearest": "the left edge (nearest)", "nearest-exact": "the pixel's centre (nearest-exact)"}
            own = told.get(mode, mode)
            yield differs(
                f"{call.name} {other}", f"takes the pixel at {told[other]}", f"at {own}" if mode in told else f"interpolates ({mode})",
                lambda a, other=other: a.torch.nn.functional.interpolate(a["input"], size=out, mode=other), "resize",
                change=f"mode={other!r} in torch",
                write="x[:, :, jnp.floor(jnp.arange(m) * n / m).astype(int)]" if mode == "nearest" else line,
            )  # fmt: skip
    if mode == "nearest":
        yield differs(
            f"{call.name} linear", "interpolates linearly", "takes the nearest pixel", lambda a: _resized(a, out, lambda n, m: weights(n, m,
            triangle)), "resize",
            write="x[:, :, jnp.floor(jnp.arange(m) * n / m).astype(int)]",
        )  # fmt: skip


def _shown(matrices: Sequence[np.ndarray]) -> bytes:
    return b"".join(np.round(matrix, 12).tobytes() for matrix in matrices)


def _words(mode: str, aligned: bool, antialias: bool, renormalised: bool) -> str:
    corners = "corners aligned" if aligned else "pixel centres"
    return f"{mode} with {corners}{', antialias' if antialias else ''}{', weights renormalised at the edges' if renormalised else ', edges repeated'}"


def _grid(call: Call) -> Iterator[Variant]:
    now = bool(call["align_corners"])
    yield differs(
        "grid_sample align_corners", f"takes -1 and 1 for the {'edges' if now else 'centres'} of the outer pixels",
        f"for their {'centres' if now else 'edges'}",
        lambda a: a.again(align_corners=not now), "resize", change=f"align_corners={not now} in torch",
        write="(x + 1) / 2 * (n - 1)" if now else "((x + 1) * n - 1) / 2",
    )  # fmt: skip
    for mode in ("zeros", "border", "reflection"):
        if mode != (call["padding_mode"] or "zeros"):
            yield differs(
                f"grid_sample {mode}", f"has padding_mode {mode}", f"{call['padding_mode'] or 'zeros'}",
                lambda a, mode=mode: a.again(padding_mode=mode), "resize",
                change=f"padding_mode={mode!r} in torch", write="jax.scipy.ndimage.map_coordinates with its mode",
            )  # fmt: skip
    yield differs(
        "grid_sample swapped",
        "takes the grid's last axis for (y, x)",
        "for (x, y)",
        lambda a: a.again(grid=a["grid"].flip(-1)),
        "order",
        write="grid[..., ::-1]",
    )


def _window(call: Call) -> Iterator[Variant]:
    now = call["periodic"] is not False
    periodic = {True: "periodic (n points of n + 1)", False: "symmetric"}
    name = {"hann_window": "hanning", "hamming_window": "hamming", "blackman_window": "blackman", "bartlett_window": "bartlett"}[call.name]
    n = call["window_length"]
    yield differs(
        f"{call.name} periodic", f"has the {periodic[not now]} window", f"the {periodic[now]} one", lambda a: a.again(periodic=not now), "window",
        change=f"periodic={not now} in torch", write=f"jnp.{name}({n} + 1)[:-1]" if now else f"jnp.{name}({n})",
    )  # fmt: skip
    for other in sorted(WINDOWS - {call.name}):
        yield differs(
            f"{call.name} as {other}", f"has a {other.removesuffix('_window')} window", f"a {call.name.removesuffix('_window')} window",
            lambda a, other=other: getattr(a.torch, other)(n, periodic=now, dtype=a["dtype"]), "window", change=f"{other} in torch",
            write=f"jnp.{name}", rank=1,
        )  # fmt: skip


def _shuffle(call: Call) -> Iterator[Variant]:
    factor = next((v for k, v in call.arguments.items() if k != "input" and isinstance(v, int)), 0)
    up = call.name == "pixel_shuffle"
    if not factor:
        return

    def other(a: Any) -> Any:
        x = a["input"]
        *batch, c, h, w = x.shape
        if up:
            y = x.reshape(-1, factor, factor, c // factor**2, h, w).permute(0, 3, 4, 1, 5, 2)
            return y.reshape(*batch, c // factor**2, h * factor, w * factor)
        y = x.reshape(-1, c, h // factor, factor, w // factor, factor).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(*batch, c * factor**2, h // factor, w // factor)

    def swapped(a: Any) -> Any:
        x = a["input"]
        *batch, c, h, w = x.shape
        y = x.reshape(-1, c // factor**2, factor, factor, h, w).transpose(2, 3)
        return a.again(input=y.reshape(*batch, c, h, w))

    yield differs(
        f"{call.name} order", "has the block before the channel (depth_to_space, DCR)", "the channel before the block (CRD)", other, "layout",
        change="depth_to_space's order in torch" if up else "space_to_depth's order in torch",
        write=f"x.reshape(b, c, {factor}, {factor}, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(b, c, h * {factor}, w * {factor})" if up
        else f"x.reshape(b, c, h, {factor}, w, {factor}).transpose(0, 1, 3, 5, 2, 4)",
    )  # fmt: skip
    if up:
        yield differs(
            f"{call.name} rows and columns", "has the block's rows and columns swapped", "has rows first", swapped, "layout",
            write=f"x.reshape(b, c, {factor}, {factor}, h, w).transpose(0, 1, 4, 2, 5, 3)",
        )  # fmt: skip
