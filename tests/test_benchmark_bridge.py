"""Our rows are pytest-benchmark's rows: in its table, its JSON, its comparisons, with and without xdist."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import execnet
import numpy as np
import pytest
from pytest_benchmark import stats

from pytest_dlparity import benchmark_bridge, machine
from pytest_dlparity.timing import Ratio, Timing

TORCH = Timing("torch", 0.25, 4, (0.002, 0.001, 0.003))
JAX = Timing("jax", 1.5, 8, (0.004, 0.002, 0.006))
CELL = {"device": "cpu", "dtype": "float32", "mode": "eager"}

PLUGIN = """
import os
import pytest
from pytest_dlparity import benchmark_bridge
from pytest_dlparity.timing import Ratio, Timing

@pytest.fixture
def timed(request):
    slower = float(os.environ.get("SLOWER", "1"))
    timings = [Timing(name, 0.5, 4, tuple(slower * s for s in (0.002, 0.001, 0.003))) for name in ("torch", "jax")]
    cell = {"device": "cpu", "dtype": "float32", "mode": "eager"}
    request.node.rows = benchmark_bridge.rows(
        nodeid=request.node.nodeid, cell_params=cell, what="forward", timings=timings, ratio=Ratio(1.0, 0.9, 1.1)
    )

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" and hasattr(item, "rows"):
        report.rows = item.rows
    return report

def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Ingest(config))

class Ingest:
    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        for row in getattr(report, "rows", ()):
            print("added:", benchmark_bridge.add(self.config, row), "wanted:", benchmark_bridge.wanted(self.config))

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if "DROP_NOTHING" not in os.environ:
        benchmark_bridge.keep_under_benchmark_only([item for item in items if "timed" in item.fixturenames])

@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_machine_info():
    return {}   # asking for the real one takes longer than these tests
"""

TESTS = """
import pytest

@pytest.mark.parametrize("cell", ["cpu-float32", "cpu-bfloat16"])
def test_gelu(timed, cell):
    pass

def test_other():
    pass
"""

FULLNAMES = [f"test_it.py::test_gelu[cpu-{dtype}-forward-{side}]" for dtype in ("float32", "bfloat16") for side in ("torch", "jax")]


@pytest.fixture
def bench(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run pytest with pytest-benchmark, the plugin above, and nothing else; in a process of its own where files stay open (5.2's JSON)."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeconftest(PLUGIN)
    pytester.makepyfile(test_it=TESTS)

    def run(*args: str) -> pytest.RunResult:
        apart = any("json" in arg for arg in args)
        return (pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess)("-p", "benchmark", *args)

    return run


def saved(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["benchmarks"]


# ------------------------------------------------------------------------------------------------ rows


def test_the_rows_of_a_pair() -> None:
    torch, jax = benchmark_bridge.rows(
        nodeid="tests/test_x.py::TestY::test_gelu[cpu-float32]",
        cell_params=CELL,
        what="forward+backward",
        timings=[TORCH, JAX],
        ratio=Ratio(2.0, 1.9, 2.1),
    )
    known = torch.pop("extra_info"), jax.pop("extra_info")
    assert torch == {
        "name": "test_gelu[cpu-float32-forward+backward-torch]",
        "fullname": "tests/test_x.py::TestY::test_gelu[cpu-float32-forward+backward-torch]",
        "group": "test_gelu[cpu-float32]-forward+backward",
        "param": "cpu-float32-forward+backward-torch",
        "params": {"device": "cpu", "dtype": "float32", "mode": "eager", "what": "forward+backward", "side": "torch"},
        "iterations": 4,
        "rounds": [0.002, 0.001, 0.003],
        "options": {"disable_gc": True, "timer": "perf_counter", "warmup": True, "interleaved": True},
    }
    assert jax["fullname"] == "tests/test_x.py::TestY::test_gelu[cpu-float32-forward+backward-jax]"
    assert jax["group"] == torch["group"]
    assert known[0]["first_call"] == 0.25
    assert {key: known[1][key] for key in set(known[1]) - set(known[0])} == {
        "ratio_to": "torch",
        "ratio": 2.0,
        "ratio_low": 1.9,
        "ratio_high": 2.1,
    }


@pytest.mark.parametrize(
    ("nodeid", "fullname", "group"),
    [
        ("t.py::test_a[cpu]", "t.py::test_a[cpu-forward-jax]", "test_a[cpu]-forward"),
        ("t.py::test_a[cpu]@gpu", "t.py::test_a[cpu-forward-jax]", "test_a[cpu]-forward"),
        ("t.py::test_a[cpu]@a@b::c", "t.py::test_a[cpu-forward-jax]", "test_a[cpu]-forward"),
        ("t.py::test_a", "t.py::test_a[forward-jax]", "test_a-forward"),
        ("t.py::test_a@gpu", "t.py::test_a[forward-jax]", "test_a-forward"),
        ("t.py::A::B::test_a@gpu", "t.py::A::B::test_a[forward-jax]", "test_a-forward"),
        ("a@b/t[1].py::test_a", "a@b/t[1].py::test_a[forward-jax]", "test_a-forward"),
        ("t.py::test_a[cpu-x@y]", "t.py::test_a[cpu-x@y-forward-jax]", "test_a[cpu-x@y]-forward"),
        ("t.py::test_a[cpu-[1]::b]@gpu", "t.py::test_a[cpu-[1]::b-forward-jax]", "test_a[cpu-[1]::b]-forward"),
        ("t.py::test_a[]", "t.py::test_a[forward-jax]", "test_a-forward"),
    ],
)
def test_names_depend_on_the_test_and_not_on_xdist(nodeid: str, fullname: str, group: str) -> None:
    (row,) = benchmark_bridge.rows(nodeid=nodeid, cell_params=CELL, what="forward", timings=[JAX])
    assert (row["fullname"], row["group"]) == (fullname, group)
    assert fullname.endswith("::" + row["name"])
    assert row["name"].endswith(f"[{row['param']}]")


def test_what_is_known_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(machine, "PRESSURE", tmp_path / "cpu")
    (tmp_path / "cpu").write_text("some avg10=63.25 avg60=9.62 avg300=3.12 total=15140021\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0")
    extra = {"lock_wait": np.float32(0.5), "first_call": "lost", "worker": "ours"}
    (row,) = benchmark_bridge.rows(nodeid="t.py::test_a", cell_params={}, what="forward", timings=[JAX], extra=extra)
    known = row["extra_info"]
    assert (known["pressure"], known["lock_wait"], known["first_call"], known["worker"]) == (63.25, 0.5, 1.5, "ours")
    assert known["threads"]["OMP_NUM_THREADS"] == "1"
    assert known["threads"]["cores"] >= 1
    assert known["loadavg"] >= 0
    assert {"torch", "jax", "numpy"} <= set(known["versions"])


@pytest.mark.parametrize("text", [None, "", "some", "some avg10=", "some avg10=much"])
def test_a_system_that_does_not_tell_its_pressure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None) -> None:
    monkeypatch.setattr(machine, "PRESSURE", tmp_path / "cpu")
    if text is not None:
        (tmp_path / "cpu").write_text(text)
    (row,) = benchmark_bridge.rows(nodeid="t.py::test_a", cell_params={}, what="forward", timings=[JAX])
    assert "pressure" not in row["extra_info"]


class Device(enum.Enum):
    CPU = "cpu"


class Text(str):
    pass


def test_rows_travel_whatever_they_are_made_of() -> None:
    """execnet goes by the exact type: one numpy number in a report ends the whole run."""
    strange: dict[str, object] = {
        "device": Device.CPU,
        "dtype": Text("float32"),
        "path": Path("a"),
        "seed": np.int64(3),
        "exact": np.bool_(True),
        "half": np.float16(0.5),
        "scales": np.ones(2),
        "none": None,
        "set": {1},
    }
    timing = Timing("jax", np.float64(1.5), np.int64(2), tuple(np.array([1e-3, 2e-3])))  # type: ignore[arg-type]  # the fault
    with pytest.raises(execnet.DumpError):
        execnet.dumps(timing.first_call)
    (row,) = benchmark_bridge.rows(nodeid="t.py::test_a", cell_params=strange, what="forward", timings=[timing], extra=strange)
    assert execnet.loads(execnet.dumps(row)) == row
    assert json.loads(json.dumps(row)) == row
    assert row["params"] == {
        "device": "cpu",
        "dtype": "float32",
        "path": "a",
        "seed": 3,
        "exact": True,
        "half": 0.5,
        "scales": [1.0, 1.0],
        "none": None,
        "set": [1],
        "what": "forward",
        "side": "jax",
    }
    assert row["rounds"] == [1e-3, 2e-3]


@pytest.mark.parametrize(
    ("timings", "what", "ratio", "says"),
    [
        ([], "forward", None, "t.py::test_a has no timings: nothing was timed."),
        ([TORCH, JAX._replace(rounds=())], "forward", None, "t.py::test_a has a timing without rounds: nothing was timed."),
        ([TORCH], "", None, 't.py::test_a does not say what was timed: give what="forward" or the like.'),
        ([TORCH], "forward", Ratio(1, 1, 1), "t.py::test_a has a ratio of jax over torch, but timings of torch."),
        ([JAX, JAX], "forward", Ratio(1, 1, 1), "t.py::test_a has a ratio of jax over torch, but timings of jax, jax."),
    ],
)
def test_what_makes_no_rows(timings: list[Timing], what: str, ratio: Ratio | None, says: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        benchmark_bridge.rows(nodeid="t.py::test_a", cell_params=CELL, what=what, timings=timings, ratio=ratio)


# ------------------------------------------------------------------------------------------------ in pytest-benchmark


def test_json_and_table(bench: Any, pytester: pytest.Pytester) -> None:
    ran = bench("--benchmark-json=o.json", "--benchmark-group-by=param:side", "-s")
    ran.assert_outcomes(passed=3)
    ran.stdout.fnmatch_lines(["*added: True wanted: True", "*benchmark 'side=jax': 2 tests*", "*benchmark 'side=torch': 2 tests*"])
    rows = saved(pytester.path / "o.json")
    assert [row["fullname"] for row in rows] == FULLNAMES
    assert [row["group"] for row in rows] == [f"test_gelu[cpu-{dtype}]-forward" for dtype in ("float32", "float32", "bfloat16", "bfloat16")]
    stats = rows[0]["stats"]
    assert stats["data"] == [0.002, 0.001, 0.003]
    assert (stats["median"], stats["min"], stats["rounds"], stats["iterations"]) == (0.002, 0.001, 3, 4)
    assert rows[0]["params"] == {"device": "cpu", "dtype": "float32", "mode": "eager", "what": "forward", "side": "torch"}
    assert rows[1]["extra_info"]["ratio"] == 1.0


def test_a_saved_run_compares_and_a_regression_fails(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench("--benchmark-autosave").ret == 0
    same = bench("--benchmark-compare", "--benchmark-compare-fail=median:50%", "--benchmark-autosave")
    assert same.ret == 0
    same.stdout.fnmatch_lines(["*test_gelu?cpu-float32-forward-jax? (NOW)*"])
    monkeypatch.setenv("SLOWER", "2")
    slower = bench("--benchmark-compare", "--benchmark-compare-fail=median:50%")
    assert slower.ret != 0
    slower.stderr.fnmatch_lines(["*Performance has regressed*", "*test_gelu?cpu-float32-forward-torch?*"])


def test_through_xdist_the_rows_are_the_same(bench: Any, pytester: pytest.Pytester) -> None:
    bench("-p", "xdist", "-n1", "--benchmark-json=o.json").assert_outcomes(passed=3)
    rows = saved(pytester.path / "o.json")
    assert [row["fullname"] for row in rows] == FULLNAMES
    assert rows[0]["stats"]["data"] == [0.002, 0.001, 0.003]
    assert rows[0]["extra_info"]["worker"] == "gw0"


@pytest.mark.parametrize("before", [(), ("-p", "benchmark")], ids=["never loaded", "loaded and blocked"])
def test_without_pytest_benchmark(pytester: pytest.Pytester, bench: Any, before: tuple[str, ...]) -> None:
    ran = pytester.runpytest_inprocess(*before, "-p", "no:benchmark", "-s")
    ran.assert_outcomes(passed=3)
    ran.stdout.fnmatch_lines(["*added: False wanted: False"])
    ran.stdout.no_fnmatch_line("*True*")


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        ([], True),
        (["--benchmark-only"], True),
        (["--benchmark-skip"], False),
        (["--benchmark-skip", "--benchmark-only"], True),
        (["--benchmark-disable"], False),
        (["--benchmark-enable"], True),
        (["--benchmark-disable", "--benchmark-enable"], True),
        (["-p", "xdist", "-n1"], True),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["benchmark", "pytest_benchmark.plugin"])
def test_what_the_user_wants(bench: Any, pytester: pytest.Pytester, name: str, args: list[str], wanted: bool) -> None:
    assert benchmark_bridge.wanted(pytester.parseconfig("-p", name, *args)) is wanted


def test_before_pytest_benchmark_is_configured_there_is_no_session(bench: Any, pytester: pytest.Pytester) -> None:
    assert benchmark_bridge.session(pytester.parseconfig("-p", "benchmark")) is None


# ------------------------------------------------------------------------------------------------ --benchmark-only


@pytest.mark.parametrize("dropped", [True, False])
def test_benchmark_only_runs_timing_items(bench: Any, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, dropped: bool) -> None:
    """Left alone, pytest-benchmark skips them: it knows only items of its own fixture."""
    if not dropped:
        monkeypatch.setenv("DROP_NOTHING", "1")
    pytester.makepyfile(
        test_skipped="""
        import pytest

        @pytest.mark.skip(reason="run it with --benchmark-only active.")
        def test_theirs(timed):
            pass
        """
    )
    ran = bench("--benchmark-only")
    ran.assert_outcomes(**({"passed": 2, "skipped": 2} if dropped else {"skipped": 4}))


# ------------------------------------------------------------------------------------------------ another pytest-benchmark


@pytest.mark.parametrize("change", ["reads more", "keeps elsewhere", "takes more"])
def test_another_pytest_benchmark_is_named_and_not_a_riddle(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    class ReadsMore(stats.Metadata):
        def __init__(self, fixture: Any, iterations: int, options: dict[str, Any]) -> None:
            super().__init__(fixture, iterations, options)
            self.precision = fixture.precision

    class TakesMore(stats.Metadata):
        def __init__(self, fixture: Any, iterations: int, options: dict[str, Any], precision: float) -> None:
            super().__init__(fixture, iterations, options)

    kept: list[Any] = []
    session = SimpleNamespace(**{"results" if change == "keeps elsewhere" else "benchmarks": kept})
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin={"pytest-benchmark": session}.get))
    if change != "keeps elsewhere":
        monkeypatch.setattr(stats, "Metadata", ReadsMore if change == "reads more" else TakesMore)
    (row,) = benchmark_bridge.rows(nodeid="t.py::test_a", cell_params=CELL, what="forward", timings=[JAX])
    version = re.escape(benchmark_bridge.metadata.version("pytest-benchmark"))
    with pytest.raises(
        RuntimeError,
        match=rf"^pytest-benchmark {version} keeps its results in a way that this pytest-dlparity does not know "
        r"\((AttributeError|TypeError): .*precision.*|.*benchmarks.*\)\. Install pytest-benchmark 5\.3, or run with -p no:benchmark\.$",
    ):
        benchmark_bridge.add(config, row)
    assert kept == []


def test_a_row_that_lacks_something_is_not_pytest_benchmarks_fault() -> None:
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin={"pytest-benchmark": SimpleNamespace(benchmarks=[])}.get))
    with pytest.raises(KeyError, match=r"^'name'$"):
        benchmark_bridge.add(config, {})
