"""Random numbers that PPX does not see: what the client library warns of, and what a compiled program calls."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from ppx_inference.conformance.evidence import Evidence
from ppx_inference.conformance.findings import Finding, Level

_DRAWS = re.compile(r"(rand|random)(_r)?|[dejlmn]rand48|_gfortran_a?random_(r|m)\d+|_gfortran_i?rand")
_INTERPRETERS = re.compile(
    r"python.*|R|Rscript|node|julia|perl|ruby|java|lua.*|octave.*|(ba|da|z)?sh|env|mpi(run|exec)|srun"
)
"""Programs whose own functions say nothing of the simulator."""
_ELF_64 = b"\x7fELF\x02\x01"
"""64 bits, little endian."""
_SECTION, _SYMBOL = struct.Struct("<IIQQQQIIQQ"), struct.Struct("<IBBHQQ")
_DYNAMIC_SYMBOLS = 11


def warnings(evidence: Evidence) -> Iterator[Finding]:
    """What the client library has said while traces ran: draws on other threads, generators that it does not reach."""
    notices = evidence.simulator.notices
    if not notices:
        yield Finding("warnings", Level.PASS, "its client has nothing to say of it")
        return
    remedy = (
        "noise that PPX does not steer counts as part of the program: with a seed of its own it is frozen, the same in "
        "every trace, which no run can show; without one it is different every time. Draw it through PPX"
    )
    yield Finding("warnings", Level.WARN, "; ".join(notices), remedy, {"warnings": notices})


def linked(evidence: Evidence) -> Iterator[Finding]:
    """Functions of the C library and of Fortran that a compiled program imports."""
    program = Path(shutil.which(evidence.subject.command[0]) or evidence.subject.command[0])
    names = None if _INTERPRETERS.fullmatch(program.name) else imported(program)
    if names is None:
        yield Finding(
            "generators", Level.PASS, "it is not the simulator that is compiled: its client would warn"
        )
        return
    found = sorted(name for name in names if _DRAWS.fullmatch(name))
    if not found:
        detail = "the program calls no random numbers of the C library or of Fortran"
        yield Finding("generators", Level.PASS, detail)
        return
    detail = f"the program calls {', '.join(found)}: random numbers that PPX does not see"
    remedy = (
        "draw through PPX instead; where such a generator is seeded with a constant in every run, its noise is frozen, "
        "the same in every trace, which no run can show. If the model does not use it: --skip generators"
    )
    yield Finding("generators", Level.WARN, detail, remedy, {"functions": found})


def imported(program: Path) -> set[str] | None:
    """The names that a program takes from shared libraries; None if it is no ELF file of 64 bits.

    Layout: System V ABI, chapters 4 (sections) and 5 (symbols whose section index is 0 are undefined).
    """
    data = program.read_bytes()
    if not data.startswith(_ELF_64):
        return None
    names = set()
    try:
        first, (size, count) = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<HH", data, 58)
        sections = [_SECTION.unpack_from(data, first + size * i) for i in range(count)]
        for section in sections:
            if section[1] != _DYNAMIC_SYMBOLS:
                continue
            strings = sections[section[6]][4]
            for offset in range(section[4], section[4] + section[5], _SYMBOL.size):
                name, _, _, index, *_ = _SYMBOL.unpack_from(data, offset)
                if index == 0:
                    start = strings + name
                    names.add(data[start : data.index(b"\0", start)].decode(errors="replace"))
    except (struct.error, IndexError, ValueError):
        return None
    return names
