"""`pytest --dlparity-catalog`: the catalogue as tests that need no file.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from pytest_dlparity.asked import Asked
    from pytest_dlparity.catalog.entry import Entry
    from pytest_dlparity.catalog.judge import Course, Found
    from pytest_dlparity.matrix import Cell, Device

BRIEF = 0.2  # seconds for each part that is timed: a ratio for the atlas, over a thousand of them
PACKAGES = {"jax": "jax", "optax": "optax", "linen": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "dm-haiku"}


class Share(NamedTuple):
    """Part `number` of `of`: which entries run is told by the hash of their names, the same on every machine."""

    number: int
    of: int

    def has(self, name: str) -> bool:
        """
        >>> [name for name in ("conv1d", "conv2d", "conv3d") if Share(1, 1).has(name)]
        ['conv1d', 'conv2d', 'conv3d']
        >>> sum(Share(number, 3).has("conv2d") for number in (1, 2, 3))
        1
        """
        return zlib.crc32(name.encode()) % self.of == self.number - 1


class Choice(NamedTuple):
    """What of the catalogue runs: shares of all entries, and families and entries by name besides."""

    shares: tuple[Share, ...]
    names: frozenset[str] = frozenset()

    def has(self, family: str, entry: str) -> bool:
        return bool(self.names & {family, entry}) or any(share.has(entry) for share in self.shares)


def choice(text: str) -> Choice:
    """
    Raises:
        pytest.UsageError: a part of it is no share and no name, or the catalogue has an entry that means nothing.

    >>> choice("1/3")
    Choice(shares=(Share(number=1, of=3),), names=frozenset())
    >>> choice("1/3,pooling").has("pooling", "max-pool2d"), choice("gelu").has("activations", "relu")
    (True, False)
    """
    shares, names = [], []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)/(\d+)", part)
        if found and 1 <= int(found[1]) <= int(found[2]):
            shares.append(Share(int(found[1]), int(found[2])))
        elif part in _names():
            names.append(part)
        else:
            raise pytest.UsageError(
                f"--dlparity-catalog={text}: {part!r} is no share such as 1/3, no family and no entry. Write --dlparity-catalog alone for all of "
                f"the catalogue; a path stands before it. The families are {', '.join(_families())}."
            )
    return Choice(tuple(shares), frozenset(names))


def _families() -> dict[str, tuple[Entry, ...]]:
    from pytest_dlparity.catalog import specs

    return specs.families()


def _names() -> set[str]:
    from pytest_dlparity.errors import SpecError

    try:
        return {*_families(), *(entry.name for entries in _families().values() for entry in entries)}
    except SpecError as error:  # an entry that means nothing
        raise pytest.UsageError(str(error)) from error


class Catalogue:
    """The plugin of a run with --dlparity-catalog: it adds the items, and at the end says what was found.

    Args:
        asked: gives the settings of options and ini values.
        table: gives the devices by name.
        rows, lost: where an item keeps the rows of its reports, and why a reproducer could not be written.
        reproduce: the folder for reproducers, "" for none.
        threads: gives how many each side has on the CPU while it is timed.
    """

    def __init__(
        self, config: pytest.Config, asked: Callable[[], Asked], table: Callable[[], dict[str, Device]], rows: Any, lost: Any, reproduce: str,
        threads: Callable[[], int],
    ) -> None:  # fmt: skip
        self.config, self.asked, self.table, self.key, self.lost = config, asked, table, rows, lost
        self.reproduce, self.threads = reproduce, threads
        self.choice = choice(config.getoption("dlparity_catalog"))
        self.course: Course | None = None
        self.rows: list[dict[str, Any]] = []
        config.addinivalue_line("markers", "dlparity_catalog: an item of --dlparity-catalog.")
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args[:] = []  # no path was given: the catalogue alone

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            report.result = [*report.result, Families.of(collector, self)]
        return report

    def begun(self) -> Course:
        if self.course is None:
            from pytest_dlparity.catalog import judge

            asked = self.asked()
            dtypes = list(dict.fromkeys(cell.dtype for cell in asked.cells(self.table())))
            self.course = judge.Course(self.table(), dtypes, asked.seed, asked.tolerance, asked.strict, asked.localize, self.reproduce)
        return self.course

    # ---------------------------------------------------------------- the end of the run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome != "rerun":
            self.rows += [row for row in getattr(report, "dlparity", {}).get("rows", ()) if "catalog" in row]

    @property
    def nothing(self) -> bool:
        """Whether a run that should have run the catalogue compared nothing."""
        ran = any(row["catalog"]["status"] != "skipped" for row in self.rows)
        return not ran and not self.config.getoption("collectonly", False) and not hasattr(self.config, "workerinput")

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        result = yield
        if self.nothing and session.exitstatus in (0, 5):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.rows:
            terminalreporter.section("dlparity catalog")
            for line in summary(self.rows):
                terminalreporter.write_line(line)
        if self.nothing:
            terminalreporter.write_line("dlparity: nothing of the catalogue ran (--dlparity-catalog): the run fails.", red=True, bold=True)


class Families(pytest.Collector):
    """The families of the catalogue. What is wrong with an entry is an error of collection, also on a worker."""

    @classmethod
    def of(cls, session: pytest.Session, catalogue: Catalogue) -> Families:
        made = cls.from_parent(session, name="catalog", nodeid="catalog", path=Path(__file__).parent)
        made.catalogue = catalogue
        return made

    catalogue: Catalogue

    def collect(self) -> Iterator[pytest.Collector]:
        for name, entries in _families().items():
            yield Family.of(self, self.catalogue, name, entries)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]  # as pytest documents it
        from pytest_dlparity.errors import SpecError

        return str(excinfo.value) if isinstance(excinfo.value, SpecError) else super().repr_failure(excinfo)


class Family(pytest.Collector):
    """The entries of one module of the catalogue."""

    @classmethod
    def of(cls, parent: pytest.Collector, catalogue: Catalogue, name: str, entries: tuple[Entry, ...]) -> Family:
        path = Path(__file__).parent / f"{name}.py"
        made = cls.from_parent(parent, name=f"catalog/{name}.py", nodeid=f"catalog/{name}.py", path=path)
        made.catalogue, made.family, made.entries = catalogue, name, entries
        return made

    catalogue: Catalogue
    family: str
    entries: tuple[Entry, ...]

    def collect(self) -> Iterator[pytest.Item]:
        asked = self.catalogue.asked()
        cells = asked.cells(self.catalogue.table())
        for entry in self.entries:
            if self.catalogue.choice.has(self.family, entry.name):
                for library, cell in itertools.product(entry.jax, cells):
                    yield Point.of(self, entry, library, cell)
                    if asked.speed:
                        yield Timed.of(self, entry, library, cell)


class Point(pytest.Item):
    """One entry in one library and one cell: all its cases."""

    @classmethod
    def of(cls, family: Family, entry: Entry, library: str, cell: Cell) -> Point:
        made = cls.from_parent(family, name=f"{entry.name}[{library}-{cell}{cls.ending}]")
        made.catalogue, made.family, made.entry, made.library, made.cell = family.catalogue, family.family, entry, library, cell
        for marker in cls.markers:
            made.add_marker(marker)
        return made

    ending = ""
    markers: tuple[str, ...] = ("dlparity_catalog",)

    catalogue: Catalogue
    family: str
    entry: Entry
    library: str
    cell: Cell

    def runtest(self) -> None:
        __tracebackhide__ = True
        from pytest_dlparity import parity
        from pytest_dlparity.catalog import judge
        from pytest_dlparity.errors import ParityError

        asked, device = self.catalogue.asked(), self.catalogue.table()[self.cell.device]
        rows = self.stash[self.catalogue.key] = []  # fresh for each attempt: a rerun must not count twice
        if asked.names_devices and (absent := parity.unavailable(device)):
            pytest.fail(f"{device.name} was asked for by name, but {absent}.", pytrace=False)
        found = list(self.wanted(judge.cases(self.entry, self.library, self.cell, self.catalogue.begun())))
        rows += [row(one, self.nodeid, self.family) for one in found]
        self.stash[self.catalogue.lost] = [one.lost for one in found if one.lost]
        if failed := [one for one in found if one.status == judge.FAILED]:
            raise ParityError("\n\n".join(map(str, failed)))
        if all(one.status == judge.SKIPPED for one in found):
            pytest.skip(f"dlparity: {found[0].says}")
        self.time(found[0], device, rows[0])

    def wanted(self, cases: Iterator[Found]) -> Iterable[Found]:
        """The cases that are run."""
        return cases

    def time(self, one: Found, device: Device, told: dict[str, Any]) -> None:
        """Only what is for that (Timed)."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from pytest_dlparity.errors import ParityError

        return str(excinfo.value) if isinstance(excinfo.value, ParityError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


class Timed(Point):
    """The first case of an entry again, timed: as a timing item it comes last, and alone on its host."""

    ending = "-speed"
    markers = ("dlparity_catalog", "dlparity_speed")

    def wanted(self, cases: Iterator[Found]) -> Iterable[Found]:
        return itertools.islice(cases, 1)

    def time(self, one: Found, device: Device, told: dict[str, Any]) -> None:
        """Puts jax's time over torch's for each part into the row."""
        from pytest_dlparity import speed

        begun = self.catalogue.begun().begun(one.entry, one.library, one.case)
        timed: list[dict[str, Any]] = []
        speed.measure(begun, self.cell, device, self.nodeid, one.report, timed, self.catalogue.threads(), max_time=BRIEF)  # type: ignore[arg-type]  # it agrees
        told["catalog"]["speed"] = {row["params"]["what"]: row["extra_info"]["ratio"] for row in timed if "ratio" in row["extra_info"]}


def row(one: Found, nodeid: str, family: str) -> dict[str, Any]:
    """What was found of one case, as plain numbers and strings: those of a report, and what the catalogue makes of it."""
    from pytest_dlparity import record
    from pytest_dlparity.catalog import judge

    told: dict[str, Any]
    if one.report is not None:
        told = record.row(one.report, nodeid)
    else:
        devices = [one.cell.device] if one.status == judge.FAILED else []
        told = {"nodeid": nodeid, "spec": one.entry.name, "kind": one.entry.kind, "cell": str(one.cell), "devices": devices}
        told |= {"leaves": 0, "bits": "-", "environment": "", "verdicts": []}
    catalog = {"family": family, "entry": one.entry.name, "library": one.library, "case": one.case, "status": one.status, "says": one.says}
    told |= {"ok": one.status != judge.FAILED, "catalog": catalog | {"version": version(one.library)}}
    if one.report is None or one.status in (judge.DIFFERS, judge.SKIPPED):
        told["verdict"] = one.status
    return told


def version(library: str) -> str:
    """`flax 0.12.1`, "" where it is not installed."""
    try:
        return f"{PACKAGES[library]} {metadata.version(PACKAGES[library])}"
    except metadata.PackageNotFoundError:
        return ""


# ---------------------------------------------------------------- what is said at the end


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Per family the number of entries, and how many equivalents in how many cells agree, differ as written, failed or were skipped; and why."""
    points: dict[tuple[str, str], str] = {}
    rows = [row for row in rows if "speed" not in row["catalog"]]
    for row in rows:
        key = row["catalog"]["family"], row["nodeid"]
        points[key] = max(points.get(key, ""), row["catalog"]["status"], key=gravity)
    names = {
        family: {r["catalog"]["entry"] for r in rows if r["catalog"]["family"] == family} for family in dict.fromkeys(f for f, _ in points)
    }
    head = ("family", "entries", "agree", "differ as written", "failed", "skipped")
    body = [
        (family, str(len(entries)), *_counts([s for (f, _), s in points.items() if f == family]))
        for family, entries in sorted(names.items())
    ]
    total = ("all", str(sum(map(len, names.values()))), *_counts(list(points.values())))
    table = [head, *body, *([total] if len(body) > 1 else [])]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    said = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]
    reasons = Counter(row["catalog"]["says"] for row in rows if row["catalog"]["status"] == "skipped")
    return said + [f"skipped: {count} {'case' if count == 1 else 'cases'}, {reason}" for reason, count in reasons.most_common()]


_ORDER = ("", "skipped", "agrees", "differs as written", "failed")


def gravity(status: str) -> int:
    return _ORDER.index(status)


def _counts(statuses: list[str]) -> tuple[str, ...]:
    return tuple(str(statuses.count(status)) for status in ("agrees", "differs as written", "failed", "skipped"))
