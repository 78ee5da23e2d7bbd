// Threads that work on one image together, and how they share its rows.
#pragma once

#include "simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace ht {
namespace HT_ISA {

struct Range {
  i64 first, last;
};

struct Team {
  int rank, size;

  void wait() const {
    if (size > 1) {
#if defined(_OPENMP)
#pragma omp barrier
#endif
    }
  }

  // This member's share of `count` items, in whole steps.
  Range share(i64 count, i64 step) const {
    const i64 steps = (count + step - 1) / step;
    return {min(count, steps * rank / size * step), min(count, steps * (rank + 1) / size * step)};
  }
};

// Runs body(everyone) on at most `threads` threads.
template <class Body>
void in_parallel(int threads, const Body& body) {
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
  body(Team{omp_get_thread_num(), omp_get_num_threads()});
#else
  (void)threads;
  body(Team{0, 1});
#endif
}

// Calls body(image, team) so that every image is done: whole images per thread as far as they go round, the rest one
// by one by all threads together. With `next`, 0 and shared by the threads, each takes the next image when it is free,
// which suits results that do not depend on who computes them; without it, who does what depends on the counts alone.
template <class Body>
HT_INLINE void for_images(i64 images, Team everyone, i64* next, const Body& body) {
  const i64 share = images / everyone.size, alone = share * everyone.size;
  if (next) {
    for (i64 i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < alone;) body(i, Team{0, 1});
  } else {
    for (i64 i = 0; i < share; ++i) body(everyone.rank * share + i, Team{0, 1});
  }
  if (alone < images) everyone.wait();
  for (i64 image = alone; image < images; ++image) {
    body(image, everyone);
    everyone.wait();
  }
}

}  // namespace HT_ISA
}  // namespace ht
