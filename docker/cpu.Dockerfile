# ht_kernels without torch, for CPUs: docker build -f docker/cpu.Dockerfile -t ht-kernels .
# CI runs the steps of pip, by .ci/edge. Docker itself has not built this image.
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++
COPY . /source
RUN HT_KERNELS_CUDA=0 pip wheel --no-deps --wheel-dir /wheels /source

FROM python:3.13-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir numpy av onnxruntime pillow pydicom
RUN pip install --no-cache-dir --no-deps /wheels/*.whl
ENTRYPOINT ["ht-kernels"]
