# How an agent is started on a machine of the pool, where services/node_agent/install.sh lies in /opt/crosslogic-agent.
agent_start() {
  set -- --token-file "$1" --registry "$CROSSLOGIC_REGISTRY_TARGET" --join "$CROSSLOGIC_REGISTRY_JOIN_TARGET" \
    --ca /opt/crosslogic-agent/ca.pem --model "$CROSSLOGIC_MODEL" --region "$CROSSLOGIC_REGION" \
    --engine-url "$CROSSLOGIC_ENGINE_URL" --engine-command "${CROSSLOGIC_ENGINE_COMMAND:-}" --tunnel
  # Another instance was another node: its identity is not this one's.
  sudo rm -rf /var/lib/crosslogic-agent
  sudo sh /opt/crosslogic-agent/install.sh "$@"
}
agent_stop() { sudo systemctl disable --now crosslogic-agent.service; }
agent_active() { case $(systemctl is-active crosslogic-agent.service) in active|activating|reloading) ;; *) false ;; esac; }
