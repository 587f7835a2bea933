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

note "names that lead into the mount from the directory above it"
cd "$T" || fail "cd"
mkdir -p mnt/d2/e
echo deep >mnt/d2/e/g
served_from_above() {  # served_from_above OPERATION CONTENTS COMMAND...
  local operation=$1 contents=$2
  shift 2
  rm -f "$REPORT"
  [ "$(hooked "$@")" = "$contents" ] || fail "$*: other contents"
  [ "$(served "$operation")" -gt 0 ]
}
for name in mnt/f ./mnt/f mnt/./f mnt//d2/../f; do
  eventually "$PATIENCE_S" served_from_above stat 9 stat -c %s "$name" || fail "$name is not served"
  eventually "$PATIENCE_S" served_from_above read contents cat "$name" || fail "$name is not read"
done
eventually "$PATIENCE_S" served_from_above readdir mnt/d2/e/g find mnt -name g || fail "find is not served"
eventually "$PATIENCE_S" served_from_above read deep sh -c 'cd mnt/d2 && cat e/g' || fail "not served after cd"
[ "$(hooked stat -c %s mnt/../image 2>&1)" = "$(stat -c %s mnt/../image 2>&1)" ] || fail "up again from the mount point"
[ "$(hooked cat mntf 2>&1)" = "$(cat mntf 2>&1)" ] || fail "a name that only begins like it"
# Where another directory has the name, after a second at most, and for the one who sits there at once.
mkdir up up/mnt
unmount "$T/mnt"
passthrough "$T/source" "$T/up/mnt"
eventually "$PATIENCE_S" served_from_above read contents cat up/mnt/f || fail "up/mnt/f is not read"
cat >"$T/renamed.py" <<'PY'
import os, time
said = lambda: open("up/mnt/f").read().strip()
for i in range(3):
    assert said() == "contents"
os.rename("up", "away")
os.makedirs("up/mnt")
open("up/mnt/f", "w").write("another")
end = time.monotonic() + 60
while said() != "another":
    assert time.monotonic() < end, "the old one is still served"
    time.sleep(0.1)
assert open("away/mnt/f").read().strip() == "contents"
PY
hooked python3 "$T/renamed.py" || fail "renamed"
unmount "$T/away/mnt"
passthrough "$T/source" "$T/mnt"
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
