#!/usr/bin/env bash
# The ladder of the SET paper's shapes and networks of 1 to 100 million neurons; one JSON document a line, with the load.
#   benches/scale/run.sh > results/scale.json     needs 19 GB of free memory for the last one
set -euo pipefail
nnz=${NNZ:-target/release/nnz}
measure() {
    local load
    load=$(cut -d' ' -f1 /proc/loadavg)
    "$nnz" --json bench scale "$@" | tr -d '\n' | sed "s/^{/{\"date\":\"$(date +%F)\",\"load\":$load,/"
    echo
}
for neurons in 9k 90k 900k 1800k; do
    measure --neurons "$neurons" --epsilon 20 --batch 2
done
measure --neurons 1M --degree 20 --batch 16
measure --neurons 10M --degree 10 --batch 16
measure --neurons 50M --layers 6 --degree 5 --batch 16
measure --neurons 100M --layers 12 --degree 4 --batch 8 --steps 2
