# Addresses, leaks and undefined behaviour; the CPU alone, with enough optimisation that the tests stay quick.
set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O1 -g" CACHE STRING "")
set(SWIN_SANITIZE "address,undefined" CACHE STRING "")
set(SWIN_CUDA OFF CACHE STRING "")
