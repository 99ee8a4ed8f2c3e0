"""The socket is never open wider than it shall be, and nothing else is replaced by it."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from coentro.helper import listen
from coentro.helper.listen import ListenError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def own_group() -> str:
    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        pytest.skip("the group that runs this has no name: run it as an account of the system")


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_it_listens_with_the_groups_mode(folder: Path) -> None:
    made = listen.bind(str(folder / "s"), own_group(), None)
    assert (mode(made.path), os.stat(made.path).st_gid) == (0o660, os.getegid())
    assert made.problems == ()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(made.path)
    listen.remove(made)
    assert not os.path.lexists(made.path)


def test_without_its_group_it_is_its_owners_alone_and_says_so(folder: Path) -> None:
    made = listen.bind(str(folder / "s"), "no-such-group-here", None)
    assert mode(made.path) == 0o600
    assert made.problems == ("there is no group no-such-group-here; its mode is 0600",)
    listen.remove(made)


def test_a_mode_that_is_given_holds_without_the_group_too(folder: Path) -> None:
    made = listen.bind(str(folder / "s"), "no-such-group-here", 0o666)
    assert mode(made.path) == 0o666
    listen.remove(made)


def test_before_it_listens_nobody_could_have_connected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.chmod

    def watched(path: str, final: int) -> None:
        modes.append(mode(path))
        with socket.socket(socket.AF_UNIX) as client:
            modes.append(client.connect_ex(path))
        real(path, final)

    folder.joinpath("d").mkdir(mode=0o755)
    monkeypatch.setattr(os, "chmod", watched)
    made = listen.bind(str(folder / "d" / "s"), own_group(), 0o666)
    assert modes[0] == 0o600
    assert modes[1] != 0
    listen.remove(made)


def test_a_stale_socket_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(folder / "s"))
    made = listen.bind(str(folder / "s"), own_group(), None)
    listen.remove(made)


def test_a_socket_on_which_somebody_answers_is_left_alone(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "s"))
        other.listen()
        with pytest.raises(ListenError, match="somebody listens"):
            listen.bind(str(folder / "s"), own_group(), None)
        assert stat.S_ISSOCK(os.lstat(folder / "s").st_mode)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_removed(folder: Path, kind: str) -> None:
    there = folder / "s"
    if kind == "file":
        there.write_text("precious")
    elif kind == "directory":
        there.mkdir()
    else:
        folder.joinpath("precious").write_text("x")
        there.symlink_to(folder / "precious")
    with pytest.raises(ListenError, match="no socket"):
        listen.bind(str(there), own_group(), None)
    assert os.path.lexists(there)


def test_a_directory_that_others_may_write_is_refused(folder: Path) -> None:
    folder.joinpath("d").mkdir()
    folder.joinpath("d").chmod(0o777)
    with pytest.raises(ListenError, match="writable"):
        listen.bind(str(folder / "d" / "s"), own_group(), None)


def test_a_directory_behind_a_link_is_refused(folder: Path) -> None:
    folder.joinpath("real").mkdir()
    folder.joinpath("d").symlink_to(folder / "real")
    with pytest.raises(ListenError, match="symbolic link"):
        listen.bind(str(folder / "d" / "s"), own_group(), None)


def test_a_name_that_no_socket_can_have_is_refused(folder: Path) -> None:
    with pytest.raises(ListenError, match="107"):
        listen.bind(str(folder / ("x" * 110)), own_group(), None)


def test_another_helpers_socket_is_not_taken_away(folder: Path) -> None:
    made = listen.bind(str(folder / "s"), own_group(), None)
    os.unlink(made.path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(made.path)
        listen.remove(made)
        assert os.path.lexists(made.path)
