"""Who may call what, as the comments of the contracts say it."""

import re
from pathlib import Path

PROTOS = Path(__file__).parents[2] / "protos/crosslogic"
_SERVICES = "gateway|operator|billing|scheduler|registry|orchestrator|accountant|identity"
_CALLERS = re.compile(rf"Callers: ((?:{_SERVICES}|node)(?:, (?:{_SERVICES}|node))*)\b")


def callers_in_contract(package: str) -> dict[str, frozenset[str]]:
    """By method path, for each RPC of `crosslogic.<package>.v1` whose comment names its callers."""
    said: dict[str, frozenset[str]] = {}
    for proto in sorted((PROTOS / package / "v1").glob("*.proto")):
        comment, service = "", ""
        for line in proto.read_text(encoding="utf-8").splitlines():
            text = line.strip()
            if text.startswith("//"):
                comment += " " + text[2:].strip()
                continue
            named = re.match(r"service (\w+) {", text)
            service = named[1] if named else service
            rpc = re.match(r"rpc (\w+)\(", text)
            callers = _CALLERS.search(comment)
            if rpc and callers:
                names = callers[1].split(", ")
                said[f"/crosslogic.{package}.v1.{service}/{rpc[1]}"] = frozenset(
                    name if name == "node" else f"service:{name}" for name in names
                )
            comment = ""
    return said
