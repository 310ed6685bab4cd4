# libFuzzer targets under the address and undefined-behaviour sanitizers; the libraries are instrumented for coverage.
set(CMAKE_C_COMPILER clang CACHE STRING "")
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
set(CMAKE_C_FLAGS "-fsanitize=fuzzer-no-link" CACHE STRING "")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O1 -g" CACHE STRING "")
set(SWIN_SANITIZE "address,undefined" CACHE STRING "")
set(SWIN_FUZZ ON CACHE BOOL "")
set(SWIN_CUDA OFF CACHE STRING "")
set(SWIN_WERROR OFF CACHE BOOL "")
