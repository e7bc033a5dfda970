#!/usr/bin/env bash
# Fuzzes every reader for SECONDS each (60 if not given), or only the targets named after it. Needs a nightly toolchain
# and cargo-fuzz. New inputs go to fuzz/corpus; what fails goes to fuzz/artifacts, and the script ends with 1.
#   fuzz/run.sh 60
#   fuzz/run.sh 600 csv npz
set -uo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
# Debug assertions and overflow checks are on (Cargo.toml). The sanitizer is off: nnz's readers have no unsafe code.
cargo +nightly fuzz build -O -a -s none || exit 2
failed=()
for target in "${targets[@]}"; do
    printf '== %s\n' "$target"
    cargo +nightly fuzz run -O -a -s none "$target" -- -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 -malloc_limit_mb=256 -print_final_stats=1 2>&1 | grep -E "^(Done|==|stat::number_of_exec|SUMMARY|.*panicked)" || true
    [ -z "$(ls -A "artifacts/$target" 2>/dev/null)" ] || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[*]}"; exit 1; }
