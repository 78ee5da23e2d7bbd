// Fibers, one per thread of a block, and what a warp does together.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <ucontext.h>

#include <map>
#include <utility>
#include <vector>

Index threadIdx, blockIdx;
Emulated emulated;

namespace {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 128 * 1024;

// A copy of 16 bytes that has not been done.
struct Copy {
  void* to;
  const void* from;  // NULL for zeros
  size_t bytes;
  int group;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  bool done = false;
  int waits[2] = {};  // barriers of its block and of its warp that it has reached
  std::vector<Copy> copies;
  int groups = 0;  // of copies that it has closed
};

ucontext_t scheduler;
std::vector<Fiber> fibers;
std::vector<float> shared_memory;
const std::function<void()>* body;
int current = 0;
std::function<void()> pending;   // a launch that has not run
std::function<void()> in_front;  // the one in front of the kernel that runs, if it has not run
cudaError_t last_error = cudaSuccess;
std::map<std::pair<const void*, int>, int> shared_limits;  // bytes, by kernel and device

// What the lanes of a warp show each other.
struct Shown {
  float value;
  uint32_t a[4], b[2];
  const void* row;
};
std::vector<Shown> shown;

void start() {
  (*body)();
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

void resume(int thread) {
  current = thread;
  threadIdx.x = thread;
  swapcontext(&scheduler, &fibers[thread].context);
}

enum Kind { kBlock, kWarp };

// What a thread waits for: that threads first .. last reach the barrier too.
struct Wait {
  int first, last;
  Kind kind;
};
std::vector<Wait> waiting;
int waited = 0;  // threads of the block that have waited for the kernel in front

void wait(int first, int last, Kind kind) {
  waiting[current] = {first, last, kind};
  ++fibers[current].waits[kind];
  swapcontext(&fibers[current].context, &scheduler);
}

bool may_run(int thread) {
  if (fibers[thread].done) return false;
  const Wait& w = waiting[thread];
  for (int other = w.first; other < w.last; ++other) {
    // A thread that has left the kernel holds nobody up.
    if (!fibers[other].done && fibers[other].waits[w.kind] < fibers[thread].waits[w.kind]) return false;
  }
  return true;
}

int warp_first() { return current / kLanes * kLanes; }

template <class Decode>
void product(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int per_register, const Decode& decode) {
  Shown& mine = shown[current];
  std::memcpy(mine.a, a, sizeof a);
  std::memcpy(mine.b, b, sizeof b);
  __syncwarp();
  const int g = current % kLanes / 4, t = current % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2;
    for (int lane = 0; lane < 4; ++lane) {  // the values of k that lane `lane` of each row holds
      const Shown& row = shown[warp_first() + 4 * g + lane];
      const Shown& other = shown[warp_first() + 4 * column + lane];
      for (int half = 0; half < 2; ++half) {
        for (int j = 0; j < per_register; ++j) {
          acc[i] += decode(row.a[2 * half + i / 2], j) * decode(other.b[half], j);
        }
      }
    }
  }
  __syncwarp();
}

}  // namespace

void __syncthreads() { wait(0, static_cast<int>(fibers.size()), kBlock); }
void __syncwarp() { wait(warp_first(), warp_first() + kLanes, kWarp); }

float __shfl_xor_sync(uint32_t, float value, int lane_mask) {
  shown[current].value = value;
  __syncwarp();
  const float result = shown[warp_first() + (current % kLanes ^ lane_mask)].value;
  __syncwarp();
  return result;
}

cudaError_t cudaGetDevice(int* device) {
  *device = emulated.device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = emulated.multiprocessors;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emulated.block_bytes;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = emulated.multiprocessor_bytes;
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = emulated.reserved_bytes;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = emulated.capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = emulated.capability % 10;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t set_shared_limit(const void* kernel, int bytes) {
  if (bytes > emulated.block_bytes) return last_error = cudaErrorInvalidValue;
  shared_limits[{kernel, emulated.device}] = bytes;
  return cudaSuccess;
}

void* emulated_shared_memory() { return shared_memory.data(); }

namespace {

// Runs the blocks of a kernel one after the other. A kernel that starts early must wait for the one in front in every
// block.
void run(const std::function<void()>& thread_body, dim3 grid, int threads, int shared_bytes, bool early) {
  body = &thread_body;
  fibers.resize(threads);
  shown.resize(threads);
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx.x = static_cast<int>(x), blockIdx.y = static_cast<int>(y);
      // Of exactly this size, so that AddressSanitizer sees what goes beyond it.
      shared_memory = std::vector<float>(shared_bytes / sizeof(float), NAN);
      waiting.assign(threads, {0, 0, kBlock});
      waited = 0;
      for (Fiber& f : fibers) {
        f.done = false, f.waits[kBlock] = f.waits[kWarp] = f.groups = 0;
        f.copies.clear();
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.data();
        f.context.uc_stack.ss_size = f.stack.size();
        f.context.uc_link = nullptr;
        makecontext(&f.context, &start, 0);
      }
      for (bool all_done = false; !all_done;) {
        all_done = true;
        bool moved = false;
        for (int i = 0; i < threads; ++i) {
          const int thread = emulated.last_thread_first ? threads - 1 - i : i;
          while (may_run(thread)) resume(thread), moved = true;
          all_done = all_done && fibers[thread].done;
        }
        if (!all_done && !moved) std::abort();  // threads wait for each other at different barriers
      }
      if (early && waited != threads) std::abort();  // a block has not waited for the kernel in front
    }
  }
}

}  // namespace

cudaError_t emulate(const void* kernel, std::function<void()> thread_body, dim3 grid, int threads, int shared_bytes,
                    bool early) {
  if (const auto meanwhile = std::exchange(emulated.meanwhile, nullptr)) meanwhile();
  const auto limit = shared_limits.find({kernel, emulated.device});
  if (emulated.refuses || shared_bytes > (limit == shared_limits.end() ? 48 * 1024 : limit->second)) {
    return last_error = cudaErrorInvalidValue;
  }
  if (!early) emulated_synchronize();
  const auto launch = [=, front = std::exchange(pending, nullptr)] {
    in_front = front;
    run(thread_body, grid, threads, shared_bytes, early);
  };
  if (emulated.overlaps) {
    pending = launch;
  } else {
    launch();
  }
  return cudaSuccess;
}

void emulated_synchronize() {
  if (const auto launch = std::exchange(pending, nullptr)) launch();
}

// The instructions, as PTX defines their fragments.

namespace ht {
namespace cuda {

void copy_16(void* to, const void* from, bool inside) {
  Fiber& f = fibers[current];
  f.copies.push_back({to, inside ? from : nullptr, 16, f.groups});
}

void copy_8(void* to, const void* from) {
  Fiber& f = fibers[current];
  f.copies.push_back({to, from, 8, f.groups});
}

void commit_copies() { ++fibers[current].groups; }

void wait_for_copies(int under_way) {
  Fiber& f = fibers[current];
  std::vector<Copy> rest;
  for (const Copy& c : f.copies) {
    if (under_way > 0 && c.group >= f.groups - under_way) {
      rest.push_back(c);
    } else if (c.from) {
      std::memcpy(c.to, c.from, c.bytes);
    } else {
      std::memset(c.to, 0, c.bytes);
    }
  }
  f.copies = rest;
}

void load_matrices(const void* row, uint32_t (&to)[4]) {
  shown[current].row = row;
  __syncwarp();
  for (int i = 0; i < 4; ++i) {
    const void* from = shown[warp_first() + 8 * i + current % kLanes / 4].row;
    std::memcpy(&to[i], static_cast<const char*>(from) + 4 * (current % 4), 4);
  }
  __syncwarp();
}

void let_next_kernel_start() {}

// The first thread that comes here runs the kernel in front, on its own stack.
void wait_for_kernel_in_front() {
  ++waited;
  const auto front = std::exchange(in_front, nullptr);
  if (!front) return;
  const int thread = current, waits = waited;
  const Index block = blockIdx;
  const std::function<void()>* own_body = body;
  const ucontext_t own_scheduler = scheduler;
  auto own_fibers = std::exchange(fibers, {});
  auto own_shown = std::exchange(shown, {});
  auto own_waiting = std::exchange(waiting, {});
  auto own_memory = std::exchange(shared_memory, {});
  front();
  fibers = std::move(own_fibers), shown = std::move(own_shown), waiting = std::move(own_waiting);
  shared_memory = std::move(own_memory);
  scheduler = own_scheduler, body = own_body, blockIdx = block, current = thread, waited = waits;
  threadIdx.x = thread;
}

void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16) {
  product(acc, a, b, 2, [](uint32_t bits, int j) { return __uint_as_float(j ? bits & 0xffff0000u : bits << 16); });
}

void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
  product(acc, a, b, 2,
          [](uint32_t bits, int j) { return __half2float({static_cast<uint16_t>(j ? bits >> 16 : bits & 0xffff)}); });
}

void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) {
  // A number of TF32 has 10 bits of fraction: the instruction does not read the 13 behind them.
  product(acc, a, b, 1, [](uint32_t bits, int) { return __uint_as_float(bits & 0xffffe000u); });
}

uint32_t to_tf32(float value) {  // cvt.rna: to the nearest, ties away from zero
  if (value != value) return 0x7fffffff;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return (bits + 0x1000) & 0xffffe000u;
}

}  // namespace cuda
}  // namespace ht
