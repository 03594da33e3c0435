"""Addresses of draws that have no name: where in the source the draw is made.

A call site reads `detector/calorimeter:41:12:Shower::deposit`: file without its suffix, relative to the source root,
then line, column and function. The source root is the directory that holds the top-level package of the file, or the
file itself if it is in no package, so the same source gives the same addresses on every machine and from every working
directory. The column tells draws on one line apart. There is no dot in a call site: PPX 1.0 controllers
use addresses as names of network layers, and PyTorch forbids dots there.
"""

from __future__ import annotations

import os.path
from itertools import islice
from types import CodeType, FrameType

# (id of the code object, index of its instruction) -> (the code object, so that its id is not reused; the call site).
_sites: dict[tuple[int, int], tuple[CodeType, str]] = {}
_MAX_SITES = 1 << 16
"""Models that compile code while they run make new code objects for ever; beyond this many we start again."""


def call_site(frame: FrameType) -> str:
    """The call site of the call that `frame` is executing; cheap after the first visit."""
    code = frame.f_code
    key = (id(code), frame.f_lasti)
    found = _sites.get(key)
    if found is None:
        if len(_sites) >= _MAX_SITES:
            _sites.clear()
        found = _sites[key] = (code, _describe(frame))
    return found[1]


def _describe(frame: FrameType) -> str:
    code = frame.f_code
    # Two bytes per instruction; positions are those of the whole call expression.
    line, _, column, _ = next(islice(code.co_positions(), frame.f_lasti // 2, None), (None,) * 4)
    where = (
        f"+{frame.f_lasti}" if column is None else str(column + 1)
    )  # python -X no_debug_ranges keeps no columns
    function = code.co_qualname.replace(".", "::")
    return f"{_source_path(frame)}:{line or frame.f_lineno}:{where}:{function}"


def _source_path(frame: FrameType) -> str:
    """The source file relative to its source root, with `/` and without suffix and dots."""
    file = frame.f_code.co_filename
    module_file = frame.f_globals.get("__file__")
    if isinstance(module_file, str) and os.path.basename(module_file) == os.path.basename(file):
        file = module_file  # absolute, whereas a script's own name is as it was typed
    path, _ = os.path.splitext(os.path.abspath(file))
    parts = path.replace(os.sep, "/").split("/")
    depth = max(_depth_by_name(frame, parts[-1]), _depth_by_folder(path))
    return "/".join(parts[-depth - 1 :]).replace(".", "_")


def _depth_by_name(frame: FrameType, stem: str) -> int:
    """Number of packages around the module, by its dotted name; also right for packages without `__init__.py`."""
    spec = frame.f_globals.get("__spec__")
    name = getattr(spec, "name", None) or frame.f_globals.get("__name__") or ""
    return str(name).count(".") + (stem == "__init__")


def _depth_by_folder(path: str) -> int:
    """The same by the `__init__.py` files around it; also right for a module of a package run as a script."""
    depth = 0
    folder = os.path.dirname(path)
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        depth += 1
        folder = os.path.dirname(folder)
    return depth
