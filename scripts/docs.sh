#!/usr/bin/env bash
# Builds docs/ as a site in dist/site. MkDocs has an environment of its own: nothing that runs or tests needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
index="${UV_DEFAULT_INDEX:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}"
${index:+env UV_DEFAULT_INDEX="$index"} .venv/bin/uv tool run --from 'mkdocs==1.6.1' --with 'mkdocs-material==9.6.21' \
    mkdocs build --strict --quiet
echo "dist/site/index.html"
