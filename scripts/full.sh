#!/usr/bin/env bash
# What does not fit into the gate (.ci/run): run by hand once an issue, on a machine where nothing else runs. Takes hours.
# scripts/full.sh [STEP...]: all steps, or some of: repeat large fuzz interop figures proofs. Prints a table for docs/reliability.md.
# DELETES the data of the local cluster (cluster/data).
#   REPEAT=10        how often all tests run beside a busy loop on each core
#   FUZZ_SECONDS=600 how long each fuzz target runs
set -euo pipefail
cd "$(dirname "$0")/.."
repeat=${REPEAT:-10}
fuzz_seconds=${FUZZ_SECONDS:-600}
logs=target/full-logs
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(repeat large fuzz interop figures proofs)
mkdir -p "$logs"
busy=()
rows=()
all_good=true

finish() {
  local pid
  for pid in "${busy[@]}"; do kill "$pid" 2> /dev/null || true; done
}
trap finish EXIT

# Tests again and again beside a busy loop on each core: what is rare, or needs a slow machine.
repeat() {
  local round good=0 flaky=0
  cargo test --workspace --locked --no-run
  for _ in $(seq "$(nproc)"); do
    (while :; do :; done) &
    busy+=($!)
  done
  for round in $(seq "$repeat"); do
    echo "-- round $round of $repeat"
    if target/debug/indelible-test-runner --logs "$logs/round-$round" > "$logs/round-$round.log" 2>&1; then good=$((good + 1)); fi
    flaky=$((flaky + $(grep -c '^FLAKY ' "$logs/round-$round.log" || true)))
    grep -E '^(FLAKY|FAILED) ' "$logs/round-$round.log" || true
  done
  finish
  busy=()
  what="all tests, $repeat times beside $(nproc) busy loops"
  result="$good of $repeat passed, $flaky flaky"
  [ "$good" = "$repeat" ]
}
large() {
  what="tests of full size (#[ignore])"
  result="see $logs/large.log"
  cargo test --locked --test it -- --ignored --nocapture > "$logs/large.log" 2>&1 && result="passed"
}
fuzz() {
  what="each fuzz target for $fuzz_seconds s"
  result="see $logs/fuzz.log"
  scripts/fuzz.sh "$fuzz_seconds" > "$logs/fuzz.log" 2>&1 && result="nothing found"
}
interop() {
  what="litewitness, Tessera's fsck and client"
  local status=0
  scripts/interop.sh > "$logs/interop.log" 2>&1 || status=$?
  case $status in
    0) result="passed" ;;
    3) result="not run: $(tail -1 "$logs/interop.log")" ;;
    *) result="see $logs/interop.log" ;;
  esac
  return $status
}
figures() {
  what="figures of docs/performance.md"
  result="see $logs/figures.log"
  scripts/figures.sh > "$logs/figures.log" 2>&1
}
proofs() {
  what="figures of proofs"
  result="see $logs/proofs.log"
  scripts/figures-proofs.sh > "$logs/proofs.log" 2>&1
}

for name in "${steps[@]}"; do
  case $name in repeat | large | fuzz | interop | figures | proofs) ;; *) echo "full.sh: no step $name" >&2; exit 2 ;; esac
done
for name in "${steps[@]}"; do
  printf '== %s (%s)\n' "$name" "$(date +%T)"
  began=$SECONDS
  what=$name result="not finished"
  # Not as a condition: set -e would not hold inside it. A step says itself whether it succeeded.
  set +e
  "$name"
  status=$?
  set -e
  verdict=yes
  [ $status = 0 ] || { verdict=NO; all_good=false; }
  rows+=("| $what | $result | $verdict | $(((SECONDS - began + 59) / 60)) min |")
done

printf '\nFor docs/reliability.md:\n\n'
printf 'Commit %s, %s, %s cores%s.\n\n' "$(git rev-parse --short HEAD)" "$(date +%F)" "$(nproc)" "$([ -z "$(git status --porcelain)" ] || echo ', with changes that are not committed')"
printf '| what | result | passed | took |\n|---|---|---|---|\n'
printf '%s\n' "${rows[@]}"
$all_good
