# keep: *.txt
printf 'cmake_minimum_required(VERSION 3.18)\nproject(x C)\nadd_library(l STATIC l.c)\nadd_executable(x x.c)\ntarget_link_libraries(x l)\n' >CMakeLists.txt
echo 'int l(void) { return 3; }' >l.c
echo 'int l(void); int main(void) { return l() - 3; }' >x.c
cmake -S . -B b >/dev/null && cmake --build b -j2 | grep -c Built && b/x && echo runs
touch l.c && cmake --build b | grep -c Building
cp b/x installed && ./installed && echo copied
