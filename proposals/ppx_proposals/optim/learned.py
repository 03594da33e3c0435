"""Who may write what an optimizer learns: the optimizer, its `load_state_dict`, and the user by name; nobody else.

A learned hyperparameter is state, but it stands in `param_groups` like a setting, where schedulers write. Most of them
leave a mark there before they write; `ReduceLROnPlateau`, and schedulers of other packages, leave none. So an optimizer
remembers what it left in a group, and refuses to go on from anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCHEDULED = "initial_lr"
"""What torch's schedulers leave in the groups of an optimizer."""


class Learned:
    """What an optimizer left in its groups: values by number of the group, and by name.

    Args:
        set_by: How a user writes `lr` (`{name}` in it is the name of what is learned).
    """

    def __init__(self, set_by: str) -> None:
        self._set_by = set_by
        self._left: dict[int, dict[str, float]] = {}

    def forget(self, number: int | None = None) -> None:
        """Takes whatever a group, or all of them, hold next, such as a loaded state."""
        if number is None:
            self._left.clear()
        else:
            self._left.pop(number, None)

    def leave(self, number: int, values: Mapping[str, float]) -> None:
        """Remembers the values of a group that only the optimizer may change."""
        self._left[number] = dict(values)

    def check(self, number: int, group: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Refuses a group whose learned values are scheduled, or were written by somebody else.

        Args:
            number: Number of the group.
            group: Its settings.
            values: What is learned now, by name; all else may be written by anybody.

        Raises:
            ValueError: One of them has another writer.
        """
        if "lr" in values and _SCHEDULED in group:
            raise ValueError(
                f"a learning rate scheduler is at work on group {number}, which learns its own; {self._remedy('lr')}"
            )
        left = self._left.get(number, {})
        for name, value in values.items():
            if name in left and value != left[name]:
                raise ValueError(
                    f"{name} of group {number} is learned, but {left[name]} became {value} between two steps, as a "
                    f"scheduler does it; {self._remedy(name)}"
                )

    def _remedy(self, name: str) -> str:
        return f"leave the scheduler out, do not learn {name}, or set it by {self._set_by.format(name=name)}"


def unmark(group: dict[str, Any]) -> None:
    """Removes from a loaded state what a scheduler has left there, in a run in which the rate was no learned one."""
    group.pop(_SCHEDULED, None)
