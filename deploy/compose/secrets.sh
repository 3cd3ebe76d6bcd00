#!/bin/sh
# Generates the stack's passwords and keys as files, once: `sh secrets.sh [DIR]`. docker-compose.yml runs it as root in the
# service `secrets` and mounts DIR in the others. Files on the host would not work: they keep the host's owner, so either
# the containers' users cannot read them, or everyone can, which rtp refuses.
# Existing files are kept; delete the volume to get new ones (PostgreSQL keeps the password of its first start).
set -eu
dir=${1:-/run/secrets}
umask 077

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# put FILE OWNER TEXT [MODE]: creates the file, readable only by its owner
put() {
  [ -e "$dir/$1" ] && return 0
  mkdir -p "$dir/${1%/*}"
  # Without a newline: Airflow uses the output of its commands unchanged.
  printf '%s' "$3" > "$dir/$1.new"
  chmod "${4:-400}" "$dir/$1.new"
  chown -R "$2:$2" "$dir/${1%/*}"
  mv "$dir/$1.new" "$dir/$1"
}

value() { cat "$dir/$1"; }

mkdir -p "$dir"
chmod 755 "$dir"
# The owners are the users that the images run as: postgres 999, rtp 65532, airflow 50000, grafana 472.
put postgres/password 999 "$(random)"
put postgres/airflow_password 999 "$(random)"
put rtp/postgres_password 65532 "$(value postgres/password)"
put rtp/dashboard_token 65532 "$(random)"
put airflow/postgres_password 50000 "$(value postgres/password)"
put airflow/sql_alchemy_conn 50000 "postgresql+psycopg2://airflow:$(value postgres/airflow_password)@postgres:5432/airflow"
# A Fernet key is 32 random bytes in URL-safe base64.
put airflow/fernet_key 50000 "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"
put airflow/secret_key 50000 "$(random)"
put airflow/jwt_secret 50000 "$(random)"
# The API server opens it for writing even if it writes nothing.
put airflow/passwords.json 50000 "{\"admin\": \"$(random)\"}" 600
put grafana/admin_password 472 "$(random)"
