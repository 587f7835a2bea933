# rsync, tar, find, du, cp, mv, diff over thousands of files
# served: rsync tar find du ls diff grep python3 perl
rsync -a "$project"/ copy && rsync -ain --checksum "$project"/ copy | head -n 3
rsync -a --delete "$project/include"/ copy/python && diff -r copy/python "$project/include" && echo equal
tar cf - -C "$project" . | tar xpf - --one-top-level=x && diff -r "$project" x && echo equal
find "$project" -printf '%P %s %m %y %l %n\n' | sort | sha256sum
(cd "$project" && du -a --apparent-size . | sort -k2 | sha256sum; ls -lRA --time-style=full-iso . | sha256sum)
grep -rc include "$project" | sort | sha256sum >/dev/null && grep -rl FUSE_ "$project" | wc -l
mv x/python moved && cp -al moved linked && rm -rf moved && find linked -type f | wc -l
python3 -m compileall -q -s "$out" --invalidation-mode unchecked-hash linked/json; ls linked/json/__pycache__ | wc -l
rm -rf linked/json/__pycache__
perl -MFile::Find -e 'find(sub { $n++; $s += -s _ if -f $_ }, $ENV{project}); print "$n $s\n"'
