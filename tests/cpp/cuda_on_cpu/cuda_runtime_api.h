// What TensorRT's headers need of CUDA.
#pragma once

#include "cuda_runtime.h"

using cudaEvent_t = struct Event*;
