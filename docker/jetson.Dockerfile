# ht_kernels without torch, for Jetson Orin with JetPack 6: docker build -f docker/jetson.Dockerfile -t ht-kernels-jetson .
# The base brings CUDA 12 and TensorRT with its Python package. Build an engine there, by
# ht_kernels.deploy.build_engine("model.onnx", "model.engine", runtime="tensorrt") in Python.
# Neither this image nor the engines in it have been tried: no Jetson was at hand.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev python3-pip
COPY . /source
RUN pip install --upgrade pip setuptools wheel
RUN HT_KERNELS_CUDA=0 pip wheel --no-deps --wheel-dir /wheels /source

FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir numpy av onnxruntime pillow pydicom "cuda-python<13"
RUN pip install --no-cache-dir --no-deps /wheels/*.whl
ENTRYPOINT ["ht-kernels"]
