"""Fuzzes the decoder, guided by coverage: `python tests/fuzz/fuzz_decoder.py -runs=1000000 CORPUS_FOLDER`.

Needs atheris (the extra `fuzz`). The arguments are those of libFuzzer.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["ppx_server.protocol"]):
    import ppx_server.protocol  # noqa: F401

from tests.fuzz.mutations import CORPUS, attempt, mutate


def mutate_either_way(data: bytes, max_size: int, seed: int) -> bytes:
    """As a FlatBuffer, or as libFuzzer would."""
    rng = Random(seed)
    made = mutate(data, rng) if rng.random() < 0.7 else atheris.Mutate(data, len(data))
    return bytes(made[:max_size])


def main() -> None:
    """Runs libFuzzer, which ends the process."""
    folder = next(Path(argument) for argument in sys.argv[1:] if not argument.startswith("-"))
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(CORPUS):
        (folder / f"valid-{number}").write_bytes(data)
    atheris.Setup(sys.argv, attempt_once, custom_mutator=mutate_either_way)
    atheris.Fuzz()


def attempt_once(data: bytes) -> None:
    """One input."""
    attempt(data)


if __name__ == "__main__":
    main()
