#!/usr/bin/env bash
# Takes mends out of the code again and demands that their tests fail. A patch here is one mend, reversed; it names its tests, and words that
# each of them ends with. `results/soundness.md` says which finding it belongs to.
#   benches/unmended/run.sh                              all, one after another: a compilation each
#   benches/unmended/run.sh u1-order a3-no-key           these
#   TOGETHER=1 benches/unmended/run.sh p1-starts p2-view these taken out at once: one compilation
# RUN goes before the commands that compile; SHOW=20 prints as many last lines of each test. Ends with 1 if a test passed, or failed with other words.
set -uo pipefail
export RUST_BACKTRACE=0
cd "$(dirname "$0")/../.."
here=benches/unmended
log=$(mktemp)
applied=()
restore() {
    for ((i = ${#applied[@]} - 1; i >= 0; i--)); do git apply -R "$here/${applied[i]}.patch"; done
    applied=()
    # Inputs that failed on purpose are not kept.
    git checkout -q -- '*proptest-regressions*' 2>/dev/null
    git clean -fdq -- '*proptest-regressions*'
}
trap 'restore; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
wrong=0

# Compiles all tests of some patches at once, and keeps their packages: with others, features of dependencies could be others.
compile() {
    local words
    words=$(for name; do sed -n 's/^test: //p' "$here/$name.patch"; done)
    mapfile -t packages < <(grep -oE -- '-p [a-z-]+' <<<"$words" | sort -u | tr ' ' '\n')
    words=$(grep -v -- --doc <<<"$words" | grep -oE -- '--test [a-z-]+|--lib' | sort -u | tr '\n' ' ')
    # shellcheck disable=SC2086
    [ -z "$words" ] || ${RUN:-} cargo test --quiet --no-run "${packages[@]}" $words 2>"$log" || { cat "$log"; exit 2; }
}

# Runs every test of a patch.
try() {
    local words said vars code memory seconds
    memory=$(sed -n 's/^gigabytes: //p' "$here/$1.patch")
    seconds=$(sed -n 's/^seconds: //p' "$here/$1.patch")
    while IFS= read -r line; do
        case $line in
        "test: "*) read -ra words <<<"${line#test: }" ;;
        "says: "*)
            said=${line#says: } vars=()
            while [[ ${words[0]} == *=* ]]; do vars+=("${words[0]}") words=("${words[@]:1}"); done
            (
                ulimit -c 0 -v $((${memory:-16} << 20))
                env "${vars[@]}" timeout -k 5 "${seconds:-240}" cargo test --quiet --no-fail-fast "${packages[@]}" "${words[@]:2}" >"$log" 2>&1
            )
            code=$?
            case $code in 124 | 137) echo "took too long" >>"$log" ;; esac
            if [ $code = 0 ]; then
                echo "$1: PASSES WITHOUT ITS MEND: ${words[*]}"
                wrong=1
            elif grep -qF -- "$said" "$log"; then
                echo "$1: fails as it should (${words[*]: -1}): $said"
            else
                echo "$1: FAILS WITH OTHER WORDS (${words[*]}): $said"
                wrong=1
            fi
            [ -z "${SHOW:-}" ] || grep -v '^$' "$log" | tail -n "$SHOW"
            ;;
        "--- "*) break ;;
        esac
    done <"$here/$1.patch"
}

names=("$@")
[ ${#names[@]} -gt 0 ] || for file in "$here"/*.patch; do names+=("$(basename "$file" .patch)"); done
for name in "${names[@]}"; do
    git apply "$here/$name.patch" || exit 2
    applied+=("$name")
    if [ -z "${TOGETHER:-}" ]; then
        compile "$name"
        try "$name"
        restore
    fi
done
if [ -n "${TOGETHER:-}" ]; then
    compile "${names[@]}"
    for name in "${names[@]}"; do try "$name"; done
fi
exit $wrong
