#!/usr/bin/env bash
# Generates the stubs of protos/ into DIR (default libs/protos/src). Generated files are never edited.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-libs/protos/src}"
mkdir -p "$out"
find "$out/crosslogic" -name '*_pb2*' -delete 2>/dev/null || true
PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m grpc_tools.protoc -Iprotos \
    --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" \
    $(cd protos && find crosslogic -name '*.proto' | sort)
for dir in $(find "$out/crosslogic" -mindepth 1 -type d ! -name __pycache__); do
    touch "$dir/__init__.py"
done
touch "$out/crosslogic/py.typed"
