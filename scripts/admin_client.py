"""Writes a typed Python client of the admin API: one file that needs nothing but Python, a method for each operation.

    .venv/bin/python scripts/admin_client.py dist/crosslogic_admin.py

It is made from the OpenAPI document, so it always has what that version of the gateway has. It is not kept in the
repository, where it would be out of date with the next route.
"""

import argparse
import keyword
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosslogic_gateway.openapi import build_document

Json = Mapping[str, Any]
_SIMPLE = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_HEAD = '''"""A client of CrossLogic's admin API, version {version}. Written by scripts/admin_client.py: do not edit.

    client = AdminClient("https://api.example.com", "the admin token")
    for org in client.list_orgs()["data"]:
        print(org["id"], org["name"])
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NotRequired, TypedDict


class AdminError(Exception):
    """The gateway refused: `status` is HTTP's, `code` ours, `request_id` finds it in the gateway's log."""

    def __init__(self, status: int, code: str, message: str, request_id: str) -> None:
        super().__init__(f"{{status}} {{code}}: {{message}}")
        self.status = status
        self.code = code
        self.request_id = request_id

'''
_CLIENT = '''
class AdminClient:
    """Speaks to one gateway. Methods raise AdminError, or OSError when it cannot be reached."""

    def __init__(self, base_url: str, token: str, *, timeout_s: float = 30.0) -> None:
        """`base_url` without a path; `token` goes into X-Admin-Token."""
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s

    def _open(self, method: str, path: str, query: Mapping[str, object], body: object, key: str | None) -> Any:
        wanted = {name: _text(value) for name, value in query.items() if value is not None}
        url = self._base_url + path + ("?" + urllib.parse.urlencode(wanted, doseq=True) if wanted else "")
        headers = {"X-Admin-Token": self._token, "Accept": "application/json, text/event-stream"}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error.code, error.read(), error.headers.get("X-CrossLogic-Request-ID", "")) from None

    def _call(self, method: str, path: str, query: Mapping[str, object], body: object, key: str | None) -> Any:
        with self._open(method, path, query, body, key) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def _events(
        self, method: str, path: str, query: Mapping[str, object], body: object, key: str | None
    ) -> Iterator[Any]:
        with self._open(method, path, query, body, key) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])
'''
_TAIL = """

def _refusal(status: int, raw: bytes, request_id: str) -> AdminError:
    try:
        error = json.loads(raw)["error"]
        return AdminError(status, str(error.get("code")), str(error.get("message")), request_id)
    except (ValueError, KeyError, TypeError, AttributeError):
        return AdminError(status, "unknown", raw[:200].decode(errors="replace"), request_id)


def _part(value: str) -> str:
    return urllib.parse.quote(value, safe="")


def _text(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
"""


def type_of(schema: Json) -> str:
    """A schema as a type."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " | ".join(dict.fromkeys(type_of(each) for each in schema[word]))
    if "enum" in schema:
        return f"Literal[{', '.join(repr(each) for each in schema['enum'])}]"
    kind = schema.get("type")
    if kind == "array":
        return f"list[{type_of(schema.get('items', {}))}]"
    if kind == "object":
        more = schema.get("additionalProperties")
        return f"dict[str, {type_of(more) if isinstance(more, dict) else 'Any'}]"
    return _SIMPLE.get(str(kind), "Any")


def _classes(document: Json) -> Iterator[str]:
    for name, schema in document["components"]["schemas"].items():
        if schema.get("type") != "object" or "properties" not in schema:
            # What it names may come later: such a type is not looked into.
            yield f"{name} = {'Any' if '$ref' in str(schema) else type_of(schema)}\n"
            continue
        required = set(schema.get("required", ()))
        yield f'{name} = TypedDict(\n    "{name}",\n    {{'
        for field, own in schema["properties"].items():
            kind = type_of(own) if field in required else f"NotRequired[{type_of(own)}]"
            yield f'        {field!r}: "{kind}",'
        yield "    },\n)\n"


def argument_name(name: str) -> str:
    """What a parameter is called in Python."""
    plain = re.sub(r"\W", "_", name)
    return f"{plain}_" if keyword.iskeyword(plain) or plain in ("body", "self") else plain


def method_name(name: str) -> str:
    """What an operation is called in Python."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _method(path: str, verb: str, operation: Json) -> str:
    given = operation.get("parameters", ())
    in_path = [each["name"] for each in given if each["in"] == "path"]
    in_query = [each for each in given if each["in"] == "query"]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    keyed = any(each["in"] == "header" and each["name"] == "Idempotency-Key" for each in given)
    good = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    content = good.get("content", {})
    streamed = "text/event-stream" in content
    told = type_of(content["application/json"]["schema"]) if "application/json" in content else "Any"
    arguments = ["self", *(f"{argument_name(name)}: str" for name in in_path)]
    if body is not None:
        arguments.append(f"body: {type_of(body)}")
    optional = [f"{argument_name(each['name'])}: {type_of(each['schema'])} | None = None" for each in in_query]
    optional += ["idempotency_key: str | None = None"] if keyed else []
    arguments += ["*", *optional] if optional else []
    url = re.sub(r"\{(\w+)\}", lambda found: "{_part(" + argument_name(found[1]) + ")}", path)
    query = ", ".join(f"{each['name']!r}: {argument_name(each['name'])}" for each in in_query)
    call = f'self.{"_events" if streamed else "_call"}("{verb.upper()}", f"{url}", {{{query}}}, '
    call += f"{'body' if body is not None else 'None'}, {'idempotency_key' if keyed else 'None'})"
    result = "Iterator[Any]" if streamed else told
    lines = [f"    def {method_name(operation['operationId'])}({', '.join(arguments)}) -> {result}:"]
    lines += [f'        """{operation["summary"]}."""', f"        answer: {result} = {call}", "        return answer"]
    return "\n".join(lines)


def source(document: Json) -> str:
    """The client."""
    operations = [
        _method(path, verb, operation)
        for path, item in document["paths"].items()
        if path.startswith("/admin")
        for verb, operation in item.items()
        if "operationId" in operation
    ]
    classes = "\n".join(_classes(document))
    head = _HEAD.format(version=document["info"]["version"])
    return "\n".join([head, classes, _CLIENT, *(f"{each}\n" for each in operations)]).rstrip() + "\n" + _TAIL


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Writes a typed client of the admin API.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--version", default="0.1.0", help="of the gateway that it is for")
    chosen = parser.parse_args()
    chosen.file.parent.mkdir(parents=True, exist_ok=True)
    chosen.file.write_text(source(build_document(chosen.version)))
    sys.stdout.write(f"{chosen.file}\n")


if __name__ == "__main__":
    main()
