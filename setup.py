"""The compiled kernel and the compiled gRPC door. Optional: without a compiler the install goes on, with the
reference decoder and gRPC's own library."""

from pathlib import Path

from setuptools import Extension, setup

CODEC = Path("service/otlp_arrow/codec")
RECEIVERS = Path("service/otlp_arrow/receivers")

setup(
    ext_modules=[
        Extension(
            "otlp_arrow.codec._kernel",
            [str(CODEC / "_kernel.pyx")],
            # What the .pyx includes: a change there builds it again, and source distributions carry it.
            depends=sorted(str(path) for path in CODEC.glob("kernel_parts/*")),
            include_dirs=[str(CODEC)],
            # Nothing that ties the build to one CPU: wheels are for all of them (crc32 looks at run time).
            extra_compile_args=["-O3"],
            optional=True,
        ),
        Extension(
            "otlp_arrow.receivers._http2",
            [str(RECEIVERS / "_http2.pyx")],
            extra_compile_args=["-O2"],
            optional=True,
        ),
    ]
)
