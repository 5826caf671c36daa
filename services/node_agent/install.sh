#!/bin/sh
# Makes this machine a node: installs the agent, writes its settings and its systemd unit, and starts it.
#
#   sudo ./install.sh --registry host:port --join host:port --token-file FILE --ca ca.pem --model NAME --region NAME \
#        --engine-url http://127.0.0.1:8000 [--engine-command '["vllm","serve",...]'] [--listen host:port | --tunnel] \
#        [--bundle agent.tar] [--update-key update.pub] [--set NAME=VALUE]... [--root DIR] [--no-start]
#
# --bundle      a tar file with wheels/*.whl: nothing is fetched. Without it pip's own index is used.
# --external-url relays to an OpenAI-compatible endpoint of somebody else's, in place of --engine-url.
# --tunnel      the machine dials the gateways and listens nowhere.
# --root        writes below DIR instead of /, for images; nothing is started then.
# A second run installs again over the first and keeps the node's identity.
set -eu

registry='' join='' token_file='' ca='' model='' region='' engine_url='' external_url='' engine_command='' listen='' tunnel=0
bundle='' update_key='' root='' start=1 more=''
python=${CROSSLOGIC_INSTALL_PYTHON:-python3}
newline='
'

fail() { echo "install.sh: $*" >&2; exit 1; }

while [ $# -gt 0 ]; do
  case $1 in
    --tunnel) tunnel=1; shift; continue ;;
    --no-start) start=0; shift; continue ;;
    --help) sed -n '2,12p' "$0"; exit 0 ;;
  esac
  [ $# -ge 2 ] || fail "$1 needs a value"
  case $1 in
    --registry) registry=$2 ;;
    --join) join=$2 ;;
    --token-file) token_file=$2 ;;
    --ca) ca=$2 ;;
    --model) model=$2 ;;
    --region) region=$2 ;;
    --engine-url) engine_url=$2 ;;
    --external-url) external_url=$2 ;;
    --engine-command) engine_command=$2 ;;
    --listen) listen=$2 ;;
    --bundle) bundle=$2 ;;
    --update-key) update_key=$2 ;;
    --root) root=$2; start=0 ;;
    --set) more="$more$2$newline" ;;
    *) fail "unknown option $1 (--help lists them)" ;;
  esac
  shift 2
done
for name in registry join token_file ca model region; do
  eval "value=\$$name"
  [ -n "$value" ] || fail "--$(echo "$name" | tr _ -) is missing"
done
[ -n "$engine_url$external_url" ] || fail "--engine-url or --external-url is missing"
[ "$tunnel" = 1 ] || [ -n "$listen" ] || fail "--listen host:port or --tunnel is missing"
for file in "$token_file" "$ca" ${bundle:+"$bundle"} ${update_key:+"$update_key"}; do
  [ -r "$file" ] || fail "$file cannot be read"
done

home=/opt/crosslogic-agent etc=/etc/crosslogic-agent state=/var/lib/crosslogic-agent user=crosslogic-agent
mkdir -p "$root$home/versions" "$root$etc" "$root$state" "$root/etc/systemd/system"

# The agent, in a virtual environment of its own beside those that updates will bring.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
source_options=''
version=latest
if [ -n "$bundle" ]; then
  tar -xf "$bundle" -C "$work"
  wheel=$(ls "$work"/wheels/crosslogic_node_agent-*.whl 2>/dev/null | head -n 1)
  [ -n "$wheel" ] || fail "$bundle holds no wheels/crosslogic_node_agent-*.whl"
  version=$(basename "$wheel" | cut -d- -f2)
  source_options="--no-index --find-links $work/wheels"
fi
target=$root$home/versions/$version
rm -rf "$target"
"$python" -m venv "$target"
# shellcheck disable=SC2086  # two words or none
"$target/bin/python" -m pip install --quiet $source_options crosslogic-node-agent
"$target/bin/python" -c 'import shutil, sys; import crosslogic_node_agent.launcher as l; shutil.copy(l.__file__, sys.argv[1])' \
  "$root$home/launcher.py"
ln -sfn "versions/$version" "$root$home/.current.new"
mv -T "$root$home/.current.new" "$root$home/current"
rm -f "$root$home/update.json"

# Its settings. The token is good for one join and for minutes, and is nobody else's to read all the same.
umask 077
cp "$ca" "$root$etc/ca.pem"
cp "$token_file" "$root$etc/join-token"
[ -z "$update_key" ] || cp "$update_key" "$root$home/update.pub"
{
  echo "CROSSLOGIC_REGISTRY_TARGET=$registry"
  echo "CROSSLOGIC_REGISTRY_JOIN_TARGET=$join"
  echo "CROSSLOGIC_JOIN_TOKEN_FILE=$etc/join-token"
  echo "CROSSLOGIC_TLS_CA_FILE=$etc/ca.pem"
  echo "CROSSLOGIC_STATE_DIR=$state"
  echo "CROSSLOGIC_LOG_FILE=$state/agent.log"
  echo "CROSSLOGIC_UPDATE_DIR=$home"
  echo "CROSSLOGIC_MODEL=$model"
  echo "CROSSLOGIC_REGION=$region"
  [ -z "$engine_url" ] || echo "CROSSLOGIC_ENGINE_URL=$engine_url"
  [ -z "$external_url" ] || echo "CROSSLOGIC_EXTERNAL_URL=$external_url"
  [ -z "$engine_command" ] || echo "CROSSLOGIC_ENGINE_COMMAND='$engine_command'"
  if [ "$tunnel" = 1 ]; then echo "CROSSLOGIC_TUNNEL=1"; else echo "CROSSLOGIC_LISTEN=$listen"; fi
  echo "GRPC_SSL_CIPHER_SUITES=ECDHE-PSK-CHACHA20-POLY1305"
  echo "GRPC_ENABLE_FORK_SUPPORT=0"
  printf '%s' "$more"
} > "$root$etc/agent.env"

umask 022
cat > "$root/etc/systemd/system/crosslogic-agent.service" <<UNIT
[Unit]
Description=CrossLogic node agent
After=network-online.target
Wants=network-online.target

[Service]
User=$user
EnvironmentFile=$etc/agent.env
ExecStart=/usr/bin/env python3 $home/launcher.py $home
# 0 is the end of a machine that its cloud takes back; 75 asks for a start with the version that is installed now.
Restart=on-failure
RestartForceExitStatus=75
RestartSec=2
TimeoutStopSec=90
KillMode=mixed
LimitNOFILE=65536
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ReadWritePaths=$state $home
StandardOutput=append:$state/agent.log
StandardError=append:$state/agent.log

[Install]
WantedBy=multi-user.target
UNIT

if [ -z "$root" ]; then
  id "$user" >/dev/null 2>&1 || useradd --system --home-dir "$state" --shell /usr/sbin/nologin "$user"
  chown -R "$user" "$state" "$home" "$etc"
fi
if [ "$start" = 1 ]; then
  systemctl daemon-reload
  systemctl enable --now crosslogic-agent.service
  echo "The agent runs: systemctl status crosslogic-agent; its output is in $state/agent.log"
else
  echo "Installed below ${root:-/}; not started."
fi
