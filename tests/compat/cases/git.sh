# clone, commit, gc, rebase, worktree of a repository of thousands of files
# keep: ./clone/[!.]*
# served: git
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org \
  GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org GIT_AUTHOR_DATE='1700000000 +0000' \
  GIT_COMMITTER_DATE='1700000000 +0000'
set -e
git init -q -b main first && cd first && cp -a "$project"/. . && git add -A && git commit -qm first && cd ..
git clone -q --no-hardlinks first clone && cd clone
git checkout -qb side && echo a >>include/fuse.h && git commit -qam side
git checkout -q main && echo b >>include/types.h && git rm -q include/kvm.h && git commit -qam main
git checkout -q side && git rebase -q main && git log --format=%H
git worktree add -q ../tree main && git -C ../tree status --short && git worktree remove ../tree
git stash list && echo c >>include/fuse.h && git stash -q && git stash pop -q && git diff --stat && git checkout -q .
git grep -c FUSE_ | sort | tail -n 5
git gc -q && git fsck 2>&1 | grep -v ^Checking || true
git status --short && git rev-parse HEAD
