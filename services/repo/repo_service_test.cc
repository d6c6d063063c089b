#include "services/repo/repo_service.h"

#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/fake_clock.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/server.h"
#include "lib/rpc/status.h"
#include "lib/spore/json.h"
#include "services/repo/fabric_plan_source.h"
#include "services/repo/sample_spore.h"
#include "services/repo/trust_store_file.h"

namespace mycelium::repo {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kTimeout = absl::Seconds(30);

// A fabric that knows plans and nothing else.
class FakeFabric final : public fabric::v1::Fabric::Service {
 public:
  grpc::Status ListPlans(grpc::ServerContext* /*context*/,
                         const fabric::v1::ListPlansRequest* request,
                         fabric::v1::ListPlansResponse* response) override {
    // One plan a page.
    size_t page = 0;
    if (!request->page_token().empty()) {
      page = std::stoul(request->page_token());
    }
    if (page < plans.size()) *response->add_plans() = plans[page];
    if (page + 1 < plans.size()) {
      response->set_next_page_token(absl::StrCat(page + 1));
    }
    return grpc::Status::OK;
  }

  std::vector<fabric::v1::Plan> plans;
};

fabric::v1::Plan PlanFor(const std::string& app, const std::string& digest) {
  fabric::v1::Plan plan;
  plan.set_app_name(app);
  plan.set_digest(digest);
  return plan;
}

class RepoServiceTest : public ::testing::Test {
 protected:
  RepoServiceTest() : directory_(*TempDirectory::Create("repo_service.")) {
    options_.data_dir = directory_.path();
    options_.clock = &clock_;
  }

  ~RepoServiceTest() override {
    if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  }

  void Start() {
    store_ = *SporeStore::Open(options_);
    collector_ =
        std::make_unique<Collector>(store_.get(), plans_.get(), &clock_);
    service_ = std::make_unique<RepoService>(store_.get(), collector_.get(),
                                             service_options_);
    absl::StatusOr<std::unique_ptr<rpc::Server>> server = rpc::Server::Start(
        {.listen = "127.0.0.1:0",
         .services = {{service_.get(), v1::Repo::service_full_name()}}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::Repo::NewStub(*rpc::Connect(server_->address(), {}));
  }

  // Serves `fabric_` and makes the repo ask it.
  void StartFabric() {
    absl::StatusOr<std::unique_ptr<rpc::Server>> server = rpc::Server::Start(
        {.listen = "127.0.0.1:0",
         .services = {{&fabric_, fabric::v1::Fabric::service_full_name()}}});
    ASSERT_TRUE(server.ok()) << server.status();
    fabric_server_ = *std::move(server);
    plans_ = std::make_unique<FabricPlanSource>(
        fabric::v1::Fabric::NewStub(
            *rpc::Connect(fabric_server_->address(), {})),
        absl::Seconds(5));
  }

  static v1::PutRequest Header(const std::string& digest, int64_t size_bytes) {
    v1::PutRequest request;
    request.mutable_header()->set_digest(digest);
    request.mutable_header()->set_size_bytes(size_bytes);
    return request;
  }

  static v1::PutRequest ChunkOf(absl::string_view bytes) {
    v1::PutRequest request;
    request.set_chunk(std::string(bytes));
    return request;
  }

  static std::vector<v1::PutRequest> Requests(const SampleSpore& spore,
                                              size_t chunk_bytes) {
    std::vector<v1::PutRequest> requests = {
        Header(spore.digest, spore.size_bytes())};
    for (size_t at = 0; at < spore.bytes.size(); at += chunk_bytes) {
      requests.push_back(
          ChunkOf(absl::string_view(spore.bytes).substr(at, chunk_bytes)));
    }
    return requests;
  }

  absl::StatusOr<v1::PutResponse> Send(
      const std::vector<v1::PutRequest>& requests) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    v1::PutResponse response;
    const auto writer = stub_->Put(&context, &response);
    for (const v1::PutRequest& request : requests) {
      if (!writer->Write(request)) break;
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    if (!status.ok()) return rpc::ToAbslStatus(status);
    return response;
  }

  absl::StatusOr<v1::PutResponse> Put(const SampleSpore& spore,
                                      size_t chunk_bytes = 64'000) {
    return Send(Requests(spore, chunk_bytes));
  }

  // All messages of a Get.
  absl::StatusOr<std::vector<v1::GetResponse>> Get(const std::string& digest,
                                                   int64_t offset = 0,
                                                   int64_t limit_bytes = 0) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    v1::GetRequest request;
    request.set_digest(digest);
    request.set_offset(offset);
    request.set_limit_bytes(limit_bytes);
    const auto reader = stub_->Get(&context, request);
    std::vector<v1::GetResponse> responses(1);
    while (reader->Read(&responses.back())) responses.emplace_back();
    responses.pop_back();
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return rpc::ToAbslStatus(status);
    return responses;
  }

  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response& response) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    return rpc::ToAbslStatus((*stub_.*method)(&context, request, &response));
  }

  absl::Status Delete(const std::string& digest, bool force) {
    v1::DeleteRequest request;
    request.set_digest(digest);
    request.set_force(force);
    v1::DeleteResponse response;
    return Call(&v1::Repo::Stub::Delete, request, response);
  }

  // Every file of the store but its lock.
  std::vector<std::string> Files() {
    std::vector<std::string> files;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(directory_.path())) {
      if (entry.is_regular_file() && entry.path().filename() != "lock") {
        files.push_back(entry.path().string());
      }
    }
    return files;
  }

  FakeClock clock_{absl::FromUnixSeconds(1'769'904'000)};
  TempDirectory directory_;
  FakeFabric fabric_;
  std::unique_ptr<rpc::Server> fabric_server_;
  std::unique_ptr<PlanSource> plans_;
  SporeStore::Options options_;
  RepoService::Options service_options_;
  std::unique_ptr<SporeStore> store_;
  std::unique_ptr<Collector> collector_;
  std::unique_ptr<RepoService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::Repo::Stub> stub_;
};

TEST_F(RepoServiceTest, GivesBackWhatWasPut) {
  Start();
  const SampleSpore spore = MakeSpore("billing", 3'000'000);

  const absl::StatusOr<v1::PutResponse> put = Put(spore);

  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(put->spore().digest(), spore.digest);
  EXPECT_EQ(put->spore().name(), "billing");
  EXPECT_FALSE(put->existed());
  const auto messages = Get(spore.digest);
  ASSERT_TRUE(messages.ok()) << messages.status();
  std::string bytes;
  for (size_t i = 0; i < messages->size(); ++i) {
    const v1::GetResponse& message = (*messages)[i];
    EXPECT_EQ(message.offset(), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(message.size_bytes(), i == 0 ? spore.size_bytes() : 0);
    EXPECT_LE(message.chunk().size(), size_t{1} << 20);
    bytes += message.chunk();
  }
  EXPECT_EQ(crypto::Sha256Hex(bytes), spore.digest);
}

TEST_F(RepoServiceTest, TakesChunksOfEverySizeUpToTheLimit) {
  Start();
  for (const size_t chunk_bytes :
       {size_t{7}, size_t{16'384}, size_t{1} << 20}) {
    const SampleSpore spore =
        MakeSpore(absl::StrCat("app-", chunk_bytes), chunk_bytes * 3 + 1);

    const absl::StatusOr<v1::PutResponse> put = Put(spore, chunk_bytes);

    ASSERT_TRUE(put.ok()) << put.status() << " with " << chunk_bytes;
  }
}

TEST_F(RepoServiceTest, PuttingAgainSucceedsBeforeTheBytesAreSent) {
  Start();
  const SampleSpore spore = MakeSpore("billing", 100'000);
  ASSERT_TRUE(Put(spore).ok());

  const absl::StatusOr<v1::PutResponse> again =
      Send({Header(spore.digest, spore.size_bytes())});

  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->existed());
  EXPECT_EQ(again->spore().name(), "billing");
}

TEST_F(RepoServiceTest, RefusesPutsThatDoNotBeginWithAHeader) {
  Start();
  const SampleSpore spore = MakeSpore("billing");
  const v1::PutRequest header = Header(spore.digest, spore.size_bytes());
  const v1::PutRequest empty;
  const std::vector<v1::PutRequest> cases[] = {
      {},
      {empty},
      {ChunkOf(spore.bytes)},
      {header, header},
      {header, empty},
      {Header("abc", 10)},
      {Header(spore.digest, 0)},
      {Header(spore.digest, 3 << 20), ChunkOf(std::string((1 << 20) + 1, 'x'))},
  };
  for (const std::vector<v1::PutRequest>& requests : cases) {
    const absl::Status status = Send(requests).status();

    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(ReasonOf(status), "HEADER_INVALID") << status;
    EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.BadRequest"))
        << status;
  }
  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_TRUE(Put(spore).ok());
}

TEST_F(RepoServiceTest, ReportsTamperedTruncatedAndForeignBytes) {
  Start();
  SampleSpore spore = MakeSpore("billing", 10'000);
  SampleSpore tampered = spore;
  tampered.bytes[5'000] ^= 1;

  const absl::Status loss = Put(tampered).status();
  tampered.digest = crypto::Sha256Hex(tampered.bytes);
  const absl::Status refused = Put(tampered).status();
  std::vector<v1::PutRequest> requests = Requests(spore, 1'000);
  requests.pop_back();
  const absl::Status too_short = Send(requests).status();
  requests = Requests(spore, 1'000);
  requests.push_back(ChunkOf("x"));
  const absl::Status too_long = Send(requests).status();

  EXPECT_EQ(loss.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(loss), "DIGEST_MISMATCH");
  EXPECT_EQ(MetadataOf(loss, "want"), spore.digest);
  EXPECT_EQ(MetadataOf(loss, "got"), tampered.digest);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(refused), "SPORE_REFUSED");
  EXPECT_NE(MetadataOf(refused, "code"), "");
  EXPECT_NE(MetadataOf(refused, "detail"), "");
  EXPECT_EQ(too_short.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(too_short), "SIZE_MISMATCH");
  EXPECT_EQ(too_long.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReasonOf(too_long), "SIZE_MISMATCH");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(RepoServiceTest, RefusesWhatIsTooLarge) {
  options_.max_spore_bytes = 1'000;
  Start();

  const absl::Status status = Put(MakeSpore("billing", 1'000)).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "SPORE_TOO_LARGE");
  EXPECT_EQ(MetadataOf(status, "max_bytes"), "1000");
}

TEST_F(RepoServiceTest, AsksTheSurplusOfUploadsToComeBack) {
  options_.max_uploads = 1;
  Start();
  const SampleSpore spore = MakeSpore("billing");
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::PutResponse response;
  const auto writer = stub_->Put(&context, &response);
  ASSERT_TRUE(writer->Write(Header(std::string(64, 'a'), 1'000)));
  // The first upload is under way once its file is there.
  while (Files().empty()) std::this_thread::yield();

  const absl::Status status = Put(spore).status();

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), "TOO_MANY_UPLOADS");
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo"));
  context.TryCancel();
  EXPECT_FALSE(writer->Finish().ok());
  // What was cancelled leaves nothing and makes room.
  while (!Files().empty()) std::this_thread::yield();
  EXPECT_TRUE(Put(spore).ok());
}

TEST_F(RepoServiceTest, GivesUpOnUploadsThatBringNothing) {
  options_.upload_idle_timeout = absl::Milliseconds(50);
  Start();
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::PutResponse response;
  const auto writer = stub_->Put(&context, &response);
  ASSERT_TRUE(writer->Write(Header(std::string(64, 'a'), 1'000)));

  const absl::Status status = rpc::ToAbslStatus(writer->Finish());

  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(status), "UPLOAD_IDLE");
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(RepoServiceTest, EndsPutsWhoseHeaderDoesNotCome) {
  service_options_.stall_timeout = absl::Milliseconds(50);
  Start();
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::PutResponse response;
  const auto writer = stub_->Put(&context, &response);

  EXPECT_FALSE(writer->Finish().ok());
}

TEST_F(RepoServiceTest, ADownloadThatNobodyReadsIsEnded) {
  service_options_.stall_timeout = absl::Milliseconds(50);
  service_options_.max_downloads = 1;
  Start();
  // More than fits into what lies between the two sides.
  const SampleSpore spore = MakeSpore("billing", size_t{64} << 20);
  ASSERT_TRUE(Put(spore, 1 << 20).ok());
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::GetRequest request;
  request.set_digest(spore.digest);
  const auto stalled = stub_->Get(&context, request);

  // Its place is free again as soon as it has been ended.
  absl::StatusOr<std::vector<v1::GetResponse>> other;
  do {
    other = Get(spore.digest, spore.size_bytes());
  } while (ReasonOf(other.status()) == "TOO_MANY_DOWNLOADS");

  EXPECT_TRUE(other.ok()) << other.status();
  v1::GetResponse response;
  while (stalled->Read(&response)) {
  }
  EXPECT_FALSE(stalled->Finish().ok());
}

TEST_F(RepoServiceTest, GetsFromAnOffsetAndToALimit) {
  Start();
  const SampleSpore spore = MakeSpore("billing", 1'500'000);
  ASSERT_TRUE(Put(spore).ok());
  const struct {
    int64_t offset;
    int64_t limit_bytes;
    size_t want;
  } cases[] = {
      {0, 0, spore.bytes.size()},
      {1'000'000, 0, spore.bytes.size() - 1'000'000},
      {10, 5, 5},
      {10, INT64_MAX, spore.bytes.size() - 10},
      {spore.size_bytes() - 1, 100, 1},
      {spore.size_bytes(), 0, 0},
  };
  for (const auto& c : cases) {
    const auto messages = Get(spore.digest, c.offset, c.limit_bytes);

    ASSERT_TRUE(messages.ok()) << messages.status();
    ASSERT_THAT(*messages, testing::Not(IsEmpty()));
    EXPECT_EQ(messages->front().size_bytes(), spore.size_bytes());
    EXPECT_EQ(messages->front().offset(), c.offset);
    std::string bytes;
    for (const v1::GetResponse& message : *messages) bytes += message.chunk();
    EXPECT_TRUE(bytes ==
                spore.bytes.substr(static_cast<size_t>(c.offset), c.want))
        << "from " << c.offset << ", at most " << c.limit_bytes;
  }
}

TEST_F(RepoServiceTest, ChecksGetRequests) {
  Start();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(spore).ok());
  const struct {
    std::string digest;
    int64_t offset;
    int64_t limit_bytes;
    absl::StatusCode code;
    std::string reason;
  } cases[] = {
      {"abc", 0, 0, absl::StatusCode::kInvalidArgument, "DIGEST_INVALID"},
      {std::string(64, 'a'), 0, 0, absl::StatusCode::kNotFound,
       "SPORE_NOT_FOUND"},
      {spore.digest, -1, 0, absl::StatusCode::kOutOfRange, "OFFSET_INVALID"},
      {spore.digest, spore.size_bytes() + 1, 0, absl::StatusCode::kOutOfRange,
       "OFFSET_INVALID"},
      {spore.digest, INT64_MAX, 0, absl::StatusCode::kOutOfRange,
       "OFFSET_INVALID"},
      {spore.digest, 0, -1, absl::StatusCode::kInvalidArgument,
       "REQUEST_INVALID"},
  };
  for (const auto& c : cases) {
    const absl::Status status = Get(c.digest, c.offset, c.limit_bytes).status();

    EXPECT_EQ(status.code(), c.code) << status;
    EXPECT_EQ(ReasonOf(status), c.reason) << status;
  }
}

TEST_F(RepoServiceTest, ADownloadOutlivesTheSpore) {
  Start();
  const SampleSpore spore = MakeSpore("billing", size_t{32} << 20);
  ASSERT_TRUE(Put(spore, 1 << 20).ok());
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::GetRequest request;
  request.set_digest(spore.digest);
  const auto reader = stub_->Get(&context, request);
  v1::GetResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::string bytes = response.chunk();

  ASSERT_EQ(Delete(spore.digest, false), absl::OkStatus());
  while (reader->Read(&response)) bytes += response.chunk();

  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(crypto::Sha256Hex(bytes), spore.digest);
  EXPECT_EQ(ReasonOf(Get(spore.digest).status()), "SPORE_NOT_FOUND");
}

TEST_F(RepoServiceTest, StatsAndLists) {
  Start();
  const SampleSpore spore = MakeSpore("payments/billing");
  ASSERT_TRUE(Put(spore).ok());
  ASSERT_TRUE(Put(MakeSpore("frontend")).ok());
  v1::StatRequest stat;
  stat.set_digest(spore.digest);
  v1::StatResponse info;
  v1::ListRequest list;
  list.set_page_size(1);
  v1::ListResponse first;
  v1::ListResponse second;

  EXPECT_EQ(Call(&v1::Repo::Stub::Stat, stat, info), absl::OkStatus());
  EXPECT_EQ(Call(&v1::Repo::Stub::List, list, first), absl::OkStatus());
  list.set_page_token(first.next_page_token());
  EXPECT_EQ(Call(&v1::Repo::Stub::List, list, second), absl::OkStatus());

  EXPECT_EQ(info.spore().name(), "payments/billing");
  EXPECT_NE(info.spore().manifest_json(), "");
  ASSERT_THAT(first.spores(), SizeIs(1));
  ASSERT_THAT(second.spores(), SizeIs(1));
  EXPECT_LT(first.spores(0).digest(), second.spores(0).digest());
  EXPECT_EQ(second.next_page_token(), "");
}

TEST_F(RepoServiceTest, ChecksStatAndListRequests) {
  Start();
  v1::StatRequest stat;
  v1::StatResponse info;
  v1::ListRequest list;
  v1::ListResponse page;

  EXPECT_EQ(ReasonOf(Call(&v1::Repo::Stub::Stat, stat, info)),
            "DIGEST_INVALID");
  stat.set_digest(std::string(64, '0'));
  const absl::Status missing = Call(&v1::Repo::Stub::Stat, stat, info);
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(missing), "SPORE_NOT_FOUND");
  list.set_page_token("nonsense");
  EXPECT_EQ(ReasonOf(Call(&v1::Repo::Stub::List, list, page)),
            "PAGE_TOKEN_INVALID");
  list.clear_page_token();
  list.set_page_size(-1);
  EXPECT_EQ(ReasonOf(Call(&v1::Repo::Stub::List, list, page)),
            "REQUEST_INVALID");
}

TEST_F(RepoServiceTest, SparesWhatAFabricPlans) {
  StartFabric();
  Start();
  const SampleSpore first = MakeSpore("billing");
  const SampleSpore second = MakeSpore("frontend");
  const SampleSpore garbage = MakeSpore("garbage");
  for (const SampleSpore& spore : {first, second, garbage}) {
    ASSERT_TRUE(Put(spore).ok());
  }
  fabric_.plans = {PlanFor("billing", first.digest),
                   PlanFor("frontend", second.digest)};
  clock_.Advance(absl::Hours(2));
  v1::GcRequest gc;
  v1::GcResponse result;

  const absl::Status in_use = Delete(second.digest, false);
  ASSERT_EQ(Call(&v1::Repo::Stub::Gc, gc, result), absl::OkStatus());

  EXPECT_EQ(in_use.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(in_use), "SPORE_IN_USE");
  EXPECT_EQ(MetadataOf(in_use, "app_name"), "frontend");
  EXPECT_THAT(result.deleted_digests(), ElementsAre(garbage.digest));
  EXPECT_EQ(result.freed_bytes(), garbage.size_bytes());
  EXPECT_EQ(result.kept_count(), 2);
  EXPECT_EQ(Delete(second.digest, true), absl::OkStatus());
}

TEST_F(RepoServiceTest, DeletesNothingWhileTheFabricIsAway) {
  StartFabric();
  Start();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(spore).ok());
  clock_.Advance(absl::Hours(2));
  fabric_server_->Shutdown(absl::ZeroDuration());
  v1::GcRequest gc;
  v1::GcResponse result;

  const absl::Status status = Call(&v1::Repo::Stub::Gc, gc, result);

  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "FABRIC_UNAVAILABLE");
  EXPECT_EQ(ReasonOf(Delete(spore.digest, false)), "FABRIC_UNAVAILABLE");
  EXPECT_TRUE(Get(spore.digest).ok());
}

TEST_F(RepoServiceTest, GcWithoutAFabricNeedsDigestsToKeep) {
  Start();
  v1::GcRequest gc;
  v1::GcResponse result;

  const absl::Status status = Call(&v1::Repo::Stub::Gc, gc, result);

  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReasonOf(status), "NO_REFERENCES");
}

TEST_F(RepoServiceTest, GcTakesItsAgeFromTheRequest) {
  Start();
  const SampleSpore spore = MakeSpore("billing");
  ASSERT_TRUE(Put(spore).ok());
  v1::GcRequest gc;
  gc.add_keep_digests(std::string(64, 'a'));
  v1::GcResponse young;
  v1::GcResponse dry;
  v1::GcResponse real;

  EXPECT_EQ(Call(&v1::Repo::Stub::Gc, gc, young), absl::OkStatus());
  gc.mutable_min_age();  // Zero.
  gc.set_dry_run(true);
  EXPECT_EQ(Call(&v1::Repo::Stub::Gc, gc, dry), absl::OkStatus());
  gc.set_dry_run(false);
  EXPECT_EQ(Call(&v1::Repo::Stub::Gc, gc, real), absl::OkStatus());

  EXPECT_THAT(young.deleted_digests(), IsEmpty());
  EXPECT_THAT(dry.deleted_digests(), ElementsAre(spore.digest));
  EXPECT_THAT(real.deleted_digests(), ElementsAre(spore.digest));
  gc.mutable_min_age()->set_seconds(-1);
  EXPECT_EQ(ReasonOf(Call(&v1::Repo::Stub::Gc, gc, real)), "REQUEST_INVALID");
}

TEST_F(RepoServiceTest, AnUploadThatIsCutOffByShutdownLeavesNothing) {
  Start();
  const SampleSpore spore = MakeSpore("billing", 100'000);
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::PutResponse response;
  const auto writer = stub_->Put(&context, &response);
  const std::vector<v1::PutRequest> requests = Requests(spore, 50'000);
  ASSERT_TRUE(writer->Write(requests[0]));
  ASSERT_TRUE(writer->Write(requests[1]));

  server_->Shutdown(absl::ZeroDuration());

  EXPECT_FALSE(writer->Finish().ok());
  EXPECT_THAT(Files(), IsEmpty());
}

// The spores of the format's own test suite, under its trust store.
class VectorTest : public RepoServiceTest {
 protected:
  static constexpr char kVectors[] = "lib/spore/testdata/vectors/";

  void StartTrusting() {
    absl::StatusOr<std::unique_ptr<TrustStoreFile>> trust =
        TrustStoreFile::Open(absl::StrCat(kVectors, "trust.json"));
    ASSERT_TRUE(trust.ok()) << trust.status();
    trust_ = *std::move(trust);
    options_.trust = trust_.get();
    Start();
  }

  static SampleSpore Read(const std::string& path) {
    const absl::StatusOr<std::string> bytes =
        ReadFile(absl::StrCat(kVectors, path));
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return {.bytes = *bytes, .digest = crypto::Sha256Hex(*bytes)};
  }

  std::unique_ptr<TrustStoreFile> trust_;
};

TEST_F(VectorTest, ValidSporesAreTaken) {
  StartTrusting();
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat(kVectors, "valid"))) {
    if (entry.path().extension() != ".spore") continue;
    ++count;
    const SampleSpore spore =
        Read(absl::StrCat("valid/", entry.path().filename().string()));

    const absl::StatusOr<v1::PutResponse> put = Put(spore, 100);

    ASSERT_TRUE(put.ok()) << entry.path() << ": " << put.status();
    EXPECT_TRUE(put->spore().trusted()) << entry.path();
  }
  EXPECT_GE(count, 13);
  EXPECT_THAT(Files(), SizeIs(2 * count));
}

TEST_F(VectorTest, AttacksAreRefusedByTheirCodeAndLeaveNothing) {
  StartTrusting();
  const absl::StatusOr<std::string> text =
      ReadFile(absl::StrCat(kVectors, "attack/index.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const absl::StatusOr<spore::JsonValue> index = spore::ParseJson(*text);
  ASSERT_TRUE(index.ok()) << index.status();
  int refused = 0;
  for (const spore::JsonValue& attack : index->array()) {
    const std::string& file = attack.Find("file")->string();
    std::vector<std::string> codes = {attack.Find("expect")->string()};
    for (const spore::JsonValue& code : attack.Find("also_ok")->array()) {
      codes.push_back(code.string());
    }
    if (codes[0] == "ACCEPT") continue;
    ++refused;

    const absl::Status status = Put(Read(file), 100).status();

    EXPECT_THAT(codes, testing::Contains(MetadataOf(status, "code")))
        << file << ": " << status;
    EXPECT_THAT(Files(), IsEmpty()) << file;
    if (ReasonOf(status) == "SPORE_UNTRUSTED") {
      EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << file;
    } else {
      EXPECT_EQ(ReasonOf(status), "SPORE_REFUSED") << file << ": " << status;
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << file;
    }
  }
  EXPECT_GE(refused, 100);
}

}  // namespace
}  // namespace mycelium::repo
