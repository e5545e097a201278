"""check(spec): cells, devices, the user's exceptions, and that everything of the user's is afterwards as it was before."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import matrix, parity
from pytest_dlparity.frameworks import jax as jax_side
from pytest_dlparity.matrix import Cell

X = dlp.normal(4, 8)
SINE = dlp.layer(torch.sin, jnp.sin, inputs=[X])


def check(spec: Any, **settings: Any) -> Any:
    return dlp.check(spec, **{"devices": ["cpu"], **settings})


# ---------------------------------------------------------------- cells and devices


def test_several_cells_give_one_report_whose_verdicts_carry_their_cell() -> None:
    report = check(SINE, dtypes=["float64", "float32", "bfloat16", "float16"], modes=["eager", "nojit"])
    cells = [f"cpu-{dtype}{mode}" for dtype in ("float64", "float32", "bfloat16", "float16") for mode in ("", "-nojit")]
    assert report.ok and [str(cell) for cell in report.cells] == cells
    assert Counter((v.name, str(v.cell)) for v in report.verdicts) == Counter((name, cell) for name in ("output", "grad.input") for cell in cells)



@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_by_both_where_warnings_are_errors() -> None:
    """What torch.compile loads warns of torch's own deprecated functions."""
    report = check(dlp.layer(torch.nn.Tanh(), jnp.tanh, inputs=[dlp.normal(4, 8)]), modes=["compiled"])
    assert (report.ok, [str(v.cell) for v in report.verdicts]) == (True, ["cpu-float32-compiled"] * 2)
    assert not check(dlp.layer(torch.nn.Tanh(), jnp.sin, inputs=[dlp.normal(4, 8)]), modes=["compiled"]).ok

def test_the_again_line_repeats_the_call() -> None:
    modes = ["eager", "nojit"]
    assert check(SINE, modes=modes).again == f"dlp.check(spec, devices=['cpu'], dtypes=['float32'], modes={modes}, seed=0)"
    assert check(SINE, dtypes="bfloat16,float32", seed=5).again == "dlp.check(spec, devices=['cpu'], dtypes=['bfloat16', 'float32'], seed=5)"


def test_a_device_of_the_users_own_table_runs_and_its_note_is_said() -> None:
    table = {"fake": dlp.Device("fake", "cpu", "cpu", "fake is the CPU under another name")}
    report = check(SINE, devices=["fake"], table=table)
    assert report.ok and report.cell == Cell("fake", "float32") and report.remarks == ("  note: fake is the CPU under another name",)


def test_a_device_asked_for_and_absent_is_a_spec_error() -> None:
    table = {"gone": dlp.Device("gone", "cpu", "nowhere"), "lost": dlp.Device("lost", "nowhere", "cpu")}
    sentence = r"^gone was asked for, but jax has no device 'nowhere' here \(.*\)\. Leave it out, or write devices=\"auto\"\.$"
    with pytest.raises(dlp.SpecError, match=sentence):
        check(SINE, devices=["gone"], table=table)
    with pytest.raises(dlp.SpecError, match=r"^lost was asked for, but torch has no device 'nowhere' here \("):
        check(SINE, devices=["lost"], table=table)


@pytest.mark.parametrize("given", [torch.sin, None, "sine", [SINE]], ids=["a function", "None", "a name", "a list"])
def test_what_is_no_spec_is_refused_in_words(given: Any) -> None:
    with pytest.raises(dlp.SpecError) as caught:
        check(given)
    assert str(caught.value) == f"{given!r} is no spec. Make one with dlp.layer, dlp.loss, dlp.optimizer or dlp.model."


def test_cells_see_the_same_numbers_and_every_seed_others() -> None:
    seen: dict[str, list[np.ndarray]] = {"torch": [], "jax": []}

    def spying_torch(x: torch.Tensor) -> torch.Tensor:
        seen["torch"].append(x.detach().double().numpy().copy())
        return x * 2

    def spying_jax(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda value: seen["jax"].append(np.asarray(value).astype(np.float64)), x)
        return x * 2

    spec = dlp.layer(spying_torch, spying_jax, inputs=[X], wrt=[])
    for seed in (0, 1):
        check(spec, dtypes=["float32", "bfloat16", "float16"], seed=seed)
        jax.effects_barrier()
        first = seen["torch"][0]
        assert any(np.array_equal(first, other) for other in seen["torch"][-40:])
        assert all(np.array_equal(first, other) for other in seen["jax"])
        seen["torch"].clear()
        seen["jax"].clear()
        numbers = first if seed == 0 else numbers  # noqa: F821  bound in the first round
    assert not np.array_equal(numbers, first)


def test_adding_an_input_does_not_change_the_others() -> None:
    one = check(dlp.layer(lambda x: x * 2, lambda x: x * 2, inputs={"x": X}))
    two = check(dlp.layer(lambda x, y: x * 2 + 0 * y, lambda x, y: x * 2 + 0 * y, inputs={"y": X, "x": X}))
    assert one["output"].scale == two["output"].scale


# ---------------------------------------------------------------- the user's own exceptions


class Own(Exception):
    """The user's."""


@pytest.mark.parametrize("side", ["torch", "jax", "torch's gradient", "jax's gradient", "draw", "optimizer"])
def test_the_users_exceptions_pass_through_unchanged(side: str) -> None:
    error = Own("the user's own")

    def raising(*args: Any) -> Any:
        raise error

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        backward = staticmethod(raising)

    raising_vjp = jax.custom_vjp(lambda x: x * 2)
    raising_vjp.defvjp(lambda x: (x * 2, None), raising)
    specs: dict[str, Callable[[], Any]] = {
        "torch": lambda: dlp.layer(raising, jnp.sin, inputs=[X]),
        "jax": lambda: dlp.layer(torch.sin, raising, inputs=[X]),
        "torch's gradient": lambda: dlp.layer(Backward.apply, lambda x: x * 2, inputs=[X]),
        "jax's gradient": lambda: dlp.layer(lambda x: x * 2, raising_vjp, inputs=[X]),
        "draw": lambda: dlp.layer(torch.sin, jnp.sin, inputs=[raising]),
        "optimizer": lambda: dlp.optimizer(raising, optax.sgd(0.1), params={"w": X}, steps=1),
    }
    before = settings()
    with pytest.raises(Own) as caught:
        check(specs[side]())
    assert caught.value is error and settings() == before


# ---------------------------------------------------------------- what is the user's stays as it is


def settings() -> dict[str, Any]:
    """Everything that a run sets for itself."""
    return {
        "x64": jax.config.jax_enable_x64,
        "jax precision": jax.config.jax_default_matmul_precision,
        "jax device": jax.config.jax_default_device,
        "jax dtype": jnp.zeros(1).dtype.name,
        "torch dtype": torch.get_default_dtype(),
        "torch precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "torch state": torch.random.get_rng_state().sum().item(),
        "numpy state": np.random.get_state()[1].sum(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.fixture
def unusual() -> Iterator[None]:
    """Settings that are not the defaults, so that a reset to defaults would show."""
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    state = torch.random.get_rng_state()
    torch.manual_seed(1234)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.random.set_rng_state(state)


SPECS = {
    "a function": SINE,
    "one that draws random numbers": dlp.layer(lambda x: x + torch.rand(4, 8), lambda x: x, inputs=[X], wrt=[]),
    "one that raises in float64 only": dlp.layer(
        lambda x: x.sin() if x.dtype is not torch.float64 else 1 / 0, jnp.sin, inputs=[X], wrt=[]
    ),
    "an optimizer": dlp.optimizer(lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1), params={"w": X}, steps=2),
}


@pytest.mark.parametrize("case", SPECS)
def test_settings_are_restored(case: str, unusual: None) -> None:
    before = settings()
    check(SPECS[case], dtypes=["float32", "bfloat16"])
    assert settings() == before


def test_settings_are_restored_when_a_side_raises(unusual: None) -> None:
    before = settings()
    for spec in (dlp.layer(lambda x: 1 / 0, jnp.sin, inputs=[X]), dlp.layer(torch.sin, lambda x: 1 / 0, inputs=[X])):
        with pytest.raises(ZeroDivisionError):
            check(spec)
        assert settings() == before


def test_x64_is_off_inside_a_float32_cell_and_on_inside_the_reference_and_off_afterwards() -> None:
    seen = []

    def port(x: jax.Array) -> jax.Array:
        seen.append((x.dtype.name, jax.config.jax_enable_x64, jnp.arange(1).dtype.name, jnp.ones(1).dtype.name))
        return jnp.sin(x)

    check(dlp.layer(torch.sin, port, inputs=[X]))
    assert set(seen) == {("float64", True, "int64", "float64"), ("float32", False, "int32", "float32")}
    assert jnp.arange(1).dtype == jnp.int32


def test_it_runs_inside_no_grad_and_inference_mode() -> None:
    with torch.no_grad():
        assert check(SINE).ok
    made = torch.nn.Linear(8, 2)
    with torch.inference_mode():
        assert check(dlp.layer(made, lambda p, x: x @ p["weight"].T + p["bias"], inputs=[X])).ok


def test_a_users_module_is_not_changed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5))
    module.train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    identities = [id(p) for p in module.parameters()]

    def port(p: Any, x: Any) -> Any:
        h = x @ p["0.weight"].T + p["0.bias"]
        h = (h - p["1.running_mean"]) / jnp.sqrt(p["1.running_var"] + 1e-5)
        return h * p["1.weight"] + p["1.bias"]

    check(dlp.layer(module, port, inputs=[X], train=False), dtypes=["float64", "bfloat16"]).raise_if_failed()
    assert all(torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype for name, tensor in module.state_dict().items())
    assert [id(p) for p in module.parameters()] == identities and all(p.grad is None and p.requires_grad for p in module.parameters())
    assert (module.training, module[1].training, module[2].training) == (True, False, True)


def test_a_users_arrays_are_not_changed_by_sides_that_write_into_them() -> None:
    array = np.arange(6.0)

    def writes(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y.mul_(2)
        return y

    def overwrites(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)

    assert check(dlp.layer(writes, lambda x: x * 2, inputs=[array])).ok
    report = check(dlp.layer(overwrites, lambda x: x * 2, inputs=[array], wrt=[]), dtypes=["float64", "float32", "bfloat16"])
    assert array.tolist() == [0, 1, 2, 3, 4, 5] and report.ok, str(report)


def test_a_users_flax_module_is_not_changed() -> None:
    from flax import nnx

    module = nnx.BatchNorm(8, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.state(module))
    theirs = torch.nn.BatchNorm1d(8, momentum=0.01)
    assert check(dlp.layer(theirs, module, inputs=[X], train=True), dtypes=["float32"]) is not None
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.tree.map(np.array, nnx.state(module))))
    assert theirs.num_batches_tracked.item() == 0 and theirs.running_mean.abs().max() == 0


def test_a_check_can_be_repeated_with_the_same_result() -> None:
    first, second = (check(SINE, dtypes=["float32", "bfloat16"]) for _ in range(2))
    assert first.verdicts == second.verdicts


# ---------------------------------------------------------------- what a check compiles


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """The names of what XLA compiles while the test runs."""
    jax_side._quick()  # asks XLA once in a process
    seen: list[str] = []

    def listen(event: str, seconds: float, **more: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(str(more.get("fun_name", "?")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_the_listener_hears_a_compilation(compiled: list[str]) -> None:
    jax.jit(lambda x: x * 3.5)(np.ones(7, np.float32))
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("dtypes", "count"), [(["float64"], 1), (["float32"], 2), (["float32", "bfloat16"], 3), (["float64", "float32", "bfloat16"], 3)], ids=str
)
def test_a_check_compiles_the_jax_function_once_per_dtype_and_nothing_else(compiled: list[str], dtypes: list[str], count: int) -> None:
    spec = dlp.layer(lambda p, x: x.sin() * p["w"], lambda p, x: jnp.sin(x) * p["w"], params={"w": dlp.normal(8)}, inputs=[X])
    assert check(spec, dtypes=dtypes).ok
    assert len(compiled) == count, compiled


def test_a_loss_and_integers_compile_nothing_more(compiled: list[str]) -> None:
    spec = dlp.loss(
        torch.nn.functional.cross_entropy,
        lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean(),
        inputs=[X, dlp.integers(4, high=8)],
    )
    assert check(spec).ok and len(compiled) == 2, compiled


def test_an_optimizer_compiles_its_init_and_its_step_once_per_dtype(compiled: list[str]) -> None:
    spec = dlp.optimizer(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9), params={"w": X}, steps=4)
    assert check(spec).ok and len(compiled) == 4, compiled


# ---------------------------------------------------------------- what stands below a report


def test_the_environment_line_says_versions_devices_and_seed() -> None:
    line = check(SINE, seed=3).environment
    assert re.fullmatch(r"torch [\d.]+\S* on cpu, jax [\d.]+ on cpu, python [\d.]+, \w+, seed 3", line)


def test_remarks_say_that_there_is_no_float64_and_why() -> None:
    report = check(SPECS["one that raises in float64 only"])
    assert len(report.remarks) == 1
    assert re.fullmatch(r"  note: there is no float64 reference: ZeroDivisionError at test_parity\.py:\d+: division by zero", report.remarks[0])


def test_strict_and_tolerance_settings_reach_the_report() -> None:
    spec = SPECS["one that raises in float64 only"]
    assert check(spec).ok and not check(spec, strict=True).ok
    loose = dlp.Tolerance(rtol=0.1, atol=0.1)
    assert check(SINE, tolerance=loose)["output"].detail[0] == loose
    tight = dlp.layer(torch.sin, jnp.sin, inputs=[X], tolerance=dlp.Tolerance(rtol=0, atol=0))
    assert check(tight, tolerance=loose, dtypes=["bfloat16"])["output"].detail[0] == dlp.Tolerance(rtol=0, atol=0)


def test_a_number_on_the_bound_of_what_a_loss_takes() -> None:
    """torch's BCELoss refuses targets beyond 1, and rounding would move a 1 beyond it."""
    labels = dlp.fixed([0.0, 1.0, 1.0, 0.0])

    def entropy(x: Any, y: Any) -> Any:
        return -(y * jnp.log(x) + (1 - y) * jnp.log1p(-x)).mean()

    given = {"inputs": [dlp.uniform(4, low=0.1, high=0.9), labels], "wrt": ["input0"]}
    assert check(dlp.loss(torch.nn.BCELoss(), entropy, **given), dtypes=["float32", "bfloat16"]).ok
    wrong = check(dlp.loss(torch.nn.BCELoss(), lambda x, y: entropy(x, 1 - y), **given))
    assert [v.status for v in wrong.verdicts] == ["semantics", "semantics"]


# ---------------------------------------------------------------- many seeds of one spec

MODELS: dict[str, Any] = {
    "function": lambda: torch.tanh,
    "module": lambda: torch.nn.Linear(8, 3),
    "optimizer": lambda: lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "training": lambda: torch.nn.Linear(8, 3),
}


def spec_of(kind: str, side: Any) -> dlp.Spec:
    if kind == "function":
        return dlp.layer(side, jnp.tanh, inputs=[X])
    if kind == "module":
        return dlp.layer(side, lambda p, x: x @ p["weight"].T + p["bias"], inputs=[X])
    if kind == "optimizer":
        return dlp.optimizer(side, optax.sgd(0.1, momentum=0.9), params={"w": X}, steps=2)
    return dlp.model(
        side,
        lambda p, x: x @ p["weight"].T + p["bias"],
        inputs=[X, dlp.normal(4, 3)],
        loss=dlp.loss(torch.nn.functional.mse_loss, lambda z, y: ((z - y) ** 2).mean()),
        optimizer=dlp.optimizer(lambda params: torch.optim.SGD(params, lr=0.1), optax.sgd(0.1)),
        steps=2,
    )


@pytest.mark.parametrize("kind", MODELS)
def test_another_seed_of_a_spec_is_that_seed_and_compiles_nothing(kind: str, compiled: list[str]) -> None:
    def made(seed: int) -> Any:
        with parity.seeded(seed):
            return MODELS[kind]()

    cell, device = Cell("cpu", "bfloat16"), matrix.devices()["cpu"]
    first = parity.begun(spec_of(kind, made(0)), 0, ["float32", "bfloat16"])
    parity.in_cell(first, cell, device)
    fresh = parity.begun(spec_of(kind, made(5)), 5, ["bfloat16"])
    wanted = parity.in_cell(fresh, cell, device)
    compiled.clear()
    again = parity.reseeded(first, made(5), 5, ["bfloat16"])
    found = parity.in_cell(again, cell, device)
    assert compiled == []
    for name, array in fresh.reference.torch.leaves.items():
        assert np.array_equal(array, again.reference.torch.leaves[name]) and not np.array_equal(array, first.reference.torch.leaves[name])
    for name, array in fresh.reference.jax.leaves.items():
        np.testing.assert_array_equal(array, again.reference.jax.leaves[name])
    assert [(v.name, v.status, v.error) for v in found.verdicts] == [(v.name, v.status, v.error) for v in wanted.verdicts]


def test_paired_draws_are_those_of_one_seed() -> None:
    def dropped(x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x / 0.5, 0.0)

    spec = dlp.layer(torch.nn.Dropout(0.5), dropped, inputs=[X], train=True, shared_randomness=True)
    begun = parity.begun(spec, 0, ["float32"])
    with pytest.raises(
        dlp.SpecError,
        match=r"^shared_randomness=True pairs the draws of one seed\. Check each seed by itself: dlp\.check\(spec, seed=1\)\.$",
    ):
        parity.reseeded(begun, torch.nn.Dropout(0.5), 1, ["float32"])
