# gcc and make -j: objects, a library, a rebuild of what changed
# keep: *.c
for i in $(seq 40); do
  printf '#include "all.h"\nint f%d(int x) { return x * %d + %d; }\n' "$i" "$i" "$((i * 7))" >"f$i.c"
  echo "int f$i(int x);" >>all.h
done
{ echo '#include <stdio.h>'; echo '#include "all.h"'; echo 'int main(void) { int s = 0;'
  for i in $(seq 40); do echo "s += f$i(s);"; done; echo 'printf("%d\n", s); return 0; }'; } >main.c
{ echo 'objects = $(patsubst %.c,%.o,$(wildcard *.c))'; printf 'program: $(objects)\n\tgcc -o $@ $^\n'
  printf '%%.o: %%.c all.h\n\tgcc -O1 -Wall -c $<\n'; } >Makefile
make -j4 2>&1 | sort && ./program && touch f2.c && make -j4 2>&1 | sort && make | grep -c 'up to date'
gcc -I"$project" -E -dM -include "$project/include/fuse.h" - </dev/null | grep -c FUSE
gcc -shared -fPIC -o libf.so f1.c f2.c && nm -D libf.so | grep -c ' f[12]$'
