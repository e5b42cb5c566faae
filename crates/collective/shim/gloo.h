// libtorch's c10d (Gloo and TCPStore) behind a C interface.
//
// Every function returns null, or the first line of what went wrong, to be given back to `perennial_text_free`.
// No C++ exception passes. `tensor` is an `at::Tensor*`, borrowed for the call. Times are milliseconds.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

struct PerennialGroup;
struct PerennialStore;

struct PerennialRendezvous {
  const char* host;
  uint16_t port;
  const char* prefix;
  int64_t timeout_ms;
};

void perennial_log_nothing();
void perennial_text_free(char* text);

// Takes over `listener`, a listening socket that is bound to `host` and `port`.
char* perennial_store_serve(const char* host, uint16_t port, int listener, int64_t timeout_ms, PerennialStore** store);
void perennial_store_free(PerennialStore* store);
// Rank 0 (`sender`) gives `bytes` to everyone else, who waits for them.
char* perennial_store_share(const PerennialRendezvous* at, bool sender, uint8_t* bytes, size_t length);

// `at` bounds the meeting, `timeout_ms` each operation after it.
char* perennial_gloo_join(const PerennialRendezvous* at, int rank, int world, const char* own_host, int64_t timeout_ms,
                          PerennialGroup** group);
void perennial_gloo_free(PerennialGroup* group);
char* perennial_gloo_all_reduce(PerennialGroup* group, void* tensor);
char* perennial_gloo_broadcast(PerennialGroup* group, void* tensor, int root);
// `output` has the shape of `tensor` behind one dimension more, the ranks.
char* perennial_gloo_all_gather(PerennialGroup* group, void* tensor, void* output);
char* perennial_gloo_barrier(PerennialGroup* group);
}
