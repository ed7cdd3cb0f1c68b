# The predictor. `make images` builds it with the labels of the commit; without make:
#   docker build --tag stable-diffusion-predictor:0.1.0 .
# For a CPU, add --build-arg LOCK=requirements/predictor-cpu.lock --build-arg TORCH=torch==2.13.0+cpu
# and the index of torch's CPU builds as --build-arg PIP_EXTRA_INDEX_URL=...
# (`make images FLAGS=--image=predictor-cpu` does).
# For PREDICTOR_COMPILE=true, add --build-arg APT_PACKAGES=g++: torch.compile runs a compiler.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
ARG LOCK=requirements/predictor.lock
ARG TORCH=
ARG PIP_EXTRA_INDEX_URL=
# Every base image has python3; not all have python.
RUN python3 -m venv /opt/venv
# On arm64 pip compiles psutil 5, which KServe requires and which has no wheel for it.
RUN if [ "$(uname -m)" = aarch64 ]; then apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev; fi
COPY ${LOCK} /tmp/requirements.lock
# The final stage compiles the bytecode: `COPY --from` may round modification times, which would
# invalidate bytecode from this stage.
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-compile \
    --disable-pip-version-check --require-hashes --no-deps -r /tmp/requirements.lock
# The CPU lock excludes torch, because the hash of its CPU wheel differs between builds.
RUN if [ -n "${TORCH}" ]; then /opt/venv/bin/python -m pip install --no-cache-dir \
    --no-compile --disable-pip-version-check --no-deps "${TORCH}"; fi
# The libraries' test suites, torch's test programs, and a second, asynchronous client of
# Kubernetes: 325 MB with their bytecode that no server uses.
RUN cd "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && rm -rf torch/test torch/bin/test_* torch/bin/*Test torch/bin/protoc* \
        kubernetes/aio \
    && find networkx numpy pandas scipy sympy -type d -name tests -prune -exec rm -rf {} +
# The final image must not contain a package installer.
RUN /opt/venv/bin/python -m pip uninstall --yes --quiet pip

FROM ${BASE_IMAGE}
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    MALLOC_ARENA_MAX=2 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ARG APT_PACKAGES=
RUN if [ -n "${APT_PACKAGES}" ]; then apt-get update \
    && apt-get install --yes --no-install-recommends ${APT_PACKAGES} \
    && rm -rf /var/lib/apt/lists/*; fi
# The name is for people who list processes: the server also runs as a user without one.
RUN groupadd --gid 65532 nonroot \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nonroot
# The installer of python:3.11-slim, which the virtual environment does not use.
RUN rm -rf /usr/local/lib/python3.*/site-packages/* /usr/local/lib/python3.*/ensurepip \
    /usr/local/bin/pip*
WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
# The container cannot write bytecode, and python:3.11-slim has none for the standard library.
# unchecked-hash bytecode does not depend on modification times, and imports read no source files.
# `|| true`: torch ships a file for newer Pythons that does not compile. pip ignores such files too.
RUN python -m compileall -q -f --invalidation-mode unchecked-hash \
    "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" /opt/venv || true
COPY modelstore/ modelstore/
COPY predictor/ predictor/
RUN python -m compileall -q -f --invalidation-mode unchecked-hash modelstore predictor
# Last: a RUN below it would run again, and change its layer, for each version.
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="stable-diffusion-predictor" \
      org.opencontainers.image.description="Serves a diffusers pipeline with KServe." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["python", "-m", "predictor"]
