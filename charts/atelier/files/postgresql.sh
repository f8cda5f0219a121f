#!/bin/sh
# Creates the database cluster and its databases on the first start, then runs the server. The cluster
# gets its final name only when it is complete, so an interrupted first start begins again.
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
chmod 0700 "$PGDATA" # a volume's fsGroup may have widened the mode, which the server refuses
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
