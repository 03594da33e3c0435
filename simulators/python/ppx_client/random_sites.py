"""Where in the model a random number is asked for: address and name of a draw that the code itself does not name.

The address is the call site, as for `sample`. The name is the variable that the number is assigned to, if it is
assigned as it is: `mu = rng.normal(0, 1)` is a draw named `mu`, `mu = 2 * rng.normal(0, 1)` has no name, nor have
those of `mu = sum(map(rng.normal, means))`. Where a
library draws (`scipy.stats.norm.rvs(random_state=rng)`), the call site is the place in the model that called the
library, followed by the function of the library that draws.
"""

from __future__ import annotations

import builtins
import dis
from types import CodeType, FrameType
from typing import NamedTuple

from ppx_client.call_sites import call_site

_OWN = __name__.partition(".")[0]
_LIBRARIES = frozenset((_OWN, "numpy", "pandas", "random", "scipy"))
"""Packages that draw on behalf of whoever calls them."""
_MAX_PLACES = 1 << 16
"""As for call sites: beyond this many we start again."""


class Place(NamedTuple):
    """Where a number is asked for.

    Attributes:
        site: The call site.
        name: The variable it is assigned to, empty if there is none.
    """

    site: str
    name: str


# (id of the code object, index of its instruction) -> (the code object, so that its id is not reused; the place, None
# within a library, whose places depend on who called it).
_places: dict[tuple[int, int], tuple[CodeType, Place | None]] = {}


def place(frame: FrameType) -> Place:
    """The place of the call that `frame` is executing; cheap after the first visit."""
    code = frame.f_code
    key = (id(code), frame.f_lasti)
    found = _places.get(key)
    if found is None:
        if len(_places) >= _MAX_PLACES:
            _places.clear()
        known = None if _package(frame) in _LIBRARIES else Place(call_site(frame), _assigned(frame))
        found = _places[key] = (code, known)
    return found[1] or _outside(frame)


def _outside(frame: FrameType) -> Place:
    """The place in the model that called the library."""
    function = ""
    outer: FrameType | None = frame
    while outer is not None and (package := _package(outer)) in _LIBRARIES:
        if not function and package != _OWN:
            function = "/" + outer.f_code.co_qualname.replace(".", "::")
        outer = outer.f_back
    if outer is None:
        return Place(call_site(frame), "")
    site, name = place(outer)
    return Place(site + function, "" if function else name)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _assigned(frame: FrameType) -> str:
    """The variable or attribute that takes the result of the call."""
    instructions = list(dis.get_instructions(frame.f_code))
    # Entries of its cache may lie between the instruction and where the frame is.
    at = sum(one.offset <= frame.f_lasti for one in instructions) - 1
    if _calls_builtin(frame, instructions, at):
        return ""
    after = instructions[at + 1 : at + 3]
    if after and after[0].opname == "JUMP_FORWARD":  # x = ... if ... else ...
        after = [one for one in instructions if one.offset >= after[0].argval][:2]
    names = [one.argval[0] if isinstance(one.argval, tuple) else one.argval for one in after]
    operations = [one.opname for one in after]
    if operations and operations[0].startswith(_STORES):
        return str(names[0])
    if len(after) == 2 and operations[0].startswith("LOAD_") and operations[1] == "STORE_ATTR":
        return str(names[1])
    return ""


def _calls_builtin(frame: FrameType, instructions: list[dis.Instruction], at: int) -> bool:
    """Whether the call is of something like `sum`, which itself called the generator: sum(map(rng.normal, means))."""
    start = _start(instructions[at])
    return start is not None and any(
        one.opname in ("LOAD_GLOBAL", "LOAD_NAME")
        and _start(one) == start
        and hasattr(builtins, one.argval)
        and one.argval not in frame.f_globals
        for one in instructions[:at]
    )


def _start(instruction: dis.Instruction) -> tuple[int | None, int] | None:
    """Where the expression of an instruction begins; None if Python keeps no columns."""
    position = instruction.positions
    if position is None or position.col_offset is None:
        return None
    return position.lineno, position.col_offset


_STORES = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")
