#!/usr/bin/env bash
# One-shot pruning of a language model, all methods at all densities and patterns: a JSON document for each in FOLDER.
#   benches/language/run.sh MODEL.gguf CALIBRATION.txt TEST.txt FOLDER; then benches/language/table.py FOLDER
# Goes on where it was cut off.
set -euo pipefail
model=$1 calibration=$2 test=$3 out=$4
nnz=${NNZ:-target/release/nnz}
mkdir -p "$out"
perplexity() { [ -s "$out/$2.json" ] || "$nnz" --json perplexity "$1" "$test" --tokens 32768 --length 512 > "$out/$2.json"; }
one() {
    [ -s "$out/$1.json" ] && return
    rm -rf "$out/m"
    "$nnz" -q prune "$model" --method "${@:2}" --calibrate "$calibration" --calibration-tokens 8192 -o "$out/m"
    perplexity "$out/m" "$1"
}
perplexity "$model" dense
for d in 0.5 0.3; do
    one "mag-$d" magnitude --distribution uniform --density $d
    for m in wanda dsnot sparsegpt; do one "$m-$d" $m --density $d; done
done
for p in 2:4 4:8; do
    one "mag-$p" magnitude --distribution uniform --pattern $p
    for m in wanda dsnot sparsegpt; do one "$m-$p" $m --pattern $p; done
done
for p in unstructured 2:4; do
    [ -s "$out/essential-$p.json" ] || "$nnz" --json prune "$model" --method essential-sparsity --pattern $p \
        --calibrate "$calibration" --calibration-tokens 8192 -o "$out/m" > "$out/essential-$p.json"
done
