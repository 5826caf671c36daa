#!/usr/bin/env bash
# Asks the public database of vulnerabilities about every package that runs, with the lock's exact versions. It needs
# the network beyond a package index, so CI does not run it: run it daily where the network allows (docs/supply-chain.md).
# Ends with code 1 when something is vulnerable, and also when the database did not answer: silence is no good news.
set -euo pipefail
cd "$(dirname "$0")/.."
ignored=() # --ignore-vuln ID, each with its reason and the date of the next look
index="${UV_DEFAULT_INDEX:-$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || true)}"
mkdir -p .run
.venv/bin/uv export --quiet --frozen --offline --no-cache --all-packages --no-dev --no-emit-workspace --no-annotate \
    --format requirements-txt --output-file .run/audit.txt >/dev/null
${index:+env UV_DEFAULT_INDEX="$index"} .venv/bin/uv tool run --from 'pip-audit>=2.9,<3' pip-audit \
    --strict --disable-pip --require-hashes --progress-spinner off "${ignored[@]}" -r .run/audit.txt
