# One image for the server, the worker and single runs (docs/operations.md: "In containers").
# CPU-only: docker build --build-arg BUILDS="--torch-backend cpu --override requirements-cpu.txt" \
#           --build-arg FAISS=faiss-cpu .
FROM python:3.11-slim
ARG BUILDS=""
ARG FAISS=""
WORKDIR /app
COPY pyproject.toml requirements.lock requirements-cpu.txt README.md LICENSE prefect.yaml ./
COPY gan_core ./gan_core
COPY tasks ./tasks
COPY flows ./flows
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --compile-bytecode --constraint requirements.lock $BUILDS . $FAISS
RUN useradd --create-home --uid 1000 discern && mkdir /data && chown discern /data
USER discern
WORKDIR /home/discern
ENV DISCERN_HOME=/data DISCERN_CHECKOUT=/home/discern DO_NOT_TRACK=1
VOLUME /data
ENTRYPOINT []
CMD ["discern", "--help"]
