"""Recurrent layers and their cells."""

from __future__ import annotations

from pytest_dlparity.catalog.entry import Difference, Entry, Equivalent
from pytest_dlparity.draws import normal

GATES = {
    "biases": "torch adds two biases to each gate, flax, equinox and haiku one: the sum of torch's (torch.nn.LSTM; flax.linen.LSTMCell)",
    "state": "torch takes and gives (h, c), flax carries (c, h) (flax.linen.LSTMCell)",
    "layout": "torch is (time, batch, features) unless batch_first=True; linen.RNN and nnx.RNN are (batch, time, features) unless time_major=True "
    "(torch.nn.LSTM; flax.linen.RNN; flax.nnx.RNN)",
}

# ---------------------------------------------------------------- whole layers, written with lax.scan

STEPS = {
    "RNN": """
        h = jnp.{activation}(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
        return h, h""",
    "GRU": """
        ir, iz, new = jnp.split(x @ w_ih.T + b_ih, 3, -1)
        hr, hz, old = jnp.split(h @ w_hh.T + b_hh, 3, -1)
        z = jax.nn.sigmoid(iz + hz)
        h = (1 - z) * jnp.tanh(new + jax.nn.sigmoid(ir + hr) * old) + z * h
        return h, h""",
    "LSTM": """
        h, c = h
        i, f, g, o = jnp.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c){projected}
        return (h, c), h""",
}

FUNCTION = """
def recurrent(p, x):
    def layer(x, name, reverse):
        w_ih, w_hh = p["weight_ih" + name], p["weight_hh" + name]
        b_ih, b_hh = (p["bias_ih" + name], p["bias_hh" + name]) if {bias} else (0, 0)
        zeros = jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype)
        start = {start}
        return lax.scan(lambda h, x: step(h, x, w_ih, w_hh, b_ih, b_hh, name), start, x, reverse=reverse)

    def step(h, x, w_ih, w_hh, b_ih, b_hh, name):{step}

    last = []
    for k in range({layers}):
        runs = [layer(x, f"_l{{k}}{{end}}", reverse=bool(end)) for end in {ends}]
        x = jnp.concatenate([out for _, out in runs], -1)
        last += [state for state, _ in runs]
    return x, jax.tree.map(lambda *states: jnp.stack(states), *last)
"""

SEQUENCE = {"odd and even": [normal(5, 2, 3)], "batch of one": [normal(3, 1, 3)]}
ALIVE = {"odd and even": [normal(5, 4, 3)], "long": [normal(9, 3, 3)]}  # a small layer of relu may be silent


def _layer(kind: str, name: str = "", activation: str = "tanh", **given: object) -> Entry:
    """A torch layer against lax.scan."""
    said = "".join(f", {key}={value!r}" for key, value in given.items())
    projected = ' @ p["weight_hr" + name].T' if given.get("proj_size") else ""
    wide = "jnp.zeros((x.shape[1], w_hh.shape[0] // 4), x.dtype)"
    function = FUNCTION.format(
        bias=given.get("bias", True),
        layers=given.get("num_layers", 1),
        ends=("", "_reverse") if given.get("bidirectional") else ("",),
        start=f"(zeros, {wide})" if kind == "LSTM" else "zeros",
        step=STEPS[kind].format(activation=activation, projected=projected),
    ).replace("jnp.relu", "jax.nn.relu")
    return Entry(
        name=f"{kind.lower()}{name}",
        torch=f"torch.nn.{kind}(3, 4{said})",
        jax={"jax": Equivalent(function, words="The parameters keep torch's names and layout.")},
        cases=ALIVE if activation == "relu" else SEQUENCE,
        options={"train": False} if "dropout" in given else {},
        notes=GATES,
        missing=dict.fromkeys(("equinox", "haiku"), "it has cells and no layer of this kind; scan over its cell"),
    )


# ---------------------------------------------------------------- outputs of a sequence, by the layers of the libraries


def _sequence(kind: str, both: bool = False) -> Entry:
    """Outputs alone, batch first."""
    two = ", bidirectional=True" if both else ""
    nonlinear = ", nonlinearity='relu'" if kind == "RNN-relu" else ""
    base = kind.split("-")[0]
    cell = {"RNN": "SimpleCell", "LSTM": "LSTMCell", "GRU": "GRUCell"}[base]
    relu = ", activation_fn=jax.nn.relu" if nonlinear else ""
    linen, nnx = f"linen.RNN(linen.{cell}(4{relu}))", f"nnx.RNN(nnx.{cell}(3, 4{relu}, rngs=nnx.Rngs(0)))"
    if both:
        linen, nnx = f"linen.Bidirectional({linen}, {linen})", f"nnx.Bidirectional({nnx}, {nnx}, rngs=nnx.Rngs(0))"
    words = {"hidden_size": "features", "batch_first=True": "the default", "bidirectional=True": "Bidirectional(RNN(...), RNN(...))"}
    torch = f"""
class Outputs(torch.nn.{base}):
    def __init__(self):
        super().__init__(3, 4, batch_first=True{two}{nonlinear})

    def forward(self, x):
        return super().forward(x)[0]
"""
    return Entry(
        name=f"{kind.lower()}-outputs{'-bidirectional' if both else ''}",
        torch=torch,
        jax={
            "linen": Equivalent(linen, words),
            **({} if kind == "GRU" else {"nnx": Equivalent(nnx, words)}),
            **(
                {
                    "haiku": Equivalent(
                        "hk.transform(lambda x: hk.dynamic_unroll(hk.VanillaRNN(4), x, jnp.zeros((len(x), 4), x.dtype), time_major=False)[0])",
                        {"nonlinearity='relu'": "always", "bias_ih, bias_hh": "two linear layers with a bias each"},
                    )
                }
                if nonlinear and not both
                else {}
            ),
        },
        cases={"odd and even": [normal(4, 5, 3)], **({} if nonlinear else {"batch of one": [normal(1, 3, 3)]})},
        of=f"torch.nn.{base}",
        missing={
            "equinox": "it has cells and no layer; use lax.scan",
            **({"nnx": NNX_GRU} if kind == "GRU" else {}),
            **({"haiku": HAIKU[kind]} if kind in HAIKU else {} if nonlinear and not both else {"haiku": "hk.VanillaRNN is by relu alone"}),
        },
        notes=GATES,
    )


NNX_GRU = "nnx.GRUCell has one bias, outside of the reset gate; torch's bias_hh of the new state is inside (flax.nnx.GRUCell)"
HAIKU = {
    "LSTM": "hk.LSTM adds 1 to the forget gate, so torch's bias must be made smaller by 1 (haiku.LSTM)",
    "GRU": "hk.GRU applies the reset gate before the product with the recurrent weight, torch after it: other mathematics (haiku.GRU)",
}

# ---------------------------------------------------------------- cells

EQUINOX_CELL = "dlp.vmap(eqx.nn.{cell}(3, 4, key=jax.random.key(0)))"

EQUINOX_GRU = {
    "bias_ih": "bias",
    "bias_hh": [("bias", "+ (0/3 o) -> (0/3 o)"), ("bias", "+ (1/3 o) -> (1/3 o)"), ("bias_n", "(2/3 o) -> o")],
}

LSTM_CELL = """
class Cell(torch.nn.LSTMCell):
    def __init__(self):
        super().__init__(3, 4)

    def forward(self, x, h, c):
        return super().forward(x, (h, c))
"""
LINEN_LSTM = """
class Cell(linen.Module):
    @linen.compact
    def __call__(self, x, h, c):
        (c, h), _ = linen.{cell}(4)((c, h), x)
        return h, c

def cell():
    return Cell()
"""
NNX_LSTM = """
class Cell(nnx.Module):
    def __init__(self):
        self.cell = nnx.{cell}(3, 4, rngs=nnx.Rngs(0))

    def __call__(self, x, h, c):
        (c, h), _ = self.cell((c, h), x)
        return h, c

def cell():
    return Cell()
"""
EQUINOX_LSTM = """
class Cell(eqx.Module):
    cell: eqx.nn.LSTMCell

    def __call__(self, x, h, c):
        return self.cell(x, (h, c))

def cell():
    return dlp.vmap(Cell(eqx.nn.LSTMCell(3, 4, key=jax.random.key(0))))
"""
JAX_LSTM = """
def cell(p, x, h, c):
    i, f, g, o = jnp.split(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"], 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c
"""
LINEN_CELL = """
class Cell(linen.Module):
    @linen.compact
    def __call__(self, x, h):
        return linen.{cell}(4{more})(h, x)[1]

def cell():
    return Cell()
"""
NNX_CELL = """
class Cell(nnx.Module):
    def __init__(self):
        self.cell = nnx.{cell}(3, 4{more}, rngs=nnx.Rngs(0))

    def __call__(self, x, h):
        return self.cell(h, x)[1]

def cell():
    return Cell()
"""
JAX_GRU = """
def cell(p, x, h):
    ir, iz, new = jnp.split(x @ p["weight_ih"].T + p["bias_ih"], 3, -1)
    hr, hz, old = jnp.split(h @ p["weight_hh"].T + p["bias_hh"], 3, -1)
    z = jax.nn.sigmoid(iz + hz)
    return (1 - z) * jnp.tanh(new + jax.nn.sigmoid(ir + hr) * old) + z * h
"""
JAX_RNN = 'lambda p, x, h: {activation}(x @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"])'

STATES = {"batch": [normal(5, 3), normal(5, 4)], "one": [normal(1, 3), normal(1, 4)]}


def _rnn_cell(activation: str) -> Entry:
    relu = activation == "relu"
    more = ", activation_fn=jax.nn.relu" if relu else ""
    words = {"nonlinearity='relu'": "activation_fn=jax.nn.relu"} if relu else {}
    return Entry(
        name=f"rnn-cell-{activation}",
        torch=f"torch.nn.RNNCell(3, 4{', nonlinearity=' + repr('relu') if relu else ''})",
        jax={
            "jax": JAX_RNN.format(activation="jax.nn.relu" if relu else "jnp.tanh"),
            "linen": Equivalent(LINEN_CELL.format(cell="SimpleCell", more=more), words),
            "nnx": Equivalent(NNX_CELL.format(cell="SimpleCell", more=more), words),
            **({"haiku": Equivalent("hk.transform(lambda x, h: hk.VanillaRNN(4)(x, h)[0])", words="Always by relu.")} if relu else {}),
        },
        cases={"batch": [normal(5, 3), normal(5, 4)]} if relu else STATES,  # of one row every unit may be off
        missing={"equinox": "it has no plain cell", **({} if relu else {"haiku": "hk.VanillaRNN is by relu alone"})},
        notes=GATES,
    )


ENTRIES: tuple[Entry, ...] = (
    _layer("RNN"),
    _layer("RNN", "-relu", activation="relu", nonlinearity="relu"),
    _layer("RNN", "-layers-bidirectional", num_layers=2, bidirectional=True),
    _layer("GRU"),
    _layer("GRU", "-layers-bidirectional", num_layers=2, bidirectional=True),
    _layer("GRU", "-no-bias", bias=False),
    _layer("LSTM"),
    _layer("LSTM", "-layers-dropout-eval", num_layers=2, dropout=0.5),
    _layer("LSTM", "-bidirectional", bidirectional=True),
    _layer("LSTM", "-layers-bidirectional", num_layers=2, bidirectional=True),
    _layer("LSTM", "-projected", proj_size=2),
    _layer("LSTM", "-layers-bidirectional-projected", num_layers=2, bidirectional=True, proj_size=2),
    _layer("LSTM", "-no-bias", bias=False),
    *[_sequence(kind) for kind in ("RNN", "RNN-relu", "LSTM", "GRU")],
    *[_sequence(kind, both=True) for kind in ("LSTM", "GRU")],
    _rnn_cell("tanh"),
    _rnn_cell("relu"),
    Entry(
        name="lstm-cell",
        torch=LSTM_CELL,
        jax={
            "jax": JAX_LSTM,
            "linen": LINEN_LSTM.format(cell="LSTMCell"),
            "nnx": NNX_LSTM.format(cell="LSTMCell"),
            "equinox": Equivalent(EQUINOX_LSTM, {"bias_ih + bias_hh": "bias"}),
        },
        cases={name: [*inputs, inputs[1]] for name, inputs in STATES.items()},
        of="torch.nn.LSTMCell",
        missing={"haiku": HAIKU["LSTM"]},
        notes=GATES,
    ),
    Entry(
        name="lstm-cell-fused",
        torch=LSTM_CELL,
        jax={"linen": LINEN_LSTM.format(cell="OptimizedLSTMCell"), "nnx": NNX_LSTM.format(cell="OptimizedLSTMCell")},
        cases={name: [*inputs, inputs[1]] for name, inputs in STATES.items()},
        of="torch.nn.LSTMCell",
        notes=GATES,
    ),
    Entry(
        name="gru-cell",
        torch="torch.nn.GRUCell(3, 4)",
        jax={
            "jax": JAX_GRU,
            "linen": LINEN_CELL.format(cell="GRUCell", more=""),
            "equinox": Equivalent(
                EQUINOX_CELL.format(cell="GRUCell"), {"bias_hh of the new state": "bias_n"}, options={"param_map": EQUINOX_GRU}
            ),
        },
        cases=STATES,
        missing={"haiku": HAIKU["GRU"], "nnx": NNX_GRU},
        notes=GATES,
    ),
    Entry(
        name="gru-cell-of-nnx",
        torch="torch.nn.GRUCell(3, 4)",
        jax={
            "nnx": Equivalent(
                NNX_CELL.format(cell="GRUCell", more=""),
                options={
                    "param_map": {
                        "weight_ih": ("cell.dense_i.kernel", "o i -> i o"),
                        "weight_hh": ("cell.dense_h.kernel", "o i -> i o"),
                        "bias_ih": "cell.dense_i.bias",
                        "bias_hh": ("cell.dense_i.bias", "+ o -> o"),
                    }
                },
                differs=tuple(
                    Difference(leaf, case, NNX_GRU, "flax.nnx.GRUCell.__call__")
                    for case in STATES
                    for leaf in (
                        "output",
                        *(f"grad.{name}" for name in ("input0", "input1", "weight_ih", "weight_hh", "bias_ih", "bias_hh")),
                    )
                ),
                words="With a torch bias_hh of zeros at the new state the two agree.",
            )
        },
        cases=STATES,
        notes=GATES,
    ),
)
