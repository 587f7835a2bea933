# gcc and make -j: objects, a library, a rebuild of what changed; C++ with all its headers in the project
# keep: *.c
# served: make cc1 cc1plus ld
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
version=$(basename "$(find "$project/c++" -mindepth 1 -maxdepth 1 | sort | tail -n 1)")
options=(-nostdinc++ -isystem "$project/c++/$version"
  -isystem "$(echo | g++ -xc++ -E -v - 2>&1 | grep -m 1 '^ .*linux-gnu/c++')")
for header in algorithm iostream map regex thread; do
  echo "#include <$header>" >"$header.cc"
  echo "std::string $header() { return \"$header\"; }" | sed '1i #include <string>' >>"$header.cc"
done
{ echo "all: $(echo ./*.cc | sed 's/\.cc/.o/g')"; printf '%%.o: %%.cc\n\tg++ -MD -c $(includes) -o $@ $<\n'
  echo '-include $(wildcard *.d)'; } >cxx.mk
export includes="${options[*]}"
make -f cxx.mk -j4 2>&1 | grep -c '^g++' && cat ./*.d | grep -cF "$project/c++" && touch map.cc
make -f cxx.mk -j4 | grep -c '^g++'; nm -C ./*.o | grep -c ' T .*\[abi:cxx11\]()'
