#!/usr/bin/env bash
# The figures of docs/performance.md, on the local cluster. DELETES the local cluster's data, before and after.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --quiet
bin=target/release/indelible
export INDELIBLE_PROFILE=cluster/admin.toml
seconds=${SECONDS_EACH:-20}
events=${EVENTS:-3000000}

fresh() { scripts/cluster.sh clean > /dev/null; scripts/cluster.sh up > /dev/null; }
rss() { # MiB of each node
  for n in 1 2 3; do
    awk -v n=$n '/^VmRSS/ { printf "  node %d: %.0f MiB resident\n", n, $2 / 1024 }' "/proc/$(cat cluster/data/node$n.pid)/status"
  done
}

fresh
echo "== one caller, one event at a time"
"$bin" bench --mode unary --clients 1 --seconds "$seconds"
fresh
echo "== 64 callers through the SDK, one event each per call"
"$bin" bench --mode sdk --clients 64 --seconds "$seconds"
fresh
echo "== bulk import"
"$bin" bench --mode bulk --clients 1 --seconds "$seconds"
fresh
echo "== memory after $events events, and after $events more"
"$bin" bench --mode bulk --clients 1 --events "$events" --json > /dev/null
rss
"$bin" bench --mode bulk --clients 1 --events "$events" --json > /dev/null
rss
fresh
"$bin" bench --mode bulk --clients 1 --events "$events" --json > /dev/null
echo "== reads of single records at random, 64 callers"
"$bin" bench --mode read --clients 64 --seconds "$seconds"
# The read that ends the measurement is not to be proven as well.
sed /^policy/d cluster/admin.toml > cluster/no-policy.toml
for how in TERM KILL; do
  echo "== restart of a node with $events events after SIG$how, until it serves a read"
  pid=$(cat cluster/data/node1.pid)
  kill -$how "$pid"
  while [ -e "/proc/$pid" ]; do sleep 0.02; done
  began=$(date +%s%N)
  setsid "$bin" serve --config cluster/node1.toml >> cluster/data/node1.log 2>&1 < /dev/null &
  echo $! > cluster/data/node1.pid
  until "$bin" --profile cluster/no-policy.toml --endpoints 127.0.0.1:7101 --timeout 1 get 1000000 --level any > /dev/null 2>&1; do :; done
  echo "  $((($(date +%s%N) - began) / 1000000)) ms"
done
scripts/cluster.sh clean > /dev/null
rm -f cluster/no-policy.toml
