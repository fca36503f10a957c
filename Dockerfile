# docker build -t saliency-mae .
# docker run --rm --gpus all -v "$PWD:/data" saliency-mae build-saliency photos --out maps     (GPUs: NVIDIA's container toolkit)
#
# PyTorch's wheels hold CUDA, 6 GB. For an image without it, give the index that pytorch.org names for the CPU, and leave
# the pins of constraints.txt out, which are those with CUDA:
# docker build -t saliency-mae:cpu --build-arg PIP_INDEX_URL=INDEX --build-arg PIP_EXTRA_INDEX_URL=USUAL --build-arg PINS= .
FROM python:3.11-slim AS built
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS=video
ARG PINS="-c constraints.txt"
WORKDIR /src
COPY . .
RUN python -m venv /opt/mae \
    && /opt/mae/bin/pip install --no-cache-dir $PINS ".[$EXTRAS]" \
    && find /opt/mae -name __pycache__ -prune -exec rm -rf {} +

FROM python:3.11-slim
COPY --from=built /opt/mae /opt/mae
ENV PATH=/opt/mae/bin:$PATH PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home mae
USER mae
WORKDIR /data
ENTRYPOINT ["mae-cli"]
CMD ["--help"]
