#!/usr/bin/env bash
# The three-node local cluster of cluster/node{1,2,3}.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

data=cluster/data
profile=cluster/admin.toml
# What `init` makes beside the data of the nodes.
made=(cluster/policy.txt cluster/ca cluster/admin "$profile")
bin=${INDELIBLE_BIN:-target/release/indelible}

usage() {
  cat >&2 <<'USAGE'
usage: scripts/cluster.sh COMMAND [NODE]
  up         start what is not running; make a trail first if there is none
  down       stop all nodes in an orderly way
  status     what runs, and what the group says of itself
  kill N     SIGKILL to node N
  pause N    SIGSTOP to node N
  resume N   SIGCONT to node N
  logs N     follow the log of node N
  clean      stop all nodes and DELETE their data
USAGE
  exit 2
}

node_arg() {
  case "${1:-}" in
    1|2|3) ;;
    *) echo "cluster.sh: which node? 1, 2 or 3" >&2; exit 2 ;;
  esac
}

# The pid of a node, if it runs. A pid file may be older than a reboot: the process must be ours.
pid_of() {
  local file=$data/node$1.pid pid
  [ -f "$file" ] || return 1
  pid=$(cat "$file")
  { tr '\0' ' ' < "/proc/$pid/cmdline"; } 2>/dev/null | grep -q "serve --config cluster/node$1.toml" || return 1
  echo "$pid"
}

build() {
  if [ -z "${INDELIBLE_BIN:-}" ]; then
    cargo build --release --quiet
  fi
}

ready() { # node
  local port=740$1
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  timeout 2 head -n 1 <&3 | grep -q ' 200 '
}

up() {
  build
  mkdir -p "$data"
  if [ ! -e $data/node1/identity ] && [ ! -e $data/node2/identity ] && [ ! -e $data/node3/identity ]; then
    for file in "${made[@]}"; do
      if [ -e "$file" ]; then
        echo "$file is of a trail whose data are gone from $data; move it away, or delete all with: scripts/cluster.sh clean" >&2
        exit 1
      fi
    done
    "$bin" init cluster/node1.toml cluster/node2.toml cluster/node3.toml
  fi
  for n in 1 2 3; do
    if pid=$(pid_of $n); then
      echo "node $n runs already (pid $pid)"
      continue
    fi
    setsid "$bin" serve --config "cluster/node$n.toml" >> "$data/node$n.log" 2>&1 < /dev/null &
    echo $! > "$data/node$n.pid"
    echo "node $n started (pid $!)"
  done
  for n in 1 2 3; do
    for try in $(seq 100); do
      if ready $n 2>/dev/null; then break; fi
      if ! pid_of $n > /dev/null; then
        echo "node $n did not start; the end of its log:" >&2
        tail -n 5 "$data/node$n.log" >&2
        exit 1
      fi
      [ "$try" -lt 100 ] || { echo "node $n is not ready after 20 s; see scripts/cluster.sh logs $n" >&2; exit 1; }
      sleep 0.2
    done
  done
  echo "ready; addresses, certificate and policy of a client are in its profile:"
  echo "export INDELIBLE_PROFILE=$PWD/$profile"
}

signal() { # name node word
  local pid
  pid=$(pid_of "$2") || { echo "node $2 does not run" >&2; exit 1; }
  kill "-$1" "$pid"
  echo "node $2 $3 (pid $pid)"
}

down() {
  local n pid
  for n in 1 2 3; do
    pid=$(pid_of $n) || continue
    # A paused node cannot take the request to stop.
    kill -CONT "$pid"
    kill -TERM "$pid"
    while [ -e "/proc/$pid" ] && pid_of $n > /dev/null; do sleep 0.05; done
    rm -f "$data/node$n.pid"
    echo "node $n stopped"
  done
}

status() {
  local n pid state
  for n in 1 2 3; do
    if pid=$(pid_of $n); then
      state=runs
      grep -q '^State:.*T' "/proc/$pid/status" && state=paused
      echo "node $n $state (pid $pid)"
    else
      echo "node $n is down"
    fi
  done
  if [ -x "$bin" ]; then "$bin" --profile "$profile" status || true; fi
}

case "${1:-}" in
  up) up ;;
  down) down ;;
  status) status ;;
  kill) node_arg "${2:-}"; signal KILL "$2" killed ;;
  pause) node_arg "${2:-}"; signal STOP "$2" paused ;;
  resume) node_arg "${2:-}"; signal CONT "$2" resumed ;;
  logs) node_arg "${2:-}"; exec tail -n 100 -f "$data/node$2.log" ;;
  clean) down; rm -rf "$data" "${made[@]}"; echo "data deleted" ;;
  *) usage ;;
esac
