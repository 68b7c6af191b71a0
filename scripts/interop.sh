#!/usr/bin/env bash
# Checks a local cluster with software that is not ours (docs/interop.md): litewitness cosigns its checkpoints,
# Tessera's fsck rebuilds its tree from the entry bundles, Tessera's client follows it from node to node.
# Needs Go. Everything, the Go modules included, goes to a temporary folder that is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

torchwood=${TORCHWOOD_VERSION:-v0.8.0} # filippo.io/torchwood
tessera=${TESSERA_VERSION:-v1.0.4}     # github.com/transparency-dev/tessera
base_port=${INTEROP_PORT:-17100}

command -v go > /dev/null || { echo "interop.sh: Go is not installed: nothing was checked" >&2; exit 3; }
for tool in ssh-agent ssh-add ssh-keygen curl; do
  command -v $tool > /dev/null || { echo "interop.sh: $tool is not installed: nothing was checked" >&2; exit 3; }
done
bin=${INDELIBLE_BIN:-$PWD/target/release/indelible}
[ -n "${INDELIBLE_BIN:-}" ] || cargo build --release --quiet
bin=$(realpath "$bin")
repo=$PWD
work=$(mktemp -d)
pids=()
finish() {
  local pid
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
  if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else chmod -R u+w "$work"; rm -rf "$work"; fi
}
trap finish EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

echo "== building torchwood $torchwood and tessera $tessera"
export GOPATH=${INTEROP_GOPATH:-$work/go} GOBIN=$work/bin GOFLAGS="-mod=mod -modcacherw"
mkdir -p "$work/src/follow" "$work/src/register"
cp scripts/interop/follow.go "$work/src/follow/main.go"
cp scripts/interop/register.go "$work/src/register/main.go"
cd "$work/src"
go mod init interop 2> /dev/null
# A requirement instead of `go run module@version`: that would ask the proxy for all versions, which not every one lists.
go mod edit -require="filippo.io/torchwood@$torchwood" -require="github.com/transparency-dev/tessera@$tessera"
go install ./follow ./register filippo.io/torchwood/cmd/litewitness github.com/transparency-dev/tessera/cmd/fsck
cd "$work"

echo "== a witness: litewitness"
ssh-keygen -q -t ed25519 -N '' -C witness -f "$work/witness_key"
ssh-agent -D -a "$work/agent" > /dev/null & pids+=($!)
until [ -S "$work/agent" ]; do sleep 0.05; done
SSH_AUTH_SOCK=$work/agent ssh-add -q "$work/witness_key"
fingerprint=$(ssh-keygen -lf "$work/witness_key.pub" | cut -d' ' -f2)
witness_port=$((base_port + 90))
"$GOBIN/litewitness" -db "$work/witness.db" -name witness.example/interop -key "$fingerprint" \
  -ssh-agent "$work/agent" -listen "127.0.0.1:$witness_port" > "$work/witness.log" 2>&1 & pids+=($!)
for _ in $(seq 100); do
  witness_key=$(grep -o 'witness.example/interop+[0-9a-f]*+[A-Za-z0-9+/=]*' "$work/witness.log" | head -n 1) && break
  sleep 0.1
done
[ -n "${witness_key:-}" ] || { cat "$work/witness.log" >&2; fail "litewitness did not say its key"; }

echo "== a cluster of three nodes, its entries public, with that witness"
for n in 1 2 3; do
  cat > "node$n.toml" <<CONFIG
data_dir = "node$n"
client_addr = "127.0.0.1:$((base_port + n))"
raft_addr = "127.0.0.1:$((base_port + 10 + n))"
http_addr = "127.0.0.1:$((base_port + 20 + n))"
probe_addr = "127.0.0.1:$((base_port + 30 + n))"
witness_interval_ms = 1000
[http]
public_entries = true
[[witness]]
name = "litewitness"
key = "$witness_key"
url = "http://127.0.0.1:$witness_port"
CONFIG
done
"$bin" init --origin audit.example/interop --witness "$witness_key" --policy-out policy node1.toml node2.toml node3.toml > /dev/null
awk '$1 == "log" { print $2 }' policy > log.vkey
"$GOBIN/register" "$work/witness.db" log.vkey
for n in 1 2 3; do
  "$bin" serve --config "node$n.toml" >> "node$n.log" 2>&1 < /dev/null & pids+=($!)
done
export INDELIBLE_PROFILE=$PWD/admin.toml
url() { echo "http://127.0.0.1:$((base_port + 30 + $1))/"; }
eventually() { # what, command...
  local what=$1 _
  shift
  for _ in $(seq 300); do "$@" && return; sleep 0.2; done
  tail -n 5 node?.log witness.log >&2
  fail "$what"
}
ready() { curl -sf "$(url "$1")readyz" > /dev/null; }
for n in 1 2 3; do eventually "node $n is ready" ready "$n"; done

append() { # events
  seq "$1" | sed 's|.*|{"actor":{"id":"alice"},"action":"READ","targets":[{"id":"file/&"}]}|' > "events$1.jsonl"
  "$bin" import --format jsonl "events$1.jsonl" > /dev/null
}
size() { curl -sf "$(url "$1")checkpoint" | sed -n 2p; }
settled() { # all nodes show the same size, at least $1
  local a b c
  a=$(size 1) b=$(size 2) c=$(size 3)
  [ -n "$a" ] && [ "$a" = "$b" ] && [ "$b" = "$c" ] && [ "$a" -ge "$1" ]
}
witnessed() { # a note of at least $1 leaves with the witness's signature, from every node
  local n note
  for n in 1 2 3; do
    note=$(curl -sf "$(url "$n")checkpoint?witnessed") || return 1
    [ "$(sed -n 2p <<< "$note")" -ge "$1" ] && grep -q '^— witness.example/interop ' <<< "$note" || return 1
  done
}
urls=("$(url 1)" "$(url 2)" "$(url 3)")

for events in 100 1500; do
  append "$events"
  eventually "every node publishes $events events" settled "$events"
  eventually "litewitness signs $events events" witnessed "$events"
  echo "ok  litewitness $torchwood: $(curl -sf "$(url 1)checkpoint?witnessed" | sed -n 2p) leaves cosigned, seen on every node"
  "$GOBIN/follow" log.vkey seen.checkpoint "${urls[@]}" || fail "Tessera's client"
  echo "ok  tessera client $tessera"
done

for n in 1 2 3; do
  # It says what it found on stderr, and exits with 0 either way.
  "$GOBIN/fsck" --storage_url="$(url "$n")" --public_key=log.vkey --ui=false --v=1 2> "fsck$n.log" || true
  if grep -q "fsck failed" "fsck$n.log" || ! grep -q "Successfully fsck'd" "fsck$n.log"; then
    cat "fsck$n.log" >&2
    fail "fsck of node $n"
  fi
  echo "ok  tessera fsck $tessera: node $n"
done

# A check that cannot fail is none: the key of another trail of the same name.
sed 's/node1/other/; s/127.0.0.1:\([0-9]*\)1"/127.0.0.1:\19"/' node1.toml > other.toml
"$bin" init --no-certificates --origin audit.example/interop --policy-out other.policy other.toml > /dev/null
awk '$1 == "log" { print $2 }' other.policy > other.vkey
if "$GOBIN/follow" other.vkey other.checkpoint "$(url 1)" 2> other.log; then fail "the client accepted another key"; fi
grep -q "follow http" other.log || { cat other.log >&2; fail "the client did not get to the signature"; }
"$GOBIN/fsck" --storage_url="$(url 1)" --public_key=other.vkey --ui=false --v=1 2> other.log || true
grep -q "fsck failed" other.log || fail "fsck accepted another key"
echo "ok  another key is not accepted"
cd "$repo"
echo "all of it passed: torchwood $torchwood, tessera $tessera, $(go version | cut -d' ' -f3)"
