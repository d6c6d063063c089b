#include "services/fabric/watch_view.h"

#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "services/fabric/keys.h"
#include "services/fabric/resources.h"

namespace mycelium::fabric {
namespace {

using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;

// Field numbers of WatchXResponse and XChange.
constexpr uint32_t kEpochField = 1;
constexpr uint32_t kRevisionField = 2;
constexpr uint32_t kKindField = 3;
constexpr uint32_t kChangesField = 4;
constexpr uint32_t kPutField = 1;
constexpr uint32_t kDeleteField = 2;

constexpr uint32_t VarintTag(uint32_t field) { return field << 3; }
constexpr uint32_t BytesTag(uint32_t field) { return (field << 3) | 2; }

// Tags of these fields take one byte.
size_t BytesFieldSize(size_t length) {
  return 1 + CodedOutputStream::VarintSize32(static_cast<uint32_t>(length)) +
         length;
}

Record EncodeChange(uint32_t field, absl::string_view message) {
  const size_t change_size = BytesFieldSize(message.size());
  auto record = std::make_shared<std::string>();
  record->reserve(BytesFieldSize(change_size));
  {
    StringOutputStream stream(record.get());
    CodedOutputStream out(&stream);
    out.WriteTag(BytesTag(kChangesField));
    out.WriteVarint32(static_cast<uint32_t>(change_size));
    out.WriteTag(BytesTag(field));
    out.WriteVarint32(static_cast<uint32_t>(message.size()));
    out.WriteRaw(message.data(), static_cast<int>(message.size()));
  }
  return record;
}

// A stored message, which never has its revision in it, with that field added:
// fields may come in any order, so nothing needs to be parsed.
std::string WithRevision(const Entry& entry, int field) {
  std::string bytes = entry.value;
  uint8_t tail[16];
  uint8_t* end = CodedOutputStream::WriteTagToArray(
      VarintTag(static_cast<uint32_t>(field)), tail);
  end = CodedOutputStream::WriteVarint64ToArray(
      static_cast<uint64_t>(entry.mod_revision), end);
  bytes.append(reinterpret_cast<const char*>(tail),
               static_cast<size_t>(end - tail));
  return bytes;
}

std::string SameName(absl::string_view name) { return std::string(name); }

std::string FirstPart(absl::string_view name, const Entry& /*base*/) {
  return std::string(AppOf(name));
}

}  // namespace

Record EncodePut(absl::string_view resource) {
  return EncodeChange(kPutField, resource);
}

Record EncodeDelete(absl::string_view public_key, int64_t revision) {
  v1::Deletion deletion;
  deletion.set_key(std::string(public_key));
  deletion.set_revision(revision);
  return EncodeChange(kDeleteField, deletion.SerializeAsString());
}

std::string EncodeHead(absl::string_view epoch, int64_t revision,
                       v1::WatchKind kind) {
  std::string head;
  {
    StringOutputStream stream(&head);
    CodedOutputStream out(&stream);
    out.WriteTag(BytesTag(kEpochField));
    out.WriteVarint32(static_cast<uint32_t>(epoch.size()));
    out.WriteRaw(epoch.data(), static_cast<int>(epoch.size()));
    if (revision != 0) {
      out.WriteTag(VarintTag(kRevisionField));
      out.WriteVarint64(static_cast<uint64_t>(revision));
    }
    out.WriteTag(VarintTag(kKindField));
    out.WriteVarint32(static_cast<uint32_t>(kind));
  }
  return head;
}

WatchSchema PlanSchema() {
  WatchSchema schema;
  schema.name = "plans";
  schema.base_prefix = std::string(kPlans);
  schema.side_prefix = std::string(kCounts);
  schema.encode = [](const Entry& base, const Entry* side) {
    return PlanOf(base, side).SerializeAsString();
  };
  schema.public_key = SameName;
  schema.app_of = FirstPart;
  return schema;
}

WatchSchema EndpointSchema() {
  WatchSchema schema;
  schema.name = "endpoints";
  schema.base_prefix = std::string(kEndpoints);
  schema.encode = [](const Entry& base, const Entry* /*side*/) {
    return WithRevision(base, v1::Endpoint::kRevisionFieldNumber);
  };
  schema.public_key = SameName;
  schema.app_of = FirstPart;
  return schema;
}

WatchSchema NodeSchema() {
  WatchSchema schema;
  schema.name = "nodes";
  schema.base_prefix = std::string(kNodes);
  schema.side_prefix = std::string(kAlive);
  schema.encode = [](const Entry& base, const Entry* side) {
    return NodeOf(base, side).SerializeAsString();
  };
  schema.public_key = SameName;
  schema.app_of = [](absl::string_view, const Entry&) { return std::string(); };
  return schema;
}

WatchSchema SlotSchema() {
  WatchSchema schema;
  schema.name = "slots";
  schema.base_prefix = std::string(kSlots);
  schema.side_prefix = std::string(kClaims);
  schema.encode = [](const Entry& base, const Entry* side) {
    return SlotOf(base, side).SerializeAsString();
  };
  schema.public_key = [](absl::string_view name) {
    const std::optional<SlotId> id = ParseSlotName(name);
    return id.has_value() ? id->ToString() : std::string(name);
  };
  schema.app_of = FirstPart;
  return schema;
}

WatchSchema EventSchema() {
  WatchSchema schema;
  schema.name = "events";
  schema.base_prefix = std::string(kEvents);
  schema.encode = [](const Entry& base, const Entry* /*side*/) {
    return WithRevision(base, v1::Event::kRevisionFieldNumber);
  };
  schema.public_key = SameName;
  schema.app_of = [](absl::string_view name, const Entry& /*base*/) {
    return std::string(EventAppOf(name));
  };
  schema.tells_deletions = false;
  schema.snapshot_limit = 100;
  return schema;
}

}  // namespace mycelium::fabric
