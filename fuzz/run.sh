#!/usr/bin/env bash
# Fuzzes every reader, or only the targets named after the time. Needs a nightly toolchain and cargo-fuzz. New inputs go to
# fuzz/corpus; what fails goes to fuzz/artifacts, and the script ends with 1.
#   fuzz/run.sh 60              a minute each
#   fuzz/run.sh 600 csv npz     ten minutes each of two
#   fuzz/run.sh night           eight hours, shared by all
#   RUNS=10000000 fuzz/run.sh night csv    at most so many runs of each
# Half of the changes are libFuzzer's own, on bytes; half are of one field in a valid file (fuzz/src/fields.rs).
set -uo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
[ "$seconds" != night ] || seconds=$((8 * 3600 / ${#targets[@]}))
# Small files that lie, and first inputs of targets that need no other program.
python3 hostile.py || exit 2
# Debug assertions and overflow checks are on (Cargo.toml). The address sanitizer is on where kernels run, which alone have unsafe
# code; the readers are faster without.
failed=()
for target in "${targets[@]}"; do
    case $target in
        onnx-run | checkpoint | experiment) sanitizer=address ;;
        *) sanitizer=none ;;
    esac
    folders=("corpus/$target")
    # Networks that are run begin with those that are read.
    [ "$target" != onnx-run ] || folders+=(corpus/onnx)
    mkdir -p "${folders[0]}"
    printf '== %s\n' "$target"
    cargo +nightly fuzz run -O -a -s "$sanitizer" "$target" "${folders[@]}" -- -max_total_time="$seconds" -runs="${RUNS:--1}" \
        -max_len=4096 -timeout=20 -rss_limit_mb=2560 -malloc_limit_mb=512 -print_final_stats=1 2>&1 |
        grep -E "^(Done|==|error|stat::number_of_exec|SUMMARY|.*panicked)" || true
    [ -z "$(ls -A "artifacts/$target" 2>/dev/null)" ] || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[*]}"; exit 1; }
