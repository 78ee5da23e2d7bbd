/* Runs adapters of a file on tokens, on the CPU, without Python.
 *
 *   adapter ADAPTERS TOKENS OUTPUT [THREADS]
 *
 * ADAPTERS was written by ht_kernels.deploy.save_adapters. TOKENS has the tokens (N, D) of any number of images in
 * float32, as numpy's tofile writes them. All adapters of the file run one after another, each on what the one before
 * gives, and OUTPUT gets the result in the same form. In a tower its blocks stand between the adapters; one that calls
 * this library runs each adapter behind the block that list->adapters[i].block names. */
#include <stdio.h>
#include <stdlib.h>

#include "ht_kernels.h"

static void* aligned(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* tokens = adapter(tokens) for whole images that lie densely. */
static ht_status run(const ht_file_adapter* adapter, float** tokens, size_t numbers, int threads) {
  ht_adapter_shape shape = adapter->shape;
  const int64_t image = (shape.prefix_tokens + shape.grid_height * shape.grid_width) * shape.dim;
  shape.batch = (int64_t)numbers / image;
  const size_t prepared_bytes = ht_adapter_prepared_cpu(&shape, HT_FLOAT32);
  const size_t workspace_bytes = ht_adapter_forward_workspace_cpu(&shape, 0, threads);
  if (!prepared_bytes || !workspace_bytes) return HT_INVALID_ARGUMENT;

  /* A program that runs the adapter again keeps all three. */
  void* prepared = aligned(prepared_bytes);
  void* workspace = aligned(workspace_bytes);
  float* result = aligned(numbers * sizeof(float));
  ht_status status = HT_OUT_OF_MEMORY;
  if (prepared && workspace && result) {
    const ht_tokens from = {*tokens, image, shape.dim}, to = {result, image, shape.dim};
    status = ht_adapter_prepare_cpu(&shape, &adapter->weights, HT_FLOAT32, prepared, threads);
    if (status == HT_OK) {
      status = ht_adapter_forward_cpu(&shape, &adapter->weights, HT_FLOAT32, prepared, HT_FLOAT32, from, NULL, to, NULL,
                                      NULL, workspace, threads);
    }
  }
  free(workspace);
  free(prepared);
  if (status != HT_OK) {
    free(result);
    return status;
  }
  free(*tokens);
  *tokens = result;
  return HT_OK;
}

/* The numbers of a file, NULL if it cannot be read or does not have a multiple of `multiple` of them. */
static float* read_numbers(const char* path, int64_t multiple, size_t* numbers) {
  FILE* file = fopen(path, "rb");
  if (!file) return NULL;
  float* values = NULL;
  long bytes = -1;
  if (fseek(file, 0, SEEK_END) == 0) bytes = ftell(file);
  rewind(file);
  if (bytes > 0 && bytes % (multiple * (int64_t)sizeof(float)) == 0) {
    *numbers = (size_t)bytes / sizeof(float);
    values = aligned((size_t)bytes);
    if (values && fread(values, sizeof(float), *numbers, file) != *numbers) {
      free(values);
      values = NULL;
    }
  }
  fclose(file);
  return values;
}

static int write_numbers(const char* path, const float* values, size_t numbers) {
  FILE* file = fopen(path, "wb");
  if (!file) return 0;
  const int written = fwrite(values, sizeof(float), numbers, file) == numbers;
  return fclose(file) == 0 && written;
}

int main(int argc, char** argv) {
  const int threads = argc == 5 ? atoi(argv[4]) : 1;
  if (argc < 4 || argc > 5 || threads < 1) {
    fprintf(stderr, "usage: adapter ADAPTERS TOKENS OUTPUT [THREADS]\n");
    return 2;
  }
  ht_adapter_list* list;
  if (ht_load_adapters(argv[1], &list) != HT_OK) {
    fprintf(stderr, "%s\n", ht_last_error());
    return 2;
  }
  const ht_adapter_shape* shape = &list->adapters[0].shape;
  const int64_t tokens_of_image = shape->prefix_tokens + shape->grid_height * shape->grid_width;
  size_t numbers = 0;
  float* tokens = read_numbers(argv[2], tokens_of_image * shape->dim, &numbers);
  int failed = 0;
  if (!tokens) {
    fprintf(stderr, "%s does not have the tokens of whole images, %lld of %lld float32 numbers each\n", argv[2],
            (long long)tokens_of_image, (long long)shape->dim);
    failed = 1;
  }
  for (int64_t i = 0; i < list->count && !failed; ++i) {
    const ht_adapter_shape* own = &list->adapters[i].shape;
    if (own->dim != shape->dim || own->prefix_tokens + own->grid_height * own->grid_width != tokens_of_image) {
      fprintf(stderr, "the adapters of %s are for different tokens\n", argv[1]);
      failed = 1;
    } else if (run(&list->adapters[i], &tokens, numbers, threads) != HT_OK) {
      fprintf(stderr, "%s\n", ht_last_error());
      failed = 1;
    }
  }
  if (!failed && !write_numbers(argv[3], tokens, numbers)) {
    fprintf(stderr, "%s cannot be written\n", argv[3]);
    failed = 1;
  }
  if (!failed) {
    printf("adapters: %lld, images: %lld, instruction set: %s\n", (long long)list->count,
           (long long)numbers / (long long)(tokens_of_image * shape->dim), ht_cpu_isa());
  }
  free(tokens);
  ht_free_adapters(list);
  return failed ? 2 : 0;
}
