// The threads of a call: how they share the images, and the rows of an image that several of them work on.
#pragma once

#include "simd.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace ht {
namespace HT_ISA {

// The items from `first` to the one before `last`.
struct Range {
  i64 first, last;
};

// The threads that work on something together, seen by the member `rank` of `size`.
struct Team {
  int rank, size;

  // Waits until every member is here.
  void wait() const {
    if (size > 1) {
#if defined(_OPENMP)
#pragma omp barrier
#endif
    }
  }

  // This member's share of `count` items. Shares start at multiples of `step`.
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

// Calls body(image, team) for every image. As many images as can be shared evenly go to one thread each, as a team of
// one; all threads then work on each of the remaining images together.
//
// `next` is a counter that the threads share and that starts at 0: a thread takes the next image when it is free. That
// balances the load, but it is only right where a result does not depend on the thread that computes it. A sum over the
// images of a thread does, so the backward pass gives nullptr: the images of a thread then depend on the counts alone.
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
