#!/usr/bin/env bash
# Times rewirings of an older commit and of the tree at hand, one after the other and again, and compares what they trained.
#   benches/rewiring/run.sh COMMIT [ROUNDS [all]] > results/rewiring.json      `all` adds layers of 300,000 and more
set -euo pipefail
commit=$1
rounds=${2:-3}
sizes=${3:-}
here=$(cd "$(dirname "$0")/../.." && pwd)
work=${CARGO_TARGET_DIR:-$here/target}/rewiring
# A program of the engine and the method alone, so that any commit builds it, and in minutes.
build() { # name, tree
    local crate=$work/$1
    mkdir -p "$crate"
    cp "$here/benches/rewiring/main.rs" "$crate/main.rs"
    cp "$2/Cargo.lock" "$crate/Cargo.lock"
    {
        printf '[package]\nname = "rewiring"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[[bin]]\nname = "rewiring"\npath = "main.rs"\n'
        printf '[profile.release]\ndebug = "line-tables-only"\n[dependencies]\nrayon = "1"\ntoml = "1"\n'
        for dependency in nnz-core nnz-engine nnz-sparse; do
            printf '%s = { path = "%s/crates/%s" }\n' "$dependency" "$2" "$dependency"
        done
    } > "$crate/Cargo.toml"
    (cd "$crate" && CARGO_TARGET_DIR=$crate/target cargo build --release --quiet)
}
if [ ! -e "$work/tree-$commit" ]; then
    mkdir -p "$work/tree-$commit"
    git -C "$here" archive "$commit" | tar x -C "$work/tree-$commit"
fi
build before "$work/tree-$commit" >&2
build after "$here" >&2
[ "$sizes" != build ] || exit 0
run() { # widths, degree, batch, rewirings, steps
    for round in $(seq "$rounds"); do
        for which in before after; do
            local load
            load=$(cut -d' ' -f1 /proc/loadavg)
            "$work/$which/target/release/rewiring" "$@" |
                sed "s/^{/{\"which\":\"$which\",\"round\":$round,\"date\":\"$(date +%F)\",\"load\":$load,/"
        done
    done
}
# The ladder of the SET paper: ε = 20 is these connections a unit.
run 3312-3000-3000-3000 40.7 2 5 8
run 3312-30000-30000-30000 34.1 2 3 4
# 4096 wide at 0.05 and 0.01: what binds a step and what it weighs.
run 4096-4096-4096-4096 205 128 5 6
run 4096-4096-4096-4096 41 128 5 6
if [ "$sizes" = all ]; then
    run 3312-300000-300000-300000 33.4 2 1 4
    run 1000-333333-333333-333333 20 16 1 4
fi
