"""How many changes of an optimizer's formula are found again: drawn at random, made in numpy, and looked for.

    python benchmarks/optimizer_causes.py                       60 formulas with one change, 20 with two, 10 with three: a few minutes
    python benchmarks/optimizer_causes.py --seeds 1 --count 10  fewer

named: the change alone; among: one of several that these steps do not tell apart; none: nothing is said; wrong: something is said that also
on other gradients gives other updates than what was planted. Of three changes the search knows nothing: they are found only where two
explain them. The exit status is 1 where something wrong was said. Faults in real optax ports are those of tests/test_diagnose_optimizers.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np

from pytest_dlparity.diagnose import optimizer_formula, optimizer_search, optimizer_torch, optimizer_words, optimizers
from pytest_dlparity.diagnose.optimizer_formula import Formula, Record, simulate

NAMES = ("w", "b")
CLASSES = {
    "SGD": {"momentum": 0.9, "dampening": 0.0, "nesterov": False},
    "Adam": {"betas": (0.9, 0.999), "eps": 1e-8},
    "AdamW": {"betas": (0.9, 0.999), "eps": 1e-8},
    "NAdam": {"betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3},
    "RAdam": {"betas": (0.9, 0.999), "eps": 1e-8},
    "Adamax": {"betas": (0.9, 0.999), "eps": 1e-8},
    "RMSprop": {"alpha": 0.99, "eps": 1e-8, "centered": False, "momentum": 0.0},
    "Adagrad": {"lr_decay": 0.0, "eps": 1e-10, "initial_accumulator_value": 0.0},
    "Adadelta": {"rho": 0.9, "eps": 1e-6},
    "Rprop": {"etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)},
}
VALUES = {
    "lr": (0.1, 0.5, 2.0, 3.0), "gain": (0.1, 0.25, 4.0), "weight_decay": (1e-4, 1e-3, 0.05), "eps": (1e-7, 1e-6, 1e-5, 1e-3),
    "eps_root": (1e-8, 1e-6), "momentum": (0.5, 0.8, 0.95), "velocity": (0.5, 0.95), "beta2": (0.9, 0.95, 0.98), "dampening": (0.1, 0.5),
    "start": (0.1, 1.0), "momentum_decay": (1e-3, 0.02), "eta_minus": (0.4, 0.6), "eta_plus": (1.1, 1.4), "smallest": (1e-4,), "largest": (1e-2,),
}  # fmt: skip


def formula_of(rng: np.random.Generator, steps: int) -> Formula:
    name = str(rng.choice(list(CLASSES)))
    lr = np.full(steps, float(rng.choice([0.1, 1e-2, 1e-3])))
    if rng.random() < 0.25:
        lr = lr * float(rng.choice([0.9, 0.5])) ** np.arange(steps)
    decay = float(rng.choice([0.0, 1e-2])) if name != "Rprop" else 0.0
    hyper = [[{**CLASSES[name], "lr": rate, "weight_decay": decay, "params": NAMES}] for rate in lr]
    return optimizer_torch.formulas(name, hyper, NAMES)[0]


def numbers(rng: np.random.Generator, steps: int, size: float) -> Record:
    """Parameters and gradients, with updates that are still to be made."""
    params = {"w": rng.normal(size=(6, 4)), "b": rng.normal(size=4)}
    grads = [{name: size * rng.normal(size=value.shape) for name, value in params.items()} for _ in range(steps)]
    return optimizer_formula.record(params, grads, [{name: np.ones_like(value) for name, value in params.items()}] * steps)


def run(formula: Formula, seen: Record) -> Record:
    """The record as the formula makes it, its updates rounded as differences of parameters are."""
    starts, moved = seen.starts.copy(), seen.moved.copy()
    for step in range(seen.steps):
        made = simulate(formula, replace(seen, starts=starts)).moved[step]
        after = starts[step] + made
        moved[step] = after - starts[step]
        starts[step + 1 :] = after
    return replace(seen, starts=starts, moved=moved)


def changed(formula: Formula, seen: Record, rng: np.random.Generator, changes: int) -> Formula:
    done: set[str] = set()
    for _ in range(changes):
        near = list(optimizer_search.neighbours(formula, seen))
        free = [c for c in near if not {*optimizer_words.changed(formula, c.formula), *c.free} & done]
        change = free[rng.integers(len(free))]
        done |= {*optimizer_words.changed(formula, change.formula), *change.free}
        formula = change.formula
        for name in change.free:
            norm = float(np.linalg.norm(seen.norms, axis=1).min())
            value = float(rng.choice(VALUES[name])) if name in VALUES else float(f"{rng.uniform(0.3, 0.8) * norm:.2g}")
            formula = optimizer_search.put(formula, name, value)
    return formula


def outcome(seed: int, index: int, changes: int) -> tuple[str, float]:
    rng = np.random.default_rng([seed, index, changes])
    steps, size = int(rng.choice([4, 8, 10])), float(rng.choice([1.0, 0.1, 1e-3]))
    ours = formula_of(rng, steps)
    seen = numbers(rng, steps, size)
    planted = changed(ours, seen, rng, changes)
    there = run(planted, seen)
    begun = time.perf_counter()
    found = optimizers.explained(ours, there, begun + 20) if there.is_finite else []
    took = time.perf_counter() - begun
    if found is None:
        return "equal", took
    if not found:
        return "none", took
    elsewhere = run(planted, numbers(rng, steps, size))
    right = [optimizer_formula.relative(simulate(formula, elsewhere).moved, elsewhere) < 1e-6 for formula in found]
    return "wrong" if not any(right) else "named" if len(found) == 1 else "among", took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="formulas with one change; a third as many with two, a sixth with three")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    wrong = 0
    print("changes   named   among    none   wrong   equal   seconds each, at most")
    for changes, count in ((1, given.count), (2, given.count // 3), (3, given.count // 6)):
        rows = [outcome(seed, index, changes) for seed in range(given.seeds) for index in range(count)]
        tally = Counter(kind for kind, _ in rows)
        said = "".join(f"{tally[kind]:8}" for kind in ("named", "among", "none", "wrong", "equal"))
        print(
            f"{changes:7}{said}   {sum(took for _, took in rows) / max(1, len(rows)):7.2f} {max(took for _, took in rows):7.2f}", flush=True
        )
        wrong += tally["wrong"]
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
