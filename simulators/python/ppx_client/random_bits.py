"""What stands for the bits behind a controlled generator: a state to be kept and set back, and nothing to draw."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ppx_client.errors import UncontrolledError
from ppx_client.notices import notice
from ppx_client.random_draws import Draws


def check_position(draws: Draws, position: Any) -> None:
    """Says, where a state is set back, that the numbers after it are not those that were drawn before."""
    if position != draws.num_calls:
        notice(
            "state",
            "the state of a random number generator is set back, but the controller draws its numbers: those that "
            "follow are new ones, not the same again; keep the numbers themselves where they are to be repeated",
        )


class ControlledBits(np.random.PCG64):
    """The bit generator of a controlled generator.

    Args:
        draws: The source of its numbers.
    """

    def __init__(self, draws: Draws) -> None:
        super().__init__(0)
        self._draws = draws

    # NumPy's stub has a TypedDict of its own.
    @property  # type: ignore[override]
    def state(self) -> dict[str, Any]:
        """A state as PCG64 has it, in which stands how often the generator was called."""
        numbers = {"state": self._draws.num_calls, "inc": 1}
        return {"bit_generator": "PCG64", "state": numbers, "has_uint32": 0, "uinteger": 0}

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        numbers = value.get("state")
        check_position(self._draws, numbers.get("state") if isinstance(numbers, dict) else None)

    def __reduce__(self) -> Any:
        return ControlledBits, (self._draws,)


def _refusal(name: str) -> property:
    def refuse(self: ControlledBits) -> NoReturn:
        raise UncontrolledError(
            f"bit_generator.{name}: this generator has no bits, as its numbers come from the controller one by one; "
            "call a method of the generator, or make another one outside of the model for what inference need not know"
        )

    return property(refuse)


for _name in dir(np.random.PCG64):
    if not _name.startswith("_") and _name not in ("lock", "state"):
        setattr(ControlledBits, _name, _refusal(_name))
