"""Weights that carry themselves: how many parameters are carried without help, how many are left in doubt, how many are wrong.

    python benchmarks/carry.py [part of a name]

A parameter is wrong if it is not what `truth` of the pair says, or if all are carried and the outputs of the two models differ.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from carry_models import Pair, pairs

import pytest_dlparity as dlp
from pytest_dlparity import param_map, run, spec
from pytest_dlparity.errors import SpecError


class Row(NamedTuple):
    name: str
    parameters: int  # jax arrays to fill
    carried: int
    refused: int
    wrong: int
    agrees: str
    seconds: float
    decided: str


def row(pair: Pair) -> Row:
    torch.manual_seed(0)
    module, model = pair.torch(), pair.jax()
    truth = known(module, model, pair)
    start = time.perf_counter()
    try:
        found = dlp.mapping(module, model, pair.inputs)
    except SpecError as error:
        print(f"{pair.name}: {error}\n", file=sys.stderr)
        return Row(pair.name, len(truth), 0, len(truth), 0, "-", time.perf_counter() - start, "")
    seconds = time.perf_counter() - start
    arrays = found.apply(dict(module.state_dict()))
    wrong = [path for path, array in truth.items() if not np.array_equal(arrays.get(path), array)]
    if wrong:
        print(f"{pair.name}: wrong: {wrong}\n{found}", file=sys.stderr)
    hows = [carry.how if not carry.how.startswith("as ") else "as its like" for carry in found.carries]
    decided = ", ".join(f"{how} {hows.count(how)}" for how in dict.fromkeys(hows))
    return Row(pair.name, len(truth), len(arrays), 0, len(wrong) or (0 if found.verified else len(truth)), found.words, seconds, decided)


def known(module: torch.nn.Module, model: object, pair: Pair) -> dict[str, np.ndarray]:
    """The jax arrays as the pair's truth has them; every parameter is drawn anew, so that no two are equal."""
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                drawn = torch.randn_like(tensor) * 0.3
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    sides = run.sides(spec.layer(torch=module, jax=model, inputs=pair.inputs, train=False), 0, ())
    carries = param_map.carries(sides.torch_leaves, sides.jax_leaves, pair.truth)
    state = {name: tensor.detach().numpy() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    return param_map.jax_arrays(carries, state, {leaf.path: leaf.shape for leaf in sides.jax_leaves})


def table(rows: Iterable[Row]) -> str:
    rows = list(rows)
    lines = [f"{'pair':40}{'arrays':>8}{'carried':>9}{'refused':>9}{'wrong':>7}{'seconds':>9}  decided by"]
    lines += [f"{r.name:40}{r.parameters:8}{r.carried:9}{r.refused:9}{r.wrong:7}{r.seconds:9.1f}  {r.decided}" for r in rows]
    total = [sum(getattr(r, key) for r in rows) for key in ("parameters", "carried", "refused", "wrong", "seconds")]
    return "\n".join([*lines, f"{f'{len(rows)} pairs':40}{total[0]:8}{total[1]:9}{total[2]:9}{total[3]:7}{total[4]:9.1f}"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wanted = sys.argv[1].lower() if len(sys.argv) > 1 else ""
    print(table(row(pair) for pair in pairs() if wanted in pair.name.lower()))
