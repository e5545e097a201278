"""Small models as they are ported: the parameters of the torch module are carried into the other by inference, without a param_map."""

from __future__ import annotations

from pytest_dlparity.catalog.entry import Entry, Equivalent
from pytest_dlparity.draws import integers, normal, uniform

SOFTMAX = "jax.nn.dot_product_attention would do; in float64 its softmax is in float32 all the same."
CROSS_ENTROPY = "dlp.loss(torch=F.cross_entropy, jax=lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean())"
SGD = "dlp.optimizer(torch=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), jax=optax.sgd(0.1, momentum=0.9))"
ADAMW = "dlp.optimizer(torch=lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3), jax=optax.adamw(1e-2, eps=1e-3, weight_decay=0.01))"

# ---------------------------------------------------------------- a block of a ResNet, in eval

RESNET_TORCH = """
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(6)
        self.conv2 = torch.nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(6)
        self.down = torch.nn.Conv2d(3, 6, 1, stride=2, bias=False)

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.down(x))
"""
RESNET_NNX = """
class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 6, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.conv2 = nnx.Conv(6, 6, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.down = nnx.Conv(3, 6, (1, 1), strides=2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(h)) + self.down(x))


def model():
    return Block(nnx.Rngs(0))
"""
RESNET_LINEN = """
class Block(linen.Module):
    @linen.compact
    def __call__(self, x):
        def norm(name):
            return linen.BatchNorm(use_running_average=True, momentum=0.9, epsilon=1e-5, name=name)

        h = linen.Conv(6, (3, 3), strides=2, padding=1, use_bias=False, name="conv1")(x)
        h = linen.relu(norm("bn1")(h))
        h = norm("bn2")(linen.Conv(6, (3, 3), padding=1, use_bias=False, name="conv2")(h))
        return linen.relu(h + linen.Conv(6, (1, 1), strides=2, use_bias=False, name="down")(x))


def model():
    return Block()
"""
PADDING = "flax's padding='SAME' would put the zeros of an even picture elsewhere under a stride of 2: padding=1 is torch's."

# ---------------------------------------------------------------- transformers

ATTEND = """
def attend(q, k, v, mask=True):
    scores = jnp.where(mask, jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2, -jnp.inf)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)

"""
VIT_TORCH = """
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(8, eps=1e-6)
        self.query, self.key, self.value, self.proj = (torch.nn.Linear(8, 8) for _ in range(4))
        self.norm2 = torch.nn.LayerNorm(8, eps=1e-6)
        self.fc1 = torch.nn.Linear(8, 16)
        self.fc2 = torch.nn.Linear(16, 8)

    def forward(self, x):
        h = self.norm1(x)
        q, k, v = (layer(h).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 4, stride=4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.positions = torch.nn.Parameter(torch.randn(1, 7, 8))
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))
        self.norm = torch.nn.LayerNorm(8, eps=1e-6)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
"""
VIT_EQUINOX = (
    ATTEND
    + """
class Block(eqx.Module):
    norm1: eqx.nn.LayerNorm
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    proj: eqx.nn.Linear
    norm2: eqx.nn.LayerNorm
    fc1: eqx.nn.Linear
    fc2: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 6)
        self.norm1, self.norm2 = eqx.nn.LayerNorm(8, eps=1e-6), eqx.nn.LayerNorm(8, eps=1e-6)
        self.query, self.key, self.value, self.proj = (eqx.nn.Linear(8, 8, key=k) for k in keys[:4])
        self.fc1, self.fc2 = eqx.nn.Linear(8, 16, key=keys[4]), eqx.nn.Linear(16, 8, key=keys[5])

    def __call__(self, x):
        h = jax.vmap(self.norm1)(x)
        q, k, v = (jax.vmap(layer)(h).reshape(1, len(h), 2, 4) for layer in (self.query, self.key, self.value))
        x = x + jax.vmap(self.proj)(attend(q, k, v).reshape(x.shape))
        h = jax.vmap(self.fc1)(jax.vmap(self.norm2)(x))
        return x + jax.vmap(self.fc2)(jax.nn.gelu(h, approximate=False))


class ViT(eqx.Module):
    patches: eqx.nn.Conv2d
    token: jax.Array
    positions: jax.Array
    blocks: list
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.patches = eqx.nn.Conv2d(3, 8, 4, stride=4, key=keys[0])
        self.token, self.positions = jnp.zeros((1, 8)), jnp.zeros((7, 8))
        self.blocks = [Block(k) for k in keys[1:3]]
        self.norm = eqx.nn.LayerNorm(8, eps=1e-6)
        self.head = eqx.nn.Linear(8, 5, key=keys[3])

    def __call__(self, x):
        x = self.patches(x).reshape(8, -1).T
        x = jnp.concatenate([self.token, x]) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[0]))


def model():
    return dlp.vmap(ViT(jax.random.key(0)))
"""
)

GPT_TORCH = """
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(8)
        self.qkv = torch.nn.Linear(8, 24)
        self.proj = torch.nn.Linear(8, 8)
        self.norm2 = torch.nn.LayerNorm(8)
        self.up = torch.nn.Linear(8, 16)
        self.down = torch.nn.Linear(16, 8)

    def forward(self, x):
        q, k, v = (a.unflatten(-1, (2, 4)).transpose(1, 2) for a in self.qkv(self.norm1(x)).split(8, -1))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(11, 8)
        self.positions = torch.nn.Embedding(7, 8)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T
"""
GPT_NNX = (
    ATTEND
    + """
class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm1 = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
        self.qkv = nnx.Linear(8, 24, rngs=rngs)
        self.proj = nnx.Linear(8, 8, rngs=rngs)
        self.norm2 = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        q, k, v = (a.reshape(*x.shape[:2], 2, 4) for a in jnp.split(self.qkv(self.norm1(x)), 3, -1))
        x = x + self.proj(attend(q, k, v, jnp.tri(x.shape[1], dtype=bool)).reshape(x.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class GPT(nnx.Module):
    def __init__(self, rngs):
        self.tokens = nnx.Embed(11, 8, rngs=rngs)
        self.positions = nnx.Embed(7, 8, rngs=rngs)
        self.blocks = nnx.List(Block(rngs) for _ in range(2))
        self.norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)

    def __call__(self, ids):
        x = self.tokens(ids) + self.positions(jnp.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.tokens.attend(self.norm(x))


def model():
    return GPT(nnx.Rngs(0))
"""
)
NEXT = (
    "dlp.loss(torch=lambda z, ids: F.cross_entropy(z[:, :-1].flatten(0, 1), ids[:, 1:].flatten()), "
    "jax=lambda z, ids: optax.softmax_cross_entropy_with_integer_labels(z[:, :-1], ids[:, 1:]).mean())"
)

BERT_TORCH = """
class BERT(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(11, 8)
        self.positions = torch.nn.Embedding(7, 8)
        self.norm0 = torch.nn.LayerNorm(8, eps=1e-12)
        self.query, self.key, self.value, self.proj = (torch.nn.Linear(8, 8) for _ in range(4))
        self.norm1 = torch.nn.LayerNorm(8, eps=1e-12)
        self.up = torch.nn.Linear(8, 16)
        self.down = torch.nn.Linear(16, 8)
        self.norm2 = torch.nn.LayerNorm(8, eps=1e-12)
        self.pooler = torch.nn.Linear(8, 8)
        self.classes = torch.nn.Linear(8, 3)

    def forward(self, ids, mask):
        x = self.norm0(self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device)))
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self.norm1(x + self.proj(h.transpose(1, 2).flatten(2)))
        x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return self.classes(torch.tanh(self.pooler(x[:, 0])))
"""
BERT_LINEN = (
    ATTEND
    + """
class BERT(linen.Module):
    @linen.compact
    def __call__(self, ids, mask):
        def norm(name):
            return linen.LayerNorm(epsilon=1e-12, name=name)

        x = linen.Embed(11, 8, name="tokens")(ids) + linen.Embed(7, 8, name="positions")(jnp.arange(ids.shape[1]))
        x = norm("norm0")(x)
        q, k, v = (linen.Dense(8, name=name)(x).reshape(*x.shape[:2], 2, 4) for name in ("query", "key", "value"))
        h = attend(q, k, v, mask[:, None, None, :]).reshape(x.shape)
        x = norm("norm1")(x + linen.Dense(8, name="proj")(h))
        h = linen.Dense(8, name="down")(linen.gelu(linen.Dense(16, name="up")(x), approximate=False))
        x = norm("norm2")(x + h)
        return linen.Dense(3, name="classes")(jnp.tanh(linen.Dense(8, name="pooler")(x[:, 0])))


def model():
    return BERT()
"""
)


def first_seen(rng):  # type: ignore[no-untyped-def]
    """Which tokens are seen: the first always, so that no row is masked out."""
    seen = rng.random((3, 7)) < 0.6
    seen[:, 0] = True
    return seen


# ---------------------------------------------------------------- the others

UNET_TORCH = """
class UNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 4)
        self.down = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.up = torch.nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.out = torch.nn.Conv2d(8, 3, 1)

    def forward(self, x):
        skip = F.silu(self.norm(self.stem(x)))
        h = F.silu(self.down(skip))
        return self.out(torch.cat([self.up(h), skip], 1))
"""
UNET_NNX = """
class UNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(4, 4, (3, 3), padding=1, rngs=rngs)
        self.norm = nnx.GroupNorm(4, num_groups=2, epsilon=1e-5, rngs=rngs)
        self.down = nnx.Conv(4, 4, (3, 3), strides=2, padding=1, rngs=rngs)
        self.up = nnx.ConvTranspose(4, 4, (2, 2), strides=2, padding="VALID", transpose_kernel=True, rngs=rngs)
        self.out = nnx.Conv(8, 3, (1, 1), rngs=rngs)

    def __call__(self, x):
        skip = nnx.silu(self.norm(self.stem(x)))
        h = nnx.silu(self.down(skip))
        return self.out(jnp.concatenate([self.up(h), skip], -1))


def model():
    return UNet(nnx.Rngs(0))
"""
UNET_EQUINOX = """
class UNet(eqx.Module):
    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    down: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    out: eqx.nn.Conv2d

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.stem = eqx.nn.Conv2d(4, 4, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(2, 4)
        self.down = eqx.nn.Conv2d(4, 4, 3, stride=2, padding=1, key=keys[1])
        self.up = eqx.nn.ConvTranspose2d(4, 4, 2, stride=2, key=keys[2])
        self.out = eqx.nn.Conv2d(8, 3, 1, key=keys[3])

    def __call__(self, x):
        skip = jax.nn.silu(self.norm(self.stem(x)))
        h = jax.nn.silu(self.down(skip))
        return self.out(jnp.concatenate([self.up(h), skip]))


def model():
    return dlp.vmap(UNet(jax.random.key(0)))
"""

LSTM_TORCH = """
class Judge(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(13, 5)
        self.lstm = torch.nn.LSTM(5, 6, batch_first=True)
        self.out = torch.nn.Linear(6, 3)

    def forward(self, ids):
        return self.out(self.lstm(self.words(ids))[0].mean(1))
"""
LSTM_LINEN = """
class Judge(linen.Module):
    @linen.compact
    def __call__(self, ids):
        x = linen.Embed(13, 5, name="words")(ids)
        x = linen.RNN(linen.LSTMCell(6), name="lstm")(x)
        return linen.Dense(3, name="out")(x.mean(1))


def model():
    return Judge()
"""
LSTM_NNX = """
class Judge(nnx.Module):
    def __init__(self, rngs):
        self.words = nnx.Embed(13, 5, rngs=rngs)
        self.lstm = nnx.RNN(nnx.LSTMCell(5, 6, rngs=rngs))
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, ids):
        return self.out(self.lstm(self.words(ids)).mean(1))


def model():
    return Judge(nnx.Rngs(0))
"""

DIFFUSION_TORCH = """
class Denoiser(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.time = torch.nn.Linear(8, 12)
        self.first = torch.nn.Linear(2, 12)
        self.second = torch.nn.Linear(12, 12)
        self.out = torch.nn.Linear(12, 2)

    def forward(self, x, t):
        rates = torch.exp(-math.log(1e4) / 4 * torch.arange(4, dtype=x.dtype, device=x.device))
        angles = t[:, None] * rates
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        h = F.silu(self.first(x) + time)
        return self.out(h + F.silu(self.second(h)))
"""
DIFFUSION_NNX = """
class Denoiser(nnx.Module):
    def __init__(self, rngs):
        self.time = nnx.Linear(8, 12, rngs=rngs)
        self.first = nnx.Linear(2, 12, rngs=rngs)
        self.second = nnx.Linear(12, 12, rngs=rngs)
        self.out = nnx.Linear(12, 2, rngs=rngs)

    def __call__(self, x, t):
        rates = jnp.exp(-math.log(1e4) / 4 * jnp.arange(4, dtype=x.dtype))
        angles = t[:, None] * rates
        time = self.time(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1))
        h = nnx.silu(self.first(x) + time)
        return self.out(h + nnx.silu(self.second(h)))


def model():
    return Denoiser(nnx.Rngs(0))
"""
DIFFUSION_HAIKU = """
def denoiser(x, t):
    rates = jnp.exp(-math.log(1e4) / 4 * jnp.arange(4, dtype=x.dtype))
    angles = t[:, None] * rates
    time = hk.Linear(12, name="time")(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1))
    h = jax.nn.silu(hk.Linear(12, name="first")(x) + time)
    return hk.Linear(2, name="out")(h + jax.nn.silu(hk.Linear(12, name="second")(h)))


def model():
    return hk.transform(denoiser)
"""
SQUARED = "dlp.loss(torch=F.mse_loss, jax=lambda x, y: optax.squared_error(x, y).mean())"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        "resnet-block",
        RESNET_TORCH,
        {
            "nnx": Equivalent(RESNET_NNX, channels_last=True, words=PADDING),
            "linen": Equivalent(RESNET_LINEN, channels_last=True, words=PADDING),
        },
        {"odd": [normal(2, 3, 7, 6)]},
        kind="model",
        options={"train": False},
        of="a residual block",
    ),
    Entry(
        "vit",
        VIT_TORCH,
        {"equinox": Equivalent(VIT_EQUINOX, words=SOFTMAX)},
        {"batch": [normal(3, 3, 8, 12), integers(3, high=5)]},
        kind="model",
        options={"loss": CROSS_ENTROPY},
        of="a vision transformer",
    ),
    Entry(
        "gpt",
        GPT_TORCH,
        {"nnx": Equivalent(GPT_NNX, words="The head is the embedding: one parameter, and one gradient that is the sum of both uses.")},
        {"batch": [integers(3, 7, high=11), integers(3, 7, high=11)]},
        kind="model",
        options={"loss": NEXT, "optimizer": SGD, "steps": 2},
        of="a GPT",
    ),
    Entry(
        "bert",
        BERT_TORCH,
        {"linen": BERT_LINEN},
        {"masked": [integers(3, 7, high=11), first_seen, integers(3, high=3)]},
        kind="model",
        options={"loss": CROSS_ENTROPY},
        of="a BERT",
    ),
    Entry(
        "unet",
        UNET_TORCH,
        {"nnx": Equivalent(UNET_NNX, channels_last=True), "equinox": UNET_EQUINOX},
        {"batch": [normal(2, 4, 6, 8)]},
        kind="model",
        of="a UNet",
    ),
    Entry(
        "lstm-classifier",
        LSTM_TORCH,
        {"linen": LSTM_LINEN, "nnx": LSTM_NNX},
        {"batch": [integers(4, 5, high=13), integers(4, high=3)]},
        kind="model",
        options={"loss": CROSS_ENTROPY},
        of="a classifier of sequences",
    ),
    Entry(
        "diffusion-mlp",
        DIFFUSION_TORCH,
        {"nnx": DIFFUSION_NNX, "haiku": DIFFUSION_HAIKU},
        {"batch": [normal(7, 2), uniform(7, low=0.1, high=10), normal(7, 2)]},
        kind="model",
        options={"loss": SQUARED, "optimizer": ADAMW, "steps": 2},
        of="a denoiser of points",
    ),
)
