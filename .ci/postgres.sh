#!/usr/bin/env bash
# A throw-away PostgreSQL server of Debian's package, on 127.0.0.1 and a port of its own.
#
#   .ci/postgres.sh start DIR   make DIR, start a server in it, create the role (which
#                               may create databases and roles) and the database
#                               `autopilot`, print DATABASE_URL=…
#   .ci/postgres.sh stop DIR    stop that server and remove DIR
#
# It asks for no password, so it suits a machine of one's own and nothing else. fsync
# stays on: the suite also tests what a commit is worth.
set -euo pipefail

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

[[ $# -eq 2 ]] || usage
action=$1
directory=$2

# PostgreSQL refuses to run as root; Debian's package brings the user along.
as_postgres() {
    if [[ $(id -u) -eq 0 ]]; then
        (cd / && runuser -u postgres -- "$@")
    else
        "$@"
    fi
}

# Debian keeps the server's programs out of PATH, one directory for each version.
programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
[[ -x $programs/initdb ]] || {
    echo "postgres.sh: PostgreSQL's server is not installed" >&2
    exit 1
}

# Below the ports that the kernel gives to outgoing connections.
free_port() {
    local port=$((20000 + RANDOM % 12000))
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((20000 + RANDOM % 12000))
    done
    echo "$port"
}

start() {
    if [[ $(id -u) -eq 0 ]]; then
        install -d -o postgres -m 700 "$directory"
    else
        install -d -m 700 "$directory"
    fi
    directory=$(realpath "$directory")
    local data=$directory/data log=$directory/postgres.log port
    port=$(free_port)
    as_postgres "$programs/initdb" --pgdata "$data" --username postgres --auth=trust \
        --encoding=UTF8 --locale=C.UTF-8 --no-instructions >"$log.init" 2>&1 || {
        cat "$log.init" >&2
        exit 1
    }
    as_postgres tee -a "$data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$data'
max_connections = 200
CONF
    as_postgres "$programs/pg_ctl" start --pgdata "$data" --log "$log" --wait \
        --timeout 60 --silent || {
        tail -n 30 "$log" >&2
        exit 1
    }
    as_postgres "$programs/psql" --host "$data" --port "$port" --dbname postgres \
        --quiet --set ON_ERROR_STOP=1 <<'SQL'
CREATE ROLE autopilot LOGIN CREATEDB CREATEROLE;
CREATE DATABASE autopilot OWNER autopilot;
SQL
    echo "DATABASE_URL=postgres://autopilot@127.0.0.1:$port/autopilot"
}

stop() {
    local data=$directory/data
    # Whatever else was named by mistake is not removed.
    [[ -f $data/PG_VERSION ]] || {
        echo "postgres.sh: there is no server in $directory" >&2
        exit 1
    }
    data=$(realpath "$data")
    if [[ -f $data/postmaster.pid ]]; then
        as_postgres "$programs/pg_ctl" stop --pgdata "$data" --mode fast --silent ||
            as_postgres "$programs/pg_ctl" stop --pgdata "$data" --mode immediate --silent
    fi
    rm -rf "$directory"
}

case $action in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
