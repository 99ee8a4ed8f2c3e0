"""Files are opened, made, locked and replaced without being led elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coentro import files
from tests import sandbox

MINE = {os.geteuid()}


@pytest.fixture(autouse=True)
def usual_umask() -> None:
    os.umask(0o022)


def test_a_file_of_ours_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 100_000)
    assert files.open_trusted(str(file), MINE) == b"x" * 100_000


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(files.Untrusted, match="symbolic link"):
        files.open_trusted(str(tmp_path / "link"), MINE)


def test_neither_fifo_nor_folder_nor_device_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        with pytest.raises(files.Untrusted, match="no regular file"):
            files.open_trusted(str(tmp_path / name), MINE)
    with pytest.raises(files.Untrusted):
        files.open_trusted("/dev/null", {0})


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_trusted(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "a"
    file.write_text("")
    file.chmod(mode)
    with pytest.raises(files.Untrusted, match=f"mode {mode:04o}.*chmod go-w"):
        files.open_trusted(str(file), MINE)


def test_a_file_of_nobody_we_trust_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(files.Untrusted, match=r"belongs to uid|on the way to"):
        files.open_trusted(str(tmp_path / "a"), {os.geteuid() + 1})


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(files.Untrusted, match="larger"):
        files.open_trusted(str(tmp_path / "a"), MINE)


def test_a_file_below_a_folder_that_everyone_may_write_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a").write_text("")
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(files.Untrusted, match="open, on the way"):
        files.open_trusted(str(tmp_path / "open" / "a"), MINE)
    (tmp_path / "open").chmod(0o1777)  # sticky: nobody can move another's file away
    assert files.open_trusted(str(tmp_path / "open" / "a"), MINE) == b""


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.open_trusted(str(tmp_path / "absent" / "a"), MINE)


def test_a_folder_is_made_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    os.umask(0o077)
    files.ensure_directory(str(tmp_path / "a" / "b"), 0o750)
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "a" / "b").stat().st_mode & 0o7777 == 0o750
    files.ensure_directory(str(tmp_path / "a" / "b"), 0o700)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o7777 == 0o750, "what is there stays as it is"


def test_no_link_no_file_and_no_open_folder_is_taken_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    for name, why in (("link", "symbolic link"), ("file", "no directory"), ("open", "writable by others")):
        with pytest.raises(files.Untrusted, match=why):
            files.ensure_directory(str(tmp_path / name))


@pytest.mark.netns
def test_what_another_uid_put_on_the_way_is_not_followed(two_uids: tuple[int, int]) -> None:
    other, _ = two_uids
    public = Path("/run/public")
    public.mkdir()
    public.chmod(0o1777)
    (public / "own").mkdir()
    user = sandbox.as_user(other)
    user.call(os.symlink, "/run/public/own", "/run/public/link")
    user.call(os.mkdir, "/run/public/theirs", 0o755)
    (public / "ours").symlink_to("theirs")
    for path in ("link/sub", "theirs/sub", "theirs", "ours/sub"):
        with pytest.raises(files.Untrusted, match=f"uid {other}"):
            files.ensure_directory(str(public / path))
    assert os.listdir(public / "own") == []


def test_the_second_lock_is_refused_and_names_the_first(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    Path(path).write_text("4194304000\n")  # of a holder long gone, longer than any pid
    Path(path).chmod(0o600)
    held = files.lock(path)
    code = f"from coentro import files\ntry: files.lock({path!r})\nexcept files.Locked as e: print(e.pid)"
    environment = {**os.environ, "PYTHONPATH": sandbox.PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=20
    )
    assert int(done.stdout) == os.getpid()
    os.close(held)
    os.close(files.lock(path))


def test_a_lock_does_not_reach_a_child(tmp_path: Path) -> None:
    held = files.lock(str(tmp_path / "lock"))
    assert not os.get_inheritable(held)
    os.close(held)


def test_a_lock_is_no_way_to_empty_someone_elses_file(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "lock").symlink_to("target")
    with pytest.raises(OSError, match="symbolic links"):
        files.lock(str(tmp_path / "lock"))
    assert (tmp_path / "target").read_text() == "precious"


def test_a_replaced_file_has_the_new_bytes_and_mode_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    files.replace(str(file), b"new", 0o644)
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o7777 == 0o644
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_replaced_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "a").symlink_to("target")
    files.replace(str(tmp_path / "a"), b"new")
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()


def test_the_old_file_stands_when_the_new_one_does_not_fit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    file = tmp_path / "a"
    file.write_text("old")
    code = (
        "import resource, signal\nfrom coentro import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        f"try: files.replace({str(file)!r}, bytes(200))\n"
        "except OSError as e: print(e.errno)"
    )
    environment = {**os.environ, "PYTHONPATH": sandbox.PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=20
    )
    assert int(done.stdout) == 27  # EFBIG
    assert resource is not None
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
