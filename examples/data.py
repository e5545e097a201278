"""Real data for the examples: pictures with a digit on each, and texts whose feeling people have judged.

Two sources travel inside Python packages: the handwritten digits of scikit-learn and the word ratings of vaderSentiment. Where the
environment variable DLPARITY_DATA names a directory that holds MNIST (its four idx files, gzipped or not) or IMDb (the folder aclImdb),
those are read instead.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

VOCABULARY = 10_000  # token ids are 0 (nothing here) to 9999
IDX_BYTES = 0x08  # the only element type MNIST uses: unsigned byte (third byte of an idx file)


class Dataset(NamedTuple):
    """Inputs and labels to learn from, and others to be judged on."""

    name: str
    x: np.ndarray  # (n, ...)
    y: np.ndarray  # (n,) int64
    test_x: np.ndarray  # (m, ...)
    test_y: np.ndarray  # (m,) int64

    def __str__(self) -> str:
        return f"{self.name}: {len(self.x)} to learn from, {len(self.test_x)} to be judged on"

    def batches(self, size: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One pass: (x, y) of `size` examples each, in the order of this seed; what does not fill a batch is left out."""
        order = np.random.default_rng(seed).permutation(len(self.x))
        for first in range(0, len(order) - size + 1, size):
            rows = order[first : first + size]
            yield self.x[rows], self.y[rows]

    def passes(self, size: int, count: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """`count` passes over the data, each in an order of its own."""
        return [list(self.batches(size, seed)) for seed in range(count)]


def pictures(train: int = 1_400, test: int = 397) -> Dataset:
    """Pictures (n, 28, 28), float32 from 0 to 1, and the digit on each: MNIST if DLPARITY_DATA has it, else scikit-learn's digits."""
    mnist = found("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "train-images.idx3-ubyte")
    name, *arrays = _mnist(mnist.parent) if mnist else _digits()
    x, y, test_x, test_y = arrays
    return Dataset(name, x[:train], y[:train], test_x[:test], test_y[:test])


def texts(train: int = 5_500, test: int = 1_000) -> Dataset:
    """Token ids, (n, length) int32, and 1 for a good feeling, 0 for a bad one: IMDb reviews if DLPARITY_DATA has them, else rated words."""
    imdb = found("aclImdb")
    name, *arrays = _imdb(imdb) if imdb else _rated_words()
    x, y, test_x, test_y = arrays
    return Dataset(name, x[:train], y[:train], test_x[:test], test_y[:test])


def found(*names: str) -> Path | None:
    """The first of these names that lies in the directory DLPARITY_DATA, or one folder below it."""
    home = os.environ.get("DLPARITY_DATA")
    if not home:
        return None
    places = [place for name in names for pattern in (name, f"*/{name}") for place in sorted(Path(home).glob(pattern))]
    return places[0] if places else None


def idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in one idx file, plain or gzipped.

    Bytes 0 and 1 are zero, byte 2 is the element type, byte 3 the number of axes; then a big-endian 32-bit length for each axis, then the
    elements. Raises ValueError where the head says anything else.
    """
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != IDX_BYTES:
        raise ValueError(f"{path} is not an idx file of unsigned bytes: it begins with {raw[:4]!r}.")
    axes = raw[3]
    shape = np.frombuffer(raw, ">u4", axes, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def words(text: str) -> list[str]:
    """The words of a text in lower case; what a web page left in it is dropped.

    >>> words("Don't<br />panic... 42!")
    ["don't", 'panic', '42']
    >>> words("<br /> ...")
    []
    """
    return re.findall(r"[a-z0-9']+", re.sub(r"<[^>]*>", " ", text.lower()))


def trigrams(word: str) -> list[str]:
    """The pieces of three characters of a word, its ends marked.

    >>> trigrams("a")
    ['^a$']
    >>> trigrams("joy")
    ['^jo', 'joy', 'oy$']
    """
    marked = f"^{word}$"
    return [marked[i : i + 3] for i in range(len(marked) - 2)]


def tokens(pieces: Sequence[str], length: int) -> np.ndarray:
    """The id of each piece, (length,) int32, cut at `length` and filled up with 0. An id is a checksum: the same in every process.

    >>> tokens([], 2).tolist()
    [0, 0]
    >>> bool((tokens(["joy", "oy$", "!"], 2) > 0).all())
    True
    """
    ids = [1 + zlib.crc32(piece.encode()) % (VOCABULARY - 1) for piece in pieces[:length]]
    return np.array(ids + [0] * (length - len(ids)), np.int32)


@cache
def _digits() -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's 1797 digits of 8 x 8, drawn to 28 x 28 by linear interpolation, in one fixed random order."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    small = load_digits()
    order = np.random.default_rng(0).permutation(len(small.images))
    x = ndimage.zoom(small.images[order] / 16.0, (1, 3.5, 3.5), order=1).astype(np.float32)  # a pixel counts 0 to 16
    y = small.target[order].astype(np.int64)
    return "digits of scikit-learn", x[:1_400], y[:1_400], x[1_400:], y[1_400:]


@cache
def _mnist(folder: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST as it was published: 60,000 digits to learn from and 10,000 others, by other writers."""

    def part(name: str) -> np.ndarray:
        return idx(next(path for path in sorted(folder.iterdir()) if re.fullmatch(rf"{name}[-.]idx\d-ubyte(\.gz)?", path.name)))

    def scaled(pixels: np.ndarray) -> np.ndarray:
        return pixels.astype(np.float32) / 255

    labels = part("train-labels").astype(np.int64), part("t10k-labels").astype(np.int64)
    return "MNIST", scaled(part("train-images")), labels[0], scaled(part("t10k-images")), labels[1]


@cache
def _rated_words(length: int = 12) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The words that ten people each rated from -4 to 4 (Hutto & Gilbert 2014, VADER), read as pieces of three characters.

    Relatives of a word ("abandon", "abandoned") fall on both sides of the split, so this measures spelling more than meaning.
    """
    table = resources.files("vaderSentiment").joinpath("vader_lexicon.txt").read_text(encoding="utf-8")
    rows = [row.split("\t") for row in table.splitlines() if row.strip()]
    kept = [row for row in rows if re.fullmatch(f"[a-z]{{3,{length}}}", row[0])]  # whole words: an emoticon is none
    rated = {row[0]: float(row[1]) for row in kept}  # by word: five stand in the table twice
    x = np.stack([tokens(trigrams(word), length) for word in rated])
    y = np.array([rating > 0 for rating in rated.values()], np.int64)
    order = np.random.default_rng(0).permutation(len(rated))
    x, y = x[order], y[order]
    return "words rated for vaderSentiment", x[:-1_000], y[:-1_000], x[-1_000:], y[-1_000:]


@cache
def _imdb(folder: Path, length: int = 64) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """IMDb reviews (Maas et al. 2011), the first `length` words of each, good and bad mixed in one fixed random order."""

    def part(name: str) -> tuple[np.ndarray, np.ndarray]:
        files = [(path, label) for label, kind in enumerate(("neg", "pos")) for path in sorted((folder / name / kind).glob("*.txt"))]
        x = np.stack([tokens(words(path.read_text(encoding="utf-8")), length) for path, _ in files])
        order = np.random.default_rng(0).permutation(len(files))
        return x[order], np.array([label for _, label in files], np.int64)[order]

    return "IMDb", *part("train"), *part("test")
