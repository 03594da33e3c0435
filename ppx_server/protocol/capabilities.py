"""What may be sent to whom: nothing that the peer has not said it understands."""

from __future__ import annotations

from collections.abc import Collection

from ppx_server.errors import LocalProtocolError
from ppx_server.protocol.wire import PARAM_NAMES, REQUIRED_CAPABILITY

_REMEDIES = {
    "Error": "send Reset()",
    "RunBatch": "send Run() and answer its draws",
    "BatchResult": "send Reset()",
    "Rejection": "send nothing",
    "RejectionResult": "send nothing",
    "Shutdown": "end the process otherwise",
    "ShutdownResult": "send nothing",
}


def check_message(kind: str, peer_capabilities: Collection[str]) -> None:
    """Refuses a message that the peer does not know.

    Raises:
        LocalProtocolError: The peer has not announced the capability.
    """
    needed = REQUIRED_CAPABILITY.get(kind)
    if needed is not None and needed not in peer_capabilities:
        raise LocalProtocolError(
            f"the peer does not understand {kind}: it has not announced the capability {needed!r}, as PPX 1.0 "
            f"systems do not; {_REMEDIES[kind]}"
        )


def check_family(family: str, address: str, peer_capabilities: Collection[str]) -> None:
    """Refuses a family that PPX or the peer does not know.

    Raises:
        LocalProtocolError: PPX has no such family, or the peer has not announced the capability.
    """
    if family not in PARAM_NAMES:
        known = ", ".join(PARAM_NAMES)
        raise LocalProtocolError(f"unknown family {family!r} at address {address!r}; PPX knows {known}")
    needed = REQUIRED_CAPABILITY.get(family)
    if needed is not None and needed not in peer_capabilities:
        raise LocalProtocolError(
            f"the peer does not understand the family {family} (address {address!r}): it has not announced "
            f"the capability {needed!r}, as PPX 1.0 systems do not; use a family of PPX 1.0 here, or a controller "
            "that has it"
        )


def check_missing(name: str, peer_capabilities: Collection[str]) -> None:
    """Refuses to say of an observation that something was not measured where the peer does not know that.

    Raises:
        LocalProtocolError: The peer has not announced the capability.
    """
    if "missing" not in peer_capabilities:
        raise LocalProtocolError(
            f"the peer does not understand that something of the observation {name!r} was not measured: it has not "
            "announced the capability 'missing'; drive it draw by draw, by Run"
        )
