# vim, sed, ed-like rewriting
# served: vim sed perl
edit=(vim -V1 -es -u NONE)  # -V1: with its messages
printf 'a\nb\nc\n' >f.txt
"${edit[@]}" -c '%s/b/BB/' -c wq f.txt; cat f.txt
"${edit[@]}" -c "set backup backupdir=." -c 'e f.txt' -c 'normal Gox' -c 'w' -c 'r !ls' -c 'w out' -c 'q!'; cat out
cp -r "$project/include" include && sed -i 's/struct/STRUCT/' include/f*.h && grep -c STRUCT include/fuse.h
perl -pi -e 's/STRUCT/struct/' include/f*.h && diff -r include "$project/include" && echo restored
