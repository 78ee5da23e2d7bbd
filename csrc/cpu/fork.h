// What happens to OpenMP's threads when the process forks.
#pragma once

// Other OpenMP libraries than GCC's look after forks themselves, and Windows has no fork.
#if defined(_OPENMP) && defined(__GNUC__) && __GNUC__ >= 9 && !defined(__clang__) && !defined(_WIN32)
#include <omp.h>
#include <pthread.h>
#define HT_PREPARES_FORKS 1
#pragma weak omp_pause_resource_all  // GCC 8's library, of older systems, does not have it
#endif

namespace ht {

// Makes every later fork safe for parallel regions in the child; returns whether that is needed and succeeded.
//
// GCC's OpenMP keeps the threads of a parallel region for the next one of the same caller. A forked process has only
// the thread that forked, and its next parallel region would wait forever for the threads that were kept. So they are
// let go before a fork. Afterwards either process starts new ones in its next parallel region. That also holds for
// torch's parallel regions, where torch uses the same OpenMP library.
inline bool prepare_forks() {
#if defined(HT_PREPARES_FORKS)
  if (!omp_pause_resource_all) return false;
  return pthread_atfork([] { omp_pause_resource_all(omp_pause_soft); }, nullptr, nullptr) == 0;
#else
  return false;
#endif
}

}  // namespace ht
