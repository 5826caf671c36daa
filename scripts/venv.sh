#!/usr/bin/env bash
# Makes .venv from uv.lock: pinned, hash-checked, through whatever index or mirror pip is configured for
# (docs/adr/0001-lock-without-hosts.md). Does nothing when .venv is as the lock says.
set -euo pipefail
cd "$(dirname "$0")/.."
uv_version=0.13.8
python="${PYTHON:-python3}"

say() { printf '%s\n' "$*"; }
fail() { printf 'make venv: %s\n' "$*" >&2; exit 1; }

wanted="$("$python" - <<'PY' || fail "needs Python 3.11 or newer as $python (choose with PYTHON=...)"
import hashlib, pathlib, sys
assert sys.version_info >= (3, 11)
files = sorted([pathlib.Path("uv.lock"), *pathlib.Path(".").glob("libs/*/pyproject.toml"), *pathlib.Path(".").glob("services/*/pyproject.toml")])
text = sys.version + "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
print(hashlib.sha256(text.encode()).hexdigest())
PY
)"
[ -x .venv/bin/python ] && [ "$(cat .venv/.installed 2>/dev/null)" = "$wanted" ] && exit 0

begin=$SECONDS
say "[     0 s] .venv: installing the pinned packages (a minute or two the first time)"
"$python" -m venv --upgrade-deps --help >/dev/null 2>&1 || fail "$python has no venv module (Debian: apt install python3-venv)"
[ -x .venv/bin/python ] || "$python" -m venv .venv || fail "cannot make .venv"
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null || fail "$python has no pip"
mkdir -p .run
requirements=".run/requirements.txt"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install -qq "uv==$uv_version" || fail "pip cannot install uv: is a package index reachable? (pip config list)"
.venv/bin/uv export --quiet --frozen --offline --no-cache --all-packages --all-groups --no-emit-workspace \
    --no-annotate --format requirements-txt --output-file "$requirements" >/dev/null || fail "uv.lock cannot be read"
# uv needs a third of pip's time; where it cannot be told what pip is told, or fails, pip does it.
uv_install() {
    local told
    mapfile -t told < <(.venv/bin/python scripts/uv_as_pip.py || echo no)
    [ "${told[*]: -1}" != no ] && env UV_SYSTEM_CERTS=1 UV_HTTP_TIMEOUT=20 UV_HTTP_RETRIES=1 "${told[@]}" \
        .venv/bin/uv pip install --quiet --python .venv/bin/python --index-strategy unsafe-best-match \
        --compile-bytecode --no-deps "$@" 2>/dev/null
}
uv_install --require-hashes -r "$requirements" ||
    pip install -qq --no-deps --require-hashes -r "$requirements" || fail "a pinned package could not be installed"
members=()
for folder in libs/* services/*; do
    [ -f "$folder/pyproject.toml" ] && members+=(-e "$folder")
done
uv_install --no-build-isolation "${members[@]}" ||
    pip install -qq --no-deps --no-build-isolation "${members[@]}" ||
    fail "the workspace's own packages could not be installed"
printf '%s' "$wanted" > .venv/.installed
say "[$(printf '%6d' $((SECONDS - begin))) s] .venv is as uv.lock says"
