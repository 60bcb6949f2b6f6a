#!/bin/sh
# Runs a command of efficientrec with the kernels that the image was built with.
# numba refuses a cache that it cannot write, and the root may be read-only: so the cache is copied, some 2 MB, to a
# folder that is writable. On a processor unlike the one of the build it compiles anew there, in seconds.
set -eu
mkdir -p "$NUMBA_CACHE_DIR"
cp -R /opt/efficientrec/kernels/. "$NUMBA_CACHE_DIR/"
exec /opt/efficientrec/bin/efficientrec "$@"
