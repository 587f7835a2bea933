#!/bin/sh
# run.sh TARGET CORPUS SEEDS SECONDS: the inputs that are kept and the seeds that the build made, then as many more as
# there is time for. What is found stays beside the target: the corpus in TARGET.corpus, a crash in TARGET.crash-*.
set -eu
target=$1 corpus=$2 seeds=$3 seconds=$4
[ -z "${SHORTFUSE_SOAK:-}" ] || seconds=900
mkdir -p "$target.corpus"
set -- "$target.corpus"
[ ! -d "$corpus" ] || set -- "$@" "$corpus"
[ ! -d "$seeds" ] || set -- "$@" "$seeds"
cd "$(dirname "$target")"
exec "$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -max_len=16384 -verbosity=0 \
  -print_final_stats=1 -artifact_prefix="$target.crash-" "$@"
