#!/usr/bin/env bash
# Times steps of sparse layers on the kernels of two commits, turn by turn in one process: what a change of the kernels costs.
#   benches/checks/run.sh BEFORE AFTER [ROUNDS [THREADS]] > table.md
#   benches/checks/run.sh 2ffc432^ 2ffc432      the commit that made kernels check shapes, order and instruction sets in release
set -euo pipefail
before=$1 after=$2 rounds=${3:-60} threads=${4:-1}
here=$(cd "$(dirname "$0")/../.." && pwd)
work=${CARGO_TARGET_DIR:-$here/target}/checks
mkdir -p "$work"
for which in before after; do
    rm -rf "${work:?}/$which"
    mkdir "$work/$which"
    git -C "$here" archive "${!which}" | tar x -C "$work/$which"
done
# Cargo tells packages of one name apart by their versions.
sed -i 's/^version.workspace = true/version = "0.0.1"/' "$work/before/crates/nnz-kernels/Cargo.toml"
cp "$here/benches/checks/main.rs" "$work/main.rs"
cat > "$work/Cargo.toml" <<EOF
[package]
name = "checks"
version = "0.0.0"
edition = "2024"
[workspace]
# Each has a workspace of its own.
exclude = ["before", "after"]
[[bin]]
name = "checks"
path = "main.rs"
[dependencies]
before = { package = "nnz-kernels", path = "before/crates/nnz-kernels" }
after = { package = "nnz-kernels", path = "after/crates/nnz-kernels" }
rayon = "1"
rustix = { version = "1.1", default-features = false, features = ["std", "time"] }
[profile.release]
debug = "line-tables-only"
EOF
(cd "$work" && CARGO_TARGET_DIR=$work/target cargo build --release --quiet) >&2
printf '%s to %s, %s, %s threads, load before %s\n\n' "$before" "$after" "$(date +%F)" "$threads" "$(cut -d' ' -f1-3 /proc/loadavg)"
"$work/target/release/checks" "$rounds" "$threads"
printf '\nload after %s\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
