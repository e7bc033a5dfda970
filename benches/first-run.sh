#!/usr/bin/env bash
# What a newcomer waits for, as Markdown: a cold build, the README's first command, an edit of one method, and a large
# random layer. Whole-process wall times; run it on a quiet machine, the load is printed with the result.
#   benches/first-run.sh > results/first-run.md
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=$work/target NNZ_DATA=$work/data
timed() { local t; t=$(date +%s.%N); "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; awk "BEGIN{printf \"%.1f\", $(date +%s.%N)-$t}"; }
median() { sort -n | awk '{a[NR]=$1} END{print a[int((NR+1)/2)]}'; }

cpu=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)
echo "# What a newcomer waits for"
echo
echo "$(date -u +%F), $cpu, $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg) at the start, $(rustc --version)"
echo
echo "| what | seconds | limit |"
echo "|---|---|---|"
cargo fetch --quiet
echo "| cold \`cargo build --release\` (crates already downloaded) | $(timed cargo build --release) | 240 |"
for i in 1 2 3; do timed "$work/target/release/nnz" train mnist --method rigl --density 0.05 --run-dir "$work/run$i"; echo; done | median >"$work/m"
echo "| \`nnz train mnist --method rigl --density 0.05\` with its controls, median of 3 | $(cat "$work/m") | 120 |"
git diff --quiet crates/nnz-sparse/src/rewire/rigl.rs || { echo "commit crates/nnz-sparse/src/rewire/rigl.rs first" >&2; exit 1; }
for i in 1 2 3; do
    sed -i "s|fraction: 0\.3[0-9]*,|fraction: 0.30$i,|" crates/nnz-sparse/src/rewire/rigl.rs
    timed cargo build --release; echo
done | median >"$work/m"
git checkout --quiet crates/nnz-sparse/src/rewire/rigl.rs
echo "| an edit of one method to a running program, median of 3 | $(cat "$work/m") | 15 |"
echo
echo "## A square Erdős-Rényi layer with one connection a unit"
echo
echo "Time and memory grow with the connections; a dense million-by-million matrix would have 4 TB. One thread, median of 5."
echo
cargo run --release --quiet -p nnz-core --features bench --example erdos_renyi
echo
echo "Load $(cut -d' ' -f1-3 /proc/loadavg) at the end."
