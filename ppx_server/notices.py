"""What the client library in a simulator says of the model on the output of its process: lines that hold `ppx: `."""

from __future__ import annotations

import re

_NOTICE = re.compile(rb"(?:^|[\s:])ppx: (.+)")
_SERVING = b"serving PPX at "
_MOST_NOTICES, _LONGEST_LINE = 20, 2_000


class Notices:
    """Collects notices from output as it comes; the first ones are kept, each once.

    Attributes:
        texts: What they say, without `ppx: ` and what stands before it.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._line = bytearray()

    def feed(self, output: bytes) -> None:
        """Takes in the next piece of output, which may end within a line."""
        *complete, rest = output.split(b"\n")
        for piece in complete:
            self._take(bytes(self._line) + piece)
            self._line.clear()
        self._line += rest[: _LONGEST_LINE - len(self._line)]

    def _take(self, line: bytes) -> None:
        found = _NOTICE.search(line[:_LONGEST_LINE])
        if found is None or found[1].startswith(_SERVING):
            return
        text = found[1].decode(errors="replace").strip()
        if text not in self.texts and len(self.texts) < _MOST_NOTICES:
            self.texts.append(text)
