# Runs before cpack makes the packages, on the folders that it makes them from: what Debian wants otherwise than others.
file(GLOB roots "${CPACK_TEMPORARY_DIRECTORY}/*/usr")
find_program(GZIP gzip REQUIRED)

function(compress)
  execute_process(COMMAND ${GZIP} -9n ${ARGN} RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "gzip failed: ${failed}")
  endif()
endfunction()

foreach(root IN LISTS roots)
  # Debian has every library where the loader looks. (As CMake's own install scripts do it.)
  file(GLOB binaries "${root}/bin/*" "${root}/lib/kto/*.so")
  foreach(binary IN LISTS binaries)
    file(RPATH_REMOVE FILE "${binary}")
  endforeach()
  if(EXISTS "${root}/bin/kto")
    file(GLOB_RECURSE pages "${root}/share/man/*.[15]")
    compress(${pages})
    file(MAKE_DIRECTORY "${root}/share/zsh/vendor-completions")
    file(RENAME "${root}/share/zsh/site-functions/_kto" "${root}/share/zsh/vendor-completions/_kto")
    file(REMOVE_RECURSE "${root}/share/zsh/site-functions")
    file(RENAME "${root}/share/doc/kto/LICENSE" "${root}/share/doc/kto/copyright")
    string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC) # of SOURCE_DATE_EPOCH, where that is set
    set(maintainer "${CPACK_PACKAGE_CONTACT}")
    if(NOT maintainer MATCHES "<")
      string(APPEND maintainer " <>")
    endif()
    file(WRITE "${root}/share/doc/kto/changelog"
         "kto (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium\n\n  * Version ${CPACK_PACKAGE_VERSION}.\n\n"
         " -- ${maintainer}  ${date}\n")
    compress("${root}/share/doc/kto/changelog")
  else() # kto-cuda, which depends on kto
    file(MAKE_DIRECTORY "${root}/share/doc")
    file(CREATE_LINK kto "${root}/share/doc/kto-cuda" SYMBOLIC)
  endif()
endforeach()
