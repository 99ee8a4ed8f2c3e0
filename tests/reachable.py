"""Ways for other uids to Python and the project when they lie in somebody's private home.

An interpreter under /root (mode 0700) can't be started by a second uid. In the sandbox's own
mount namespace such a folder is covered by an empty one with mode 0755 that holds only what
leads on; nothing outside of the sandbox changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests import enclosure


def open_ways() -> None:
    """Make the interpreter, its libraries and the project reachable. Idempotent, a few milliseconds."""
    wanted = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent]
    wanted.append(Path(__file__).resolve().parent.parent)
    for path in dict.fromkeys(wanted):
        while (closed := _first_closed(path)) is not None:
            _cover(closed, {p for p in wanted if closed in p.parents})


def _first_closed(path: Path) -> Path | None:
    """The topmost folder above `path` that others can't pass."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def _cover(folder: Path, wanted: set[Path]) -> None:
    here = os.getcwd()
    names = {path.relative_to(folder).parts[0] for path in wanted}
    held = {name: os.open(folder / name, os.O_PATH | os.O_DIRECTORY) for name in names}
    try:
        enclosure.mount("tmpfs", str(folder), "tmpfs", 0, "mode=0755")
        for name, handle in held.items():
            (folder / name).mkdir(mode=0o755)
            enclosure.mount(
                f"/proc/self/fd/{handle}", str(folder / name), None, enclosure.MS_BIND | enclosure.MS_REC
            )
    finally:
        for handle in held.values():
            os.close(handle)
    os.chdir(here)
