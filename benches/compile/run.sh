#!/usr/bin/env bash
# Times what a developer waits for, of an older commit and of this one, one after the other on an idle machine of two cores or more,
# in 30 to 40 minutes. Writes results/compile-times.md, and its progress to stderr.
#   benches/compile/run.sh [COMMIT [FILE]]        the older commit; 78573d9, before the crates were split, when left out
# Each commit is checked out in a temporary folder with a target folder of its own; dependencies are downloaded before the clock
# starts. Of every step both wall clock and processor time (user and system, of all processes) are measured: on a busy machine only
# the second means something. An edit changes the summary of RigL's card, which the program prints, so that a build that missed
# it would be seen. A test that fails is noted and does not end the run. What is measured stands in FILE.part until all is; cut off, the
# same command goes on there.
set -euo pipefail
cd "$(dirname "$0")/../.."
old=${1:-78573d9}
out=${2:-$PWD/results/compile-times.md}
root=$PWD
part=$out.part
touch "$part"
work=$(mktemp -d)
trap 'for t in old new; do git -C "$root" worktree remove --force "$work/$t" 2>/dev/null || true; done; rm -rf "$work"' EXIT
git worktree add -q --detach "$work/old" "$old"
git worktree add -q --detach "$work/new" HEAD
export CARGO_TERM_COLOR=never
# Environment that would make one commit's build, or both, something else than a user's.
unset CARGO_TARGET_DIR CARGO_INCREMENTAL CARGO_BUILD_TARGET RUSTFLAGS RUSTC_WRAPPER RUSTC_BOOTSTRAP
EDITS=${EDITS:-3}
TIMEFORMAT='%R %U %S'
declare -A wall cpu note

say() { printf '%s %5ss  %s\n' "$(date +%T)" "$SECONDS" "$*" >&2; }
# timed FILE COMMAND...: appends wall clock and processor seconds to the file; what the command says is in $work/log. Its status.
timed() {
    local to=$1 status=0
    shift
    { time "$@" >"$work/log" 2>&1 || status=$?; } 2>"$work/time"
    tail -1 "$work/time" | awk '{ printf "%.2f %.2f\n", $1, $2 + $3 }' >>"$to"
    return "$status"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
# keep NAME FILE: medians of the times in a file.
keep() {
    wall[$1]=$(cut -d' ' -f1 "$2" | median)
    cpu[$1]=$(cut -d' ' -f2 "$2" | median)
    echo "$1 ${wall[$1]} ${cpu[$1]}${note[$1]:-}" >>"$part"
    say "$1: ${wall[$1]} s, ${cpu[$1]} s of processor time"
}
# have NAME: whether a step was measured before.
have() {
    local line
    line=$(grep "^$1 " "$part") || return 1
    wall[$1]=$(cut -d' ' -f2 <<<"$line")
    cpu[$1]=$(cut -d' ' -f3 <<<"$line")
    note[$1]=$(cut -d' ' -f4- <<<"$line")
    note[$1]=${note[$1]:+ ${note[$1]}}
}
must() { "$@" || { tail -50 "$work/log" >&2; exit 1; }; }
# once NAME COMMAND...: a step that must succeed.
once() {
    local name=$1
    shift
    have "$name" && return
    rm -f "$work/times"
    must timed "$work/times" "$@"
    keep "$name" "$work/times"
}
# edits NAME CHECK COMMAND...: edits RigL's card before each of several runs of a command, and checks what came of it.
edits() {
    local name=$1 check=$2 k
    shift 2
    have "$name" && return
    # Not timed: what one of these compiles once more after all tests.
    must timed "$work/first" "$@"
    rm -f "$work/times"
    for k in $(seq "$EDITS"); do
        sed -i "s/\"Every 100 steps, [^\"]*\"/\"Every 100 steps, edit $name$k.\"/" "$card"
        must timed "$work/times" "$@"
        $check "$name$k"
    done
    note[$name]=" ($(grep -c '^ *Compiling' "$work/log" || true) crates)"
    keep "$name" "$work/times"
}
printed() { "target/$folder/nnz" show rigl | grep -q "edit $1\." || { echo "the edit $1 is not in the program" >&2; exit 1; }; }
ran() { grep -q '^test result: ok. [1-9]' "$work/log" || { echo "no test ran after the edit $1" >&2; exit 1; }; }
# One method's own tests, as the docs of each commit say: the old one has none, and tests all methods at once.
tests() {
    case $which in
        old) cargo test --test conformance ;;
        new) cargo test -p nnz-sparse ::rigl:: ;;
    esac
}

for which in old new; do (cd "$work/$which" && cargo fetch -q); done
say "load $(cut -d' ' -f1 /proc/loadavg) at the start"
start=$(cut -d' ' -f1 /proc/loadavg)
for which in old new; do
    cd "$work/$which"
    card=$(git ls-files '*/rigl.rs' | head -1)
    once "$which-compile-tests" cargo test --no-run
    if ! have "$which-run-tests"; then
        rm -f "$work/times"
        timed "$work/times" cargo test --no-fail-fast || true
        note[$which-run-tests]=" ($(grep -c '^test .* \.\.\. ok$' "$work/log" || true) ok, $(grep -c '^test .* FAILED$' "$work/log" || true) failed)"
        grep '^test .* FAILED$' "$work/log" >&2 || true
        keep "$which-run-tests" "$work/times"
    fi
    folder=debug
    edits "$which-dev" printed cargo build --bin nnz
    edits "$which-test" ran tests
    rm -rf target
    folder=release
    once "$which-release" cargo build --release
    edits "$which-edit" printed cargo build --release --bin nnz
    rm -rf target
done
cd "$root"
sum() { echo "${1} + ${2}" | bc; }
for which in old new; do
    wall[$which-tests]=$(sum "${wall[$which-compile-tests]}" "${wall[$which-run-tests]}")
    cpu[$which-tests]=$(sum "${cpu[$which-compile-tests]}" "${cpu[$which-run-tests]}")
done
row() {
    local name=$2 which
    printf '| %s' "$1"
    for which in old new; do printf ' | %.1f%s | %.1f' "${wall[$which-$name]}" "${note[$which-$name]:-}" "${cpu[$which-$name]}"; done
    printf ' | %.2f |\n' "$(echo "scale=4; ${wall[new-$name]} / ${wall[old-$name]}" | bc)"
}
new=$(git -C "$work/new" rev-parse --short HEAD)
{
    echo "# What a developer waits for"
    echo
    echo "$(date +%F), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores, $(rustc --version | cut -d' ' -f1-2), load $start at the start and $(cut -d' ' -f1 /proc/loadavg) at the end,"
    echo "\`benches/compile/run.sh\`. Seconds by the wall clock and of processor time; of edits the median of $EDITS. An edit changes the"
    echo "summary of RigL's card."
    echo
    echo "| | $old | processor | $new | processor | wall, new / old |"
    echo "|---|---|---|---|---|---|"
    row "an edit of a method to the running program, release" edit
    row "an edit of a method to the running program, dev" dev
    row "an edit of a method to its own tests, run" test
    row "cold \`cargo build --release\`" release
    row "cold \`cargo test\`" tests
    row "of which it compiles" compile-tests
    row "of which it runs" run-tests
} >"$work/table.md"
mv "$work/table.md" "$out"
rm "$part"
say "wrote $out"
