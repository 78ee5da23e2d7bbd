# ht_kernels without torch, for NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t ht-kernels-cuda .
# Our CUDA kernels are for models in torch, so only the core for CPUs is built; TensorRT for RTX runs exported files.
# Neither this image nor the engines in it have been tried: no machine with docker and a GPU was at hand.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev python3-pip
COPY . /source
RUN HT_KERNELS_CUDA=0 pip wheel --no-deps --wheel-dir /wheels /source

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1
RUN pip install numpy av onnxruntime pillow pydicom tensorrt-rtx cuda-python
RUN pip install --no-deps /wheels/*.whl
ENTRYPOINT ["ht-kernels"]
