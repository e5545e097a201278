"""Whether a ratio measured by a worker beside others is that of a serial run: ten specs, serial runs and `-n 2` runs in turn.

    python benchmarks/speed_stability.py              five runs of each kind
    python benchmarks/speed_stability.py --runs 3

Every run is a pytest of its own over the specs below, with as many parity items that keep the other worker busy. Kinds alternate, and who
begins changes, so that what the machine does to one kind it does to the other. Of each spec the table gives the median of the ratios jax
over torch of the serial runs and of the `-n 2` runs, how far apart the two are, and the spread within each kind: half the range between the
quartiles, over the median. The last column is how far apart the ratios of best rounds are, which a busy machine moves less. Exit status 1
where any spec is apart by more than 5 % while the machine was quiet, 2 where it was not quiet (some task waited for a core in more than 5 % of
the time before a run).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ALLOWED = 0.05  # of the serial ratio
QUIET = 5.0  # per cent of the last 10 s in which some task waited for a core
PRESSURE = Path("/proc/pressure/cpu")

TESTS = '''
import jax
import jax.numpy as jnp
import pytest
import torch

import pytest_dlparity as dlp

F, N = torch.nn.functional, jax.nn
MATRIX = dlp.normal(128, 128)
SPECS = {
    "matmul": (lambda x: x @ x, lambda x: x @ x, [MATRIX]),
    "large matmul": (lambda x: x @ x, lambda x: x @ x, [dlp.normal(384, 384)]),
    "tanh": (torch.tanh, jnp.tanh, [dlp.normal(256, 256)]),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), lambda x: N.gelu(x, approximate=True), [dlp.normal(256, 256)]),
    "softmax": (lambda x: F.softmax(x, -1), lambda x: N.softmax(x, -1), [dlp.normal(128, 512)]),
    "log sum": (lambda x: torch.logsumexp(x, -1), lambda x: N.logsumexp(x, -1), [dlp.normal(128, 512)]),
    "layer norm": (lambda x: F.layer_norm(x, (256,)), lambda x: N.standardize(x, -1, epsilon=1e-5), [dlp.normal(128, 256)]),
    "bilinear": (lambda x, y: x @ y @ x.T, lambda x, y: x @ y @ x.T, [MATRIX, MATRIX]),
    "outer": (lambda x: (x[:, None] * x[None]).sum(0), lambda x: (x[:, None] * x[None]).sum(0), [dlp.normal(512)]),
    "polynomial": (lambda x: 1 + x * (2 + x * (3 + x)), lambda x: 1 + x * (2 + x * (3 + x)), [dlp.normal(512, 128)]),
}


@pytest.mark.parametrize("name", SPECS)
def test_spec(parity, name):
    ours, theirs, inputs = SPECS[name]
    parity(dlp.layer(torch=ours, jax=theirs, inputs=inputs, wrt=[], name=name.replace(" ", "_")))
'''


def pressure() -> float:
    """Per cent of the last 10 s in which some task waited for a core; NaN where the system does not tell."""
    try:
        return float(PRESSURE.read_text().partition("avg10=")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return float("nan")


def ratios(folder: Path, workers: int) -> dict[str, tuple[float, float]]:
    """One run of pytest: of each spec the ratio, and that of the best rounds."""
    out = folder / "times.json"
    out.unlink(missing_ok=True)
    options = ["-q", "-p", "no:cacheprovider", "--dlparity-devices=cpu", "--dlparity-speed", f"--benchmark-json={out}", f"-n{workers}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([sys.executable, "-m", "pytest", *options, "test_specs.py"], cwd=folder, env=environ, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    rows = json.loads(out.read_text())["benchmarks"]
    best = {(row["group"], row["params"]["side"]): row["stats"]["min"] for row in rows}
    return {
        row["group"].partition("[")[2].rpartition("]")[0]: (
            row["extra_info"]["ratio"], best[row["group"], "jax"] / best[row["group"], "torch"],
        )
        for row in rows if row["params"]["side"] == "jax"
    }  # fmt: skip


def spread(values: list[float]) -> float:
    """Half the range between the quartiles, over the median."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float((high - low) / 2 / middle)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    runs = parser.parse_args().runs
    found: dict[int, list[dict[str, tuple[float, float]]]] = {0: [], 2: []}
    waited: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_specs.py").write_text(TESTS)
        for number in range(runs):
            for workers in (0, 2) if number % 2 == 0 else (2, 0):
                waited.append(pressure())
                found[workers].append(ratios(folder, workers))
                print(f"run {number + 1} of {runs}, {f'-n {workers}' if workers else 'serial'}: pressure {waited[-1]:.0f} %", file=sys.stderr)
    print(f"{'spec':<14}{'serial':>10}{'-n 2':>10}{'apart':>9}{'spread serial':>16}{'spread -n 2':>14}{'best apart':>13}")
    apart, best = [], []
    for test in sorted(found[0][0]):
        serial, beside = ([run[test][0] for run in found[workers]] for workers in (0, 2))
        best.append(float(np.divide(*(np.median([run[test][1] for run in found[workers]]) for workers in (2, 0))) - 1))
        apart.append(float(np.median(beside) / np.median(serial) - 1))
        name = test.removeprefix("cpu-float32-")
        columns = f"{np.median(serial):>10.3g}{np.median(beside):>10.3g}{apart[-1]:>9.1%}{spread(serial):>16.1%}{spread(beside):>14.1%}"
        print(f"{name:<14}{columns}{best[-1]:>13.1%}")
    beyond = sum(abs(one) > ALLOWED for one in apart)
    print(f"{beyond} of {len(apart)} apart by more than {ALLOWED:.0%}; median of the distances {np.median(np.abs(apart)):.1%}")
    print(f"best rounds: {sum(abs(one) > ALLOWED for one in best)} of {len(best)}; median of the distances {np.median(np.abs(best)):.1%}")
    print(f"pressure before the runs: {np.nanmedian(waited):.0f} % (median), {np.nanmax(waited):.0f} % (most)" if waited else "")
    if not np.nanmedian(waited) <= QUIET:
        print(f"This machine was not quiet (more than {QUIET:.0f} %): much of the distances above is its own.")
        return 2
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main())
