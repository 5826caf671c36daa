# Makes a machine of SkyPilot's a node. The token is good for one join of one node, and is gone from here afterwards.
set -eu
umask 077
mkdir -p "$HOME/crosslogic"
printf '%s' "$CROSSLOGIC_JOIN_TOKEN" > "$HOME/crosslogic/join-token"
unset CROSSLOGIC_JOIN_TOKEN
# Where it was found, of the places that were asked for: the cloud's name of a region means one of ours.
region=$(printf '%s' "${SKYPILOT_CLUSTER_INFO:-}" | sed -n 's/.*"region": *"\([^"]*\)".*/\1/p')
sudo sh "$HOME/crosslogic/install.sh" \
  --registry "$CROSSLOGIC_REGISTRY_TARGET" --join "$CROSSLOGIC_REGISTRY_JOIN_TARGET" \
  --token-file "$HOME/crosslogic/join-token" --ca "$HOME/crosslogic/ca.pem" \
  --model "$CROSSLOGIC_MODEL" --region "${region:-$CROSSLOGIC_REGION}" \
  --engine-url "$CROSSLOGIC_ENGINE_URL" --engine-command "$CROSSLOGIC_ENGINE_COMMAND" --tunnel
rm -f "$HOME/crosslogic/join-token"
