#!/bin/sh
# Resolve requirements/*.lock from pyproject.toml; the argument is the folder with pip-compile.
#
# The images' locks have hashes. The GPU image installs torch from PyPI, with CUDA. The CPU lock and
# the development lock exclude CUDA: set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS so that pip finds a
# CPU build of torch.
set -eu
compile="$1/pip-compile --quiet --strip-extras --allow-unsafe --no-header
  --no-emit-index-url --no-emit-find-links"
as_on_pypi="env -u PIP_EXTRA_INDEX_URL -u PIP_FIND_LINKS PIP_CONFIG_FILE=/dev/null"

$as_on_pypi $compile --generate-hashes --extra downloader \
  --output-file requirements/downloader.lock pyproject.toml
$as_on_pypi $compile --generate-hashes --extra jobs \
  --output-file requirements/jobs.lock pyproject.toml
$as_on_pypi $compile --generate-hashes --extra predictor --extra tracing --extra gpu \
  --output-file requirements/predictor.lock pyproject.toml
# The Dockerfile installs the CPU build of torch separately: its hash differs between builds.
$compile --generate-hashes --extra predictor --extra tracing \
  --output-file requirements/predictor-cpu.lock pyproject.toml
awk '/^[a-z]/ { is_torch = /^torch==/ } !is_torch' requirements/predictor-cpu.lock > requirements/.cpu
mv requirements/.cpu requirements/predictor-cpu.lock
$compile --extra predictor --extra tracing --extra downloader --extra deploy --extra jobs --extra dev \
  --output-file requirements/dev.lock pyproject.toml
# The local label names a build, not a version: any build of 2.13.0 works for development.
sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements/dev.lock
