#!/usr/bin/env bash
# Real programs on passthroughfs with datacache: the same output, status and files with the hook as without.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir "$T/source" "$T/mnt"
cp -a /usr/include/linux "$T/source/tree"
ln -s tree/types.h "$T/source/link"
ln -s nowhere "$T/source/dangling"
mkdir "$T/source/python"
cp -a "$(python3 -c 'import json,os; print(os.path.dirname(json.__file__))')" "$T/source/python/json"
cp -a "$(python3 -c 'import email,os; print(os.path.dirname(email.__file__))')" "$T/source/python/email"
find "$T/source/python" -name __pycache__ -prune -exec rm -rf {} +
passthrough "$T/source" "$T/mnt"
cd "$T/mnt" || fail "cd"

# ---- programs that read
same "find" find . -printf '%p %s %m %y %l %n %u %T@ %C@\n'
same "find with an absolute path" find "$T/mnt" -name '*.h' -size +8k
same "ls -lR" ls -lRA --time-style=full-iso .
same "tar" bash -c 'tar cf - . | sha256sum'
same "grep -r" grep -rn include .
same "grep -r with a pattern that is nowhere" bash -c 'grep -rc no-such-thing-anywhere tree; echo $?'
same "du" du -a --apparent-size .
same "sha256sum" bash -c 'find . -type f -print0 | sort -z | xargs -0 sha256sum'
same "shell globs and tests" bash -c 'for f in tree/*/*.h; do [ -r "$f" ] && [ ! -L "$f" ] && echo "$f"; done
  cat link; cat dangling'
same "python" python3 -c '
import os
for root, dirs, files in os.walk("."):
    for name in sorted(files):
        path = os.path.join(root, name)
        st = os.lstat(path)
        print(path, st.st_size, st.st_mtime_ns, len(open(path, "rb").read()) if os.path.exists(path) else "dangling")
'
same "perl" perl -MFile::Find -e 'find(sub { print "$File::Find::name ", -s _ || 0, "\n" if -f $_ }, ".")'
same "diff -r" bash -c 'diff -r tree "$0"/tree && echo equal' "$T/source"
same "cpp" bash -c 'echo "#include <linux/fuse.h>" | gcc -I"$0"/tree/.. -E - -H 2>&1 | grep -v "^# "' "$T/mnt"

# ---- programs that write: each makes one tree without the hook and one with it
describe() { (cd "$1" && find . -printf '%P %y %m %l %n %u %g' \( -type f -printf ' %s' -o -true \) -printf '\n' | sort
  find . -type f -print0 | sort -z | xargs -0r sha256sum); }
both() {  # both NAME COMMAND, where the command writes into $out: until something was served
  note "$1"
  local end=$((SECONDS + PATIENCE_S))
  made_alike "$@"
  while [ "$(served)" = 0 ]; do
    [ "$SECONDS" -lt "$end" ] || fail "$1: nothing was served: $(cat "$REPORT")"
    made_alike "$@"
  done
}
made_alike() {
  local way
  for way in without hooked; do
    mkdir -p "$T/mnt/made/$way"
    rm -f "$REPORT"
    if [ "$way" = hooked ]; then
      out=$T/mnt/made/hooked hooked timeout 120 bash -c "$2" >"$T/out.$way" 2>"$T/err.$way"
    else
      out=$T/mnt/made/without timeout 120 bash -c "$2" >"$T/out.$way" 2>"$T/err.$way"
    fi
    echo "status $?" >>"$T/out.$way"
    sed -i "s#made/$way#made/WAY#g" "$T/out.$way" "$T/err.$way"
    describe "$T/mnt/made/$way" >"$T/tree.$way"
    describe "$T/source/made/$way" >"$T/tree.$way.source"
  done
  diff "$T/out.without" "$T/out.hooked" >&2 || fail "$1: another output with the hook"
  diff "$T/err.without" "$T/err.hooked" >&2 || fail "$1: other messages with the hook"
  diff "$T/tree.without" "$T/tree.hooked" >&2 || fail "$1: other files with the hook"
  diff "$T/tree.hooked" "$T/tree.hooked.source" >&2 || fail "$1: the mount shows other files than its source"
  grep -q '^status 0$' "$T/out.hooked" || fail "$1: $(cat "$T/out.hooked" "$T/err.hooked")"
  rm -rf "$T/mnt/made"
}
export tree=$T/mnt/tree python=$T/mnt/python
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org \
  GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org GIT_AUTHOR_DATE='1700000000 +0000' \
  GIT_COMMITTER_DATE='1700000000 +0000'

both "cp -a" 'cp -a "$tree" "$out"/copy && diff -r "$tree" "$out"/copy && cp -a "$out"/copy "$out"/again'
both "rsync -a" 'rsync -a "$tree"/ "$out"/copy && rsync -ai --checksum "$tree"/ "$out"/copy &&
  rsync -a --delete "$python"/ "$out"/copy'
both "tar x" 'mkdir "$out"/x && tar cf - -C "$tree" . | tar xpf - -C "$out"/x && diff -r "$tree" "$out"/x'
both "mv, sed -i, truncate" 'cp -r "$python" "$out"/p && cd "$out"/p && mv json renamed &&
  sed -i s/def/DEF/ renamed/*.py &&
  truncate -s 100 email/utils.py && cat renamed/*.py email/utils.py | sha256sum &&
  find . -name "*.py" -delete && find .'
both "python3 -m compileall" 'cp -r "$python" "$out"/p && cd "$out"/p &&
  python3 -m compileall --invalidation-mode unchecked-hash -s "$out" . && python3 -c "
import sys; sys.path.insert(0, \".\"); import json
print(json.loads(\"[1, 2]\"), json.__file__.startswith(sys.path[0]))"'
both "sqlite3" 'cd "$out" && sqlite3 db "create table t(a integer primary key, b text); begin;
  with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
  insert into t select i, hex(i * 7919) from n;
  commit; create index i on t(b);" && sqlite3 db "select count(*), sum(a), max(b) from t;
  delete from t where a % 3 = 0; vacuum;" &&
  sqlite3 db "pragma integrity_check; select count(*) from t; select b from t order by b desc limit 5;"; rm -f db'
both "gcc and make" 'mkdir "$out"/project && cd "$out"/project && for i in 1 2 3 4; do
    printf "#include \"all.h\"\nint f%d(void) { return %d; }\n" $i $i > f$i.c; echo "int f$i(void);" >> all.h; done
  printf "#include <stdio.h>\n#include \"all.h\"\n" > main.c
  printf "int main(void) { printf(\"%%d\\\\n\", f1() + f2() + f3() + f4()); return 0; }\n" >> main.c
  printf "program: main.o f1.o f2.o f3.o f4.o\n\tgcc -o \$@ \$^\n%%.o: %%.c all.h\n\tgcc -O1 -c \$<\n" > Makefile
  make -j2 2>&1 | sort && ./program && touch f2.c && make 2>&1 | sort && make 2>&1 | grep -c "up to date" && rm program'
git_work='cd "$out"/clone && git status --short && echo line >> types.h && rm fuse.h && git status --short &&
  git add -A && git commit -qm "a change" && git status --short && git log --oneline | wc -l &&
  git diff HEAD~1 --stat &&
  git checkout -q HEAD~1 && git status --short && git fsck 2>&1 | grep -v "^Checking"
  git rev-parse HEAD; rm -rf .git/index .git/logs'
(cd "$T/source/tree" && git init -q -b main . && git add -A && git commit -qm first) || fail "git init"
both "git clone, status, commit" 'git clone -q --no-hardlinks "$tree" "$out"/clone && '"$git_work"

cd /
unmount "$T/mnt"
note "done"
