# bash: here-documents, redirections, process substitution, globs, tests; busybox likewise
# served: bash cat busybox
for i in $(seq 30); do
  cat <<TEXT >"h$i"
$i here
TEXT
done
cat h* | sort | tail -n 2
exec 5<>h1; read -r -u5 x; echo "$x again" >&5; exec 5>&-; cat h1
[[ h1 -nt h2 ]]; echo $?; [[ h1 -ef ./h1 ]]; echo $?
while read -r line; do echo "$line"; done <h3
(cd .. && ls out | wc -l)
diff <(cat h1) <(cat h2); mapfile -t lines <h5; echo "${lines[0]}"
printf '%s\n' h?[0-4] | wc -l; : >h2; wc -c <h2; cat nowhere 2>&1; echo x >>h2; cat h2
set -o noclobber; (echo y >h2) 2>/dev/null; echo $?
shopt -s globstar; files=("$project"/include/**/*.h); echo ${#files[@]}
busybox find "$project" -type f | wc -l
busybox tar cf x.tar -C "$project" include && busybox tar tf x.tar | sort | sha256sum && rm x.tar
busybox grep -rl FUSE "$project/include" | sed "s#$project##" | sort | head -n 5
