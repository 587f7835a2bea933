#!/usr/bin/env bash
# A directory read while its files go, by a file system that numbers the entries of a list it makes at the handle's
# first READDIR (libfuse's high-level interface); the working directory as the first thing that a process knows of a
# mount; another mount namespace.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

make_ssh_stand_in

mkdir "$T/source" "$T/mnt"
# More than one getdents64() takes, of any libc.
python3 - "$T/source/d" <<'PY'
import os, sys
os.mkdir(sys.argv[1])
for i in range(2000):
    open(f"{sys.argv[1]}/{'a-name-of-some-length-' * 3}{i}", "w").close()
PY

note "while (readdir()) system(\"rm ...\")"
accelerated sshfs -o "ssh_command=$T/ssh" "host:$T/source" "$T/mnt"
listing_served() {
  rm -f "$REPORT"
  hooked ls "$T/mnt/d" >/dev/null
  [ "$(served readdir)" -gt 0 ]
}
eventually "$PATIENCE_S" listing_served || fail "no listing was served: $(cat "$REPORT")"
hooked python3 - "$T/mnt/d" <<'PY' || fail "files were skipped"
import os, subprocess, sys
seen, batch = 0, []
def remove():
    global batch
    subprocess.run(["rm", "-f"] + batch, check=True)
    batch = []
with os.scandir(sys.argv[1]) as entries:
    for entry in entries:
        seen += 1
        batch.append(entry.path)
        if len(batch) == 100:
            remove()
remove()
left = len(os.listdir(sys.argv[1]))
print(f"{seen} seen, {left} left")
sys.exit(0 if seen == 2000 and left == 0 else 1)
PY
unmount "$T/mnt"

note "a process that starts in the mount"
echo contents >"$T/source/f"
passthrough "$T/source" "$T/mnt"
cd "$T/mnt" || fail "cd"
first_file_is_served() {
  rm -f "$REPORT"
  [ "$(hooked cat f)" = contents ] || fail "other contents"
  [ "$(served read)" -gt 0 ]
}
eventually "$PATIENCE_S" first_file_is_served || fail "nothing was read by a relative path: $(cat "$REPORT")"
cd /

note "another mount namespace: files are served, paths are not"
for warm in 1 2 3; do hooked cat "$T/mnt/f" >/dev/null; done
file_is_served_elsewhere() {
  rm -f "$REPORT"
  [ "$(unshare --mount --propagation private env LD_PRELOAD="$HOOK" SHORTFUSE_REPORT="$REPORT" \
    python3 -c 'import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.stat(sys.argv[1])
sys.stdout.write(os.pread(fd, 100, 0).decode())' "$T/mnt/f")" = contents ] || fail "other contents"
  [ "$(served stat)" -le 1 ] || fail "paths were served: $(cat "$REPORT")"
  [ "$(served read)" -gt 0 ]
}
eventually "$PATIENCE_S" file_is_served_elsewhere || fail "the file was not served: $(cat "$REPORT")"
unmount "$T/mnt"
note "done"
