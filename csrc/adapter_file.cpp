// Reads the files of ht_kernels/deploy/adapter_file.py, which docs/guides/c-and-tensorrt.md describes byte by byte. A
// file may come from anywhere: a number of it is compared with what is there before anything depends on it.

#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "status.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian and read as they are");

namespace {

using ht::fail;
using Size = std::uint64_t;

constexpr char kMagic[] = "HTADAPT";  // and the zero that ends it
constexpr std::uint32_t kVersion = 1;
constexpr Size kAlignment = 64;
constexpr std::int64_t kMostSide = std::int64_t{1} << 20;  // of a grid, and of prefix tokens

#define HT_ONE(name, kind, when) +1
constexpr int kWeights = 0 HT_ADAPTER_WEIGHTS(HT_ONE);
#undef HT_ONE
static_assert(kWeights == 15, "counts_of has the size of each; a file with more weights is of another version");

struct Header {
  char magic[8];
  std::uint32_t version, weights;
  Size adapters, bytes;
};

struct Entry {
  std::int64_t block, dim, bottleneck, hidden, scales, grid_height, grid_width, prefix_tokens, masks;
  float eps;
  std::uint32_t zero;
  Size counts[kWeights];  // of numbers, 0 for a weight that is not there
};

using Sum = std::uint32_t;
// What an adapter takes of a file at least: ten weights are always there.
constexpr Size kLeast = sizeof(Entry) + 10 * sizeof(float);
static_assert(kLeast >= sizeof(ht_file_adapter), "so a list of adapters is no larger than their file");
static_assert(sizeof(Header) == 32 && sizeof(Entry) == 80 + 8 * kWeights, "as in the file, without gaps");

Size up_to_alignment(Size at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

// A list with what it points to.
struct Loaded : ht_adapter_list {
  std::unique_ptr<char, void (*)(void*)> bytes{nullptr, std::free};
  std::unique_ptr<ht_file_adapter[]> made;
};

// CRC-32 as zlib computes it: the polynomial 0x04c11db7, bits reflected.
Sum crc32(const char* bytes, Size count) {
  static const std::array<Sum, 256> table = [] {
    std::array<Sum, 256> made;
    for (Sum i = 0; i < 256; ++i) {
      Sum c = i;
      for (int bit = 0; bit < 8; ++bit) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
      made[i] = c;
    }
    return made;
  }();
  Sum c = 0xffffffffu;
  for (Size i = 0; i < count; ++i) c = table[(c ^ static_cast<unsigned char>(bytes[i])) & 255] ^ c >> 8;
  return ~c;
}

// The product of sides, or more than any file has numbers.
template <class... Sides>
Size product(Sides... sides) {
  Size result = 1;
  bool over = false;
  ((over |= __builtin_mul_overflow(result, static_cast<Size>(sides), &result)), ...);
  return over ? ~Size{0} : result;
}

// How many numbers each weight has, in the order of HT_ADAPTER_WEIGHTS.
std::array<Size, kWeights> counts_of(const ht_adapter_shape& s) {
  const auto D = s.dim, C = s.bottleneck, Q = s.hidden, S = s.scales, M = s.masks;
  const std::int64_t T = S == 3 ? 3 : 0;  // scores
  return {product(C, D),        static_cast<Size>(D), static_cast<Size>(D),
          static_cast<Size>(C), product(S, C, 49),    product(S, C),
          product(Q, C),        static_cast<Size>(Q), product(T, Q),
          static_cast<Size>(T), product(C, C),        static_cast<Size>(C),
          product(D, C),        static_cast<Size>(D), product(M, s.grid_height, s.grid_width / 2 + 1, 2)};
}

ht_status refuse(Size adapter, const char* why) {
  return fail(HT_FILE_ERROR, "adapter %llu of the file %s: it was not written by ht_kernels",
              static_cast<unsigned long long>(adapter), why);
}

// Checks an entry and gives its weights the places from `at` on, which moves behind them; `end` is the end of weights.
ht_status read_entry(const Entry& e, Size adapter, char* bytes, Size end, Size* at, ht_file_adapter* made) {
  made->block = e.block;
  made->shape = {1,       e.dim, e.bottleneck, e.hidden, e.scales, e.grid_height, e.grid_width, e.prefix_tokens,
                 e.masks, e.eps};
  if (ht::check_shape(&made->shape) != HT_OK) return refuse(adapter, "has sizes that no adapter has");
  if (e.grid_height > kMostSide || e.grid_width > kMostSide || e.prefix_tokens > kMostSide) {
    return refuse(adapter, "has a grid or prefix of more than 2^20");
  }
  if (e.scales == 1 && e.hidden != 0) return refuse(adapter, "has hidden channels and no noise estimator");
  if (e.zero != 0) return refuse(adapter, "has a number where zero is kept for later versions");
  if (!std::isfinite(e.eps) || e.eps < 0) return refuse(adapter, "has an eps that is negative or not finite");
  const std::array<Size, kWeights> expected = counts_of(made->shape);
  float* places[kWeights];
  for (int i = 0; i < kWeights; ++i) {
    if (e.counts[i] != expected[i]) return refuse(adapter, "has weights whose sizes do not fit each other");
    const Size from = up_to_alignment(*at);
    if (from > end || expected[i] > (end - from) / sizeof(float)) return refuse(adapter, "ends behind the file");
    places[i] = expected[i] ? reinterpret_cast<float*>(bytes + from) : nullptr;
    for (Size gap = *at; expected[i] && gap < from; ++gap) {
      if (bytes[gap] != 0) return refuse(adapter, "has something between its weights");
    }
    if (expected[i]) *at = from + expected[i] * sizeof(float);
  }
  int next = 0;
#define HT_SET(name, kind, when) made->weights.name = places[next++];
  HT_ADAPTER_WEIGHTS(HT_SET)
#undef HT_SET
  return HT_OK;
}

ht_status check_header(const Header& header, Size size) {
  if (std::memcmp(header.magic, kMagic, sizeof header.magic) != 0) {
    return fail(HT_FILE_ERROR, "this is no file of adapters: ht_kernels.deploy.save_adapters writes one");
  }
  if (header.version != kVersion || header.weights != kWeights) {
    return fail(HT_FILE_ERROR,
                "the file is of version %u with %u weights, expected version %u with %d: write it again with the "
                "Python package of this library's version",
                header.version, header.weights, kVersion, kWeights);
  }
  if (header.bytes != size) {
    return fail(HT_FILE_ERROR, "the file has %llu bytes and says that it has %llu: it was cut, or something was added",
                static_cast<unsigned long long>(size), static_cast<unsigned long long>(header.bytes));
  }
  return HT_OK;
}

// Reads what `loaded` holds, `size` bytes, room for a header and a sum at least, and makes its list.
ht_status parse(Loaded* loaded, Size size) {
  char* bytes = loaded->bytes.get();
  Header header;
  std::memcpy(&header, bytes, sizeof header);
  const Size end = size - sizeof(Sum);
  Sum sum;
  std::memcpy(&sum, bytes + end, sizeof sum);
  if (sum != crc32(bytes, end)) return fail(HT_FILE_ERROR, "the file's checksum does not fit: copy it again");
  if (header.adapters < 1 || header.adapters > (end - sizeof header) / kLeast) {
    return fail(HT_FILE_ERROR, "the file says that it has %llu adapters, which do not fit into it",
                static_cast<unsigned long long>(header.adapters));
  }
  loaded->made.reset(new (std::nothrow) ht_file_adapter[header.adapters]);
  if (!loaded->made) return fail(HT_OUT_OF_MEMORY, "there is no memory for the list of adapters");
  Size at = sizeof header + header.adapters * sizeof(Entry);
  std::int64_t before = -1;
  for (Size i = 0; i < header.adapters; ++i) {
    Entry entry;
    std::memcpy(&entry, bytes + sizeof header + i * sizeof entry, sizeof entry);
    if (entry.block <= before) return refuse(i, "does not stand behind the one before");
    before = entry.block;
    const ht_status status = read_entry(entry, i, bytes, end, &at, &loaded->made[i]);
    if (status != HT_OK) return status;
  }
  if (at != end)
    return fail(HT_FILE_ERROR, "the file has more bytes than its adapters: it was not written by ht_kernels");
  loaded->count = static_cast<std::int64_t>(header.adapters);
  loaded->adapters = loaded->made.get();
  return HT_OK;
}

// Makes a list of `size` bytes, of which read(memory, count) stores the next. Another kind of file is refused by its
// header, however large it is.
template <class Read>
ht_status load(Size size, ht_adapter_list** list, const Read& read) {
  if (size < sizeof(Header) + sizeof(Sum)) {
    return fail(HT_FILE_ERROR, "a file of adapters has more than %llu bytes: it was cut, or is something else",
                static_cast<unsigned long long>(size));
  }
  Header header;
  ht_status status = read(reinterpret_cast<char*>(&header), sizeof header);
  if (status == HT_OK) status = check_header(header, size);
  if (status != HT_OK) return status;
  std::unique_ptr<Loaded> loaded(new (std::nothrow) Loaded);
  void* memory = nullptr;
  if (!loaded || posix_memalign(&memory, kAlignment, size) != 0) {
    return fail(HT_OUT_OF_MEMORY, "there is no memory for the %llu bytes of a file of adapters",
                static_cast<unsigned long long>(size));
  }
  loaded->bytes.reset(static_cast<char*>(memory));
  std::memcpy(memory, &header, sizeof header);
  status = read(static_cast<char*>(memory) + sizeof header, size - sizeof header);
  if (status == HT_OK) status = parse(loaded.get(), size);
  if (status == HT_OK) *list = loaded.release();
  return status;
}

}  // namespace

extern "C" {

ht_status ht_load_adapters(const char* path, ht_adapter_list** list) {
  if (!path || !list) return fail(HT_INVALID_ARGUMENT, "path and list must not be NULL");
  *list = nullptr;
  struct stat about;
  const bool there = stat(path, &about) == 0;
  if (there && !S_ISREG(about.st_mode)) return fail(HT_FILE_ERROR, "%s is not a file", path);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(there ? std::fopen(path, "rb") : nullptr, std::fclose);
  if (!file) return fail(HT_FILE_ERROR, "%s cannot be read: %s", path, std::strerror(errno));
  const Size size = static_cast<Size>(about.st_size);
  return load(size, list, [&](char* memory, Size count) {
    if (std::fread(memory, 1, count, file.get()) == count) return HT_OK;
    return fail(HT_FILE_ERROR, "%s cannot be read to its end", path);
  });
}

ht_status ht_read_adapters(const void* bytes, size_t size, ht_adapter_list** list) {
  if (!bytes || !list) return fail(HT_INVALID_ARGUMENT, "bytes and list must not be NULL");
  *list = nullptr;
  const char* next = static_cast<const char*>(bytes);
  return load(size, list, [&](char* memory, Size count) {
    std::memcpy(memory, next, count);
    next += count;
    return HT_OK;
  });
}

void ht_free_adapters(ht_adapter_list* list) { delete static_cast<Loaded*>(list); }
}
