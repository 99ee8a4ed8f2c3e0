"""Whether the locks hold every dependency that pyproject.toml names, each with its hashes.

Offline: it compares names and versions and asks no index. Exits 1 with what is missing.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; .*?)?(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)


def pinned(path: Path) -> dict[str, str]:
    """Versions by canonical name. Errors: SystemExit for a line that is none of name, version, hashes."""
    text = path.read_text().replace("\\\n", " ")
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _PINNED.fullmatch(line)
        if match is None:
            raise SystemExit(f"{path.name}: not `name==version` with hashes: {line[:80]}")
        found[canonicalize_name(match["name"])] = match["version"]
    return found


def missing(lock: str, wanted: list[str]) -> list[str]:
    found = pinned(ROOT / lock)
    return [
        f"{lock} does not hold {requirement}"
        for requirement in map(Requirement, wanted)
        if not requirement.specifier.contains(found.get(canonicalize_name(requirement.name), "0"))
        or canonicalize_name(requirement.name) not in found
    ]


def main() -> int:
    tree = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = tree["project"]["dependencies"]
    faults = [
        *missing("requirements.lock", runtime),
        *missing("requirements-dev.lock", runtime + tree["project"]["optional-dependencies"]["dev"]),
        *missing("requirements-build.lock", tree["dependency-groups"]["build"]),
    ]
    runtime_lock, dev_lock = pinned(ROOT / "requirements.lock"), pinned(ROOT / "requirements-dev.lock")
    faults += [
        f"requirements-dev.lock has another version of {name} than requirements.lock"
        for name, version in runtime_lock.items()
        if dev_lock.get(name) != version
    ]
    for fault in faults:
        print(f"{fault}: run tools/lock")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
