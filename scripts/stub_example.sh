#!/usr/bin/env bash
# Generates and builds the stubs' example in a language: stub_example.sh LANGUAGE [TARGET TLS_FOLDER [CALLER]]; with a
# target it runs it. Where the language's tools are missing it says so and ends with code 0.
set -euo pipefail
cd "$(dirname "$0")/.."
language="$1" target="${2:-}" tls="$(realpath "${3:-.}")" caller="${4:-}"
run() {
    [ -z "$target" ] || exec "$@" "$target" "$tls" ${caller:+"$caller"}
}
missing() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null && continue
        echo "$language: not run, because $tool is not installed here"
        return 0
    done
    return 1
}
install_node_modules() {
    local tsc=node_modules/.bin/tsc
    if [ ! -x "$tsc" ] || [ package-lock.json -nt "$tsc" ]; then
        npm install --no-save --silent --ignore-scripts --no-audit --no-fund >/dev/null
        touch -h "$tsc"
    fi
}

case "$language" in
python)
    rm -rf dist/stub_example
    .venv/bin/python -m build --wheel --no-isolation --outdir dist/stub_example libs/protos >/dev/null 2>&1
    .venv/bin/python -m venv dist/stub_example/venv
    dist/stub_example/venv/bin/pip install --quiet dist/stub_example/*.whl
    run dist/stub_example/venv/bin/python -I examples/python/list_nodes.py
    ;;
typescript)
    missing npm && exit 0
    cd examples/typescript
    install_node_modules
    npm run --silent generate
    npm run --silent build
    run node dist/list_nodes.js
    ;;
go)
    missing npm go protoc-gen-go protoc-gen-go-grpc && exit 0
    (cd examples/typescript && install_node_modules)
    cd examples/go
    ../typescript/node_modules/.bin/buf generate ../../protos
    # Debian's packages of gRPC and protobuf are a GOPATH: golang-google-grpc-dev and golang-github-golang-protobuf-1-5-dev.
    mkdir -p dist/src/example.com/stubs
    cp -r gen list_nodes.go dist/src/example.com/stubs
    GO111MODULE=off GOPATH="$PWD/dist:/usr/share/gocode" go build -o dist/list_nodes example.com/stubs
    run dist/list_nodes
    ;;
*)
    echo "stub_example.sh: python, typescript or go, not $language" >&2
    exit 2
    ;;
esac
