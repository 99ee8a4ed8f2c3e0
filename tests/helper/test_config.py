"""The configuration: defaults, every key, and every fault with its line."""

from __future__ import annotations

import os
import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coentro.helper import locate
from coentro.helper.config import Config, ConfigError, Limits, Policy, Scopes, SocketConfig, Who, load, parse
from coentro.networks import Networks

MINE = {os.geteuid()}

WHOLE = b"""
idle_exit_s = 60
recover_grace_s = 1.5
log_level = "debug"
log_format = "json"
[socket]
group = "vpn"
mode = "0666"
[access]
users = ["ann"]
uids = [1001]
[scopes]
require_token = []
admin = { groups = ["wheel"] }
[scopes.tunnel]
gids = [7]
[policy]
everything = "admin"
networks = ["10.0.0.0/8", "fd00::/8"]
[limits]
max_message_bytes = 65536
tunnels_per_uid = 1
[dns]
[network]
[audit]
"""


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    config = load(None, str(tmp_path / "absent.toml"), MINE)
    assert config == Config()
    assert (config.idle_exit_s, config.recover_grace_s, config.log_level) == (0, 30, "info")
    assert config.socket == SocketConfig("coentrovpn", None)
    assert config.access == Who(groups=("coentrovpn",))
    assert config.scopes == Scopes(None, None, None, ())
    assert config.policy == Policy("tunnel", "tunnel", "tunnel", None)
    assert config.limits == Limits(8388608, 100, 1024, 128, 500, 1000, 64, 8, 1000000)


def test_every_key_is_read() -> None:
    config = parse(WHOLE, "f")
    assert config == Config(
        idle_exit_s=60,
        recover_grace_s=1.5,
        log_level="debug",
        log_format="json",
        socket=SocketConfig("vpn", 0o666),
        access=Who(users=("ann",), uids=(1001,)),
        scopes=Scopes(admin=Who(groups=("wheel",)), tunnel=Who(gids=(7,))),
        policy=Policy(everything="admin", networks=Networks.parse(["10.0.0.0/8", "fd00::/8"])),
        limits=Limits(max_message_bytes=65536, tunnels_per_uid=1),
    )


def test_naming_anyone_in_access_replaces_the_default_group() -> None:
    assert parse(b"[access]\nuids = [5]", "f").access == Who(uids=(5,))
    assert parse(b"[access]\ngroups = []", "f").access == Who()
    assert parse(b"[access]", "f").access == Who(groups=("coentrovpn",))


def test_an_empty_list_of_networks_is_not_all_of_them() -> None:
    networks = parse(b"[policy]\nnetworks = []", "f").policy.networks
    assert networks is not None
    assert len(networks) == 0


def test_what_changed_is_told_by_its_name() -> None:
    assert parse(WHOLE, "f").changed(parse(WHOLE, "f")) == []
    new = parse(b'log_level = "debug"\n[limits]\nburst = 2000', "f")
    assert new.changed(Config()) == ["log_level", "limits"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("log_levle = 1", "f:1: log_levle: unknown key; did you mean log_level?"),
        ("\n\n[limts]\nburst = 1", "f:3: [limts]: unknown table; did you mean limits?"),
        ("[limits]\n\n  # c\n'burts' = 1", "f:4: [limits] burts: unknown key; did you mean burst?"),
        ("[scopes.adm]\nuids = []", "f:1: [scopes.adm]: unknown table; did you mean admin?"),
        ('scopes.admin."gid" = [1]', "f:1: [scopes.admin] gid: unknown key; did you mean gids?"),
        ("[scopes]\nadmin = {uids = [1], groops = []}", "f:2: [scopes.admin] groops: unknown key"),
        ("limits = 3", "f:1: limits: expected a table [limits]"),
        ("[[limits]]\nburst = 2", "f:1: limits: expected a table [limits]"),
        ("[scopes]\n\ntunnel = 'all'", "f:3: [scopes] tunnel: expected a table [scopes.tunnel]"),
        ("idle_exit_s = -1", "f:1: idle_exit_s: expected a number from 0 to 31536000, not -1"),
        ("idle_exit_s = true", "f:1: idle_exit_s: expected a number from 0 to 31536000"),
        ("idle_exit_s = nan", "f:1: idle_exit_s: expected a number from 0 to 31536000"),
        ("recover_grace_s = '30'", "f:1: recover_grace_s: expected a number from 0 to 86400"),
        ("log_level = 'loud'", "f:1: log_level: expected debug, info, warning or error"),
        ("log_format = ['text']", "f:1: log_format: expected text or json"),
        ("[socket]\nmode = 432", 'f:2: [socket] mode: expected the mode as a text, such as "0660"'),
        ("[socket]\nmode = '0990'", 'f:2: [socket] mode: expected the mode as a text, such as "0660"'),
        ("[socket]\nmode = '04660'", 'f:2: [socket] mode: expected the mode as a text, such as "0660"'),
        ("[socket]\nmode = '0777'", "f:2: [socket] mode: expected a mode that lets the owner read and write"),
        ("[socket]\nmode = '0060'", "f:2: [socket] mode: expected a mode that lets the owner read and write"),
        ("[socket]\ngroup = ''", "f:2: [socket] group: expected a name"),
        ("[access]\nusers = 'ann'", "f:2: [access] users: expected a list of user names"),
        ('[access]\nusers = ["a", "b\\u0000"]', "f:2: [access] users[1]: expected a name"),
        ("[access]\nuids = [1, 2, 1]", "f:2: [access] uids[2]: 1 stands there twice"),
        ("[access]\ngids = [1.0]", "f:2: [access] gids[0]: expected an integer from 0 to 4294967294"),
        ("[access]\nuids = [4294967295]", "f:2: [access] uids[0]: expected an integer from 0 to 4294967294"),
        ("[access]\nuids = [true]", "f:2: [access] uids[0]: expected an integer"),
        (
            "[scopes]\nrequire_token = ['admin']",
            "f:2: [scopes] require_token: expected []: tokens are not in this",
        ),
        ("[policy]\neverything = 'root'", "f:2: [policy] everything: expected observe, tunnel or admin"),
        (
            "[policy]\nnetworks = ['10.0.0.0/8',\n'10.0.0.1/8']",
            "f:2: [policy] networks[1]: 10.0.0.1/8 has host bits",
        ),
        ("[limits]\nmax_batch = 0", "f:2: [limits] max_batch: expected an integer from 1 to 10000, not 0"),
        ("[limits]\nmax_batch = 1.5", "f:2: [limits] max_batch: expected an integer from 1 to 10000"),
        ("[dns]\nbackend = 'x'", "f:2: [dns] backend: this version has no keys in [dns]"),
        ("[network]\ntables = [1, 2]", "f:2: [network] tables: this version has no keys in [network]"),
        ("[audit]\nfile = 'x'", "f:2: [audit] file: this version has no keys in [audit]"),
        ("\n\na = [", "f:3: "),
        ("\na = 1\na = 2", "f:3: "),
        ("\r\n\r\na b", "f:3: "),
        ('"\\u001b[2J" = 1', "f:1: '\\x1b[2J': unknown key"),
    ],
)
def test_a_fault_has_its_line_and_what_was_expected(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f")
    told = str(caught.value)
    assert told.startswith(fault), told
    assert told.isprintable()


@pytest.mark.parametrize("text", [b"a = " + b"[" * 100_000, b"a = " + b"9" * 10_000])
def test_what_is_absurd_is_refused_in_a_sentence(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^f: a value is too long or too deep"):
        parse(text, "f")


def test_a_file_that_is_not_utf8_is_refused_at_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^f:2: not UTF-8"):
        parse(b"# a\n# \xff\n", "f")


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"named\.toml: there is no such file"):
        load(str(tmp_path / "named.toml"), str(tmp_path / "absent.toml"), MINE)


def test_a_file_that_others_may_write_is_an_error_even_where_the_default_lies(tmp_path: Path) -> None:
    file = tmp_path / "helper.toml"
    file.write_text("")
    file.chmod(0o666)
    for named in (None, str(file)):
        with pytest.raises(ConfigError, match="writable by others"):
            load(named, str(file), MINE)


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no regular file"):
        load(str(tmp_path), "absent", MINE)


def test_a_file_is_read_with_its_name_in_faults(tmp_path: Path) -> None:
    file = tmp_path / "helper.toml"
    file.write_text("x = 1")
    file.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load(str(file), "absent", MINE)
    assert str(caught.value).startswith(f"{file}:1: x: unknown key")


_BARE = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=4)
_KEY = st.one_of(_BARE, _BARE.map(lambda k: f"'{k}.#'"), _BARE.map(lambda k: f'"{k}\\t]"'))
_TEXT = st.sampled_from(
    [
        '"a#]\\"="',
        "'a = 1\"'",
        '"""\n[x]\ny = 1 \\\n"""',
        "'''\n# c\n[z]\n'''",
        '""""quoted"""""',
        '""',
        "''''q''''",
    ]
)
_VALUE = st.recursive(
    st.one_of(_TEXT, st.sampled_from(["1", "-1.5e3", "true", "2026-01-01 10:00:00Z", "0xff", "nan"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda vs: "[\n# c ]\n" + ",\n".join(vs) + "\n]"),
        st.lists(inner, max_size=3).map(lambda vs: "[" + ", ".join(vs) + "]"),
        st.dictionaries(_BARE, inner.filter(lambda v: "\n" not in v), max_size=2).map(
            lambda d: "{" + ", ".join(f"{k} = {v}" for k, v in d.items()) + "}"
        ),
    ),
    max_leaves=6,
)


@given(st.data())
def test_the_line_of_every_key_is_found(data: st.DataObject) -> None:
    """Keys are written at known lines between values that look like keys, tables and comments."""
    text = ""
    table: locate.Place = ()
    expected: dict[locate.Place, int] = {}
    for number in range(data.draw(st.integers(1, 6))):
        key = data.draw(_KEY)
        name = next(iter(tomllib.loads(f"{key} = 1")))
        line = text.count("\n") + 1
        if data.draw(st.booleans()):
            table = (f"t{number}", name)
            text += f" [ t{number} . {key} ] # c [d]\n"
            expected[table] = line
        else:
            text += f"n{number}.{key} = {data.draw(_VALUE)} # = [\n"
            expected[(*table, f"n{number}", name)] = line
        text += data.draw(st.sampled_from(["", "\n", "# x = 1\n\n"]))
    tree = tomllib.loads(text)
    found = locate.lines(text)
    assert {place: found.get(place) for place in expected} == expected
    assert all(_is_there(tree, place) for place in found), "a value was read as a key"


def _is_there(tree: object, place: locate.Place) -> bool:
    if not place:
        return True
    if isinstance(tree, list):
        return any(_is_there(one, place) for one in tree)
    return isinstance(tree, dict) and place[0] in tree and _is_there(tree[place[0]], place[1:])


def test_a_table_is_where_it_is_first_named() -> None:
    found = locate.lines("[a]\nb = 1\n[a.c]\nd = 1\n[e]\nx.y = 1\nx.z = 2\n")
    assert found == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", "d"): 4,
        ("e",): 5,
        ("e", "x"): 6,
        ("e", "x", "y"): 6,
        ("e", "x", "z"): 7,
    }


def test_quotes_at_the_end_of_a_long_string_are_its_own() -> None:
    text = "a = \"\"\"\"quoted\"\"\"\"\"\nb = ''''quoted'''''\nc = 1\n"
    assert tomllib.loads(text)["a"] == '"quoted""'
    assert locate.lines(text) == {("a",): 1, ("b",): 2, ("c",): 3}
