#!/usr/bin/env bash
# Fuzzes the decoders, on stable Rust: scripts/fuzz.sh [SECONDS of each target, 60 by default] [TARGET...]
# Needs a C++ compiler. What is found stands in fuzz/artifacts/TARGET/; make a named test of it.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then targets=(frame batch note policy proof_file bundle event); fi
triple=$(rustc -vV | sed -n 's/^host: //p')

# What `cargo fuzz` would set, without its nightly. With --target, or build scripts would get it, too.
flags=(
  -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing
)
RUSTFLAGS="${flags[*]}" cargo build --release --locked --target "$triple" --bins
bin=target/$triple/release

for target in "${targets[@]}"; do
  echo "== $target, $seconds s"
  mkdir -p "corpus/$target" "artifacts/$target"
  SEEDS="corpus/$target" "$bin/$target" "corpus/$target" -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=1024 -timeout=10 \
    -artifact_prefix="artifacts/$target/" -print_final_stats=1
done
echo "== nothing found"
