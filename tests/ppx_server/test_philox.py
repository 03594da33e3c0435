"""Philox4x32-10: the published answers, and the numbers made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from ppx_server.philox import Stream, normals, philox4x32, uniforms


# Known answers of Random123 (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter: str, key: str, answer: str) -> None:
    c0, c1, c2, c3 = (np.array([int(word, 16)], np.uint64) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    words = philox4x32((c0, c1, c2, c3), (k0, k1))
    assert [f"{int(word[0]):08x}" for word in words] == answer.split()


def test_a_block_makes_two_uniforms_of_52_bits() -> None:
    bits = [0x6627E8D5 >> 6 << 26 | 0xE169C58D >> 6, 0xBC57AC4C >> 6 << 26 | 0x9B00DBD8 >> 6]
    np.testing.assert_array_equal(uniforms(0, 0, 2), [[(b + 0.5) * 2.0**-52 for b in bits]])


def test_uniforms_are_uniform_and_inside_the_open_interval() -> None:
    u = uniforms(42, np.arange(400), 500)
    assert u.shape == (400, 500)
    assert ((u > 0) & (u < 1)).all()
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    # Bins of neighbouring pairs: numbers of one trace, and of two, are independent.
    for first, second in ((u[:, :-1], u[:, 1:]), (u[:-1], u[1:])):
        counts = np.histogram2d(first.ravel(), second.ravel(), bins=20, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_a_number_depends_on_its_place_alone() -> None:
    whole = uniforms(3, np.arange(10), 7)
    np.testing.assert_array_equal(uniforms(3, np.arange(10)[::-1], 7), whole[::-1])
    for index in range(10):
        for start in range(7):
            for count in range(8 - start):
                found = uniforms(3, index, count, start=start)
                np.testing.assert_array_equal(found, whole[index : index + 1, start : start + count])


def test_seeds_indices_places_and_streams_all_matter() -> None:
    seeds = [uniforms(seed, 5, 1, start=6) for seed in (0, 1, 2**32, 2**63, 2**64 - 1)]
    indices = [uniforms(1, index, 1, start=6) for index in (6, 2**32 + 5, 2**62)]
    places = [uniforms(1, 5, 1, start=start) for start in (7, 8, 2**31)]
    streams = [uniforms(1, 5, 1, start=6, stream=s) for s in (Stream.OBSERVATIONS, Stream.PROPOSALS)]
    numbers = [u.item() for u in (*seeds, *indices, *places, *streams)]
    assert len(set(numbers)) == len(numbers)


def test_streams_are_uncorrelated() -> None:
    index = np.arange(20_000)
    columns = [normals(9, index, 1, stream=stream)[:, 0] for stream in Stream]
    for x, y in itertools.combinations(columns, 2):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(len(index))


def test_normals_are_normal_quantiles_of_the_uniforms() -> None:
    z = normals(7, np.arange(50_000), 2)
    np.testing.assert_allclose(stats.norm.cdf(z), uniforms(7, np.arange(50_000), 2), rtol=1e-12)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
