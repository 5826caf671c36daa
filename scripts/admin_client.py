"""Writes the admin API's types and methods into libs/admin_client, from the OpenAPI document.

    .venv/bin/python scripts/admin_client.py libs/admin_client/src/crosslogic_admin/client.py

The file is never edited; `tests/contract/test_admin_client.py` compares it with what this writes.
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
_HEAD = '''"""The admin API of gateway {version}: types and a method for each operation. Made by `make admin-client`."""

from collections.abc import Iterator
from typing import Any, Literal, NotRequired, TypedDict

from crosslogic_admin.transport import Transport, part
'''
_CLIENT = '''
class AdminClient(Transport):
    """Speaks to one gateway. Methods raise AdminError when it refuses, UnreachableError when it does not answer."""
'''


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
    url = re.sub(r"\{(\w+)\}", lambda found: "{part(" + argument_name(found[1]) + ")}", path)
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
    return "\n".join([head, classes, _CLIENT, *(f"{each}\n" for each in operations)]).rstrip() + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Writes the typed client of the admin API.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--version", default="0.1.0", help="of the gateway that it is for")
    chosen = parser.parse_args()
    chosen.file.parent.mkdir(parents=True, exist_ok=True)
    chosen.file.write_text(source(build_document(chosen.version)))
    sys.stdout.write(f"{chosen.file}\n")


if __name__ == "__main__":
    main()
