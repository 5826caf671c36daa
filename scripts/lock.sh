#!/usr/bin/env bash
# Brings uv.lock up to date with the pyproject files and takes the registry's hosts out again
# (docs/adr/0001-lock-without-hosts.md). Arguments go to `uv lock`: --upgrade-package NAME, --upgrade.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"
# The index that pip is configured for, or its default.
index="${UV_DEFAULT_INDEX:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null ||
    .venv/bin/python -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url)')}"
cp uv.lock .run/uv.lock.before 2>/dev/null || true
.venv/bin/python scripts/neutral_lock.py uv.lock --registry "$index"
if ! UV_DEFAULT_INDEX="$index" "$uv" lock "$@"; then
    cp .run/uv.lock.before uv.lock
    exit 1
fi
.venv/bin/python scripts/neutral_lock.py uv.lock
