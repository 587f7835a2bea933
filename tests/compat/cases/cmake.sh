# keep: *.txt
# served: cmake gmake cc1
cat >CMakeLists.txt <<'TEXT'
cmake_minimum_required(VERSION 3.18)
project(x C)
add_library(l STATIC l.c)
add_executable(x x.c)
target_link_libraries(x l)
TEXT
echo 'int l(void) { return 3; }' >l.c
echo 'int l(void); int main(void) { return l() - 3; }' >x.c
cmake -S . -B b >/dev/null && cmake --build b -j2 | grep -c Built && b/x && echo runs
touch l.c && cmake --build b | grep -c Building
cp b/x installed && ./installed && echo copied
