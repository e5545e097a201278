"""The torch side: modules with everything that modules have, functions, optimizers, and the one private import."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import pytest_dlparity as dlp
from pytest_dlparity import run
from pytest_dlparity.frameworks import torch as torch_side

X = dlp.normal(4, 6)
F = torch.nn.functional


def check(spec: Any, **settings: Any) -> Any:
    return dlp.check(spec, **{"devices": ["cpu"], **settings})


def statuses(report: Any) -> dict[str, str]:
    return {v.name: v.status for v in report.verdicts}


def names(report: Any) -> list[str]:
    return [v.name for v in report.verdicts]


# ---------------------------------------------------------------- modules


class Tied(torch.nn.Module):
    """An autoencoder whose decoder is its encoder's weight, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = torch.nn.Linear(6, 6, bias=False)
        self.decode = torch.nn.Linear(6, 6, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x).tanh())


def test_a_tied_parameter_is_one_leaf_whose_gradient_has_both_parts() -> None:
    report = check(dlp.layer(Tied(), lambda p, x: jnp.tanh(x @ p["encode.weight"].T) @ p["encode.weight"].T, inputs=[X]))
    assert statuses(report) == {"output": "agree", "grad.input": "agree", "grad.encode.weight": "agree"}


def test_a_tied_parameter_used_once_in_the_port_is_semantics() -> None:
    def port(p: Any, x: Any) -> Any:
        return jnp.tanh(x @ p["encode.weight"].T) @ jax.lax.stop_gradient(p["encode.weight"]).T

    assert check(dlp.layer(Tied(), port, inputs=[X]))["grad.encode.weight"].status == "semantics"


def test_tied_names_are_known() -> None:
    assert torch_side.tied(Tied()) == {"decode.weight": "encode.weight"} and torch_side.tied(torch.sin) == {}


def batch_norm(p: Any, x: Any) -> Any:
    return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * p["weight"] + p["bias"]


def test_buffers_reach_the_jax_side_and_unchanged_ones_are_no_leaves() -> None:
    def evaluated(p: Any, x: Any) -> Any:
        return (x - p["running_mean"]) / jnp.sqrt(p["running_var"] + 1e-5) * p["weight"] + p["bias"]

    report = check(dlp.layer(torch.nn.BatchNorm1d(6), evaluated, inputs=[X], train=False))
    assert statuses(report) == dict.fromkeys(["output", "grad.input", "grad.weight", "grad.bias"], "agree")


def test_train_sets_the_mode_and_none_leaves_it() -> None:
    norm = torch.nn.BatchNorm1d(6)
    assert check(dlp.layer(norm, batch_norm, inputs=[X], train=True, wrt=[]))["output"].ok
    assert check(dlp.layer(norm, batch_norm, inputs=[X], wrt=[]))["output"].ok
    assert not check(dlp.layer(norm, batch_norm, inputs=[X], train=False, wrt=[]))["output"].ok
    assert not check(dlp.layer(norm.eval(), batch_norm, inputs=[X], wrt=[]))["output"].ok


def test_frozen_parameters_have_no_gradient_leaf_and_wrt_brings_them_back() -> None:
    module = torch.nn.Linear(6, 2)
    module.bias.requires_grad_(False)
    port = lambda p, x: x @ p["weight"].T + p["bias"]
    assert names(check(dlp.layer(module, port, inputs=[X]))) == ["output", "grad.input", "grad.weight"]
    assert names(check(dlp.layer(module, port, inputs=[X], wrt=["bias"]))) == ["output", "grad.bias"]
    assert not module.bias.requires_grad


def test_a_module_class_and_a_factory_are_made_in_the_cell() -> None:
    assert check(dlp.layer(torch.nn.Tanh, jnp.tanh, inputs=[X])).ok
    assert check(dlp.layer(lambda: torch.nn.Linear(6, 2), lambda p, x: x @ p["weight"].T + p["bias"], inputs=[X])).ok


def test_tensors_that_are_neither_parameters_nor_buffers_follow_into_float64() -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.linspace(0, 1, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.table

    table = np.linspace(0, 1, 6, dtype=np.float32)
    assert check(dlp.layer(Table(), lambda x: x * table.astype(x.dtype), inputs=[X]))["output"].note == ""


def test_keyword_inputs_reach_both_sides_by_name() -> None:
    spec = dlp.layer(lambda *, scale, x: x * scale, lambda *, scale, x: x * scale, inputs={"x": X, "scale": dlp.normal(6)})
    assert statuses(check(spec)) == dict.fromkeys(["output", "grad.x", "grad.scale"], "agree")


def test_nested_params_reach_both_sides_as_they_were_nested() -> None:
    side = lambda p, x: x * p["fc"]["w"] + p["b"]
    report = check(dlp.layer(side, side, inputs=[X], params={"fc": {"w": dlp.normal(6)}, "b": dlp.normal(6)}))
    assert statuses(report) == dict.fromkeys(["output", "grad.input", "grad.fc.w", "grad.b"], "agree")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_floats_take_the_cells_dtype_and_integers_and_booleans_keep_theirs(dtype: str) -> None:
    seen = set()

    def side(x: torch.Tensor, i: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.add((x.dtype, i.dtype, b.dtype))
        return x[i] * b

    inputs = [dlp.normal(5), dlp.integers(3, high=5), dlp.booleans(3)]
    check(dlp.layer(side, lambda x, i, b: x[i] * b, inputs=inputs), dtypes=[dtype])
    assert seen == {(getattr(torch, name), torch.int64, torch.bool) for name in {"float64", dtype}}


# ---------------------------------------------------------------- optimizers


def optimized(torch_side: Any, jax_side: Any, steps: int = 3, **more: Any) -> Any:
    return check(dlp.optimizer(torch_side, jax_side, params={"w": dlp.normal(3, 4)}, steps=steps, **more))


RIGHT: dict[str, tuple[Any, Any]] = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1)),
    "Nesterov": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "Adam": (lambda p: torch.optim.Adam(p, 1e-2), optax.adam(1e-2)),
    "AdamW": (lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1), optax.adamw(1e-2, weight_decay=0.1)),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, 1e-2), optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False)),
    "NAdam-free Adamax": (lambda p: torch.optim.Adamax(p, 1e-2), optax.adamax(1e-2)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_an_optimizer_agrees_with_its_counterpart(case: str) -> None:
    report = optimized(*RIGHT[case])
    assert names(report) == ["update.1.w", "update.2.w", "update.3.w"] and report.ok, str(report)


WRONG: dict[str, tuple[Any, Any]] = {
    "eps inside the square root": (lambda p: torch.optim.Adam(p, 1e-2, eps=1e-3), optax.adam(1e-2, eps=0.0, eps_root=1e-6)),
    "decay into the gradient": (lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
                                optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2))),
    "an update one per cent too large": (lambda p: torch.optim.SGD(p, 1e-4), optax.sgd(1.01e-4)),
    "another sign": (lambda p: torch.optim.SGD(p, 1e-4, maximize=True), optax.sgd(1e-4)),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_optimizer_is_semantics_from_the_first_step(case: str) -> None:
    report = optimized(*WRONG[case], steps=2)
    assert statuses(report) == {"update.1.w": "semantics", "update.2.w": "semantics"}


def test_a_learning_rate_scheduler_steps_after_each_step() -> None:
    def decayed(params: Any) -> Any:
        made = torch.optim.SGD(params, 0.1)
        return made, torch.optim.lr_scheduler.ExponentialLR(made, 0.5)

    assert optimized(decayed, optax.sgd(optax.exponential_decay(0.1, 1, 0.5))).ok
    late = optimized(decayed, optax.sgd(0.1))
    assert statuses(late) == {"update.1.w": "agree", "update.2.w": "semantics", "update.3.w": "semantics"}


def test_gradients_of_the_users_own_are_taken() -> None:
    clip = optax.chain(optax.clip(0.5), optax.sgd(0.1))
    small, large = {"w": dlp.uniform(3, 4, low=-0.4, high=0.4)}, {"w": dlp.normal(3, 4, scale=10)}
    sgd = lambda p: torch.optim.SGD(p, 0.1)
    assert optimized(sgd, clip, grads=small).ok and not optimized(sgd, clip, grads=large).ok


def test_lbfgs_is_refused_in_words() -> None:
    with pytest.raises(dlp.SpecError) as caught:
        optimized(lambda p: torch.optim.LBFGS(p), optax.sgd(0.1))
    assert str(caught.value) == (
        "torch.optim.LBFGS calls a closure several times in a step, so one step has no fixed gradient to compare. "
        "Compare the loss and its gradients with dlp.loss, and the result of a whole minimisation in a test of its own."
    )


def steps_on_dense_gradients(name: str) -> bool:
    made = getattr(torch.optim, name)
    return isinstance(made, type) and name not in ("Optimizer", "LBFGS", "SparseAdam")


STEPS_ON_DENSE = [name for name in sorted(torch.optim.__all__) if steps_on_dense_gradients(name)]


def stepped(make: Any, nudge: Any = None, starts: Any = ()) -> run.Outcome:
    """Two steps in float64, from the user's numbers or from given states."""
    made = dlp.optimizer(make, optax.sgd(0.1), params={"w": dlp.normal(3, 4)}, steps=2)
    prep = run.prepared(made, 0, ["float32"])
    return run.torch_outcome(prep, run.torch_ready(prep, "cpu", "float64", False), "cpu", "float64", nudge, starts)


@pytest.mark.parametrize("name", STEPS_ON_DENSE)
def test_every_optimizer_of_torch_steps_from_given_states_and_moves_little_under_rounding(name: str) -> None:
    """What our runner adds (feeding states, nudging hyperparameters) works with what each of them keeps."""
    make = getattr(torch.optim, name)
    free = stepped(make)
    nudged = stepped(make, torch_side.rounding(2.0**-24, 1), free.starts).leaves
    fed = stepped(make, None, free.starts).leaves
    assert list(free.leaves) == ["update.1.w", "update.2.w"]
    for key, update in free.leaves.items():
        assert np.any(update) and np.array_equal(update, fed[key])
        assert 0 < np.abs(nudged[key] - update).max() < 1e-2 * np.abs(update).max()


def test_a_run_from_given_states_leaves_them_as_they_were() -> None:
    free = stepped(torch.optim.Adam)
    kept = [value.clone() for start in free.starts for state in start.state.values() for value in state.values()]
    stepped(torch.optim.Adam, None, free.starts)
    now = [value for start in free.starts for state in start.state.values() for value in state.values()]
    assert kept and all(torch.equal(before, after) for before, after in zip(kept, now, strict=True))


# ---------------------------------------------------------------- a trajectory


def test_a_model_trains_on_batches_that_start_again_when_they_run_out() -> None:
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(4, 6)), rng.normal(size=(4, 1))) for _ in range(2)]
    module = torch.nn.Linear(6, 1)
    spec = dlp.model(
        module, lambda p, x: x @ p["weight"].T + p["bias"],
        loss=dlp.loss(F.mse_loss, lambda z, y: ((z - y) ** 2).mean()),
        optimizer=dlp.optimizer(lambda p: torch.optim.SGD(p, 0.1), optax.sgd(0.1)), batches=data, steps=3,
    )  # fmt: skip
    report = check(spec)
    assert report.ok, str(report)
    assert {"output", "loss", "grad.weight", "grad.bias", "loss.1", "loss.3", "update.1.weight", "update.3.bias"} <= set(names(report))


# ---------------------------------------------------------------- rounding, casts, private names


def test_the_private_dispatch_mode_is_where_it_was() -> None:
    mode = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode
    assert torch_side.TorchDispatchMode is mode and issubclass(torch_side.RoundEverywhere, mode) and issubclass(torch_side.Casts, mode)


def test_rounding_everywhere_moves_computed_results_by_one_rounding_and_exact_ones_not_at_all() -> None:
    x = torch.ones(64, dtype=torch.float64)
    with torch_side.RoundEverywhere(torch_side.rounding(2.0**-10, 0)):
        moved, chosen = x + x, torch.relu(x)
    assert set((moved / 2 - 1).tolist()) == {2.0**-10, -(2.0**-10)} and torch.equal(chosen, x)


def test_rounding_everywhere_sees_what_is_written_in_place_and_in_the_gradient() -> None:
    x = torch.ones(8, dtype=torch.float64, requires_grad=True)
    with torch_side.RoundEverywhere(torch_side.rounding(2.0**-10, 0)):
        y = x * 3
        y.mul_(2)
        (grad,) = torch.autograd.grad(y.sum(), x)
    assert (y != 6).all() and (grad != 6).any()


def test_a_nudge_leaves_integers_and_moves_complex_numbers() -> None:
    nudge = torch_side.rounding(2.0**-10, 0)
    assert torch.equal(nudge(torch.arange(3)), torch.arange(3)) and not torch.equal(nudge(torch.ones(8) * 1j), torch.ones(8) * 1j)
    assert torch_side.unmoved(nudge) is nudge


@pytest.mark.parametrize("file", ["model.py", "models/torch_port.py", "torchvision_like/resnet.py"])
def test_casts_are_seen_with_the_users_line_whatever_the_users_file_is_called(file: str) -> None:
    written: dict[str, Any] = {}
    exec(compile("def cast(x):\n    x.float()\n    x.bfloat16()\n    x.to(__import__('torch').int64)\n", f"/home/user/{file}", "exec"), written)
    with torch_side.Casts() as watching:
        written["cast"](torch.ones(3, dtype=torch.float64))
    name = file.split("/")[-1]
    assert watching.seen == {"float32": f"{name}:2", "bfloat16": f"{name}:3"}


@pytest.mark.parametrize(
    ("side", "count"),
    [
        (lambda x: x, 1), (lambda x, y, z=1: x, 2), (lambda *xs: xs, None), (F.mse_loss, 2), (torch.nn.MSELoss(), 2), (torch.nn.Linear(2, 2), 1),
        (torch.sin, None),
    ],
)  # fmt: skip
def test_the_number_of_arguments_is_known_where_python_knows_it(side: Any, count: int | None) -> None:
    assert torch_side.arity(side) == count


def test_masters_and_results_keep_every_bit() -> None:
    for tensor in (torch.tensor([1.5], dtype=torch.bfloat16), torch.tensor([1.5], dtype=torch.float16), torch.tensor([1.5j]).conj()):
        assert torch_side.master(tensor).itemsize in (8, 16)
        assert np.array_equal(torch_side.to_numpy(tensor), tensor.resolve_conj().to(torch.complex128).numpy())
    assert torch_side.master(torch.tensor([2**40])).tolist() == [2**40] and torch_side.master(torch.tensor([True])).dtype == bool


def test_without_an_accelerator_nothing_is_seeded_but_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed would keep a call, with its stack, for a CUDA that may come: one for every run of a check."""
    seeded: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    for available, wanted in ((False, []), (True, [0])):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda available=available: available)
        with torch_side.settings("float32", "highest"):
            assert torch.initial_seed() == 0 or available
        assert seeded == wanted
