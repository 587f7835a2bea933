# The build vocabulary of this project. Each folder states its targets with explicit DEPS; nothing is
# included globally.

include(GNUInstallDirs)
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS ON)
set(CMAKE_C_STANDARD 17)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()
# Line tables are what backtraces need; full debug information (preset dev) is a quarter of the time to compile.
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g1")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

set(SF_WARNINGS -Wall -Wextra -Wshadow -Wno-missing-field-initializers)
# A test program's own sources take half the time to compile so; the libraries that it tests keep their flags. Those
# that compute for long, or in which threads race, are optimised.
set(SF_TEST_FLAGS $<$<CONFIG:RelWithDebInfo>:-O0> $<$<CONFIG:RelWithDebInfo>:-g1>)
set(SF_BUSY_TEST_FLAGS $<$<CONFIG:RelWithDebInfo>:-O1> $<$<CONFIG:RelWithDebInfo>:-g1>)
set(SF_BUSY_TESTS bypass_files_test cache_model_test cache_readers_test cache_store_test hook_decode_test
    hook_sites_test passthroughfs-stress-test vm_call_cost_test vm_differential_test vm_insn_test vm_kernel_test
    vm_map_test vm_map_hash_test vm_map_kernel_test vm_map_lpm_test vm_map_race_test vm_mutation_test vm_soundness_test)
if(SF_SANITIZE)
  set(SF_TEST_FLAGS -O0 -g1)
  set(SF_BUSY_TEST_FLAGS -O0 -g1)
  # Line tables are what reports need; full debug information doubles the time to compile.
  set(SF_SANITIZE_FLAGS -fsanitize=${SF_SANITIZE} -O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
endif()

# A compiler cache keeps nothing that was compiled with precompiled headers, and saves more than they do.
if(CMAKE_CXX_COMPILER_LAUNCHER MATCHES "ccache")
  set(CMAKE_DISABLE_PRECOMPILE_HEADERS ON)
endif()

# What the library in front of every application may be made of: no vector registers (a system call
# preserves them, so must we), no exceptions, no run-time type information, nothing that needs libstdc++,
# no library calls made up by the compiler, and never a sanitiser. Unwind tables: threads are cancelled and backtraces
# taken inside a hooked call.
set(SF_CLIENT_FLAGS -O2 -fPIC -mgeneral-regs-only -ffreestanding -fno-exceptions -fno-rtti
    -fno-threadsafe-statics -fno-stack-protector -fvisibility=hidden -ftls-model=initial-exec
    -fasynchronous-unwind-tables -fno-sanitize=all -fcf-protection=none
    # `rep stos` and `rep movs` cost 30 cycles before they begin: small structs are cleared and copied in line.
    -mmemset-strategy=unrolled_loop:512:noalign,rep_8byte:-1:noalign
    -mmemcpy-strategy=unrolled_loop:512:noalign,rep_8byte:-1:noalign)

# sf_library(NAME SOURCES ... [DEPS ...]): code of the daemon, the command and the tests.
function(sf_library name)
  cmake_parse_arguments(A "SHARED" "" "SOURCES;DEPS" ${ARGN})
  if(A_SHARED)
    add_library(${name} SHARED ${A_SOURCES})
  else()
    add_library(${name} STATIC ${A_SOURCES})
  endif()
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>
                             PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_compile_options(${name} PRIVATE ${SF_WARNINGS} ${SF_SANITIZE_FLAGS})
  target_link_libraries(${name} PUBLIC ${A_DEPS} Threads::Threads)
endfunction()

# sf_client_library(NAME SOURCES ... [DEPS ...]): the same sources' other build, for libshortfuse.so.
function(sf_client_library name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/include
                             PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_compile_options(${name} PRIVATE ${SF_WARNINGS} $<$<COMPILE_LANGUAGE:C,CXX>:${SF_CLIENT_FLAGS}>)
  target_link_libraries(${name} PUBLIC ${A_DEPS})
endfunction()

# sf_executable(NAME SOURCES ... [DEPS ...])
function(sf_executable name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_compile_options(${name} PRIVATE ${SF_WARNINGS} ${SF_SANITIZE_FLAGS})
  target_link_options(${name} PRIVATE ${SF_SANITIZE_FLAGS})
  target_link_libraries(${name} PRIVATE ${A_DEPS} Threads::Threads)
endfunction()

# The longest tests, longest first: ctest begins with them, so that no core waits for one at the end.
set(SF_LONG_TESTS mount_coherence vm_soundness_test mount_differential mount_conformance passthroughfs-conformance-test
    mount_opens mount_storm mount_programs vm_kernel_test mount_swap vm_differential_test vm_mutation_test
    fuzz_policy_program mount_embed)
function(sf_order name)
  list(FIND SF_LONG_TESTS ${name} place)
  if(NOT place EQUAL -1)
    math(EXPR cost "1000 - ${place}")
    set_tests_properties(${name} PROPERTIES COST ${cost})
  endif()
endfunction()

# The headers that nearly all tests read, half of what compiling one costs: read once, for all programs of sf_test().
# They are refused (-Winvalid-pch) where flags or macros that they look at differ: all have the macro that libfuse's
# users need, and the few busy tests read the headers themselves.
set(SF_TEST_HEADERS <gmock/gmock.h> <gtest/gtest.h> <filesystem> <fstream> <random> <thread>)
set(SF_TEST_DEFINITIONS _FILE_OFFSET_BITS=64)
function(sf_test_headers)
  find_package(GTest REQUIRED)
  set(source ${CMAKE_BINARY_DIR}/sf_test_headers.cc)
  file(CONFIGURE OUTPUT ${source} CONTENT "// What precompiled headers are made for.\n")
  add_library(sf_test_headers OBJECT ${source})
  target_compile_options(sf_test_headers PRIVATE ${SF_WARNINGS} ${SF_SANITIZE_FLAGS} ${SF_TEST_FLAGS})
  target_compile_definitions(sf_test_headers PRIVATE ${SF_TEST_DEFINITIONS})
  target_link_libraries(sf_test_headers PRIVATE GTest::gtest GTest::gmock Threads::Threads)
  target_precompile_headers(sf_test_headers PRIVATE ${SF_TEST_HEADERS})
endfunction()
if(SF_BUILD_TESTS)
  sf_test_headers()
endif()

# sf_test(NAME SOURCES ... [DEPS ...] [LABELS ...]): a GoogleTest program, one ctest.
function(sf_test name)
  if(NOT SF_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(A "" "" "SOURCES;DEPS;LABELS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${A_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  set(flags ${SF_TEST_FLAGS})
  if(name IN_LIST SF_BUSY_TESTS)
    set(flags ${SF_BUSY_TEST_FLAGS})
  endif()
  target_compile_options(${name} PRIVATE ${SF_WARNINGS} ${SF_SANITIZE_FLAGS} ${flags})
  target_compile_definitions(${name} PRIVATE ${SF_TEST_DEFINITIONS})
  if(flags STREQUAL SF_TEST_FLAGS)
    target_precompile_headers(${name} REUSE_FROM sf_test_headers)
  endif()
  target_link_options(${name} PRIVATE ${SF_SANITIZE_FLAGS})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gtest GTest::gmock GTest::gtest_main Threads::Threads)
  add_test(NAME ${name} COMMAND ${name})
  sf_order(${name})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 LABELS "${A_LABELS}")
  # A new mount namespace holds a copy of every mount, and with it daemons that another test wants to see ending.
  foreach(source ${A_SOURCES})
    cmake_path(ABSOLUTE_PATH source)
    if(NOT EXISTS ${source})
      continue()  # object files of another target
    endif()
    file(STRINGS ${source} namespace REGEX "CLONE_NEWNS" LIMIT_COUNT 1)
    if(namespace)
      set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
    endif()
  endforeach()
endfunction()

# sf_policy([FOLDER/]NAME [FOR_TESTS]): NAME.bpf.c here becomes build/policies/NAME.bpf.o.
find_program(SF_BPF_CLANG NAMES clang-19 REQUIRED)
function(sf_policy path)
  get_filename_component(name ${path} NAME)
  set(out ${CMAKE_BINARY_DIR}/policies/${name}.bpf.o)
  set(src ${CMAKE_CURRENT_SOURCE_DIR}/${path}.bpf.c)
  set(inc ${CMAKE_SOURCE_DIR}/policy-vm/include)
  add_custom_command(OUTPUT ${out}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/policies
    COMMAND ${SF_BPF_CLANG} -target bpf -mcpu=v3 -O2 -g -Wall -Werror -I${inc}
            -I/usr/include/${CMAKE_LIBRARY_ARCHITECTURE} -c ${src} -o ${out}
    DEPENDS ${src} ${inc}/shortfuse/policy.h ${inc}/shortfuse/trace.h ${inc}/shortfuse/bpf.h
    COMMENT "policy ${name}" VERBATIM)
  add_custom_target(policy-${name} ALL DEPENDS ${out})
  if(NOT "FOR_TESTS" IN_LIST ARGN)
    install(FILES ${out} DESTINATION ${CMAKE_INSTALL_DATADIR}/shortfuse/policies)
  endif()
endfunction()
