"""Optimizers, schedules of the learning rate, clipping and averages of parameters: torch.optim against optax, with every default written out.

Without an entry, because there is no optax transformation that is like them (optax_like says why): LBFGS, SparseAdam, ReduceLROnPlateau.
Muon is in optax_like, but rounds to bfloat16 inside, so that the last bit of an update is free.
"""

from __future__ import annotations

from typing import Any

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import normal

MATRICES = {"odd": {"w": normal(5, 3), "b": normal(3)}}
PLAIN = {"odd": {"w": normal(7), "b": normal(1)}}
SCHEDULER = "torch.optim.lr_scheduler."


def away_from_zero(*shape: int) -> Any:
    """Gradients whose squares float16 holds: with normal ones Adam divides by a square that underflows, on both sides."""
    return lambda rng: rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 2, shape)


MATRIX_GRADS = {"w": away_from_zero(5, 3), "b": away_from_zero(3)}


def made(torch: str) -> str:
    """optax_like of an optimizer as an entry writes it."""
    return f"dlp.catalog.optax_like({torch.removeprefix('lambda params: ').replace('params', '[torch.zeros(1)]')})"


def written(name: str, arguments: str, optax: str, words: str = "", **more: Any) -> Entry:
    """An optimizer that optax has, with its exact arguments."""
    of = f"torch.optim.{more.pop('of')}"
    return Entry(
        name,
        f"lambda params: {of}(params{', ' * bool(arguments)}{arguments})",
        {"optax": Equivalent(optax, words=words)},
        MATRICES,
        kind="optimizer",
        options={"steps": 5, "grads": MATRIX_GRADS, **more},
        of=of,
    )


SGD = [
    written(f"sgd{name}", arguments, code, words, of="SGD")
    for name, arguments, code, words in [
        ("", "lr=0.1", "optax.sgd(0.1)", ""),
        (
            "-weight-decay",
            "lr=0.1, weight_decay=0.01",
            "optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1))",
            "torch adds the decay to the gradient.",
        ),
        ("-momentum", "lr=0.1, momentum=0.9", "optax.sgd(0.1, momentum=0.9)", "Both keep v = momentum v + g: no factor 1 - momentum."),
        (
            "-momentum-decay",
            "lr=0.1, momentum=0.9, weight_decay=0.01",
            "optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9))",
            "",
        ),
        (
            "-dampening",
            "lr=0.1, momentum=0.9, dampening=0.5",
            "optax.chain(optax.scale_by_schedule(lambda count: jnp.where(count == 0, 1.0, 1 - 0.5)), optax.sgd(0.1, momentum=0.9))",
            "The first gradient enters whole.",
        ),
        ("-nesterov", "lr=0.1, momentum=0.9, nesterov=True", "optax.sgd(0.1, momentum=0.9, nesterov=True)", ""),
        ("-maximize", "lr=0.1, momentum=0.9, maximize=True", "optax.chain(optax.scale(-1.0), optax.sgd(0.1, momentum=0.9))", ""),
    ]
]

ADAM = [
    written(name, arguments, code, words, of=of)
    for name, of, arguments, code, words in [
        ("adam", "Adam", "lr=1e-2", "optax.adam(1e-2)", "Both have betas 0.9 and 0.999, and epsilon 1e-8 outside the root."),
        ("adam-betas", "Adam", "lr=1e-2, betas=(0.8, 0.95), eps=1e-4", "optax.adam(1e-2, b1=0.8, b2=0.95, eps=1e-4)", ""),
        (
            "adam-weight-decay",
            "Adam",
            "lr=1e-2, weight_decay=0.1",
            "optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-2))",
            "torch.optim.Adam adds the decay to the gradient; optax.adamw is torch.optim.AdamW.",
        ),
        ("adam-maximize", "Adam", "lr=1e-2, maximize=True", "optax.chain(optax.scale(-1.0), optax.adam(1e-2))", ""),
        ("adamw", "AdamW", "lr=1e-2", "optax.adamw(1e-2, weight_decay=0.01)", "torch's decay is 0.01 by default, optax's 1e-4."),
        ("adamw-betas", "AdamW", "lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1", "optax.adamw(1e-2, b2=0.95, weight_decay=0.1)", ""),
        ("adamax", "Adamax", "lr=1e-2", "optax.adamax(1e-2)", ""),
        (
            "adamax-weight-decay",
            "Adamax",
            "lr=1e-2, weight_decay=0.1",
            "optax.chain(optax.add_decayed_weights(0.1), optax.adamax(1e-2))",
            "",
        ),
    ]
]

OTHERS = [
    written(name, arguments, code, words, of=of)
    for name, of, arguments, code, words in [
        (
            "rmsprop",
            "RMSprop",
            "lr=1e-2",
            "optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False)",
            "torch's alpha is 0.99, optax's decay 0.9; torch adds epsilon to the root, optax by default to what is under it.",
        ),
        (
            "rmsprop-centered",
            "RMSprop",
            "lr=1e-2, centered=True",
            "optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False, centered=True)",
            "",
        ),
        (
            "rmsprop-momentum",
            "RMSprop",
            "lr=1e-2, momentum=0.9, alpha=0.9",
            "optax.rmsprop(1e-2, decay=0.9, eps=1e-8, eps_in_sqrt=False, momentum=0.9)",
            "With a schedule they differ: optax multiplies by the learning rate before the momentum, torch after it.",
        ),
        (
            "rmsprop-decay",
            "RMSprop",
            "lr=1e-2, weight_decay=0.1",
            "optax.chain(optax.add_decayed_weights(0.1), optax.rmsprop(1e-2, decay=0.99, eps=1e-8, eps_in_sqrt=False))",
            "",
        ),
        (
            "adadelta",
            "Adadelta",
            "",
            "optax.adadelta(1.0, rho=0.9, eps=1e-6)",
            "torch's learning rate is 1 by default; optax has none by default, and then forgets the sign.",
        ),
        (
            "adadelta-decay",
            "Adadelta",
            "lr=0.5, rho=0.95, weight_decay=0.1",
            "optax.chain(optax.add_decayed_weights(0.1), optax.adadelta(0.5, rho=0.95, eps=1e-6))",
            "",
        ),
    ]
]

# what optax has in another form, or not at all: dlp.catalog.optax_like writes it
WHY = {
    "amsgrad": "torch keeps the maximum of the raw second moment, optax.amsgrad that of the corrected one",
    "nadam": "torch's momentum grows with the steps (momentum_decay), optax.nadam's is constant",
    "radam": "torch adds epsilon before the bias correction, optax.radam after it",
    "adagrad": "torch adds epsilon to the root, optax.adagrad to what is under it",
    "rprop": "a step of torch moves by its own gradient, one of optax.rprop by that of the step before",
    "asgd": "optax has no averaged gradient descent; torch's parameters are those of plain descent with a rate that falls",
    "adafactor": "epsilon, learning rate and which axes are factored differ from optax.adafactor",
}
SOURCES = {
    "amsgrad": "torch/optim/adam.py; optax/_src/transform.py, scale_by_amsgrad",
    "nadam": "torch/optim/nadam.py; optax/_src/transform.py, scale_by_adam with nesterov",
    "radam": "torch/optim/radam.py; optax/_src/transform.py, scale_by_radam",
    "adagrad": "torch/optim/adagrad.py; optax/_src/transform.py, scale_by_rss",
    "rprop": "torch/optim/rprop.py; optax/_src/transform.py, scale_by_rprop",
    "asgd": "torch/optim/asgd.py",
    "adafactor": "torch/optim/_adafactor.py; optax/_src/factorized.py",
}
LIKE = [
    Entry(
        name,
        f"lambda params: torch.optim.{of}(params, {arguments})",
        {"optax": Equivalent(made(f"torch.optim.{of}(params, {arguments})"))},
        MATRICES,
        kind="optimizer",
        options={"steps": 7 if of == "RAdam" else 5, "grads": MATRIX_GRADS},
        of=f"torch.optim.{of}",
        notes={"optax": f"{WHY[why]} ({SOURCES[why]})"},
    )
    for name, of, arguments, why in [
        ("adam-amsgrad", "Adam", "lr=1e-2, amsgrad=True", "amsgrad"),
        ("adamw-amsgrad", "AdamW", "lr=1e-2, amsgrad=True", "amsgrad"),
        ("nadam", "NAdam", "lr=1e-2", "nadam"),
        ("nadam-decoupled", "NAdam", "lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True", "nadam"),
        ("radam", "RAdam", "lr=1e-2", "radam"),
        ("radam-decay", "RAdam", "lr=1e-2, weight_decay=0.1, eps=1e-3", "radam"),
        ("adagrad", "Adagrad", "lr=1e-2", "adagrad"),
        ("adagrad-accumulator", "Adagrad", "lr=0.1, lr_decay=0.1, initial_accumulator_value=0.5, eps=1e-3", "adagrad"),
        ("rprop", "Rprop", "lr=1e-2", "rprop"),
        ("rprop-etas", "Rprop", "lr=1e-2, etas=(0.25, 1.5), step_sizes=(1e-3, 0.015)", "rprop"),
        ("asgd", "ASGD", "lr=1e-2", "asgd"),
        ("asgd-decay", "ASGD", "lr=0.1, lambd=0.1, alpha=0.5, weight_decay=0.01", "asgd"),
        ("adafactor", "Adafactor", "lr=1e-2", "adafactor"),
        ("adafactor-decay", "Adafactor", "lr=1e-2, weight_decay=0.1, d=1.5", "adafactor"),
    ]
]

# what optax calls by the same name, and the steps in which it moves otherwise
SAME_NAME = [
    Entry(
        f"{name}-of-optax",
        f"lambda params: torch.optim.{of}(params, {arguments})",
        {
            "optax": Equivalent(
                code, differs=tuple(Difference(f"update.{k}.w", "odd", WHY[name], SOURCES[name]) for k in steps), words=WHY[name]
            )
        },
        {"odd": {"w": normal(5, 3)}},
        kind="optimizer",
        options={"steps": steps[-1], "grads": {"w": away_from_zero(5, 3)}},
        of=f"torch.optim.{of}",
    )
    for name, of, arguments, code, steps in [
        ("amsgrad", "Adam", "lr=1e-2, betas=(0.9, 0.5), amsgrad=True", "optax.amsgrad(1e-2, b2=0.5)", (2,)),
        ("nadam", "NAdam", "lr=1e-2", "optax.nadam(1e-2)", (1, 2)),
        ("radam", "RAdam", "lr=1e-2, betas=(0.9, 0.9), eps=1e-2", "optax.radam(1e-2, b2=0.9, eps=1e-2)", (6, 7)),
        ("adagrad", "Adagrad", "lr=1e-2, eps=1e-2", "optax.adagrad(1e-2, initial_accumulator_value=0.0, eps=1e-4)", (1, 2)),
        ("rprop", "Rprop", "lr=1e-2", "optax.rprop(1e-2)", (1, 2)),
    ]
]

# ---------------------------------------------------------------- schedules


def scheduled(
    name: str, torch: str, optax: str = "", words: str = "", of: str = "", steps: int = 9, sgd: str = "torch.optim.SGD(params, lr=0.1)"
) -> Entry:
    """SGD under a scheduler. `torch` is the scheduler of the optimizer `o`; `optax` the schedule, written by optax_like where it is empty."""
    pair = f"lambda params: (o := {sgd}, {torch.replace('S.', SCHEDULER)})"
    return Entry(
        name,
        pair,
        {"optax": Equivalent(f"optax.sgd({optax})" if optax else made(f"({pair.removeprefix('lambda params: (')}"), words=words)},
        PLAIN,
        kind="optimizer",
        options={"steps": steps},
        of=SCHEDULER + (of or torch.partition("(")[0].removeprefix("S.")),
    )


SCHEDULES = [
    scheduled("step-lr", "S.StepLR(o, step_size=3, gamma=0.5)", "optax.exponential_decay(0.1, 3, 0.5, staircase=True)"),
    scheduled(
        "multi-step-lr", "S.MultiStepLR(o, milestones=[2, 5], gamma=0.1)", "optax.piecewise_constant_schedule(0.1, {2: 0.1, 5: 0.1})"
    ),
    scheduled("constant-lr", "S.ConstantLR(o, factor=0.5, total_iters=4)", "optax.piecewise_constant_schedule(0.05, {4: 2.0})"),
    scheduled("linear-lr", "S.LinearLR(o, start_factor=0.25, end_factor=1.0, total_iters=5)", "optax.linear_schedule(0.025, 0.1, 5)"),
    scheduled("exponential-lr", "S.ExponentialLR(o, gamma=0.8)", "optax.exponential_decay(0.1, 1, 0.8)"),
    scheduled(
        "cosine-annealing-lr",
        "S.CosineAnnealingLR(o, T_max=8, eta_min=0.01)",
        "optax.cosine_decay_schedule(0.1, 8, alpha=0.1)",
        "eta_min is alpha times the first rate. After T_max steps torch's rate rises again, optax's stays.",
    ),
    scheduled("cosine-annealing-lr-beyond", "S.CosineAnnealingLR(o, T_max=4, eta_min=0.01)"),
    scheduled("polynomial-lr", "S.PolynomialLR(o, total_iters=6, power=2.0)", "optax.polynomial_schedule(0.1, 0.0, 2.0, 6)"),
    scheduled(
        "cosine-warm-restarts",
        "S.CosineAnnealingWarmRestarts(o, T_0=4)",
        "optax.join_schedules([optax.cosine_decay_schedule(0.1, 4)] * 3, [4, 8])",
    ),
    scheduled("cosine-warm-restarts-longer", "S.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2, eta_min=0.01)"),
    scheduled(
        "one-cycle-lr",
        "S.OneCycleLR(o, max_lr=0.5, total_steps=10, cycle_momentum=False)",
        words="optax.cosine_onecycle_schedule has its phases elsewhere: torch's first ends one step earlier.",
    ),
    scheduled("one-cycle-lr-momentum", "S.OneCycleLR(o, max_lr=0.5, total_steps=10)", sgd="torch.optim.SGD(params, lr=0.1, momentum=0.9)"),
    scheduled(
        "one-cycle-lr-three-phases",
        'S.OneCycleLR(o, max_lr=0.5, total_steps=10, three_phase=True, anneal_strategy="linear", cycle_momentum=False)',
    ),
    scheduled("cyclic-lr", "S.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=3, step_size_down=2, cycle_momentum=False)"),
    scheduled(
        "cyclic-lr-triangular2",
        'S.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=2, mode="triangular2")',
        sgd="torch.optim.SGD(params, lr=0.1, momentum=0.9)",
    ),
    scheduled(
        "cyclic-lr-exp-range", 'S.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=2, mode="exp_range", gamma=0.9, cycle_momentum=False)'
    ),
    scheduled("lambda-lr", "S.LambdaLR(o, lambda epoch: 0.9 ** epoch)", "lambda count: 0.1 * 0.9 ** count"),
    scheduled(
        "lambda-lr-warmup",
        "S.LambdaLR(o, lambda epoch: min(1.0, (epoch + 1) / 4))",
        "lambda count: 0.1 * jnp.minimum(1.0, (count + 1) / 4)",
    ),
    scheduled("multiplicative-lr", "S.MultiplicativeLR(o, lambda epoch: 0.9)", "optax.exponential_decay(0.1, 1, 0.9)"),
    scheduled(
        "sequential-lr",
        "S.SequentialLR(o, [S.LinearLR(o, 0.25, total_iters=4), S.CosineAnnealingLR(o, 5)], [4])",
        "optax.join_schedules([optax.linear_schedule(0.025, 0.1, 4), optax.cosine_decay_schedule(0.1, 5)], [4])",
        "Warm-up, then a cosine: optax.warmup_cosine_decay_schedule(0.025, 0.1, 4, 9) is the same.",
    ),
    scheduled(
        "chained-scheduler",
        "S.ChainedScheduler([S.ConstantLR(o, 0.5, total_iters=4), S.ExponentialLR(o, 0.9)])",
        "lambda count: 0.1 * 0.9 ** count * jnp.where(count < 4, 0.5, 1.0)",
        "The factors are multiplied.",
    ),
]

# ---------------------------------------------------------------- clipping, averages

CLIPPED = """def clipped(params):
    optimizer = torch.optim.SGD(params, lr=0.1)
    def clip(*_):
        torch.nn.utils.{}
    optimizer.register_step_pre_hook(clip)
    return optimizer"""
SMALL = {"w": normal(5, 3, scale=0.01), "b": normal(3, scale=0.01)}
CLIPPING = [
    Entry(
        f"clip-grad-{name}",
        CLIPPED.format(torch),
        {"optax": Equivalent(code, words=words)},
        MATRICES,
        kind="optimizer",
        options={"steps": 3, **options},
        of=f"torch.nn.utils.{torch.partition('(')[0]}",
    )
    for name, torch, code, words, options in [
        (
            "norm",
            "clip_grad_norm_(params, 1.0)",
            "optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))",
            "torch adds 1e-6 to the norm, optax nothing.",
            {},
        ),
        ("norm-below", "clip_grad_norm_(params, 1.0)", "optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))", "", {"grads": SMALL}),
        ("value", "clip_grad_value_(params, 0.5)", "optax.chain(optax.clip(0.5), optax.sgd(0.1))", "", {}),
    ]
]

AVERAGED = """def averaged(weights):
    model = torch.nn.Linear(3, 5, bias=False, dtype=weights.dtype, device=weights.device)
    found = torch.optim.swa_utils.AveragedModel(model{})
    for weight in weights:
        model.weight.data.copy_(weight)
        found.update_parameters(model)
    return found.module.weight.detach()"""
INCREMENTAL = """def averaged(weights):
    found = weights[0]
    for weight in weights[1:]:
        found = optax.incremental_update(weight, found, step_size=1 - 0.9)
    return found"""
AVERAGES = [
    Entry(
        name,
        AVERAGED.format(torch),
        {library: Equivalent(code, words=words)},
        {"odd": (normal(7, 5, 3),), "one": (normal(1, 5, 3),)},
        options={"wrt": []},
        of="torch.optim.swa_utils.AveragedModel",
    )
    for name, torch, library, code, words in [
        (
            "average-ema",
            ", multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)",
            "optax",
            INCREMENTAL,
            "The first update copies; optax.ema begins with zeros and divides by what that leaves out, which is another average.",
        ),
        ("average-swa", "", "jax", "lambda weights: weights.mean(0)", "The mean of all updates."),
    ]
]

ENTRIES: tuple[Entry, ...] = (*SGD, *ADAM, *OTHERS, *LIKE, *SAME_NAME, *SCHEDULES, *CLIPPING, *AVERAGES)
