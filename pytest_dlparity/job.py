"""What is run, apart from any framework: which inputs go where, what is differentiated, how long."""

from __future__ import annotations

from typing import Any, NamedTuple


class Job(NamedTuple):
    """The plan of one spec, the same for both sides and every cell."""

    kind: str
    consumed: tuple[str, ...]  # inputs of the side
    targets: tuple[str, ...] = ()  # inputs of the loss, after the output
    keywords: bool = False
    wrt: tuple[str, ...] = ()  # inputs and parameters, under the torch side's names
    trained: tuple[str, ...] = ()  # the parameters that an optimizer moves
    steps: int = 0
    torch_loss: Any = None
    jax_loss: Any = None
    torch_optimizer: Any = None
    jax_optimizer: Any = None
