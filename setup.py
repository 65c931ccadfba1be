"""Which folders are installed, and where; all else about the package is in pyproject.toml.

conf/ and experiments/ go inside the package rlbench, because their own names are too common for a shared folder of
packages. rlbench/base/program.py finds them there.
"""

import tempfile

from setuptools import find_namespace_packages, setup

CODE = ("rlbench", "rlbench.*", "analysis", "analysis.*", "hydra_plugins")
DATA = {"rlbench.conf": "conf", "rlbench.experiments": "experiments"}

# A build folder that stays in the checkout would put modules that were since moved into the next wheel.
BUILD = tempfile.TemporaryDirectory(prefix="rlbench-build-")

setup(
    packages=[*find_namespace_packages(include=CODE), *DATA],
    package_dir=DATA,
    package_data={"": ["*"], **{package: ["**/*"] for package in DATA}},
    options={"build": {"build_base": BUILD.name}, "egg_info": {"egg_base": BUILD.name}},
)
