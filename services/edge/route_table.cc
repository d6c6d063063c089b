#include "services/edge/route_table.h"

#include <netdb.h>
#include <netinet/in.h>

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {

uint64_t RouteTable::Publish(RouteSnapshot snapshot) {
  MutexLock lock(mutex_);
  snapshot.version = (current_ == nullptr ? 0 : current_->version) + 1;
  current_ = std::make_shared<const RouteSnapshot>(std::move(snapshot));
  version_.store(current_->version, std::memory_order_release);
  return current_->version;
}

std::shared_ptr<const RouteSnapshot> RouteTable::Current() const {
  MutexLock lock(mutex_);
  return current_;
}

absl::StatusOr<Endpoint> ParseEndpointUrl(absl::string_view url) {
  const auto invalid = [url](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "endpoint URL ", Quoted(url), " ", why, "; want http://HOST:PORT"));
  };
  absl::string_view rest = url;
  if (!absl::ConsumePrefix(&rest, "http://"))
    return invalid("does not begin with http://");
  absl::ConsumeSuffix(&rest, "/");
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos || colon == 0)
    return invalid("names no port");
  absl::string_view host = rest.substr(0, colon);
  const absl::string_view port = rest.substr(colon + 1);
  int port_number = 0;
  if (!absl::SimpleAtoi(port, &port_number) || port_number < 1 ||
      port_number > 65535) {
    return invalid("has a port that is not in 1 to 65535");
  }
  if (host.find_first_of("/?#@ ") != absl::string_view::npos)
    return invalid("has a bad host");
  if (host.front() == '[') {
    if (host.back() != ']') return invalid("has a bad host");
    host = host.substr(1, host.size() - 2);
  }

  Endpoint endpoint;
  endpoint.url = std::string(url);
  endpoint.authority = std::string(rest);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(std::string(host).c_str(),
                                std::string(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::NotFoundError(
        absl::StrCat("endpoint URL ", Quoted(url), ": ", gai_strerror(error)));
  }
  std::memcpy(&endpoint.address, found->ai_addr, found->ai_addrlen);
  endpoint.address_size = found->ai_addrlen;
  freeaddrinfo(found);
  return endpoint;
}

absl::StatusOr<RouteSnapshot> ParseStaticEndpoints(
    absl::string_view text, int workers, BalancePolicy balancing,
    const absl::flat_hash_map<std::string, TrafficPolicy>& traffic) {
  absl::flat_hash_map<std::string, AppRoute> apps;
  for (const absl::string_view item :
       absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(absl::StripAsciiWhitespace(item),
                       absl::MaxSplits('=', 1));
    if (!IsAppName(parts.first)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "static endpoint ", Quoted(item), ": the app ", kAppNameRule));
    }
    if (!absl::StrContains(item, '=')) {
      return absl::InvalidArgumentError(
          absl::StrCat("static endpoint ", Quoted(item),
                       ": write app=URL, or app= for an app without "
                       "endpoints"));
    }
    AppRoute& app = apps[std::string(parts.first)];
    // `app=` alone: an app that is known and has no endpoint.
    if (parts.second.empty()) continue;
    MYC_ASSIGN_OR_RETURN(Endpoint endpoint, ParseEndpointUrl(parts.second));
    endpoint.instance_id =
        absl::StrCat("static-", parts.first, "-", app.ready.size());
    endpoint.stats = std::make_shared<EndpointStats>(workers);
    endpoint.slots = std::make_shared<SlotCounter>();
    app.ready.push_back(std::make_shared<const Endpoint>(std::move(endpoint)));
  }
  for (const auto& [name, policy] : traffic) {
    if (!apps.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "static traffic names ", Quoted(name), ", which is no app here"));
    }
  }
  RouteSnapshot snapshot;
  for (auto& [name, app] : apps) {
    app.name = name;
    app.traffic.balancing = balancing;
    if (const auto found = traffic.find(name); found != traffic.end())
      app.traffic = found->second;
    app.stats = std::make_shared<AppStats>(workers);
    app.limiter = std::make_shared<AppLimiter>(workers);
    snapshot.apps.emplace(name,
                          std::make_shared<const AppRoute>(std::move(app)));
  }
  return snapshot;
}

}  // namespace mycelium::edge
