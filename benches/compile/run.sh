#!/usr/bin/env bash
# Times what a developer waits for, of an older commit and of this one, one after the other on an idle machine. Prints Markdown.
#   benches/compile/run.sh [COMMIT] > table.md        the older commit; 78573d9, before the crates were split, when left out
# Each commit is checked out in a temporary folder with a target folder of its own; dependencies are downloaded before the clock
# starts. An edit changes the summary of RigL's card, which the program prints, so that a build that missed it would be seen.
set -euo pipefail
cd "$(dirname "$0")/../.."
old=${1:-78573d9}
work=$(mktemp -d)
trap 'git worktree remove --force "$work/old" 2>/dev/null || true; git worktree remove --force "$work/new" 2>/dev/null || true; rm -rf "$work"' EXIT
git worktree add -q --detach "$work/old" "$old"
git worktree add -q --detach "$work/new" HEAD
export CARGO_TERM_COLOR=never
EDITS=3

timed() { # seconds of a command whose output goes to a log; the log is shown when it fails
    local from
    from=$(date +%s.%N)
    "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
    echo "$(date +%s.%N) - $from" | bc
}
median() { sort -n | sed -n "$(((EDITS + 1) / 2))p"; }
rigl() { git -C "$work/$1" ls-files '*/rigl.rs' | head -1; }
edit() { sed -i "s/\"Every 100 steps, [^\"]*\"/\"Every 100 steps, edit $2.\"/" "$work/$1/$(rigl "$1")"; }
check() { "$work/$1/target/$2/nnz" show rigl | grep -q "edit $3" || { echo "the edit is not in the program" >&2; exit 1; }; }

# One method's own tests: the suite of its room, by its key.
tests() {
    cd "$work/$1"
    case $1 in
        old) cargo test -p nnz --test conformance rigl ;;
        new) cargo test -p nnz-sparse --test conformance rigl ;;
    esac
}
binary() { case $1 in old) echo nnz-cli ;; new) echo nnz ;; esac; }

for which in old new; do (cd "$work/$which" && cargo fetch -q); done
declare -A seconds compiled
for which in old new; do
    cd "$work/$which"
    seconds[$which,cold-release]=$(timed cargo build --release -q)
    for profile in release dev; do
        flag=$([ $profile = release ] && echo --release || true)
        folder=$([ $profile = release ] && echo release || echo debug)
        cargo build $flag -q -p "$(binary $which)"
        for k in $(seq $EDITS); do
            edit $which "$profile$k"
            timed cargo build $flag -p "$(binary $which)"
            cp "$work/log" "$work/compiled"
            check $which $folder "$profile$k"
        done >"$work/times"
        seconds[$which,$profile]=$(median <"$work/times")
        compiled[$which,$profile]=$(grep -c Compiling "$work/compiled")
    done
    tests $which >/dev/null 2>&1
    for k in $(seq $EDITS); do
        edit $which "test$k"
        timed tests $which
        cp "$work/log" "$work/compiled"
    done >"$work/times"
    seconds[$which,test]=$(median <"$work/times")
    compiled[$which,test]=$(grep -c Compiling "$work/compiled")
    rm -rf target
    seconds[$which,cold-test]=$(timed cargo test -q --no-fail-fast)
    rm -rf target
done
row() { printf '| %s | %.1f%s | %.1f%s |\n' "$1" "${seconds[old,$2]}" "$3" "${seconds[new,$2]}" "$4"; }
load=$(cut -d' ' -f1 /proc/loadavg)
echo "$(date +%F), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1), $(nproc) cores, load $load at the end; seconds, medians of $EDITS edits."
echo
echo "| | $old | $(git -C "$work/new" rev-parse --short HEAD) |"
echo "|---|---|---|"
row "an edit of a method to the running program, release" release " (${compiled[old,release]} crates)" " (${compiled[new,release]} crates)"
row "an edit of a method to the running program, dev" dev " (${compiled[old,dev]} crates)" " (${compiled[new,dev]} crates)"
row "an edit of a method to its own tests" test " (${compiled[old,test]} crates)" " (${compiled[new,test]} crates)"
row "cold cargo build --release" cold-release "" ""
row "cold cargo test, built and run" cold-test "" ""
