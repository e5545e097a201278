"""Weights that carry themselves: how many parameters are carried without help, how many are left in doubt, how many are wrong.

    python benchmarks/carry.py [part of a name]

A parameter is wrong if it is not what the pair's `truth` says. All are wrong if the outputs of the two models then differ, or, in the second
table, where a mistake was planted on one side, if they are said to agree.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from carry_models import Pair, example_pairs, pairs

import pytest_dlparity as dlp
from pytest_dlparity import param_map, run, spec
from pytest_dlparity.errors import SpecError


class Row(NamedTuple):
    name: str
    parameters: int  # jax arrays to fill
    carried: int
    refused: int
    wrong: int
    seconds: float
    decided: str


def row(pair: Pair, mistake: int | None = None) -> Row:
    """What becomes of a pair; with a `mistake`, of one in which a random layer of torch's gives a tenth too much."""
    torch.manual_seed(0)
    module, model = pair.torch(), pair.jax()
    truth = known(module, model, pair)
    if mistake is not None:
        spoil(module, mistake)
    start = time.perf_counter()
    try:
        found = dlp.mapping(module, model, pair.inputs)
    except SpecError as error:
        if mistake is None:
            print(f"{pair.name}: {error}\n", file=sys.stderr)
        return Row(pair.name, len(truth), 0, len(truth), 0, time.perf_counter() - start, "")
    seconds = time.perf_counter() - start
    arrays = found.apply(dict(module.state_dict()))
    wrong = [path for path, array in truth.items() if not np.array_equal(arrays.get(path), array)]
    if wrong or found.verified == (mistake is not None):
        print(f"{pair.name}: wrong: {wrong}\n{found}", file=sys.stderr)
    hows = [carry.how.partition(" as ")[0].partition(" ")[0] for carry in found.carries]
    decided = ", ".join(f"{how} {hows.count(how)}" for how in dict.fromkeys(hows))
    missed = len(truth) if found.verified == (mistake is not None) else 0  # outputs that differ unseen, or agree by mistake
    return Row(pair.name, len(truth), len(arrays), 0, len(wrong) or missed, seconds, decided)


def spoil(module: torch.nn.Module, seed: int) -> None:
    """A hook on one layer, chosen by the seed."""
    layers = [one for name, one in module.named_modules() if list(one.parameters(recurse=False)) and "out_proj" not in name]
    layer = random.Random(seed).choice([one for one in layers if not list(one.children())])
    layer.register_forward_hook(lambda layer, args, out: (1.1 * out[0], *out[1:]) if isinstance(out, tuple) else 1.1 * out)


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
    lines = [f"{'pair':40}{'arrays':>8}{'carried':>9}{'refused':>9}{'wrong':>7}{'seconds':>9}  decided by"]
    lines += [f"{r.name:40}{r.parameters:8}{r.carried:9}{r.refused:9}{r.wrong:7}{r.seconds:9.1f}  {r.decided}" for r in rows]
    return "\n".join(lines)


def summary(found: dict[str, list[Row]]) -> str:
    lines = [f"{'':32}{'models':>8}{'arrays':>8}{'carried':>9}{'refused':>9}{'wrong':>7}{'median s':>10}"]
    for title, rows in found.items():
        arrays, carried, refused, wrong = (sum(getattr(row, key) for row in rows) for key in ("parameters", "carried", "refused", "wrong"))
        seconds = statistics.median(row.seconds for row in rows)
        lines.append(f"{title:32}{len(rows):8}{arrays:8}{carried:9}{refused:9}{wrong:7}{seconds:10.1f}")
    return "\n".join(lines)


MISTAKES = range(2)  # for each pair


def main(wanted: str) -> None:
    chosen = [pair for pair in pairs() if wanted in pair.name.lower()]
    kinds: dict[str, Iterable[Row]] = {
        "without help": (row(pair) for pair in chosen),
        "models of examples/": (row(pair) for pair in example_pairs() if wanted in pair.name.lower()),
        "with a mistake in one layer": (row(pair, seed) for pair in chosen for seed in MISTAKES),
    }
    found: dict[str, list[Row]] = {}
    for title, rows in kinds.items():
        if made := list(rows):
            found[title] = made
            print(f"{title}\n{table(made)}\n", flush=True)
    print(summary(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(sys.argv[1].lower() if len(sys.argv) > 1 else "")
