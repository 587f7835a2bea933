#!/usr/bin/env bash
# Namespaces in which numbers mean something else: users that are nobody there, and another clock.
if [ "${1:-}" != inside ]; then
  source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
  [ "$(id -u)" = 0 ] || { echo "namespaces need root"; exit 0; }

  note "a time namespace, in which no time to live of the daemon's ever ends"
  mkdir "$T/source" "$T/mnt"
  echo old >"$T/source/a"
  passthrough "$T/source" "$T/mnt"
  same "outside" stat -c %s "$T/mnt/a"
  rm -f "$REPORT"
  # No clock is set to before the machine was started.
  behind=$(python3 -c 'import time; print(-int(time.monotonic() / 2))')
  for _ in $(seq 10); do
    [ "$(hooked unshare --time --fork --monotonic "$behind" -- stat -c %s "$T/mnt/a")" = 4 ] || fail "another size"
  done
  [ "$(served)" = 0 ] || fail "served by another clock: $(cat "$REPORT")"
  unmount "$T/mnt"

  mkdir -p "$T/image/theirs" "$T/image/ours"
  echo secret >"$T/image/theirs/inner"
  echo x >"$T/image/ours/f"
  chown -R 5000:5000 "$T/image/theirs"
  chmod 700 "$T/image/theirs"
  mksquashfs "$T/image" "$T/image.sqfs" -quiet -no-progress >/dev/null || fail "mksquashfs"
  chmod 755 "$T"
  # In a mount namespace of its own, and so in a registry of its own.
  unshare --mount --user --map-root-user -- bash "${BASH_SOURCE[0]}" inside "$T/image.sqfs" ||
    fail "in a user namespace"
  exit 0
fi

mount --make-rprivate / && mount -t tmpfs none /run || exit 1
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
mkdir "$T/mnt"
accelerated squashfuse_ll -o default_permissions "$2" "$T/mnt"
note "a user namespace: what belongs to users that are nobody there"
same "a file of ours" stat -c '%u:%g %a' "$T/mnt/ours/f" "$T/mnt/ours"
for _ in $(seq 10); do
  for path in theirs theirs/inner; do
    expected=$(stat -c '%u:%g %a %s' "$T/mnt/$path" 2>&1)
    [ "$(hooked stat -c '%u:%g %a %s' "$T/mnt/$path" 2>&1)" = "$expected" ] || fail "$path: not what the kernel says"
  done
  sleep 0.05  # what was missed is fetched
done
unmount "$T/mnt"
note "done"
