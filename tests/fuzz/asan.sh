#!/bin/sh
# Builds the kernel and the HTTP/2 of the doors with AddressSanitizer and UndefinedBehaviorSanitizer in a directory of its own and runs
# their tests with it; any finding ends the run with a report. Needs gcc and its sanitizer libraries.
#
#   tests/fuzz/asan.sh                     the unit tests of both, 2,000 mutated requests
#   tests/fuzz/asan.sh -m soak             100,000 of them
#
# PYTHON names the interpreter (default: python). Memory that Python itself never frees is not reported.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python}
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cp -r "$root/service" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$build"
rm -f "$build"/service/otlp_arrow/*/*.so "$build"/service/otlp_arrow/*/*.c
(
    cd "$build"
    CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1" \
        "$python" setup.py --quiet build_ext --inplace
)

# The allocators of Python and Arrow would hide a read past the end of a request or column. Tests about memory
# itself mean the ordinary build.
cd "$root"
LD_PRELOAD=$(gcc -print-file-name=libasan.so) \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
    UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONMALLOC=malloc ARROW_DEFAULT_MEMORY_POOL=system PYTHONPATH="$build/service" \
    "$python" -X faulthandler -m pytest -n 0 tests/unit/codec/test_kernel*.py tests/unit/codec/test_gather.py tests/unit/codec/test_repeated.py \
    tests/unit/codec/test_rearranging.py tests/unit/codec/test_arrow_writing.py tests/unit/codec/test_zstd_frames.py tests/unit/codec/test_zstd_text.py tests/unit/receivers/test_http2.py tests/unit/receivers/test_flight_wire.py -p no:cacheprovider -k "not memory" "$@"
