"""The compiled kernel. Optional: without a compiler the install goes on, with the reference decoder."""

from pathlib import Path

from setuptools import Extension, setup

CODEC = Path("service/otlp_arrow/codec")

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
        )
    ]
)
