"""Makes a folder a machine with systemd and the agent's installer, for whoever comes over SSH.

`sudo` and `systemctl` are scripts on its PATH: root's file system is the folder `root`, systemd is one process. The
installer is the real one; only its virtual environments are this checkout's.
"""

import shutil
import sys
from pathlib import Path

INSTALLER = Path(__file__).parents[2] / "services/node_agent/install.sh"
_PROGRAMS = {
    "sudo": """#!/bin/sh
root=$HOME/root
case "$1 $2" in
"rm -rf") exec rm -rf "$root$3" ;;
"systemctl disable") exec systemctl disable ;;
"sh /opt/crosslogic-agent/install.sh") ;;
*) echo "sudo: not on this machine: $*" >&2; exit 1 ;;
esac
for word; do
  shift
  case $word in /opt/*) word=$root$word ;; esac
  set -- "$@" "$word"
done
CROSSLOGIC_INSTALL_PYTHON=$HOME/bin/python3-of-venvs "$@" --root "$root"
exec systemctl enable
""",
    "systemctl": """#!/bin/sh
home=$HOME/root/opt/crosslogic-agent
pid=$(cat "$HOME/agent.pid" 2>/dev/null || true)
runs() { [ -n "$pid" ] && grep -q '^State:[[:space:]]*[^Z[:space:]]' "/proc/$pid/status" 2>/dev/null; }
case $1 in
enable)
  sed "s#=/#=$HOME/root/#" "$HOME/root/etc/crosslogic-agent/agent.env" > "$HOME/agent.env"
  (
    # Nothing of whoever starts it, as with systemd.
    set -- env -i PATH="$PATH" ${CI_RUN_MARK:+CI_RUN_MARK="$CI_RUN_MARK"}
    while read -r line; do
      case $line in *"='"*) line=${line%\\'}; line=${line%%=*}=${line#*=\\'} ;; esac
      set -- "$@" "$line"
    done < "$HOME/agent.env"
    exec setsid "$@" @python@ "$home/launcher.py" "$home"
  ) </dev/null >>"$HOME/agent.log" 2>&1 &
  echo $! > "$HOME/agent.pid" ;;
disable)
  ! runs || kill "$pid"
  tries=0
  while runs; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || kill -KILL "$pid"
    sleep 0.05
  done ;;
is-active) if runs; then echo active; else echo inactive; exit 3; fi ;;
esac
""",
    "python3-of-venvs": """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\n[ "$2" = pip ] || exec @python@ "$@"\\n' > "$3/bin/python"
chmod 755 "$3/bin/python"
""",
}


def make_machine(folder: Path, *, ca_file: Path) -> None:
    """Lays the installer and the fleet's certificate where an operator lays them."""
    programs, home = folder / "bin", folder / "root/opt/crosslogic-agent"
    for each in (programs, home):
        each.mkdir(parents=True)
    for name, text in _PROGRAMS.items():
        (programs / name).write_text(text.replace("@python@", sys.executable))
        (programs / name).chmod(0o755)
    shutil.copy(INSTALLER, home / "install.sh")
    shutil.copy(ca_file, home / "ca.pem")


def agent_pid(folder: Path) -> int | None:
    """The agent's process while it runs."""
    try:
        pid = int((folder / "agent.pid").read_text())
        ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return None
    return None if ended else pid
