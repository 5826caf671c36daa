#!/usr/bin/env bash
# Makes the secrets of a development cluster, once, with fresh random values. Prints them as manifests, for kubectl:
#   k8s/scripts/make-secrets.sh | kubectl apply -f -
# Staging and production take theirs from the company's store (components/external-secrets).
set -euo pipefail
umask 077
namespace="${NAMESPACE:-crosslogic}"
services=(identity registry accountant billing orchestrator)
declare -A schema=([identity]=identity [registry]=registry [accountant]=ledger [billing]=billing [orchestrator]=fleet)

random() { head -c "${1:-24}" /dev/urandom | base64 | tr -d '\n'; }
random_hex() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

secret() { # name key value
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: Opaque\ndata:\n  %s: %s\n' \
        "$1" "$namespace" "$2" "$(printf '%s' "$3" | base64 | tr -d '\n')"
}

sql=""
for service in "${services[@]}"; do
    password="$(random_hex)"
    sql+="CREATE ROLE $service LOGIN PASSWORD '$password';"$'\n'
    sql+="CREATE SCHEMA ${schema[$service]} AUTHORIZATION $service;"$'\n'
    # migrate() creates its schema where it is missing, which is a right on the database.
    sql+="GRANT CREATE ON DATABASE crosslogic TO $service;"$'\n'
    secret "$service-database" url "postgresql://$service:$password@postgres:5432/crosslogic"
done
backup_password="$(random_hex)"
sql+="CREATE ROLE backup LOGIN PASSWORD '$backup_password';"$'\n'
sql+="GRANT pg_read_all_data TO backup;"$'\n'
secret backup-database url "postgresql://backup:$backup_password@postgres:5432/crosslogic"
sql+="REVOKE ALL ON SCHEMA public FROM PUBLIC;"$'\n'
secret postgres-init roles.sql "$sql"
admin_password="$(random_hex)"
secret postgres-admin password "$admin_password"
secret restore-database url "postgresql://postgres:$admin_password@postgres:5432/crosslogic"
redis_password="$(random_hex)"
secret redis-configuration redis.conf "requirepass $redis_password
maxmemory 1gb
maxmemory-policy noeviction
save \"\"
dir /data"
secret redis-url url "redis://:$redis_password@redis:6379/0"
secret seal-key key "$(random 32)"
secret notify-key key "$(random 32)"
secret admin-token token "$(random_hex)"
