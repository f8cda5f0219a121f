#!/bin/sh
# Makes the database on the first start, then becomes the server (SIGINT ends it without waiting for clients).
set -eu
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?set it: this server listens to everybody}"
  # PG_VERSION comes last: what a start that was killed left behind is recognised, and made again.
  find "$PGDATA" -mindepth 1 -not -name lost+found -delete
  making=$PGDATA/.making
  umask 077
  printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
  initdb --pgdata="$making" --username="$user" --pwfile=/tmp/password \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --no-sync
  rm /tmp/password
  echo 'host all all all scram-sha-256' >>"$making/pg_hba.conf"
  if [ "$database" != postgres ]; then
    printf 'CREATE DATABASE "%s";\n' "$database" | postgres --single -D "$making" postgres >/dev/null
  fi
  mv "$making/PG_VERSION" "$PGDATA/.PG_VERSION"
  mv "$making"/* "$PGDATA"
  rmdir "$making"
  sync
  mv "$PGDATA/.PG_VERSION" "$PGDATA/PG_VERSION"
fi
unset POSTGRES_PASSWORD
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
