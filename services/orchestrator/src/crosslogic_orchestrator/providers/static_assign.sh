# Gives a machine of the pool its agent, says what it does, or takes it away: `want` is start, look or stop. Whatever it
# answers is one line. Comes over ssh's standard input after its variables, and before it the functions agent_start,
# agent_stop and agent_active.
set -eu
umask 077
root=${CROSSLOGIC_STATIC_ROOT:-/var/lib/crosslogic-static}
mkdir -p "$root"
# Two orchestrators may be at the same machine.
exec 9>"$root/lock"
flock -w 60 9
held=$(cat "$root/machine" 2>/dev/null || true)
if [ "$want" = start ]; then
  if [ -n "$held" ] && [ "$held" != "$machine" ]; then
    echo "busy $held"
    exit 0
  fi
  if [ -z "$held" ]; then
    trap 'rm -f "$root/join-token"' EXIT
    printf '%s' "$token" > "$root/join-token"
    token=
    printf '%s' "$machine" > "$root/machine"
    agent_start "$root/join-token" 9>&- </dev/null >"$root/start.log" 2>&1
  fi
fi
if [ "$want" = stop ] && [ "$held" = "$machine" ]; then
  agent_stop 9>&- </dev/null >/dev/null 2>&1
  rm -f "$root/machine" "$root/join-token"
fi
held=$(cat "$root/machine" 2>/dev/null || true)
if [ "$held" = "$machine" ] && agent_active 9>&- </dev/null >/dev/null 2>&1; then echo running; else echo none; fi
