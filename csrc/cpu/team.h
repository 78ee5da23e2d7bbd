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
// by one by all threads together. Which thread does what depends on nothing but the counts.
template <class Body>
HT_INLINE void for_images(i64 images, Team everyone, const Body& body) {
  const i64 alone = images / everyone.size;
  for (i64 i = 0; i < alone; ++i) body(everyone.rank * alone + i, Team{0, 1});
  const i64 done = alone * everyone.size;
  if (done < images) everyone.wait();
  for (i64 image = done; image < images; ++image) {
    body(image, everyone);
    everyone.wait();
  }
}

}  // namespace HT_ISA
}  // namespace ht
