#!/usr/bin/env bash
# Two binaries side by side, run in turn, each on groups of its own: scripts/pairs.sh OLD NEW [PAIRS]. Prints the median of each figure and of
# the ratios new/old, pair by pair. For an idle machine. MODES says what is measured.
set -euo pipefail
old=$(realpath "$1") new=$(realpath "$2") pairs=${3:-21}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

run() { # name, binary, arguments...: the JSON of one run, in one line
  local name=$1 binary=$2
  shift 2
  "$binary" bench --spawn --json "$@" 2> /dev/null | tr -d '\n' >> "$dir/$name"
  echo >> "$dir/$name"
}

for mode in ${MODES:-unary bulk sdk read}; do
  case $mode in
    unary) arguments=(--mode unary --clients 1 --seconds 3) ;;
    bulk) arguments=(--mode bulk --clients 1 --seconds 4) ;;
    sdk) arguments=(--mode sdk --clients 64 --seconds 4) ;;
    read) arguments=(--mode read --clients 64 --seconds 4) ;;
  esac
  for pair in $(seq "$pairs"); do
    if [ $((pair % 2)) = 0 ]; then
      run "$mode.old" "$old" "${arguments[@]}"
      run "$mode.new" "$new" "${arguments[@]}"
    else
      run "$mode.new" "$new" "${arguments[@]}"
      run "$mode.old" "$old" "${arguments[@]}"
    fi
  done
  python3 - "$mode" "$dir/$mode.old" "$dir/$mode.new" <<'PY'
import json, statistics, sys
mode, *files = sys.argv[1:]
old, new = ([json.loads(line) for line in open(file) if line.strip()] for file in files)
for figure in ("events_per_s", "p50_us", "p99_us", "cpu_us_per_event"):
    pairs = [(a[figure], b[figure]) for a, b in zip(old, new) if a.get(figure) and b.get(figure)]
    if not pairs:
        continue
    a, b = (statistics.median(side) for side in zip(*pairs))
    ratio = statistics.median(y / x for x, y in pairs)
    difference = statistics.median(y - x for x, y in pairs)
    print(f"{mode:6} {figure:17} old {a:10.1f}  new {b:10.1f}  new/old {ratio:.3f}  new-old {difference:+.1f}  pairs {len(pairs)}")
PY
done
