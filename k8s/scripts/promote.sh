#!/usr/bin/env bash
# Puts the image tags of one overlay into another, which is all that a promotion changes:
#   k8s/scripts/promote.sh staging production          # then look at the diff, commit, and sync in Argo CD
#   k8s/scripts/promote.sh --back production           # the tags of the commit before the last that changed them
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { printf 'promote: %s\n' "$*" >&2; exit 1; }
file() { printf 'k8s/overlays/%s/kustomization.yaml' "$1"; }
tags() { sed -nE 's/^  - \{name: (crosslogic\/[a-z_-]+), newTag: (.+)\}$/\1 \2/p'; }

[ $# -eq 2 ] || fail "use: promote.sh <from> <to>, or promote.sh --back <overlay>"
to="$2"
[ -f "$(file "$to")" ] || fail "there is no overlay $to"
if [ "$1" = --back ]; then
    [ -z "$(git status --porcelain -- "$(file "$to")")" ] || fail "$(file "$to") has changes that are not committed"
    before="$(git log -n 1 --format=%H -G 'newTag' -- "$(file "$to")")"
    [ -n "$before" ] && git rev-parse --quiet --verify "$before^" >/dev/null || fail "nothing was ever promoted to $to"
    wanted="$(git show "$before^:$(file "$to")" 2>/dev/null | tags)"
else
    [ -f "$(file "$1")" ] || fail "there is no overlay $1"
    wanted="$(tags <"$(file "$1")")"
fi
[ -n "$wanted" ] || fail "no image tags were found to take"
while read -r image tag; do
    grep -q "{name: $image, " "$(file "$to")" || fail "$to does not have $image"
    sed -i -E "s#^(  - \{name: $image, newTag: ).+\}\$#\1$tag}#" "$(file "$to")"
done <<<"$wanted"
git --no-pager diff --stat -- "$(file "$to")"
echo "now: commit it, then sync crosslogic-$to (argocd app sync crosslogic-$to)"
