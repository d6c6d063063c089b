// The repo as a process: what survives its end, and what it costs.
//
// --size_mb=1024 measures the memory with a spore of 1 GiB.

#include "services/repo/repo_process.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gflags/gflags.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status.h"
#include "mycelium/repo/v1/repo.grpc.pb.h"
#include "services/repo/sample_spore.h"

DEFINE_string(repo, "services/repo/repo", "the binary");
DEFINE_int32(size_mb, 256, "size of the large spore in MiB");

namespace mycelium::repo {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr size_t kMib = size_t{1} << 20;

class RepoProcessTest : public ::testing::Test {
 protected:
  RepoProcessTest() : directory_(*TempDirectory::Create("repo_process.")) {}

  void Start(const std::vector<std::string>& flags = {}) {
    process_.reset();
    absl::StatusOr<std::unique_ptr<RepoProcess>> process =
        RepoProcess::Start(FLAGS_repo, directory_.path(), flags);
    ASSERT_TRUE(process.ok()) << process.status();
    process_ = *std::move(process);
    stub_ = v1::Repo::NewStub(*rpc::Connect(process_->address(), {}));
  }

  absl::Status Put(const SampleSpore& spore) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    v1::PutResponse response;
    const auto writer = stub_->Put(&context, &response);
    v1::PutRequest request;
    request.mutable_header()->set_digest(spore.digest);
    request.mutable_header()->set_size_bytes(spore.size_bytes());
    bool open = writer->Write(request);
    for (size_t at = 0; open && at < spore.bytes.size(); at += kMib) {
      request.set_chunk(spore.bytes.substr(at, kMib));
      open = writer->Write(request);
    }
    writer->WritesDone();
    return rpc::ToAbslStatus(writer->Finish());
  }

  // Returns how many bytes came.
  absl::StatusOr<int64_t> Get(const std::string& digest) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kTimeout);
    v1::GetRequest request;
    request.set_digest(digest);
    const auto reader = stub_->Get(&context, request);
    v1::GetResponse response;
    int64_t received = 0;
    while (reader->Read(&response)) {
      received += static_cast<int64_t>(response.chunk().size());
    }
    const grpc::Status status = reader->Finish();
    if (!status.ok()) return rpc::ToAbslStatus(status);
    return received;
  }

  std::vector<std::string> Files() {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(
             JoinPath(directory_.path(), "data"))) {
      if (entry.is_regular_file() && entry.path().filename() != "lock") {
        files.push_back(entry.path().string());
      }
    }
    return files;
  }

  // The peak of the memory of a new process that has taken and given a spore.
  int64_t PeakKibWith(const SampleSpore& spore) {
    Start();
    EXPECT_EQ(Put(spore), absl::OkStatus());
    const absl::StatusOr<int64_t> got = Get(spore.digest);
    EXPECT_TRUE(got.ok() && *got == spore.size_bytes()) << got.status();
    return process_->PeakResidentKib();
  }

  TempDirectory directory_;
  std::unique_ptr<RepoProcess> process_;
  std::unique_ptr<v1::Repo::Stub> stub_;
};

TEST_F(RepoProcessTest, WhatWasAcknowledgedSurvivesKill9) {
  Start();
  const SampleSpore spore = MakeSpore("billing", 1'000'000);
  ASSERT_EQ(Put(spore), absl::OkStatus());

  process_->Stop(SIGKILL);
  Start();

  const absl::StatusOr<int64_t> got = Get(spore.digest);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(*got, spore.size_bytes());
}

TEST_F(RepoProcessTest, AnUploadThatKill9CutsOffIsGoneAfterTheRestart) {
  Start();
  const SampleSpore spore = MakeSpore("billing", 1'000'000);
  grpc::ClientContext context;
  rpc::SetDeadline(context, kTimeout);
  v1::PutResponse response;
  const auto writer = stub_->Put(&context, &response);
  v1::PutRequest request;
  request.mutable_header()->set_digest(spore.digest);
  request.mutable_header()->set_size_bytes(spore.size_bytes());
  ASSERT_TRUE(writer->Write(request));
  request.set_chunk(spore.bytes.substr(0, 500'000));
  ASSERT_TRUE(writer->Write(request));
  // The first sign of the upload on disk.
  while (Files().empty()) std::this_thread::yield();

  process_->Stop(SIGKILL);
  EXPECT_FALSE(writer->Finish().ok());
  EXPECT_THAT(Files(), SizeIs(1));
  Start();

  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_EQ(Put(spore), absl::OkStatus());
}

TEST_F(RepoProcessTest, EndsCleanlyOnSigterm) {
  Start();

  const int wait_status = process_->Stop(SIGTERM);

  EXPECT_TRUE(WIFEXITED(wait_status));
  EXPECT_EQ(WEXITSTATUS(wait_status), 0);
}

TEST_F(RepoProcessTest, AFileSizeLimitDoesNotEndIt) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 500'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  Start();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);

  const absl::Status status = Put(MakeSpore("billing", 1'000'000));

  EXPECT_EQ(ReasonOf(status), "DISK_FULL") << status;
  EXPECT_THAT(Files(), IsEmpty());
  EXPECT_EQ(Put(MakeSpore("billing", 1'000)), absl::OkStatus());
}

TEST_F(RepoProcessTest, RefusesFlagsThatMakeNoSense) {
  for (const char* flag :
       {"--max_uploads=0", "--trust_store=/nonexistent", "--fabric=nowhere",
        "--listen=0.0.0.0:0", "--max_spore_bytes=0"}) {
    EXPECT_TRUE(absl::IsUnavailable(
        RepoProcess::Start(FLAGS_repo, directory_.path(), {flag}).status()))
        << flag;
  }
}

TEST_F(RepoProcessTest, ALargeSporeCostsNoMoreMemoryThanASmallOne) {
  // What is under way at a time: the upload's queue, what the transport has
  // received ahead, and the chunks of a download. A spore of 1 MiB does not
  // fill all of that.
  constexpr int64_t kUnderWayKib = 32 << 10;
  const int64_t small = PeakKibWith(MakeSpore("small", kMib));

  const int64_t large = PeakKibWith(
      MakeSpore("large", kMib * static_cast<size_t>(FLAGS_size_mb)));

  std::cout << "peak resident memory: " << small << " KiB with 1 MiB, " << large
            << " KiB with " << FLAGS_size_mb << " MiB\n";
  ASSERT_GT(small, 1'000);
  EXPECT_LT(large, small + kUnderWayKib);
}

}  // namespace
}  // namespace mycelium::repo

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  gflags::ParseCommandLineFlags(&argc, &argv, /*remove_flags=*/true);
  return RUN_ALL_TESTS();
}
