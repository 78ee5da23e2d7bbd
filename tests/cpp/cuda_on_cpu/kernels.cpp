// The sources of csrc/cuda, which nvcc compiles for a GPU, for the CPU.

#include "cuda/adapter.cu"
#include "cuda/down_project.cu"
#include "cuda/float32/down_project.cu"
#include "cuda/float32/mix_and_up_project.cu"
#include "cuda/float32/plan.cu"
#include "cuda/grid_to_mask.cu"
#include "cuda/layer_norm.cu"
#include "cuda/mix_and_up_project.cu"
#include "cuda/plan.cu"
#include "cuda/prepare.cu"
#include "cuda/spectral_filter.cu"
