# The worker: everything `make setup` makes, as an unprivileged user. Build on the kind of machine it will run on:
# llama.cpp is compiled for that CPU (elsewhere it is compiled anew at the first run).
#   docker build -t edgekiln .
#   docker run --rm -v edgekiln-cache:/cache -v edgekiln-workspace:/workspace edgekiln run --profile demo
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates cmake g++ gcc git libgomp1 make openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 kiln \
    && install -d -o kiln -g kiln /app /cache /workspace

USER kiln
WORKDIR /app

# the CPU build of torch; build with --build-arg TORCH_INDEX= for the CUDA build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 EDGEKILN_CACHE=/cache

COPY --chown=kiln:kiln . /app
RUN make setup TORCH_INDEX="${TORCH_INDEX}" && rm -rf /cache/logs

ENV PATH=/app/.venv/bin:$PATH EDGEKILN_WORKSPACE=/workspace/.edgekiln
WORKDIR /workspace
ENTRYPOINT ["edgekiln"]
CMD ["--help"]
