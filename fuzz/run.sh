#!/bin/sh
# run.sh TARGET CORPUS SEEDS LIMIT: the inputs that are kept and the seeds that the build made, then others made of
# them. LIMIT is a number of seconds, or -runs=N: then the run is the same each time and everywhere, whatever earlier
# ones found (SHORTFUSE_SOAK=1 makes a long one of it all the same). What is found stays beside the target: the corpus
# in TARGET.corpus, a crash in TARGET.crash-*.
set -eu
export LC_ALL=C
target=$1 corpus=$2 seeds=$3 limit=$4
[ -z "${SHORTFUSE_SOAK:-}" ] || limit=900
set --
for directory in "$corpus" "$seeds"; do
  [ ! -d "$directory" ] || set -- "$@" "$directory"
done
still=
case $limit in
  -runs=*)
    # It collects what is compared, addresses too: they must not change.
    ! setarch -R true 2>/dev/null || still="setarch -R"
    # libFuzzer keeps the order of a list; a directory's is another on each file system.
    find "$@" -type f | sort | paste -sd, >"$target.inputs"
    rm -rf "$target.found"
    mkdir "$target.found"
    set -- "$limit" -seed=1 -reload=0 "-seed_inputs=@$target.inputs" "$target.found"
    ;;
  *)
    mkdir -p "$target.corpus"
    set -- "-max_total_time=$limit" "$target.corpus" "$@"
    ;;
esac
cd "$(dirname "$target")"
exec $still "$target" -timeout=200 -rss_limit_mb=1024 -max_len=16384 -verbosity=0 -print_final_stats=1 \
  -artifact_prefix="$target." "$@"
