#!/usr/bin/env bash
# The contracts: lint, no breaking change since the branch began (BASE=<ref> chooses), and stubs that are as generated.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh="$(mktemp -d)"
trap 'rm -rf "$fresh"' EXIT
scripts/protos.sh "$fresh"
if ! diff -r --exclude=__pycache__ "$fresh/crosslogic" libs/protos/src/crosslogic; then
    echo "protos-check: libs/protos/src is not what protos/ generates: run \`make protos\` and commit" >&2
    exit 1
fi
echo "stubs: as generated"

if ! command -v npm >/dev/null; then
    echo "buf: not run, because npm is not installed here"
    exit 0
fi
buf=tools/buf/node_modules/.bin/buf
if [ ! -x "$buf" ] || [ tools/buf/package-lock.json -nt "$buf" ]; then
    (cd tools/buf && npm install --no-save --silent --ignore-scripts --no-audit --no-fund >/dev/null)
    touch -h "$buf"
fi
"$buf" lint protos
echo "buf lint: clean"

base="${BASE:-}"
if [ -z "$base" ] && git rev-parse --verify --quiet HEAD >/dev/null; then
    for ref in origin/main main; do
        base="$(git merge-base HEAD "$ref" 2>/dev/null || true)"
        [ -n "$base" ] && [ "$base" != "$(git rev-parse HEAD)" ] && break
        base=""
    done
    [ -n "$base" ] || base="$(git rev-parse --verify --quiet HEAD~1 || true)"
fi
if [ -n "$base" ] && git cat-file -e "$base:protos/crosslogic" 2>/dev/null; then
    "$buf" breaking protos --against ".git#ref=$base,subdir=protos"
    echo "buf breaking: none since $(git rev-parse --short "$base")"
else
    echo "buf breaking: nothing to compare with"
fi
