"""A profile: a TOML file with a tunnel's spec at its top and `[engine]` for `run`.

Only what TOML has and JSON lacks is refused here; whether the fields make a tunnel is the
helper's to say, so that there is one place that knows.
"""

from __future__ import annotations

import datetime
import math
from typing import Any, Final, NamedTuple

from coentro.ctl.faults import Fault, usage

ENGINE_KEYS: Final = ("name", "config")
"""What `[engine]` may hold, each a text: the preset, and the file with what the engine is told."""


class Profile(NamedTuple):
    path: str
    spec: dict[str, Any]
    engine: dict[str, Any]


def load(path: str) -> Profile:
    """Read a profile. Errors: Fault with the exit code of a usage error, the file and the place."""
    import tomllib  # only the commands that take a profile pay for it

    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except UnicodeDecodeError as error:
        raise usage(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise usage(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise usage("the profile's path has a NUL in it") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise usage(f"{path}: {error}") from None
    except RecursionError:
        raise usage(f"{path}: nested too deeply") from None
    for key, value in tree.items():
        _check(path, key, value)
    engine = tree.pop("engine", {})
    if not isinstance(engine, dict):
        raise usage(f"{path}: engine: expected a table, [engine]")
    for key, value in engine.items():
        if key not in ENGINE_KEYS:
            raise _unknown_engine_key(path, key)
        if not isinstance(value, str):
            raise usage(f"{path}: engine.{key}: expected a text")
    return Profile(path, tree, engine)


def _unknown_engine_key(path: str, key: str) -> Fault:
    return usage(
        f"{path}: engine.{key}: unknown; [engine] has {' and '.join(ENGINE_KEYS)}",
        "give the engine's command on the command line: coentroctl run PROFILE.toml -- COMMAND…",
    )


def _check(path: str, place: str, value: Any) -> None:
    """Refuse what JSON can't say."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check(path, f"{place}.{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check(path, f"{place}[{index}]", inner)
    elif isinstance(value, datetime.date | datetime.time):
        raise usage(f"{path}: {place}: a date or time stands where none can: put text in quotes")
    elif isinstance(value, float) and not math.isfinite(value):
        raise usage(f"{path}: {place}: expected a finite number, not {value}")
