"""The data of the examples: what it holds, and that MNIST and IMDb are read when they are at hand."""

from __future__ import annotations

import gzip
import struct

import data
import numpy as np
import pytest


def test_pictures():
    digits = data.pictures(train=100, test=50)
    assert digits.x.shape == (100, 28, 28) and digits.test_x.shape == (50, 28, 28)
    assert digits.x.dtype == np.float32 and digits.x.min() == 0 and digits.x.max() == 1
    assert set(digits.y.tolist()) == set(range(10))


def test_texts():
    texts = data.texts()
    assert len(texts.x) == len(texts.y) == 5_500 and len(texts.test_x) == 1_000
    assert texts.x.min() == 0 and texts.x.max() < data.VOCABULARY
    assert texts.x[:, 0].all()  # no text is empty
    assert 0.4 < texts.y.mean() < 0.6 and 0.4 < texts.test_y.mean() < 0.6  # so that guessing earns little


def test_nothing_to_learn_is_in_the_test_set_too():
    for found in (data.pictures(), data.texts()):
        assert not {x.tobytes() for x in found.x} & {x.tobytes() for x in found.test_x}


def test_batches_of_a_seed_are_the_same():
    texts = data.texts(train=100)
    first, again, other = (list(texts.batches(32, seed)) for seed in (1, 1, 2))
    assert len(first) == 3
    assert all(np.array_equal(a, b) for a, b in zip(first[0], again[0], strict=True))
    assert not np.array_equal(first[0][0], other[0][0])


def as_idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(("ending", "packed"), [("", bytes), (".gz", gzip.compress)])
def test_mnist_is_read_when_it_is_at_hand(tmp_path, monkeypatch, ending, packed):
    folder = tmp_path / "MNIST"
    folder.mkdir()
    pixels = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(packed(as_idx(pixels)))
        (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(packed(as_idx(np.array([7, 2, 1]))))
    monkeypatch.setenv("DLPARITY_DATA", str(tmp_path))
    digits = data.pictures(test=2)
    assert digits.name == "MNIST" and digits.y.tolist() == [7, 2, 1] and digits.test_y.tolist() == [7, 2]
    np.testing.assert_array_equal(digits.x, pixels.astype(np.float32) / 255)


def test_imdb_is_read_when_it_is_at_hand(tmp_path, monkeypatch):
    for part in ("train", "test"):
        for kind, text in (("neg", "A waste of time."), ("pos", "I loved it!<br />Twice.")):
            folder = tmp_path / "aclImdb" / part / kind
            folder.mkdir(parents=True)
            (folder / "0_1.txt").write_text(text, encoding="utf-8")
    monkeypatch.setenv("DLPARITY_DATA", str(tmp_path))
    texts = data.texts()
    assert texts.name == "IMDb" and sorted(texts.y.tolist()) == [0, 1]
    good = texts.x[texts.y.tolist().index(1)]
    assert good[:4].all() and not good[4:].any()  # i, loved, it, twice


def test_what_is_no_idx_file_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="is not an idx file of unsigned bytes: it begins with b'<htm'"):
        data.idx(path)
