# The pipeline in a container. From a clone, since DVC needs its .git folder:
#   docker build --tag tapestry .
#   docker run --name tapestry tapestry && docker cp tapestry:/tapestry/reports .
# With PyTorch's index of builds for the CPU in the build argument PIP_EXTRA_INDEX_URL the image is gigabytes smaller.
# On an NVIDIA GPU: docker build --build-arg ACCELERATOR=cuda --tag tapestry . && docker run --gpus all tapestry
# Other commands: docker run --volume /my/reviews:/reviews tapestry dvc exp run -S source.path=/reviews …

# 3.11 is the Python for which requirements.lock has torch's build for the CPU.
FROM python:3.11-slim-bookworm

ARG ACCELERATOR=cpu
# A C compiler is what torch.compile wants for kernels on a GPU.
RUN case "$ACCELERATOR" in cpu) compiler= ;; cuda) compiler="gcc libc6-dev" ;; \
        *) echo "ACCELERATOR is cpu or cuda, not $ACCELERATOR" >&2; exit 1 ;; esac \
    && apt-get update \
    && apt-get install --yes --no-install-recommends git make $compiler \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /tapestry
# The packages first, so that a change of code doesn't install them again.
COPY LICENSE Makefile README.md pyproject.toml requirements*.lock ./
ARG PIP_EXTRA_INDEX_URL=
RUN mkdir -p src/tapestry && touch src/tapestry/__init__.py && PIP_NO_CACHE_DIR=1 make install

COPY . .
# Files that were only touched on the host are no reason for `make` to install again, which would want a network.
RUN git rev-parse HEAD && touch .venv/.installed

ENV PATH=/tapestry/.venv/bin:$PATH
CMD ["make", "repro"]
