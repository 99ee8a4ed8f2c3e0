"""The reference part of docs/protocol.md, written from the document that `rpc.discover` answers.

So the two can't differ: a test asks for what `--check` does. Exit codes: 0 written, or as it
should be; 1 it is not; 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from coentro.helper.document import document

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
BEGIN: Final = "<!-- reference: begin -->\n"
END: Final = "<!-- reference: end -->\n"
WIDTH: Final = 108
HEAD: Final = """\
*Written by `tools/reference` from the code, like the answer to `rpc.discover`: change that, then run it.*

Every object is closed: a member that is not named here is refused in parameters and does not come in
answers. `null` is the same as leaving out wherever a parameter is optional.
"""

Json = Mapping[str, Any]


def reference(told: Json) -> str:
    """The whole part, from the document."""
    schemas = told["components"]["schemas"]
    lines = [HEAD]
    lines += ["### Each method\n"]
    for method in told["methods"]:
        lines += _method(method, told)
    lines += ["### Each event\n", *_events(told)]
    lines += ["### Each error\n", *_errors(told)]
    lines += ["### Each type\n"]
    # The data of errors and events stands beside them.
    hidden = {_name(schema) for schema in told["x-error-data"].values()}
    hidden |= {_name(event["data"]) for event in told["x-events"] if "data" in event}
    for name in sorted(set(schemas) - hidden):
        lines += _type(name, schemas[name])
    return "\n".join(lines)


def _method(method: Json, told: Json) -> Iterator[str]:
    yield f"#### `{method['name']}`\n"
    yield " ".join(filter(None, (method["summary"], method.get("description")))) + "\n"
    scope = method["x-scope"]
    facts = [f"Scope: {f'`{scope}`' if scope else 'none'}."]
    if method["x-changes"]:
        facts.append("Takes its turn among the changes.")
    if "x-unsupported" in method:
        facts.append(f"**Not in this version:** -32007 with `{method['x-unsupported']}`.")
    yield " ".join(facts) + "\n"
    if method["params"]:
        yield from _table(
            ("parameter", "value", "default", ""),
            [
                (
                    f"`{p['name']}`",
                    _value(p["schema"]),
                    "**required**" if p["required"] else _default(p["schema"]),
                    p.get("description", ""),
                )
                for p in method["params"]
            ],
        )
    else:
        yield "No parameters.\n"
    yield f"Result: {_value(method['result']['schema'])}.\n"
    errors = [told["components"]["errors"][_name(e)] for e in method["errors"]]
    yield "Refused with: " + ", ".join(f"`{e['data']['reason']}`" for e in errors) + ".\n"
    for example in method["examples"]:
        params = {p["name"]: p["value"] for p in example["params"]}
        yield from _example(method["name"], example["name"], params, {"result": example["result"]["value"]})
    for refusal in method.get("x-refusals", ()):
        yield from _example(method["name"], refusal["name"], refusal["params"], {"error": refusal["error"]})


def _example(method: str, name: str, params: Json, outcome: Json) -> Iterator[str]:
    head = {"jsonrpc": "2.0", "id": 1}
    call = {**head, "method": method, **({"params": params} if params else {})}
    yield f"{name[:1].upper()}{name[1:]}:\n"
    yield from _block(call, {**head, **outcome})


def _block(*values: Json) -> Iterator[str]:
    yield "```json"
    yield from (written(value) for value in values)
    yield "```\n"


def _events(told: Json) -> Iterator[str]:
    (params,) = {_value(told["x-notification"]["params"])}
    yield f"A notification `{told['x-notification']['method']}` with {params} as params.\n"
    for event in told["x-events"]:
        if not event["told"]:
            continue
        yield f"#### `{event['type']}`\n"
        yield f"{event['summary']}\n"
        yield from _members(told["components"]["schemas"][_name(event["data"])])
        yield from _block(event["example"])
    yield "Not told in this version:\n"
    later = [(f"`{e['type']}`", e["summary"]) for e in told["x-events"] if not e["told"]]
    yield from _table(("type", "when"), later)


def _errors(told: Json) -> Iterator[str]:
    rows = []
    for name, error in told["components"]["errors"].items():
        shape = told["components"]["schemas"][_name(told["x-error-data"][name])]
        members = [
            f"`{member}`{'' if member in shape['required'] else '?'}: {_value(inner)}. {_said(inner)}".strip()
            for member, inner in shape["properties"].items()
            if member != "reason"
        ]
        rows.append(
            (str(error["code"]), f"`{error['data']['reason']}`", error["message"], "<br>".join(members))
        )
    yield from _table(("code", "`data.reason`", "when", "`data` beside it"), rows)


def _type(name: str, schema: Json) -> Iterator[str]:
    yield f"#### {name}\n"
    yield f"{_said(schema)}\n"
    if schema.get("type") == "object":
        yield from _members(schema)
        return
    yield f"{_value(schema)[:1].upper()}{_value(schema)[1:]}.\n"
    if "examples" in schema:
        yield "Such as " + ", ".join(f"`{json.dumps(e)}`" for e in schema["examples"]) + ".\n"


def _members(schema: Json) -> Iterator[str]:
    rows = [
        (f"`{member}`", _optional(member, inner, schema), _said(inner))
        for member, inner in schema["properties"].items()
    ]
    if rows:
        yield from _table(("member", "value", ""), rows)


def _optional(member: str, inner: Json, schema: Json) -> str:
    """What may be left out says so, or what is the default."""
    if member in schema["required"]:
        return _value(inner)
    return f"{_value(inner)}; {'default ' + _default(inner) if 'default' in inner else 'may be left out'}"


def _said(schema: Json) -> str:
    text: str = schema.get("description", "")
    return text


def _default(schema: Json) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else "none"


def _name(reference: Json) -> str:
    name: str = reference["$ref"].rpartition("/")[2]
    return name


def _value(schema: Json) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        return f"[{_name(schema)}](#{_name(schema).lower()})"
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(_value(inner) for inner in schema[word])
    if "allOf" in schema:
        return _value(schema["allOf"][0])
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    types = schema.get("type", "anything")
    names = [types] if isinstance(types, str) else types
    return " or ".join(_simple(name, schema) for name in names)


def _simple(name: str, schema: Json) -> str:
    match name:
        case "array":
            count = _range(schema, "minItems", "maxItems")
            inner = schema["items"]
            return f"list{' of ' + count if count else ''}: {_value(inner)}"
        case "object":
            return _object(schema)
        case "string":
            if schema.get("format") == "date-time":
                return "time"
            if "title" in schema:
                return str(schema["title"])
            most = f" of at most {schema['maxLength']}" if "maxLength" in schema else ""
            return f"text{most}" + (f" like `{schema['pattern']}`" if "pattern" in schema else "")
        case "integer" | "number":
            bounds = _range(schema, "minimum", "maximum", "exclusiveMinimum")
            return f"{name} ({bounds})" if bounds else name
    return name


def _object(schema: Json) -> str:
    members = schema.get("properties")
    if members is None:
        return "object"
    told = [
        f"`{name}`{'' if name in schema['required'] else '?'}: {_value(s)}" for name, s in members.items()
    ]
    return f"{{{', '.join(told)}}}"


def _range(schema: Json, least: str, most: str, above: str = "") -> str:
    if above in schema:
        return f"above {schema[above]}" + (f", at most {schema[most]}" if most in schema else "")
    if least in schema and most in schema:
        return f"{schema[least]} to {schema[most]}"
    if least in schema:
        return f"at least {schema[least]}"
    return f"at most {schema[most]}" if most in schema else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row(head)
    yield _row(["---"] * len(head))
    yield from map(_row, rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def written(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON with everything on one line that fits there; `before`: columns taken on its first one."""
    flat = json.dumps(value, ensure_ascii=False)
    if indent + before + len(flat) <= WIDTH or not isinstance(value, dict | list) or not value:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, dict):
        keys = {name: f"{json.dumps(name)}: " for name in value}
        parts = [f"{pad}{keys[n]}{written(v, indent + 2, len(keys[n]) + 1)}" for n, v in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{' ' * indent}}}"
    return "[\n" + ",\n".join(f"{pad}{written(v, indent + 2, 1)}" for v in value) + f"\n{' ' * indent}]"


def with_reference(page: str, told: Json) -> str:
    """The page with its reference part as the document says. Errors: ValueError without the marks."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"no reference part between {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{reference(told)}{END}{after}"


def main(argv: Sequence[str]) -> int:
    if list(argv) not in ([], ["--check"]):
        print("usage: tools/reference [--check]", file=sys.stderr)
        return 2
    page = PAGE.read_text()
    new = with_reference(page, document())
    if not argv:
        PAGE.write_text(new)
    elif new != page:
        print("docs/protocol.md is not as the code says: run tools/reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
