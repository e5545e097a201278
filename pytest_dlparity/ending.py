"""What all the times of a run come to: a table, sentences, and an exit status."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pytest_dlparity import baseline, gate
from pytest_dlparity.errors import SpecError

Row = Mapping[str, Any]
FAILED = 1  # pytest's own exit status of failed tests
HIGHEST = 125  # beyond, shells have meanings of their own
HEAD = ("test", "part", "torch", "jax", "ratio [interval]", "")
APART = "NOT IN PARITY"


class Problem(NamedTuple):
    """Something that a run has to say at its end, and the exit status that it asks for (0: none)."""

    sentence: str
    status: int = FAILED


@dataclass
class Run:
    """What the reports of a run brought, as plain values."""

    ran: set[str] = field(default_factory=set)  # parity items whose spec ran
    rows: list[Row] = field(default_factory=list)  # verdicts of parity items
    times: list[Row] = field(default_factory=list)  # rows of benchmark_bridge
    rulings: list[dict[str, str]] = field(default_factory=list)
    untimed: list[str] = field(default_factory=list)  # timing items that could not be timed, a sentence each

    def add(self, found: Mapping[str, Any], nodeid: str) -> None:
        """Takes what one report brought."""
        if found["rows"] and not found["timing"]:
            self.ran.add(nodeid)
            self.rows += found["rows"]
        self.times += found["times"]
        self.rulings += found["rulings"]
        self.untimed += found["untimed"]


class Asked(NamedTuple):
    """What options ask of a whole run."""

    gates: tuple[str, ...] = ()  # those that are given, as they are written
    min_items: int = 0
    folder: str = ""
    save: str = ""
    undecided: int = 0  # exit status where a gate could not tell
    no_baseline: int = FAILED  # exit status where there is none yet


def asked(given: Mapping[str, Any]) -> Asked:
    """The settings of options and ini values, by their names.

    Raises:
        SpecError: one of them means nothing.
    """
    threads(given["cpu_threads"])
    save = str(given["save_baseline"])
    if save not in baseline.MODES:
        raise SpecError(f"--dlparity-save-baseline={save}: write new, or add to keep the stored runs too.")
    gates = [f"--dlparity-{name.replace('_', '-')}={given[name]}" for name in ("max_ratio", "max_regression", "save_baseline") if given[name]]
    return Asked(
        tuple(gates),
        _whole("min-items", given["min_items"]),
        str(given["baseline"]),
        save,
        _whole("undecided", given["undecided"], HIGHEST),
        _whole("no-baseline", given["no_baseline"], HIGHEST),
    )


def threads(given: Any) -> int:
    """How many threads each side has.

    Raises:
        SpecError: it is no number of threads.
    """
    if not str(given).isdecimal() or int(given) < 1:
        raise SpecError(f"--dlparity-cpu-threads={given}: write a whole number above 0.")
    return int(given)


def _whole(name: str, given: Any, most: int = 10**9) -> int:
    if not str(given).isdecimal() or int(given) > most:
        raise SpecError(
            f"--dlparity-{name}={given}: write "
            + ("an exit status from 0 (the run passes) to 125." if most == HIGHEST else "a whole number that is not negative.")
        )
    return int(given)


def pairs(times: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """The torch row and the jax row of each part, in the order in which they were timed."""
    torch: dict[str, Row] = {}
    for row in times:
        if row["params"]["side"] == "torch":
            torch[gate.key(row)] = row
        else:
            yield torch.pop(gate.key(row)), row


def problems(run: Run, asked: Asked) -> list[Problem]:
    """All that a run has to say, what fails it and what does not."""
    found = []
    if len(run.ran) < asked.min_items:
        found.append(
            Problem(f"{len(run.ran)} parity items ran, and --dlparity-min-items asks for at least {asked.min_items}: the run fails.")
        )
    if asked.gates and not run.times:
        found.append(Problem(f"nothing was timed, so {' and '.join(asked.gates)} held nothing: the run fails."))
    for sentence in dict.fromkeys(run.untimed):
        found.append(Problem(f"{sentence}{': the run fails' if asked.gates else ''}.", FAILED if asked.gates else 0))
    for ruling in run.rulings:
        if ruling["status"] == gate.UNDECIDED:
            found.append(Problem(_with_status(ruling["sentence"], asked.undecided), asked.undecided))
    for status, sentence in dict.fromkeys((ruling["status"], ruling["sentence"]) for ruling in run.rulings):
        if status == "missing":
            found.append(Problem(_with_status(sentence, asked.no_baseline), asked.no_baseline))
        if status == "unusable":
            found.append(Problem(f"{sentence.removesuffix('.')}: the run fails."))
    return found


def saved(run: Run, asked: Asked) -> list[Problem]:
    """Stores the figures of a run where that is asked, and says what could not be stored. Sides that disagree have no figure."""
    if not asked.save:
        return []
    rows = [(gate.figure(torch, jax), jax["extra_info"]) for torch, jax in pairs(run.times) if jax["extra_info"]["parity"]]
    if run.times and not rows:
        return [Problem("no baseline was stored, because no timed test is in parity: the run fails.")]
    return [Problem(f"{lost.removesuffix('.')}: the run fails.") for lost in baseline.save(asked.folder, asked.save, rows)]


def summarised(run: Run, said: Sequence[Problem], place: str) -> list[Problem]:
    """Appends the run to the summary of a CI job, where there is one, and says if that could not be written."""
    if not place or not (run.rows or run.times or said):
        return []
    try:
        with open(place, "a", encoding="utf-8") as file:
            file.write(markdown(run.rows, run.times, [problem.sentence for problem in said]))
    except OSError as error:
        return [Problem(f"GITHUB_STEP_SUMMARY={place} could not be written ({error.strerror}): the run fails.")]
    return []


def properties(times: Sequence[Row]) -> list[tuple[str, str]]:
    """JUnit properties of a timing item: the ratio of each part, in one."""
    told = [f"{jax['params']['what']} {ratio(jax['extra_info'])}" for _, jax in pairs(times)]
    return [("dlparity.ratio", "; ".join(told))] if told else []


def _with_status(sentence: str, status: int) -> str:
    return f"{sentence.removesuffix('.')}: the run ends with status {status}." if status else sentence


def status(found: Sequence[Problem], before: int) -> int:
    """The exit status of a run. Failed tests, and whatever else pytest ended with, come first; then our failures, then chosen statuses."""
    wanted = [problem.status for problem in found if problem.status]
    if not wanted or before not in (0, 5):  # 5: no test was collected
        return before
    return FAILED if FAILED in wanted else max(wanted)


# ---------------------------------------------------------------- the table


def lines(times: Sequence[Row]) -> list[tuple[str, ...]]:
    """What was timed as rows of text: test, part, torch, jax, ratio, and a mark where the sides do not compute the same."""
    made = []
    for torch, jax in pairs(times):
        known, part = jax["extra_info"], jax["params"]["what"]
        test = jax["group"].removesuffix(f"-{part}")
        medians = [duration(statistics.median(row["rounds"])) for row in (torch, jax)]
        made.append((test, part, *medians, ratio(known), "" if known["parity"] else APART))
    return made


def ratio(known: Mapping[str, Any]) -> str:
    """jax over torch with its interval."""
    return f"{known['ratio']:.3g} [{known['ratio_low']:.3g}, {known['ratio_high']:.3g}]"


def table(times: Sequence[Row]) -> list[str]:
    """The table at the end of a run."""
    body = lines(times)
    if not body:
        return []
    widths = [max(len(row[column]) for row in (HEAD, *body)) for column in range(len(HEAD))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (HEAD, *body)]


def markdown(rows: Sequence[Row], times: Sequence[Row], said: Sequence[str]) -> str:
    """The same as a page of a CI job's summary: verdicts, times, and what the run had to say."""
    verdicts = [tuple(str(row[name]) for name in ("spec", "cell", "leaves", "bits", "verdict")) for row in rows]
    parts = [
        _grid(("spec", "cell", "leaves", "bits", "verdict"), verdicts),
        _grid((*HEAD[:-1], "parity"), [(*line[:-1], line[-1] or "yes") for line in lines(times)]),
        "\n".join(f"- {_escaped(sentence)}" for sentence in said),
    ]
    return "\n\n".join(["## dlparity", *(part for part in parts if part)]) + "\n\n"


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return ""
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in (head, ["---"] * len(head), *body))


def _escaped(text: str) -> str:
    """A test's name may hold anything: here it is text."""
    for char in "\\`*_[]<>|":
        text = text.replace(char, f"\\{char}")
    return text.replace("\n", " ")


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> [duration(s) for s in (0.0, 3.14159e-8, 9.9996e-4, 0.25, 12.0, 123.4)]
    ['0 ns', '31.4 ns', '1 ms', '250 ms', '12 s', '123 s']
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale * 0.9995:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
