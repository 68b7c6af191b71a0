#!/usr/bin/env bash
# Writes tests/data/advisories.toml from a clone of https://github.com/rustsec/advisory-db: scripts/advisories.sh DIR
# DIR may be a bare repository. What is taken is its HEAD.
set -euo pipefail
[ $# -eq 1 ] || { echo "advisories.sh: give the folder of a clone of rustsec/advisory-db" >&2; exit 2; }
database=$(realpath "$1")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -C "$database" archive HEAD crates | tar -x -C "$work"
date=$(git -C "$database" log -1 --format=%cs)
commit=$(git -C "$database" rev-parse HEAD)
cargo run --quiet --locked -p indelible-testkit --bin indelible-dependencies -- snapshot "$work" "$date" "$commit" > "$work/advisories.toml"
cp "$work/advisories.toml" tests/data/advisories.toml
echo "$(grep -c RUSTSEC- tests/data/advisories.toml) advisories of $date"
