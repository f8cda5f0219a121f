#!/bin/sh
# Makes the cluster and its databases on the first start, then becomes the server. A start that is
# interrupted begins anew: only a finished cluster gets its name.
set -eu
if [ ! -d "$PGDATA" ]; then
  rm -rf "$PGDATA.new"
  initdb --pgdata="$PGDATA.new" --username=atelier --pwfile=/run/secrets/atelier/password \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C
  echo 'host all all all scram-sha-256' >>"$PGDATA.new/pg_hba.conf"
  for database in atelier mlflow; do
    echo "CREATE DATABASE $database"
  done | postgres --single -D "$PGDATA.new" postgres
  mv "$PGDATA.new" "$PGDATA"
fi
chmod 0700 "$PGDATA" # a volume's fsGroup may have opened it, and the server refuses that
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
