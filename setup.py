"""Which folders become which packages; everything else is in pyproject.toml.

`kernels/seo_kernels` is installed as `seo_kernels`, and `components`, a name too common for a
place beside other people's packages, as `seo_rec_components`. setuptools cannot rename a
folder and discover sub-packages at once from pyproject.toml, hence these lines.

The CPU kernels are plain C, loaded by `seo_kernels.native`. They are optional: without a C
compiler (with OpenMP) the installation goes on, and PyTorch does their work.
"""

from setuptools import Extension, find_packages, setup

setup(
    packages=[
        *find_packages(".", include=["seo_rec", "seo_rec.*"]),
        *find_packages("kernels", include=["seo_kernels", "seo_kernels.*"]),
        "seo_rec_components",
    ],
    package_dir={
        "seo_kernels": "kernels/seo_kernels",
        "seo_rec_components": "components",
    },
    ext_modules=[
        Extension(
            "seo_kernels.native.library",
            ["kernels/seo_kernels/native/native.c", "kernels/seo_kernels/native/rows.c"],
            depends=[
                "kernels/seo_kernels/native/native.h",
                "kernels/seo_kernels/native/halves.h",
            ],
            extra_compile_args=["-O3", "-g0", "-fopenmp"],
            extra_link_args=["-fopenmp", "-lm"],
            optional=True,
        )
    ],
)
