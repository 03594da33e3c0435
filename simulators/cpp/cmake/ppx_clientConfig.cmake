# find_package(ppx_client) defines the target ppx_client::ppx_client: the header-only C++ client with all it needs.
#
# This file serves both a source checkout (CMAKE_PREFIX_PATH=<checkout>/simulators/cpp) and an installation
# (cmake --install). ppx_generated.h is made here, in the build folder of the project that uses the client, because
# generated code must match the FlatBuffers headers found there.

set(_ppx_packages "libzmq3-dev cppzmq-dev libflatbuffers-dev flatbuffers-compiler libboost-dev")

function(_ppx_client_setup)
  find_path(PPX_CLIENT_INCLUDE_DIR ppx_client.hpp NO_DEFAULT_PATH
            PATHS "${CMAKE_CURRENT_LIST_DIR}/../include" "${CMAKE_CURRENT_LIST_DIR}/../../../include")
  find_file(PPX_CLIENT_SCHEMA ppx.fbs NO_DEFAULT_PATH
            PATHS "${CMAKE_CURRENT_LIST_DIR}" "${CMAKE_CURRENT_LIST_DIR}/../schema"
                  "${CMAKE_CURRENT_LIST_DIR}/../../../ppx_server/protocol/schema")
  find_program(PPX_CLIENT_FLATC flatc)
  find_library(PPX_CLIENT_ZMQ_LIBRARY zmq)
  find_path(PPX_CLIENT_ZMQ_INCLUDE_DIR zmq.hpp)
  find_path(PPX_CLIENT_FLATBUFFERS_INCLUDE_DIR flatbuffers/flatbuffers.h)
  find_path(PPX_CLIENT_BOOST_INCLUDE_DIR boost/math/distributions/beta.hpp)
  set(missing)
  foreach(variable PPX_CLIENT_INCLUDE_DIR PPX_CLIENT_SCHEMA PPX_CLIENT_FLATC PPX_CLIENT_ZMQ_LIBRARY
                   PPX_CLIENT_ZMQ_INCLUDE_DIR PPX_CLIENT_FLATBUFFERS_INCLUDE_DIR PPX_CLIENT_BOOST_INCLUDE_DIR)
    mark_as_advanced(${variable})
    if(NOT ${variable})
      list(APPEND missing ${variable})
    endif()
  endforeach()
  if(missing)
    string(REPLACE ";" ", " missing "${missing}")
    set(ppx_client_FOUND FALSE PARENT_SCOPE)
    set(ppx_client_NOT_FOUND_MESSAGE
        "ppx_client needs what was not found: ${missing}. On Debian or Ubuntu: apt-get install ${_ppx_packages}"
        PARENT_SCOPE)
    return()
  endif()

  set(generated "${CMAKE_BINARY_DIR}/ppx_client_generated")
  if("${PPX_CLIENT_SCHEMA}" IS_NEWER_THAN "${generated}/ppx_generated.h")
    execute_process(COMMAND "${PPX_CLIENT_FLATC}" --cpp -o "${generated}/" "${PPX_CLIENT_SCHEMA}"
                    RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
    if(failed)
      set(ppx_client_FOUND FALSE PARENT_SCOPE)
      set(ppx_client_NOT_FOUND_MESSAGE "flatc cannot compile ${PPX_CLIENT_SCHEMA}: ${output}" PARENT_SCOPE)
      return()
    endif()
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PPX_CLIENT_SCHEMA}")

  add_library(ppx_client::ppx_client INTERFACE IMPORTED)
  target_include_directories(ppx_client::ppx_client INTERFACE "${PPX_CLIENT_INCLUDE_DIR}")
  target_include_directories(ppx_client::ppx_client SYSTEM INTERFACE
                             "${generated}" "${PPX_CLIENT_ZMQ_INCLUDE_DIR}"
                             "${PPX_CLIENT_FLATBUFFERS_INCLUDE_DIR}" "${PPX_CLIENT_BOOST_INCLUDE_DIR}")
  target_link_libraries(ppx_client::ppx_client INTERFACE "${PPX_CLIENT_ZMQ_LIBRARY}")
  target_compile_features(ppx_client::ppx_client INTERFACE cxx_std_17)
endfunction()

if(NOT TARGET ppx_client::ppx_client)
  _ppx_client_setup()
endif()
