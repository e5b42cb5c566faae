// Stub of what ProcessGroupGloo.hpp names; both functions are resolved from libtorch_cpu, and no layout is relied on.
#pragma once
#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
  void closeConnections();
};
}  // namespace gloo
