#!/usr/bin/env bash
# The figures of docs/performance.md about proofs, scrub and healing, on a group of its own in a temporary folder (3 GB).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/${INDELIBLE_BIN:-target/release/indelible}
if [ -z "${INDELIBLE_BIN:-}" ]; then cargo build --release --quiet; fi
seconds=${SECONDS_EACH:-20}
events=${EVENTS:-1500000}
dir=$(mktemp -d)
pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  for pid in "${pids[@]}"; do while [ -e "/proc/$pid" ]; do sleep 0.02; done; done
  pids=()
}
trap 'stop; rm -rf "$dir"' EXIT
export INDELIBLE_PROFILE=$dir/admin.toml

start() { # scrub_bytes_per_s, that of node 1
  for n in 1 2 3; do
    cat > "$dir/node$n.toml" <<TOML
data_dir = "node$n"
client_addr = "127.0.0.1:760$n"
raft_addr = "127.0.0.1:761$n"
http_addr = "127.0.0.1:762$n"
probe_addr = "127.0.0.1:763$n"
[storage]
scrub_bytes_per_s = $([ $n = 1 ] && echo "${2:-$1}" || echo "$1")
scrub_every_s = 1
TOML
  done
  if [ ! -e "$dir/policy.txt" ]; then (cd "$dir" && "$bin" init node1.toml node2.toml node3.toml > /dev/null); fi
  for n in 1 2 3; do
    "$bin" serve --config "$dir/node$n.toml" >> "$dir/node$n.log" 2>&1 < /dev/null &
    pids+=($!)
  done
  until "$bin" status > /dev/null 2>&1; do sleep 0.1; done
}
metric() { exec 3<> "/dev/tcp/127.0.0.1/763$1"; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; awk -v name="$2" '$1 == name { print $2 }' <&3; }
bench() { "$bin" bench --seconds "$seconds" "$@" | sed 1d; }

start 0
echo "== proven, one caller"
bench --mode unary --clients 1 --ack proven
echo "== 64 callers: durable, proven, durable, proven"
for ack in durable proven durable proven; do bench --mode sdk --clients 64 --ack "$ack" | head -n 1; done
echo "== verify of a bundle of $events events"
"$bin" bench --mode bulk --clients 1 --events "$events" --json > /dev/null
"$bin" export --policy "$dir/policy.txt" --from 0 --to "$events" -o "$dir/bundle" > /dev/null
"$bin" verify "$dir/bundle" --policy "$dir/policy.txt" --json | tr ',' '\n' | grep -E 'per_s|seconds|records' || true
stop

for rate in 0 20000000 0 20000000; do
  start "$rate"
  echo "== 16 callers, every node scrubs $rate bytes/s"
  bench --mode sdk --clients 16
  stop
done

echo "== scrub of one node, not throttled, nothing beside it"
start 0 10000000000
until [ "$(metric 1 indelible_scrub_passes_total)" -ge 1 ]; do sleep 0.1; done
before=$(metric 1 indelible_scrub_bytes_total)
began=$(date +%s%N)
sleep 10
after=$(metric 1 indelible_scrub_bytes_total)
echo "  $(((after - before) * 1000 / ($(date +%s%N) - began))) MB/s"

echo "== one 64 MiB segment damaged in 200 places under the running node, appends going on"
"$bin" bench --mode sdk --clients 4 --seconds 15 --json > /dev/null &
load=$!
python3 - "$dir/node1/segments" <<'PY'
import os, random, sys
folder = sys.argv[1]
name = sorted(name for name in os.listdir(folder) if name.endswith(".seg"))[1]
with open(os.path.join(folder, name), "r+b") as file:
    for place in random.Random(1).sample(range(4096, os.fstat(file.fileno()).st_size - 64), 200):
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x20]))
PY
until [ "$(metric 1 indelible_mended_total)" -ge 1 ]; do sleep 0.05; done
wait "$load"
grep -hE "the scrub has found|mended" "$dir/node1.log" | cut -c1-220
