# At installation: /var/cache/shortfuse, where processes of root's remember the places of system calls for everybody
# (src/site_cache.h). It counts only where root alone can write. Who installs without being root has ~/.cache/shortfuse,
# which makes itself, and so have all users until a process of root's has been there.
execute_process(COMMAND id -u OUTPUT_VARIABLE user OUTPUT_STRIP_TRAILING_WHITESPACE)
set(place /var/cache/shortfuse)
if(user STREQUAL "0")
  set(owner -o 0 -g 0)
endif()
if(user STREQUAL "0" OR NOT "$ENV{DESTDIR}" STREQUAL "")
  message(STATUS "Installing: $ENV{DESTDIR}${place}")
  execute_process(COMMAND install -d -m 0755 ${owner} $ENV{DESTDIR}${place} RESULT_VARIABLE failed)
  if(failed)
    message(WARNING "without it every user has a cache of their own")
  endif()
endif()
