"""Which folders become which packages; everything else is in pyproject.toml.

`kernels/seo_kernels` is installed as `seo_kernels`, and `components`, a name too common for a
place beside other people's packages, as `seo_rec_components`. setuptools cannot rename a
folder and discover sub-packages at once from pyproject.toml, hence these lines.
"""

from setuptools import find_packages, setup

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
)
