"""What is timed of each kind of spec, on what, and what is known of it besides time."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import machine, matrix, parity, speed, timing
from pytest_dlparity.errors import SpeedError
from pytest_dlparity.frameworks import jax as jax_side
from pytest_dlparity.frameworks import jax_work, torch_work
from pytest_dlparity.frameworks import torch as torch_side
from pytest_dlparity.timing import Contender, Timing

CPU = matrix.devices()["cpu"]
X = dlp.normal(8, 4)


def linear(params: dict[str, Any], x: Any) -> Any:
    return x @ params["w"]


def sgd() -> Any:
    return dlp.optimizer(torch=lambda p: torch.optim.SGD(p, lr=0.1), jax=optax.sgd(0.1))


KINDS = {
    "layer": (dlp.layer(torch.sin, jnp.sin, inputs=[X], name="sine"), ["forward", "forward+backward"]),
    "layer without gradients": (dlp.layer(torch.sin, jnp.sin, inputs=[X], wrt=[]), ["forward"]),
    "loss": (
        dlp.loss(torch.nn.functional.mse_loss, lambda a, b: jnp.mean((a - b) ** 2), inputs=[X, dlp.normal(8, 4)]),
        ["forward", "forward+backward"],
    ),
    "optimizer": (
        dlp.optimizer(torch=lambda p: torch.optim.SGD(p, lr=0.1), jax=optax.sgd(0.1), params={"w": dlp.normal(4, 4)}),
        ["step"],
    ),
    "model": (
        dlp.model(
            torch=linear,
            jax=linear,
            params={"w": dlp.normal(4, 3)},
            inputs=[X, dlp.normal(8, 3)],
            loss=dlp.loss(torch.nn.functional.mse_loss, lambda a, b: jnp.mean((a - b) ** 2)),
            optimizer=sgd(),
            steps=2,
        ),
        ["forward", "forward+backward", "training step"],
    ),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real steps, but few of them."""
    real = timing.paired
    monkeypatch.setattr(timing, "paired", lambda contenders: real(contenders, max_time=1e-3, min_rounds=2, max_rounds=2, min_round=1e-6))


def measured(spec: Any, dtype: str = "float32", mode: str = "", threads: int = 1) -> list[dict[str, Any]]:
    cell = matrix.Cell("cpu", dtype, mode)
    begun = parity.begun(spec, 0, (dtype,))
    found: list[dict[str, Any]] = []
    speed.measure(begun, cell, CPU, f"t.py::test_a[{cell}-speed]", parity.in_cell(begun, cell, CPU), found, threads)
    return found


# ---------------------------------------------------------------- what is timed


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_spec_is_timed_on_both_sides(quick: None, kind: str) -> None:
    spec, parts = KINDS[kind]
    found = measured(spec)
    assert [row["fullname"] for row in found] == [f"t.py::test_a[cpu-float32-{part}-{side}]" for part in parts for side in ("torch", "jax")]
    assert all(row["extra_info"]["parity"] is True and row["rounds"] and min(row["rounds"]) > 0 for row in found)


@pytest.mark.parametrize(("dtype", "mode"), [("float64", ""), ("bfloat16", ""), ("float32", "nojit")])
def test_other_cells_are_timed(quick: None, dtype: str, mode: str) -> None:
    found = measured(KINDS["layer"][0], dtype, mode)
    assert len(found) == 4 and found[0]["params"]["mode"] == (mode or "eager")
    assert (found[1]["extra_info"]["compile"] is None) == (mode == "nojit")


def test_what_is_known_of_each_side(quick: None) -> None:
    spec = dlp.layer(lambda x: x @ x, lambda x: x @ x, inputs=[dlp.normal(32, 32)], wrt=[])
    torch_row, jax_row = (row["extra_info"] for row in measured(spec))
    for known in (torch_row, jax_row):
        assert known["device_name"] == "cpu" and known["cpu_threads"] == 1
        assert known["work"]["flops"] == 2 * 32**3
        assert known["memory"]["peak_bytes"] == 32 * 32 * 4  # the result alone
        assert known["rate"]["flops"] > 0
        assert known["machine"] == machine.fingerprint() and known["versions"] == machine.versions()
    assert jax_row["work"]["bytes"] >= 2 * 32 * 32 * 4
    assert 0 < jax_row["compile"] < jax_row["first_call"]
    assert jax_row["ratio_low"] <= jax_row["ratio"] <= jax_row["ratio_high"]


def test_sides_with_different_work_are_recorded_and_marked(quick: None) -> None:
    found = measured(dlp.layer(torch.sin, lambda x: jnp.sin(jnp.sin(x)), inputs=[X], wrt=[]))
    assert [row["extra_info"]["parity"] for row in found] == [False, False]


def test_torch_has_as_many_threads_as_jax_and_the_users_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def paired(contenders: Any) -> Any:
        seen.append(torch.get_num_threads())
        return tuple(Timing(one.name, 1.0, 1, (1.0, 1.0)) for one in contenders)

    monkeypatch.setattr(timing, "paired", paired)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for threads in (1, 2):
            monkeypatch.setattr(machine, "pool", lambda threads=threads: threads)
            found = measured(KINDS["layer without gradients"][0], threads=threads)
            assert {(row["extra_info"]["cpu_threads"], row["extra_info"]["xla_threads"]) for row in found} == {(threads, threads)}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2]


def test_nothing_is_timed_with_other_threads_than_asked_for(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pool", lambda: 8)
    says = (
        "nothing is timed, because jax had started with 8 threads on the CPU before it could be told to take 1: use no jax array in conftest.py "
        "and while modules are imported, or set PJRT_NPROC=1 in the environment."
    )
    with pytest.raises(SpeedError, match=f"^{re.escape(says)}$"):
        measured(KINDS["layer"][0])
    monkeypatch.setattr(machine, "pool", lambda: None)  # a system that does not tell
    assert measured(KINDS["layer without gradients"][0])[0]["extra_info"]["xla_threads"] is None


def test_jax_is_not_charged_with_finding_its_function_again() -> None:
    compiled = jax_side.Compiled(jnp.sin, False, True)
    step, *_ = compiled.timed(jax.device_put(np.ones(3, np.float32)))
    assert type(step.func).__name__ == type(jax.jit(jnp.sin)).__name__


# ---------------------------------------------------------------- work in the background


def test_work_that_was_not_waited_for_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax returns before it has finished; without its wait, a timing says so instead of charging the next one."""
    big = jnp.ones((600, 600))
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, y: y @ x / 600, x))
    jax.block_until_ready(step(big))
    careless = Contender("jax", lambda: step(big), lambda result: None, jax_side.ended)
    limits = {"max_time": 0.2, "min_rounds": 2, "max_rounds": 2, "min_round": 1e-5}
    with pytest.raises(timing.Unfinished, match=r"^jax is still at work after it was waited for, so its times would be too short\.$"):
        timing.paired([careless], **limits)
    jax.block_until_ready(step(big))
    assert timing.paired([careless._replace(wait=jax_side.wait)], **limits)[0].rounds


def test_a_spec_is_timed_with_a_wait_and_without_it_fails(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dlp.layer(
        lambda x: torch.linalg.matrix_power(x, 3), lambda x: jax.lax.fori_loop(0, 60, lambda i, y: y @ x, jnp.eye(400)) * 0 + x @ x @ x,
        inputs=[dlp.normal(400, 400, scale=0.01)], wrt=[],
    )  # fmt: skip
    assert len(measured(spec)) == 2
    monkeypatch.setattr(jax_side, "wait", lambda values: values)
    with pytest.raises(timing.Unfinished, match=r"^jax is still at work after it was waited for, so its times would be too short\.$"):
        measured(spec)


class Stream:
    def __init__(self, busy: bool) -> None:
        self.busy = busy

    def query(self) -> bool:
        return not self.busy


@pytest.mark.parametrize("busy", [True, False])
def test_an_accelerator_of_torchs_is_asked_whether_it_is_idle(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: Stream(busy))
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    assert torch_side.idle("cuda:1") is not busy
    assert torch_side.idle("cpu") is torch_side.idle("mps") is True
    torch_side.wait("cuda:1")
    torch_side.wait("cpu")
    assert waited == [torch.device("cuda:1")]


def test_lazy_tensors_are_run_when_they_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake = type("torch_xla", (), {"sync": staticmethod(lambda **given: calls.append(given))})
    monkeypatch.setattr(torch_side.importlib, "import_module", lambda name: fake if name == "torch_xla" else None)
    torch_side.wait("xla")
    assert calls == [{"wait": True}]


# ---------------------------------------------------------------- a side that raises only now


def only_compared(x: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled():  # a forward pass is timed without gradients, and compared with them
        raise RuntimeError("out of memory\nand more")
    return x.sin()


def test_a_side_that_raises_only_while_it_is_timed_is_named(quick: None) -> None:
    spec = dlp.layer(only_compared, jnp.sin, inputs=[X], name="sine")
    says = (
        "sine [cpu-float32] forward: the torch side ran when it was compared and raises when it is timed: RuntimeError: out of memory"
    )
    with pytest.raises(SpeedError, match=f"^{re.escape(says)}$") as caught:
        measured(spec)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_parts_that_were_timed_before_are_kept(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = parity.begun(KINDS["layer"][0], 0, ("float32",))
    cell, found = matrix.Cell("cpu", "float32"), []
    report = parity.in_cell(begun, cell, CPU)
    real = timing.paired
    calls: list[int] = []

    def second_raises(contenders: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise timing.Raised("jax") from RuntimeError("gone")
        return real(contenders)

    monkeypatch.setattr(timing, "paired", second_raises)
    with pytest.raises(SpeedError, match=r"^sine \[cpu-float32\] forward\+backward: the jax side .*: RuntimeError: gone$"):
        speed.measure(begun, cell, CPU, "t.py::test_a[cpu-float32-speed]", report, found)
    assert [row["params"]["what"] for row in found] == ["forward", "forward"]


# ---------------------------------------------------------------- memory and work


def test_torchs_memory_on_the_cpu_is_the_most_that_a_step_holds_at_a_time() -> None:
    x = torch.ones(1000)

    def step() -> torch.Tensor:
        first = x * 2  # 4000 bytes
        second = first + 1  # 8000 at a time
        del first
        return second.sum() + (x * 3).sum()  # 8000 again, and some bytes of sums

    assert 8000 <= torch_work.memory(step, "cpu")["peak_bytes"] < 8300


def test_another_profiler_is_no_reason_to_fail() -> None:
    with torch.profiler.profile():
        found = torch_work.memory(lambda: torch.ones(3), "cpu")
    assert found["peak_bytes"] is None or found["peak_bytes"] >= 12


def test_torchs_memory_on_a_card_is_that_of_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: said.append("wait"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: said.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5000)
    found = torch_work.memory(lambda: said.append("step"), "cuda")
    assert found == {"peak_bytes": 4000, "how": "torch.cuda.max_memory_allocated, beyond what was there"}
    assert said == ["wait", "reset", "step", "wait"]
    assert torch_work.memory(lambda: None, "mps") == {"peak_bytes": None, "how": "not measured: torch does not tell it on mps"}


class Card:
    def __init__(self, *statistics: Any) -> None:
        self.statistics = iter(statistics)

    def memory_stats(self) -> Any:
        return next(self.statistics)


def plan(**sizes: int) -> Any:
    return type("Made", (), {"memory_analysis": lambda self: type("Plan", (), sizes)})()


PLAN = {"output_size_in_bytes": 100, "temp_size_in_bytes": 50, "alias_size_in_bytes": 20}
PLANNED = {"peak_bytes": 130, "how": "XLA's memory_analysis(): results and temporaries beyond the arguments"}


@pytest.mark.parametrize(
    ("card", "made", "found"),
    [
        (
            Card({"bytes_in_use": 10, "peak_bytes_in_use": 40}, {"bytes_in_use": 10, "peak_bytes_in_use": 95}),
            plan(**PLAN),
            {"peak_bytes": 85, "how": "memory_stats(), beyond what was there"},
        ),
        (Card({"bytes_in_use": 10, "peak_bytes_in_use": 400}, {"bytes_in_use": 10, "peak_bytes_in_use": 400}), plan(**PLAN), PLANNED),
        (Card(None), plan(**PLAN), PLANNED),
        (Card({}), None, {"peak_bytes": None, "how": "not measured: without jit XLA plans each operation by itself"}),
        (Card({}), plan(), {"peak_bytes": None, "how": "not measured: XLA gives no memory_analysis() here"}),
    ],
)
def test_jaxs_memory(card: Any, made: Any, found: dict[str, Any]) -> None:
    assert jax_work.memory(lambda: 0, made, card) == found


@pytest.mark.parametrize(
    ("counted", "flops", "moved"),
    [({"flops": 6.0, "bytes accessed": 24.0}, 6.0, 24.0), ({"flops": -1.0, "bytes accessed": 24.0}, None, 24.0), (None, None, None)],
)
def test_jaxs_work(counted: Any, flops: Any, moved: Any) -> None:
    found = jax_work.work(type("Made", (), {"cost_analysis": lambda self: counted})())
    assert (found["flops"], found["bytes"]) == (flops, moved)
    assert found["how"].startswith("XLA's" if moved else "not counted")
    assert jax_work.work(None)["flops"] is None


def test_what_torch_compiled_is_not_counted_as_nothing() -> None:
    found = torch_work.measured(lambda: torch.ones(3), "cpu", True)["work"]
    assert found == {"flops": None, "bytes": None, "how": "not counted: torch's counter does not see what torch.compile made"}


def test_torchs_work_is_that_of_its_counter_and_what_it_cannot_count_is_said() -> None:
    x = torch.ones(4, 5)
    assert torch_work.work(lambda: x @ x.T)["flops"] == 2 * 4 * 5 * 4

    def refuses() -> None:
        raise RuntimeError

    assert torch_work.work(refuses) == {"flops": None, "bytes": None, "how": "not counted: RuntimeError under torch's counter"}


