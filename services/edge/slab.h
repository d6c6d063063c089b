#ifndef SERVICES_EDGE_SLAB_H_
#define SERVICES_EDGE_SLAB_H_

#include <memory>
#include <vector>

namespace mycelium::edge {

// Objects that are made once and used again, last in, first out. An object
// keeps the state in which it was given back; whoever takes it resets it. All
// live as long as the slab. Not thread-safe.
template <typename T>
class Slab {
 public:
  T* Take() {
    if (free_.empty()) {
      all_.push_back(std::make_unique<T>());
      free_.reserve(all_.size());
      return all_.back().get();
    }
    T* const object = free_.back();
    free_.pop_back();
    return object;
  }

  void Give(T* object) { free_.push_back(object); }

 private:
  std::vector<std::unique_ptr<T>> all_;
  std::vector<T*> free_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_SLAB_H_
