#include "lib/nutrients/ledger.h"

#include "absl/strings/str_cat.h"

namespace mycelium {
namespace {

absl::Status DoesNotFit(absl::string_view dimension, int64_t wanted,
                        int64_t free) {
  return absl::ResourceExhaustedError(absl::StrCat(dimension, " ", wanted,
                                                   " is more than the ", free,
                                                   " that this node has free"));
}

}  // namespace

absl::Status Ledger::Reserve(absl::string_view app_name,
                             absl::string_view instance_id, Nutrients amount) {
  if (amount.cpu_milli < 0 || amount.memory_mb < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("nutrients must not be negative: ", amount.ToString()));
  }
  if (entries_.contains(instance_id)) {
    return absl::AlreadyExistsError(
        absl::StrCat("instance ", instance_id, " has a reservation"));
  }
  const Nutrients room = free();
  // A dimension of which nothing is wanted fits however full the node is.
  if (amount.cpu_milli > 0 && amount.cpu_milli > room.cpu_milli) {
    return DoesNotFit("cpu_milli", amount.cpu_milli, room.cpu_milli);
  }
  if (amount.memory_mb > 0 && amount.memory_mb > room.memory_mb) {
    return DoesNotFit("memory_mb", amount.memory_mb, room.memory_mb);
  }

  entries_.emplace(std::string(instance_id),
                   Entry{.app_name = std::string(app_name), .amount = amount});
  apps_[std::string(app_name)] += amount;
  reserved_ += amount;
  return absl::OkStatus();
}

void Ledger::Release(absl::string_view instance_id) {
  const auto entry = entries_.find(instance_id);
  if (entry == entries_.end()) return;
  reserved_ -= entry->second.amount;
  const auto app = apps_.find(entry->second.app_name);
  app->second -= entry->second.amount;
  if (app->second == Nutrients()) apps_.erase(app);
  entries_.erase(entry);
}

Nutrients Ledger::ReservedBy(absl::string_view app_name) const {
  const auto app = apps_.find(app_name);
  return app == apps_.end() ? Nutrients() : app->second;
}

}  // namespace mycelium
