#include "gloo.h"

#include <c10/util/Exception.h>
#include <c10/util/Flags.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

C10_DECLARE_int(caffe2_log_level);

struct PerennialGroup {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

struct PerennialStore {
  c10::intrusive_ptr<c10d::TCPStore> store;
};

namespace {

// c10d's flight recorder, one a process, adds to a map before it takes its lock: groups that several threads use at once
// race there. With a buffer of no entries it records nothing. Set before `main`, while no other thread reads the
// environment; whoever wants the recorder sets it himself.
[[maybe_unused]] const int no_flight_recorder = setenv("TORCH_FR_BUFFER_SIZE", "0", 0);

using Milliseconds = std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

char* first_line(const char* text) {
  return strndup(text, strcspn(text, "\n"));
}

// Runs `call`; what it throws becomes the returned text.
template <class Call>
char* guarded(Call call) noexcept {
  try {
    call();
    return nullptr;
  } catch (const c10::Error& error) {
    return first_line(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return first_line(error.what());
  } catch (...) {
    return first_line("an unknown C++ exception");
  }
}

class Deadline {
 public:
  explicit Deadline(int64_t timeout_ms) : end_(Clock::now() + Milliseconds(timeout_ms)) {}

  // Never zero: c10d takes zero for "no timeout".
  Milliseconds left() const {
    auto left = std::chrono::duration_cast<Milliseconds>(end_ - Clock::now());
    return std::max(left, Milliseconds(1));
  }

 private:
  Clock::time_point end_;
};

c10::intrusive_ptr<c10d::Store> connect(const PerennialRendezvous& at, const Deadline& deadline) {
  c10d::TCPStoreOptions options;
  options.port = at.port;
  options.waitWorkers = false;
  options.timeout = deadline.left();
  auto store = c10::make_intrusive<c10d::TCPStore>(at.host, options);
  store->setTimeout(deadline.left());
  return c10::make_intrusive<c10d::PrefixStore>(at.prefix, store);
}

// The work is freed on every path: it holds the connections, and peers hear of a failure only when those close.
void finish(c10::intrusive_ptr<c10d::Work> work) {
  work->wait();
}

at::Tensor& tensor_at(void* tensor) {
  return *static_cast<at::Tensor*>(tensor);
}

}  // namespace

void perennial_log_nothing() {
  FLAGS_caffe2_log_level = 3;
}

void perennial_text_free(char* text) {
  free(text);
}

char* perennial_store_serve(const char* host, uint16_t port, int listener, int64_t timeout_ms,
                            PerennialStore** store) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = true;
    options.waitWorkers = false;
    options.timeout = Milliseconds(timeout_ms);
    options.masterListenFd = listener;
    *store = new PerennialStore{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

void perennial_store_free(PerennialStore* store) {
  free(guarded([&] { delete store; }));
}

char* perennial_store_share(const PerennialRendezvous* at, bool sender, uint8_t* bytes, size_t length) {
  return guarded([&] {
    auto store = connect(*at, Deadline(at->timeout_ms));
    if (sender) {
      store->set("shared", std::vector<uint8_t>(bytes, bytes + length));
      return;
    }
    auto value = store->get("shared");
    TORCH_CHECK(value.size() == length, "the store holds ", value.size(), " bytes, not ", length);
    std::copy(value.begin(), value.end(), bytes);
  });
}

char* perennial_gloo_join(const PerennialRendezvous* at, int rank, int world, const char* own_host, int64_t timeout_ms,
                          PerennialGroup** group) {
  return guarded([&] {
    Deadline deadline(at->timeout_ms);
    auto store = connect(*at, deadline);
    auto options = c10d::ProcessGroupGloo::Options::create(deadline.left());
    options->threads = 1;
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(own_host));
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options);
    gloo->setTimeout(Milliseconds(timeout_ms));
    *group = new PerennialGroup{std::move(gloo)};
  });
}

void perennial_gloo_free(PerennialGroup* group) {
  free(guarded([&] { delete group; }));
}

char* perennial_gloo_all_reduce(PerennialGroup* group, void* tensor) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_at(tensor)};
    finish(group->gloo->allreduce(tensors));
  });
}

char* perennial_gloo_broadcast(PerennialGroup* group, void* tensor, int root) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{tensor_at(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    finish(group->gloo->broadcast(tensors, options));
  });
}

char* perennial_gloo_all_gather(PerennialGroup* group, void* tensor, void* output) {
  return guarded([&] {
    std::vector<at::Tensor> inputs{tensor_at(tensor)};
    std::vector<std::vector<at::Tensor>> outputs{tensor_at(output).unbind(0)};
    finish(group->gloo->allgather(outputs, inputs));
  });
}

char* perennial_gloo_barrier(PerennialGroup* group) {
  return guarded([&] { finish(group->gloo->barrier()); });
}
