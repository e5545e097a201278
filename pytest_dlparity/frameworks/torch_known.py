"""Which node of a trace a tensor is, known by its memory and without keeping it alive."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor


# A way to look at a storage: offset, shape, stride, dtype. Two tensors with equal views of one storage hold the same values.
View = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]


class _Seen:
    """The node that a view was when its storage had been written to `age` times."""

    __slots__ = ("age", "index")

    def __init__(self, index: int, age: int) -> None:
        self.index, self.age = index, age


class _Storage:
    __slots__ = ("ref", "views", "writes")

    def __init__(self, ref: Any) -> None:
        self.ref = ref
        self.views: dict[View, _Seen] = {}
        self.writes: list[tuple[View, int]] = []


class Found(NamedTuple):
    """A known tensor: its node, and the nodes written over it since."""

    node: int
    writers: tuple[int, ...] = ()


class Known:
    """Tensors -> nodes. A storage that is freed is forgotten at once, so that the next tensor at its address is a new one."""

    def __init__(self) -> None:
        self.storages: dict[int, _Storage] = {}
        self.apart: dict[int, tuple[Any, _Seen]] = {}  # tensors that are nodes of their own though their view is another node's (detach)

    def find(self, tensor: Tensor) -> Found | None:
        storage = self._storage(tensor)
        seen = self._apart(tensor) if self.apart else None
        if storage is None:
            return None if seen is None else Found(seen.index)
        view = _view(tensor)
        if seen is None and (seen := storage.views.get(view)) is None:
            return None
        if seen.age == len(storage.writes):
            return Found(seen.index)
        writers = tuple(index for written, index in storage.writes[seen.age :] if overlap(written, view))
        if not writers:
            seen.age = len(storage.writes)
        elif (now := storage.views.get(view)) is not None and now.age == len(storage.writes):  # written to by way of an equal view
            return Found(now.index)
        return Found(seen.index, writers)

    def add(self, tensor: Tensor, index: int) -> None:
        """The tensor is this node from now on; another tensor with the same view stays the node that it was."""
        storage = self._storage(tensor, make=True)
        if storage is None:
            self._keep_apart(tensor, _Seen(index, 0))
            return
        seen, view = _Seen(index, len(storage.writes)), _view(tensor)
        held = storage.views.get(view)
        if held is not None and held.age == seen.age and held.index != index:
            self._keep_apart(tensor, seen)
        else:
            storage.views[view] = seen
            self.apart.pop(id(tensor), None)

    def write(self, tensor: Tensor, index: int) -> None:
        """The tensor was written to: it is this node, and other views of its storage are to be read again where they overlap it."""
        self.apart.pop(id(tensor), None)
        if (storage := self._storage(tensor, make=True)) is not None:
            storage.writes.append((_view(tensor), index))
            storage.views.pop(_view(tensor), None)
        self.add(tensor, index)

    def filled(self, tensor: Tensor) -> bool:
        """Whether every element was written to since the storage was first seen."""
        storage = self._storage(tensor)
        return storage is None or covered([written for written, _ in storage.writes], _view(tensor))

    def shares(self, tensor: Tensor, other: Tensor) -> bool:
        """Whether both are one view of one storage."""
        storage = self._storage(tensor)
        return storage is not None and storage is self._storage(other) and _view(tensor) == _view(other)

    def _storage(self, tensor: Tensor, make: bool = False) -> _Storage | None:
        try:
            memory = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse tensors and wrappers have none
            return None
        at = id(memory)
        held = self.storages.get(at)
        if held is not None and held.ref() is not memory:
            held = None
        if held is None and make:
            forget = self.storages.pop
            held = self.storages[at] = _Storage(weakref.ref(memory, lambda _: forget(at, None)))
        return held

    def _apart(self, tensor: Tensor) -> _Seen | None:
        ref, seen = self.apart.get(id(tensor), (None, None))
        return seen if ref is not None and ref() is tensor else None

    def _keep_apart(self, tensor: Tensor, seen: _Seen) -> None:
        at, forget = id(tensor), self.apart.pop
        self.apart[at] = (weakref.ref(tensor, lambda _: forget(at, None)), seen)


def _view(tensor: Tensor) -> View:
    if tensor.layout is not torch.strided:
        return 0, tensor.shape, (), tensor.dtype
    return int(tensor.storage_offset()), tensor.shape, tensor.stride(), tensor.dtype


def overlap(a: View, b: View) -> bool:
    """Whether two views of one storage have an element in common; of different dtypes, whether they may.

    >>> rows = [(row * 4, (4,), (1,), torch.float64) for row in range(2)]
    >>> odd, even = ((start, (4,), (2,), torch.float64) for start in (1, 0))
    >>> overlap(*rows), overlap(odd, even), overlap(odd, rows[0]), overlap((0, (0, 3), (3, 1), torch.int8), rows[0])
    (False, False, True, False)
    """
    (low, high), (first, last) = _extent(*a), _extent(*b)
    if low >= last or first >= high:
        return False
    if a[3] != b[3]:
        return True
    return bool(_touched([a], max(high, last) // a[3].itemsize).as_strided(b[1], b[2], b[0]).any())


def covered(written: Sequence[View], view: View) -> bool:
    """Whether every element of a view is in some of the others, those of one dtype with it.

    >>> rows = [(row * 4, (4,), (1,), torch.float64) for row in range(2)]
    >>> covered(rows, (0, (2, 4), (4, 1), torch.float64)), covered(rows[:1], (2, (4,), (1,), torch.float64)), covered([], (0, (0,), (1,), torch.int8))
    (True, False, True)
    """
    if 0 in view[1]:
        return True
    same = [other for other in written if other[3] == view[3] and 0 not in other[1]]
    end = max(_extent(*other)[1] for other in (*same, view))
    return bool(_touched(same, end // view[3].itemsize).as_strided(view[1], view[2], view[0]).all())


def _touched(views: Sequence[View], size: int) -> Tensor:
    """Which of the first elements of a storage are in some of the views, all of one dtype."""
    touched = torch.zeros(size, dtype=torch.bool)
    for offset, shape, stride, _ in views:
        touched.as_strided(shape, stride, offset).fill_(True)
    return touched


def _extent(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
    """The bytes from the first to after the last element."""
    if 0 in shape:
        return 0, 0
    end = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1
    return offset * dtype.itemsize, end * dtype.itemsize
