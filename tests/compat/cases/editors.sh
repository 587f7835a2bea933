# vim, sed, ed-like rewriting
printf 'a\nb\nc\n' >f.txt
vim -es -u NONE -c '%s/b/BB/' -c wq f.txt; cat f.txt
vim -es -u NONE -c "set backup backupdir=." -c 'e f.txt' -c 'normal Gox' -c 'w' -c 'r !ls' -c 'w out' -c 'q!'; cat out
cp -r "$project/include" include && sed -i 's/struct/STRUCT/' include/f*.h && grep -c STRUCT include/fuse.h
perl -pi -e 's/STRUCT/struct/' include/f*.h && diff -r include "$project/include" && echo restored
