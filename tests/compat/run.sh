#!/usr/bin/env bash
# Real programs in an accelerated mount: each case once without the hook and once with it, in a fresh directory of the
# mount each time. Output, exit status and the files that are left must be the same.
#
#   tests/compat/run.sh [CASE...]      all, or these; `make compat` installs what they need before
#
# A case is a script in cases/, run by bash with $out (its directory, also the current one), $project (a tree of
# thousands of files on the same mount) and $scratch (a directory outside). What it prints is compared. Comments at its
# top: `# as: USER` runs it as somebody else, `# keep: PATTERN` limits the files compared, `# seconds: N` its time.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
cases=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/cases

mkdir "$T/source" "$T/mnt" "$T/scratch" "$T/reports"
chmod 1777 "$T/scratch" "$T/reports"
passthrough "$T/source" "$T/mnt" "allow_other,bpftime_share=all"
project=$T/mnt/project
mkdir "$project"
cp -a /usr/include/linux "$project/include"
cp -a /usr/include/c++ "$project/c++"
mkdir "$project/python"
tar cf - -C "$(python3 -c 'import os; print(os.path.dirname(os.__file__))')" --exclude=__pycache__ --exclude=test \
  --exclude='*-packages' . | tar xf - -C "$project/python" || fail "no project"
sync -f "$T/source"  # ext4 settles the number of blocks when it writes
note "a project of $(find "$project" -type f | wc -l) files"

directive() { sed -nE "s/^# $2: *//p" "$1" | head -n 1; }

run_case() {  # run_case FILE WAY
  local user limit way=$2
  user=$(directive "$1" as)
  limit=$(directive "$1" seconds)
  export out=$T/mnt/out project scratch=$T/scratch/$way
  rm -rf "$out" "$scratch"
  mkdir "$out" "$scratch"
  local command=(timeout "${limit:-120}" bash "$1")
  [ "$way" = hooked ] && command=(env "LD_PRELOAD=$HOOK" "SHORTFUSE_REPORT=$T/reports/%p" "${command[@]}")
  if [ -n "$user" ]; then
    chown "$user" "$out" "$scratch"
    command=(setpriv "--reuid=$user" "--regid=$user" --init-groups "${command[@]}")
  fi
  (cd "$out" && "${command[@]}") >"$T/out.$way" 2>"$T/err.$way" </dev/null
  echo "status $?" >>"$T/out.$way"
  (cd "$out" && find . -type f -path "${keep:-*}" -print0 | sort -z | xargs -0r sha256sum) >"$T/files.$way"
}

reports_served() {
  find "$T/reports" -type f -print0 | xargs -0r cat | python3 -c '
import json, sys
print(sum(json.loads(line)["total"]["served"] for line in sys.stdin if line.strip()))'
}

failed=()
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(find "$cases" -name '*.sh' -printf '%f\n' | sed 's/\.sh$//' | sort)
for name in "${names[@]}"; do
  file=$cases/$name.sh
  [ -e "$file" ] || fail "there is no case $name"
  keep=$(directive "$file" keep)
  rm -f "$T/reports"/*
  started=$SECONDS
  run_case "$file" without
  without_seconds=$((SECONDS - started))
  run_case "$file" hooked
  for what in out err files; do
    cmp -s "$T/$what.without" "$T/$what.hooked" && continue
    echo "$name: $what differs with the hook:" >&2
    diff "$T/$what.without" "$T/$what.hooked" | head -n 20 >&2
    failed+=("$name")
  done
  if ! grep -q '^status 0$' "$T/out.without"; then
    echo "$name: fails without the hook: $(tail -n 5 "$T/out.without" "$T/err.without")" >&2
    failed+=("$name")
  fi
  served=$(reports_served)
  [ "$served" -gt 0 ] || { echo "$name: nothing was served" >&2; failed+=("$name"); }
  hooked_seconds=$((SECONDS - started - without_seconds))
  note "$name: $without_seconds s without, $hooked_seconds s with the hook, $served calls served"
done
rm -rf "$T/mnt/out"
unmount "$T/mnt"
[ ${#failed[@]} -eq 0 ] || fail "${failed[*]}"
note "${#names[@]} cases: the same with and without"
