"""docs/protocol.md's reference is what the code says, and a change of one alone is seen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coentro.helper.document import document
from coentro.helper.methods import METHODS
from tools import reference

DOCUMENT: dict[str, Any] = json.loads(json.dumps(document()))


def test_the_page_is_as_the_code_says() -> None:
    page = reference.PAGE.read_text()
    assert reference.with_reference(page, document()) == page, "run tools/reference"


def _parameter(told: Any) -> None:
    told["methods"][0]["params"][0]["schema"] = {"type": "string"}


def _no_parameter(told: Any) -> None:
    told["methods"][0]["params"].pop()


def _scope(told: Any) -> None:
    told["methods"][0]["x-scope"] = "admin"


def _refused(told: Any) -> None:
    told["methods"][0]["errors"].pop()


def _member(told: Any) -> None:
    told["components"]["schemas"]["Tunnel"]["properties"]["more"] = {"type": "string"}


def _optional(told: Any) -> None:
    told["components"]["schemas"]["Stats"]["required"].pop()


def _error(told: Any) -> None:
    told["components"]["errors"]["Busy"]["code"] = 1


def _data(told: Any) -> None:
    told["components"]["schemas"]["KernelData"]["properties"].pop("errno")


def _event(told: Any) -> None:
    told["x-events"][0]["told"] = False


def _example(told: Any) -> None:
    told["methods"][0]["examples"][0]["result"]["value"]["platform"] = "darwin"


def _refusal(told: Any) -> None:
    told["methods"][0]["x-refusals"][0]["error"]["message"] = "no"


def _method(told: Any) -> None:
    told["methods"].pop()


@pytest.mark.parametrize(
    "change",
    [
        _parameter,
        _no_parameter,
        _scope,
        _refused,
        _member,
        _optional,
        _error,
        _data,
        _event,
        _example,
        _refusal,
        _method,
    ],
)
def test_whatever_changes_in_the_code_is_seen_in_the_page(change: Callable[[Any], None]) -> None:
    told = json.loads(json.dumps(DOCUMENT))
    change(told)
    assert reference.reference(told) != reference.reference(DOCUMENT)


def test_check_fails_where_the_page_is_stale_and_writing_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = reference.PAGE.read_text()
    page = tmp_path / "protocol.md"
    monkeypatch.setattr(reference, "PAGE", page)
    for stale in (
        whole.replace("#### `session.ping`\n", "#### `session.pong`\n"),
        whole.replace(reference.END, "more\n" + reference.END),
    ):
        assert stale != whole
        page.write_text(stale)
        assert reference.main(["--check"]) == 1
        assert "run tools/reference" in capsys.readouterr().err
        assert page.read_text() == stale
        assert reference.main([]) == 0
        assert page.read_text() == whole
        assert reference.main(["--check"]) == 0
    assert reference.main(["--chek"]) == 2


def test_a_page_without_its_marks_is_an_error_and_not_overwritten() -> None:
    with pytest.raises(ValueError, match="no reference part"):
        reference.with_reference("# A page\n", DOCUMENT)


def test_every_link_leads_to_one_heading() -> None:
    page = reference.PAGE.read_text()
    anchors = [
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    ]
    links = re.findall(r"\]\(#([^)]*)\)", page)
    assert len(links) > 50
    assert [link for link in links if anchors.count(link) != 1] == []


def test_every_method_and_example_stands_in_the_page() -> None:
    page = reference.PAGE.read_text()
    for name in METHODS:
        assert f"#### `{name}`\n" in page
    blocks = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    told = sum(len(m["examples"]) + len(m.get("x-refusals", ())) for m in DOCUMENT["methods"])
    told += sum("example" in event for event in DOCUMENT["x-events"])
    assert len(blocks) == told
    for block in blocks:
        values = json.loads("[" + block.replace("}\n{", "},\n{") + "]")
        assert all(isinstance(value, dict) for value in values)
