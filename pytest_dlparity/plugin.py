"""pytest hooks, options, the marker and the fixture. Decides nothing: it asks and passes on.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_dlparity import cards, hooks, lock
from pytest_dlparity.errors import ParityError

if TYPE_CHECKING:
    from pytest_dlparity.asked import Asked
    from pytest_dlparity.matrix import Cell, Device
    from pytest_dlparity.report import Report

BASE = pytest.StashKey[Any]()  # the settings of options and ini values, before markers
TABLE = pytest.StashKey[dict[str, Any]]()
BEGUN = pytest.StashKey["OrderedDict[Any, Any]"]()
ROWS = pytest.StashKey[list[dict[str, Any]]]()  # of one item: what its reports found
LOCK = pytest.StashKey[Any]()
TIMES = pytest.StashKey[list[dict[str, Any]]]()
RULINGS = pytest.StashKey[list[dict[str, str]]]()  # of one item: what limits say of its times
UNTIMED = pytest.StashKey[list[str]]()  # of one item: why it could not be timed
LOST = pytest.StashKey[list[str]]()  # of one item: reproducers that could not be written
KEPT = 2  # references of specs that several cells share; more would hold their arrays for nothing

# name, metavar, help. Each is an option --dlparity-NAME and an ini value dlparity_NAME.
_SETTINGS = (
    ("devices", "NAMES", "Devices to run on: auto (those that are here), or names such as cpu,cuda,tpu,mps"),
    ("dtypes", "NAMES", "Dtypes to run in: float64, float32, bfloat16, float16, complex64, complex128"),
    ("modes", "NAMES", "How to run: eager (torch eager, jax jit), compiled (torch.compile), nojit (jax operation by operation)"),
    ("seed", "N", "Seed of every draw"),
    ("tolerance", "SPEC", "auto (measured), conventional, or rtol=1e-3,atol=1e-5"),
    ("require", "NAMES", "Devices on which at least one spec must have run, or the run fails"),
    ("localize", "WHEN", "Say where the two sides part, and why: auto (after a failure in float64), always or off"),
    ("reproduce", "DIR", "Write a folder with a small script that fails by itself into this one, for each failure"),
    ("report", "WHAT", "Table at the end: failures, all or none"),
    ("json", "PATH", "Write every verdict with its numbers to this file"),
    ("min-items", "N", "Parity items that must have run, or the run fails"),
    ("max-ratio", "X", "Time both sides, and fail where jax takes more than X times as long as torch"),
    ("max-regression", "PERCENT", "Time both sides, and fail where one has become slower than in the baseline by more than this"),
    ("baseline", "DIR", "Folder of stored times, one file for each machine"),
    ("save-baseline", "HOW", "Store the times of this run: new, or add to keep those that are stored too"),
    ("no-baseline", "STATUS", "Exit status where there is no stored time to be held against"),
    ("undecided", "STATUS", "Exit status where times are too noisy to be held against a limit"),
    ("cpu-threads", "N", "Threads of each side while it is timed on the CPU"),
)
_FLAGS = (
    ("strict", "An inconclusive leaf is a failure"),
    ("speed", "Add a timing item for each cell, recorded by pytest-benchmark"),
)
_DEFAULTS = {
    "devices": "auto",
    "dtypes": "float32",
    "modes": "eager",
    "seed": "0",
    "tolerance": "auto",
    "require": "",
    "localize": "auto",
    "reproduce": "",
    "report": "failures",
    "json": "",
    "min_items": "0",
    "max_ratio": "",
    "max_regression": "",
    "baseline": ".dlparity-baseline",
    "save_baseline": "",
    "no_baseline": "1",
    "undecided": "0",
    "cpu_threads": "1",
}


_IMPORTING = ("devices", "dtypes", "modes", "tolerance", "localize", "max_ratio", "max_regression")  # those that only our modules can read


# ---------------------------------------------------------------- options


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    # also with autoload off; never twice; `-p no:benchmark` is respected
    pluginmanager.import_plugin("benchmark", consider_entry_points=True)
    group = parser.getgroup("dlparity", "PyTorch/JAX parity")
    for name, metavar, text in _SETTINGS:
        ini = name.replace("-", "_")
        shown = f" (default: {_DEFAULTS[ini]})" if _DEFAULTS[ini] else ""
        group.addoption(f"--dlparity-{name}", metavar=metavar, help=text + shown)
        parser.addini(f"dlparity_{ini}", text, type="string", default=_DEFAULTS[ini])
    for name, text in _FLAGS:
        group.addoption(f"--dlparity-{name}", action="store_true", default=None, help=text)
        parser.addini(f"dlparity_{name}", text, type="bool", default=False)
    group.addoption("--dlparity-catalog", metavar="WHAT", nargs="?", const="1/1", help="Run the catalogue, a share (1/3), families or entries of it")


def _setting(config: pytest.Config, name: str) -> Any:
    given = config.getoption(f"dlparity_{name}")
    return config.getini(f"dlparity_{name}") if given is None else given


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "dlparity(spec=None, devices, dtypes, modes, seed, tolerance, strict, speed, localize, max_ratio, max_regression): "
        "run the spec in PyTorch and in JAX and compare; settings of module, class and function merge, the nearest wins.",
    )
    config.addinivalue_line("markers", "dlparity_speed: a timing item of --dlparity-speed.")
    config.stash[BEGUN] = OrderedDict()
    if cards.PREALLOCATE not in os.environ:  # also serially
        _export(config, cards.PREALLOCATE, "false")
    if _setting(config, "report") not in ("failures", "all", "none"):
        raise pytest.UsageError(f"--dlparity-report={_setting(config, 'report')}: write failures, all or none.")
    if not str(_setting(config, "seed")).isdecimal():
        raise pytest.UsageError(f"--dlparity-seed={_setting(config, 'seed')}: write a whole number that is not negative.")
    folder = _setting(config, "reproduce")
    if folder and Path(folder).exists() and not Path(folder).is_dir():
        raise pytest.UsageError(f"--dlparity-reproduce={folder}: that is a file. Give the folder into which reproducers go.")
    if config.getoption("dlparity_catalog") is not None:
        from pytest_dlparity.catalog import items

        base, table = functools.partial(_base, config), functools.partial(_table, config)
        catalogue = items.Catalogue(config, base, table, ROWS, LOST, folder or "", functools.partial(_threads, config))
        config.pluginmanager.register(catalogue, "dlparity-catalog")
    if not _is_worker(config):
        config.pluginmanager.register(_Ledger(config), "dlparity-ledger")
        config.pluginmanager.register(_Speed(config), "dlparity-speed")
    if any(_setting(config, name) for name in ("speed", "max_ratio", "max_regression", "save_baseline")):
        _one_pool(config)
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Workers(), "dlparity-workers")


def _export(config: pytest.Config, name: str, value: str) -> None:
    """Sets an environment variable until the run ends. jax reads these when it first looks for a device."""
    before = os.environ.get(name)
    os.environ[name] = value
    config.add_cleanup(lambda: os.environ.update({name: before}) if before is not None else os.environ.__delitem__(name))


def _one_pool(config: pytest.Config) -> None:
    """jax's threads on the CPU, where something is to be timed."""
    from pytest_dlparity import machine

    if os.environ.get(machine.POOL) != str(_threads(config)):
        _export(config, machine.POOL, str(_threads(config)))


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _table(config: pytest.Config) -> dict[str, Device]:
    if TABLE not in config.stash:
        from pytest_dlparity import matrix

        config.stash[TABLE] = matrix.devices()
        config.hook.pytest_dlparity_devices(devices=config.stash[TABLE])
    return config.stash[TABLE]


def _base(config: pytest.Config) -> Asked:
    """Options and ini values as settings.

    Raises:
        pytest.UsageError: one of them means nothing; no test could run as asked.
    """
    if BASE not in config.stash:
        from pytest_dlparity import asked
        from pytest_dlparity.errors import SpecError

        given = {name: _setting(config, name) for name in (*_IMPORTING, "strict", "speed")}
        given["speed"] = given["speed"] or bool(_setting(config, "save_baseline"))
        try:
            config.stash[BASE] = asked.validated(asked.Asked(seed=int(_setting(config, "seed")), **given))
            config.stash[BASE].cells(_table(config))
        except SpecError as error:
            raise pytest.UsageError(f"--dlparity options: {error}") from None
    return config.stash[BASE]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Options that mean nothing end the run before anything is collected; where none was given, nothing is imported for it."""
    if any(_setting(session.config, name) != _DEFAULTS[name] for name in _IMPORTING):
        _base(session.config)


def pytest_report_header(config: pytest.Config) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "jax"))
    return (
        f"dlparity: {versions}; devices {_setting(config, 'devices')}, dtypes {_setting(config, 'dtypes')}, seed {_setting(config, 'seed')}"
    )


# ---------------------------------------------------------------- collection


class Point(tuple[Any, ...]):
    """What one item runs: a cell to check or to time, or a marker that means nothing."""

    __slots__ = ()

    asked = property(lambda self: self[0])
    cell = property(lambda self: self[1])
    speed = property(lambda self: self[2])
    problem = property(lambda self: self[3])


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> pytest.Item | None:
    """A test whose marker brings a spec gets the fixture, also where it does not ask for it."""
    if type(obj).__name__ == "Spec" and type(obj).__module__ == "pytest_dlparity.spec" and collector.funcnamefilter(name):
        return pytest.Function.from_parent(collector, name=name, callobj=functools.partial(_taken_for_the_test, name))
    own = getattr(obj, "pytestmark", [])
    marks = [*(own if isinstance(own, list) else [own]), *collector.iter_markers()]
    if inspect.isfunction(obj) and any(mark.name == "dlparity" and _brings_spec(mark) for mark in marks):
        pytest.mark.usefixtures("parity")(obj)
    return None


def _taken_for_the_test(name: str) -> None:
    pytest.fail(
        f"{name} is a spec and no test: pytest took the function that a bare @pytest.mark.dlparity(function) names for the one to decorate. "
        "Write @pytest.mark.dlparity(spec=function).",
        pytrace=False,
    )


def _brings_spec(mark: pytest.Mark) -> bool:
    return bool(mark.args) or "spec" in mark.kwargs


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    markers = [(mark.args, mark.kwargs) for mark in metafunc.definition.iter_markers("dlparity")]
    if "parity" not in metafunc.fixturenames:
        return
    base = _base(metafunc.config)
    from pytest_dlparity import asked
    from pytest_dlparity.errors import SpecError

    try:
        wanted = asked.merged(base, markers)
        cells = wanted.cells(_table(metafunc.config))
    except SpecError as error:
        points = [pytest.param(Point((base, None, False, str(error))), id="bad-marker")]
    else:
        points = [pytest.param(Point((wanted, cell, False, "")), id=str(cell)) for cell in cells]
        if wanted.timed:
            _one_pool(metafunc.config)
            speed = pytest.mark.dlparity_speed
            points += [pytest.param(Point((wanted, cell, True, "")), id=f"{cell}-speed", marks=speed) for cell in cells]
    metafunc.parametrize("_dlparity_point", points, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Timing items last: what they measure is not disturbed by compilation beside them."""
    if any(item.get_closest_marker("dlparity_speed") for item in items):
        from pytest_dlparity import benchmark_bridge

        items.sort(key=lambda item: item.get_closest_marker("dlparity_speed") is not None)
        benchmark_bridge.keep_under_benchmark_only(i for i in items if i.get_closest_marker("dlparity_speed"))


# ---------------------------------------------------------------- the fixture


@pytest.fixture
def _dlparity_point(request: pytest.FixtureRequest) -> Any:
    return request.param


class Parity:
    """The fixture's value: `parity(spec)` runs a spec in this item's cell, asserts, and returns the report."""

    def __init__(self, item: pytest.Function, point: Point, restart: Callable[[], None]) -> None:
        self._item, self._point, self._restart = item, point, restart
        self._report: Report | None = None
        item.stash[RULINGS], item.stash[UNTIMED] = [], []
        item.stash[ROWS], item.stash[TIMES], item.stash[LOST] = [], [], []  # fresh for each attempt: a rerun must not count twice
        item.user_properties[:] = [(key, value) for key, value in item.user_properties if not key.startswith("dlparity.")]

    @property
    def cell(self) -> Cell:
        """The cell of this item."""
        return self._point.cell

    @property
    def report(self) -> Report:
        """The report of the last spec that ran in this test."""
        if self._report is None:
            raise AttributeError("no spec has run in this test yet: call parity(spec) first, or give the spec to the dlparity marker")
        return self._report

    def __call__(self, spec: Any) -> Report:
        """Runs a spec (or a function that makes one) in this cell and asserts that the two sides agree."""
        __tracebackhide__ = True
        try:
            report = self._report = self._run(spec)
        finally:
            self._restart()
        report.raise_if_failed(every=self._item.config.get_verbosity() >= 2)
        if self._point.speed:
            self._hold(report)
        return report

    def _hold(self, report: Report) -> None:
        """The limits, for what this spec took."""
        __tracebackhide__ = True
        from pytest_dlparity import speed

        asked, folder = self._point.asked, str(_setting(self._item.config, "baseline"))
        title = f"{report.spec.name} [{self.cell}]"
        found = speed.rulings(title, self._timed, asked.max_ratio, asked.max_regression, folder)
        self._item.stash[RULINGS] += found
        speed.raise_if_exceeded(found)

    def _run(self, spec: Any) -> Report:
        __tracebackhide__ = True
        from pytest_dlparity import explain, parity, record

        config = self._item.config
        asked, cell = self._point.asked, self._point.cell
        device = _table(config)[cell.device]
        self._require(asked, device)
        shown, fspath = self._item.nodeid, self._item.originalname
        begun = _begun(config, spec, asked, fspath.removeprefix("test_"))
        report = parity.in_cell(begun, cell, device, asked.tolerance, asked.strict, f'pytest "{shown}"')
        report = explain.explained(report, begun.reference, asked.localize, _say(config))
        if (folder := _setting(config, "reproduce")) and not report.ok:
            report = self._reproduced(report, begun, folder)
        row = record.row(report, shown)
        self._item.stash[ROWS].append(row)
        self._item.user_properties.extend(record.properties(row))
        if self._point.speed:
            self._time(report, begun, device)
        return report

    def _time(self, report: Report, begun: Any, device: Device) -> None:
        """Both sides; where that cannot be, a spec that is not in parity still fails."""
        __tracebackhide__ = True
        from pytest_dlparity import ending, speed

        config, cell, stash = self._item.config, self._point.cell, self._item.stash
        refused = [v for v in report.verdicts if v.reason == "unsupported"]
        if problem := _untimed(config):
            stash[UNTIMED].append(problem)
        elif refused:
            problem = f"nothing to time, the {refused[0].side} side cannot run in {cell.dtype}: {refused[0].detail[0]}"
        elif _turned_off(config):
            problem = "--benchmark-disable or --benchmark-skip turns timing off"
        if stash[UNTIMED] and self._point.asked.limited and report.ok:
            pytest.fail(f"{self._item.name} was not timed, so its limit held nothing: {problem}.", pytrace=False)
        if problem and report.ok:
            pytest.skip(f"dlparity: {problem}")
        number = f"#{len(stash[ROWS])}" if len(stash[ROWS]) > 1 else ""  # of a test's second spec
        name = self._item.nodeid.replace(f"{cell}-speed", f"{cell}-speed{number}")
        self._timed: list[dict[str, Any]] = []
        if problem:
            return
        try:
            speed.measure(begun, cell, device, name, report, self._timed, _threads(config))
        finally:
            stash[TIMES] += self._timed
            self._item.user_properties.extend(ending.properties(self._timed))

    def _reproduced(self, report: Report, begun: Any, folder: str) -> Report:
        """The report with the place of its reproducer."""
        from pytest_dlparity import reproducer

        number = len(self._item.stash[ROWS])
        report, lost = reproducer.noted(report, begun, folder, self._item.nodeid + (f"#{number + 1}" if number else ""))
        self._item.stash[LOST] += [lost] * bool(lost)
        return report

    def _require(self, asked: Asked, device: Device) -> None:
        """An absent device that was asked for by name fails the test; one that `auto` guessed is skipped."""
        __tracebackhide__ = True
        from pytest_dlparity import parity

        if absent := parity.unavailable(device):
            if asked.names_devices:
                pytest.fail(f"{device.name} was asked for by name, but {absent}.", pytrace=False)
            pytest.skip(f"dlparity: device {device.name!r} is not available: {absent}")


def _threads(config: pytest.Config) -> int:
    return int(_setting(config, "cpu_threads"))


def _untimed(config: pytest.Config) -> str:
    """Why nothing can be timed here, "" where it can."""
    if _is_worker(config) and config.stash.get(LOCK, None) is None:
        return "this platform has no file lock, so a timing item cannot run alone beside other workers: time it with -n 0"
    return ""


def _turned_off(config: pytest.Config) -> bool:
    from pytest_dlparity import benchmark_bridge

    return benchmark_bridge.session(config) is not None and not benchmark_bridge.wanted(config)


def _say(config: pytest.Config) -> Callable[[str], None] | None:
    """How a line reaches the terminal while a test runs; None on a worker, which has none."""
    terminal, capture = (config.pluginmanager.getplugin(name) for name in ("terminalreporter", "capturemanager"))
    if terminal is None or _is_worker(config):
        return None

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
            terminal.write_line(f"\n{text}")

    return say


def _begun(config: pytest.Config, spec: Any, asked: Asked, name: str) -> Any:
    """The reference of a spec, shared by the cells of one spec or one factory."""
    from pytest_dlparity import parity
    from pytest_dlparity.spec import Spec

    kept = config.stash[BEGUN]
    dtypes = tuple(dict.fromkeys(cell.dtype for cell in asked.cells(_table(config))))
    key = (id(spec), asked.seed, dtypes)
    if key not in kept:
        made = spec() if callable(spec) and not isinstance(spec, Spec) else spec
        made = made.called(name) if isinstance(made, Spec) else made
        kept[key] = (parity.begun(made, asked.seed, dtypes), spec)  # the spec is held, so its id stays its own
        while len(kept) > KEPT:
            kept.popitem(last=False)
    return kept[key][0]


@pytest.fixture
def parity(request: pytest.FixtureRequest, _dlparity_point: Any) -> Iterator[Parity]:
    """Runs one spec in PyTorch and in JAX in this test's cell and asserts that they agree: `parity(dlp.layer(...))`.

    `parity.report` is the report of the spec that ran last, `parity.cell` the device, dtype and mode of this item.
    """
    from pytest_dlparity import parity as check

    with check.seeded(_dlparity_point.asked.seed) as restart:
        yield Parity(request.node, _dlparity_point, restart)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    __tracebackhide__ = True
    parity = pyfuncitem.funcargs.get("parity")
    if not isinstance(parity, Parity):
        return (yield)
    point = parity._point
    if point.problem:
        pytest.fail(point.problem, pytrace=False)
    if point.asked.spec is not None:
        parity(point.asked.spec)
    result = yield
    if not pyfuncitem.stash[ROWS]:
        pytest.fail(
            f"{pyfuncitem.originalname} asks for parity but never ran a spec, so nothing was tested. Call parity(spec), or give the spec to the "
            "marker: @pytest.mark.dlparity(spec=...).",
            pytrace=False,
        )
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    __tracebackhide__ = True
    if isinstance(item, pytest.Function) and any(_brings_spec(mark) for mark in item.iter_markers("dlparity")) and ROWS not in item.stash:
        pytest.fail(
            f"{item.name} has a dlparity marker with a spec, but is no plain pytest function, so the spec never ran. Write a function, "
            "or a method of a class that is no unittest.TestCase.",
            pytrace=False,
        )
    return (yield)


# ---------------------------------------------------------------- from items to the end of the run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and call.excinfo is not None and call.excinfo.errisinstance(ParityError):
        crash.message = crash.message.partition("\n")[0]  # of the short summary, of JUnit and annotations; the whole stands above
    if call.when == "call" and not isinstance(report, getattr(pytest, "SubtestReport", ())):
        report.dlparity = {
            "rows": item.stash.get(ROWS, []),
            "times": item.stash.get(TIMES, []),
            "rulings": item.stash.get(RULINGS, []),
            "untimed": item.stash.get(UNTIMED, []),
            "timing": item.get_closest_marker("dlparity_speed") is not None,
            "lost": item.stash.get(LOST, []),
        }  # plain types: it crosses to the controller
    return report


class _Ledger:
    """On the controller or in a serial run: gathers the rows of all reports, prints, writes and judges the run."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.rows: list[dict[str, Any]] = []
        self.missing: list[str] = []
        self.unwritten = ""
        self.lost: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        found = getattr(report, "dlparity", None)
        if not found or report.outcome == "rerun":
            return
        self.rows += found["rows"]
        self.lost += found["lost"]
        if found["times"]:
            from pytest_dlparity import benchmark_bridge

            for row in found["times"]:
                benchmark_bridge.add(self.config, row)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        result = yield
        ran = {device for row in self.rows for device in row["devices"]}
        self.missing = [name for name in _split(_setting(self.config, "require")) if name not in ran]
        if self.lost and session.exitstatus in (0, 5):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.missing and not self.config.getoption("collectonly", False) and session.exitstatus in (0, 5):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        path = _setting(self.config, "json")
        if path and not self.config.getoption("collectonly", False):
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(json.dumps({"dlparity": self.rows}, indent=1), encoding="utf-8")
            except OSError as error:
                self.unwritten = f"dlparity: --dlparity-json={path} could not be written ({error.strerror}): the run fails."
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        what = _setting(self.config, "report")
        rows = [row for row in self.rows if what == "all" or (what == "failures" and not row["ok"])]
        if rows:
            from pytest_dlparity import report

            terminalreporter.section("dlparity")
            for line in report.table(rows):
                terminalreporter.write_line(line)
        for problem in self.lost:
            terminalreporter.write_line(f"dlparity: a reproducer is missing, {problem}: the run fails.", red=True, bold=True)
        if self.unwritten:
            terminalreporter.write_line(self.unwritten, red=True, bold=True)
        for name in self.missing:
            terminalreporter.write_line(
                f"dlparity: {name} was required (--dlparity-require), and no spec ran on it: the run fails.", red=True, bold=True
            )


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


class _Speed:
    """On the controller or in a serial run: what all the times come to."""

    def __init__(self, config: pytest.Config) -> None:
        from pytest_dlparity import ending
        from pytest_dlparity.errors import SpecError

        names = ("max_ratio", "max_regression", "min_items", "baseline", "save_baseline", "no_baseline", "undecided", "cpu_threads")
        try:
            self.asked = ending.asked({name: _setting(config, name) for name in names})
        except SpecError as error:
            raise pytest.UsageError(str(error)) from None
        self.config, self.run = config, ending.Run()
        self.problems: list[Any] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        found = getattr(report, "dlparity", None)
        if found and report.outcome != "rerun":
            self.run.add(found, report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        from pytest_dlparity import ending

        result = yield
        if not self.config.getoption("collectonly", False):
            self.problems = ending.problems(self.run, self.asked) + ending.saved(self.run, self.asked)
            self.problems += ending.summarised(self.run, self.problems, os.environ.get("GITHUB_STEP_SUMMARY", ""))
            session.exitstatus = ending.status(self.problems, int(session.exitstatus))
        return result

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        from pytest_dlparity import ending

        lines = ending.table(self.run.times) if _setting(self.config, "report") != "none" else []
        if lines:
            terminalreporter.section("dlparity speed")
        for line in lines:
            terminalreporter.write_line(line)
        for problem in self.problems:
            terminalreporter.write_line(f"dlparity: {problem.sentence}", red=problem.status > 0, yellow=not problem.status, bold=True)


class _Workers:
    """xdist: each worker gets its share of the cores and a card of its own before it imports anything, and a timing item runs alone on its host."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if _is_worker(session.config) and any(item.get_closest_marker("dlparity_speed") for item in session.items):
            session.config.stash[LOCK] = lock.opened(session.config.workerinput["testrunuid"])  # type: ignore[attr-defined]  # xdist adds it

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        held = item.config.stash.get(LOCK, None)
        if held is None:
            return (yield)
        with held.exclusive() if item.get_closest_marker("dlparity_speed") else held.shared():
            return (yield)

    def pytest_testnodedown(self, node: Any) -> None:
        self.run = node.workerinput["testrunuid"]

    def pytest_unconfigure(self) -> None:
        if self.run is not None:  # the controller, once all workers have gone
            lock.remove(self.run)

    run: str | None = None

    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: list[Any]) -> None:
        share = str(max(1, (os.cpu_count() or 1) // len(specs)))
        for spec, card in zip(specs, cards.shares(os.environ, len(specs)), strict=True):
            for name, value in card.items() if getattr(spec, "popen", False) else ():  # the cards of another machine are not known here
                spec.env.setdefault(name, value)
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"):
                if name not in os.environ:
                    spec.env.setdefault(name, share)
            spec.env.setdefault(cards.PREALLOCATE, os.environ[cards.PREALLOCATE])
