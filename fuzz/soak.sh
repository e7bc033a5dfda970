#!/usr/bin/env bash
# Soaks every target (examples/soak.rs), or those named, at idle priority: a log of each in LOGS, its last line the result. Ends with 1
# if an input failed.
#   fuzz/soak.sh                              10 million inputs each, fastest targets first
#   RUNS=100000 JOBS=4 fuzz/soak.sh csv npz   so many of two, on so many processors
#   ASAN=1 fuzz/soak.sh onnx-run              under the address sanitizer
#   SERIES=1 fuzz/soak.sh                     other inputs
set -uo pipefail
cd "$(dirname "$0")"
logs=${LOGS:-target/soak}
mkdir -p "$logs"
python3 hostile.py || exit 2
build=(cargo build --release --example soak)
program=target/release/examples/soak
if [ -n "${ASAN:-}" ]; then
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/asan
    build+=(--target x86_64-unknown-linux-gnu)
    program=target/asan/x86_64-unknown-linux-gnu/release/examples/soak
fi
"${build[@]}" || exit 2
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(idx wav npy cifar10 safetensors svm history gguf packed entropy weights npz torch csv txt adapter
    png jpg recipe model onnx report checkpoint onnx-run tokenizer experiment)
printf '%s\n' "${targets[@]}" | chrt -i 0 nice -n 19 xargs -P "${JOBS:-2}" -I{} sh -c "$program {} > $logs/{}.log 2>&1"
code=$?
tail -qn 1 "$logs"/*.log
[ "$code" = 0 ] || exit 1
