# shellcheck shell=bash
# Open MPI and PMIx look for their parts where their packages would have put them. openmpi_env prints the lines of an env.sh
# that name them under another folder, for tools/deps and tools/gpu_pack, which source this. There KTO_DEPS_ROOT,
# KTO_DEPS_USR and KTO_DEPS_LIB are the folder, its usr, and its usr/lib/TRIPLET.
openmpi_env() { # PMIX: whether usr/lib/TRIPLET/pmix2 is there
    cat <<'END'
export OPAL_PREFIX="$KTO_DEPS_USR" OPAL_LIBDIR="$KTO_DEPS_LIB/openmpi/lib"
export OPAL_INCLUDEDIR="$KTO_DEPS_LIB/openmpi/include" OPAL_DATADIR="$KTO_DEPS_USR/share"
export OPAL_PKGDATADIR="$KTO_DEPS_USR/share/openmpi" OPAL_PKGLIBDIR="$KTO_DEPS_LIB/openmpi/lib/openmpi3"
export OPAL_SYSCONFDIR="$KTO_DEPS_ROOT/etc/openmpi"
END
    [[ $1 == 1 ]] || return 0
    cat <<'END'
export PMIX_PREFIX="$KTO_DEPS_LIB/pmix2" PMIX_LIBDIR="$KTO_DEPS_LIB/pmix2/lib"
export PMIX_PKGLIBDIR="$KTO_DEPS_LIB/pmix2/lib/pmix" PMIX_DATADIR="$KTO_DEPS_LIB/pmix2/share"
export PMIX_PKGDATADIR="$KTO_DEPS_LIB/pmix2/share/pmix"
END
}
