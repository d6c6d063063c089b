#ifndef LIB_NUTRIENTS_LEDGER_H_
#define LIB_NUTRIENTS_LEDGER_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "lib/nutrients/nutrients.h"

namespace mycelium {

// What the instances of a node have reserved, by app. Not thread-safe.
class Ledger {
 public:
  // `capacity` is what the node has for instances.
  explicit Ledger(Nutrients capacity) : capacity_(capacity) {}

  // Reserves `amount` for `instance_id` of `app_name`.
  //
  // ResourceExhausted: it does not fit into what is free; the message names the
  // dimension, what is wanted and what is free. AlreadyExists: the instance has
  // a reservation. InvalidArgument: a negative amount.
  absl::Status Reserve(absl::string_view app_name,
                       absl::string_view instance_id, Nutrients amount);

  // Gives back what `instance_id` has reserved; an unknown id is ignored.
  void Release(absl::string_view instance_id);

  const Nutrients& capacity() const { return capacity_; }
  const Nutrients& reserved() const { return reserved_; }
  Nutrients free() const { return capacity_ - reserved_; }

  // What all instances of `app_name` have reserved together.
  Nutrients ReservedBy(absl::string_view app_name) const;

  // Every app with a reservation, and how much.
  const std::map<std::string, Nutrients, std::less<>>& apps() const {
    return apps_;
  }

 private:
  struct Entry {
    std::string app_name;
    Nutrients amount;
  };

  Nutrients capacity_;
  Nutrients reserved_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::map<std::string, Nutrients, std::less<>> apps_;
};

}  // namespace mycelium

#endif  // LIB_NUTRIENTS_LEDGER_H_
