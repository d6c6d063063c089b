// Judges the vectors of testdata/vectors, in which every rule of the format has
// a sample, the way a verifier of another make would.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/json.h"
#include "lib/spore/rfc3339.h"
#include "lib/spore/verify.h"

namespace mycelium::spore {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::Eq;

constexpr char kVectors[] = "lib/spore/testdata/vectors";

std::string PathOf(absl::string_view name) { return JoinPath(kVectors, name); }

crypto::TrustStore Trust() {
  absl::StatusOr<crypto::TrustStore> trust =
      crypto::TrustStore::Load(PathOf("trust.json"));
  EXPECT_TRUE(trust.ok()) << trust.status();
  return trust.ok() ? *std::move(trust) : crypto::TrustStore();
}

absl::Time Now() { return *ParseRfc3339("2026-02-01T00:00:00Z"); }

JsonValue::Array Index(absl::string_view name) {
  const auto text = ReadFile(PathOf(name));
  EXPECT_TRUE(text.ok()) << text.status();
  auto index = ParseJson(*text, {.max_bytes = 1 << 20, .max_values = 100'000});
  EXPECT_TRUE(index.ok()) << index.status();
  return index->array();
}

UniqueFd Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(fd.valid()) << path;
  return fd;
}

// The verdict reached while the file is received in chunks of `chunk_bytes`.
Verdict VerifyStreaming(const std::string& path, size_t chunk_bytes,
                        const crypto::TrustStore& trust) {
  const std::string bytes = *ReadFile(path);
  StreamingVerifier verifier{Limits()};
  for (size_t i = 0; i < bytes.size(); i += chunk_bytes) {
    EXPECT_TRUE(
        verifier.Update(absl::string_view(bytes).substr(i, chunk_bytes)).ok());
  }
  const UniqueFd fd = Open(path);
  return verifier.Finish(fd.get(), crypto::Sha256Hex(bytes), &trust, Now());
}

TEST(SporeVectorsTest, AcceptsEveryValidSpore) {
  const crypto::TrustStore trust = Trust();
  const JsonValue::Array index = Index("valid/index.json");
  ASSERT_GE(index.size(), 16u);
  for (const JsonValue& vector : index) {
    const std::string& name = vector.Find("file")->string();
    SCOPED_TRACE(name);
    const UniqueFd fd = Open(PathOf(name));

    const Verdict verdict = VerifySpore(fd.get(), &trust, Now(), Limits());

    EXPECT_TRUE(verdict.accept) << verdict.code << ": " << verdict.message;
    EXPECT_EQ(verdict.code, "OK");
    EXPECT_TRUE(verdict.trust_checked);
    EXPECT_EQ(verdict.policy_version, 1);
    EXPECT_EQ(absl::StrCat("sha256:", verdict.digest),
              vector.Find("spore_digest")->string());
    EXPECT_EQ(verdict.statement_digest,
              vector.Find("statement_sha256")->string());
    EXPECT_EQ(verdict.key_id, vector.Find("keyid")->string());
  }
}

TEST(SporeVectorsTest, SignsTheCanonicalFormOfTheManifest) {
  for (const JsonValue& vector : Index("valid/index.json")) {
    const std::string& name = vector.Find("file")->string();
    SCOPED_TRACE(name);
    const std::string base =
        std::string(absl::StripSuffix(PathOf(name), ".spore"));
    const auto statement = ReadFile(absl::StrCat(base, ".statement.bin"));
    if (!statement.ok()) continue;  // Not every vector comes with one.
    const UniqueFd fd = Open(PathOf(name));

    const Verdict verdict = VerifySpore(fd.get(), nullptr, Now(), Limits());

    EXPECT_EQ(verdict.manifest.signed_json,
              statement->substr(0, statement->size() - 32));
  }
}

TEST(SporeVectorsTest, RefusesEveryHostileSporeForItsReason) {
  const crypto::TrustStore trust = Trust();
  const JsonValue::Array index = Index("attack/index.json");
  ASSERT_GE(index.size(), 100u);
  for (const JsonValue& vector : index) {
    const std::string& name = vector.Find("file")->string();
    SCOPED_TRACE(absl::StrCat(name, ": ", vector.Find("why")->string()));
    std::vector<std::string> expected = {vector.Find("expect")->string()};
    for (const JsonValue& code : vector.Find("also_ok")->array()) {
      expected.push_back(code.string());
    }
    const bool accept = expected[0] == "ACCEPT";
    if (accept) expected = {"OK"};
    const UniqueFd fd = Open(PathOf(name));

    const Verdict verdict = VerifySpore(fd.get(), &trust, Now(), Limits());

    EXPECT_EQ(verdict.accept, accept) << verdict.message;
    EXPECT_THAT(expected, Contains(verdict.code)) << verdict.message;
    EXPECT_EQ(verdict.ToStatus().ok(), accept);
  }
}

TEST(SporeVectorsTest, JudgesTheSameWhileReceiving) {
  const crypto::TrustStore trust = Trust();
  for (const absl::string_view list : {"valid", "attack"}) {
    for (const JsonValue& vector : Index(absl::StrCat(list, "/index.json"))) {
      const std::string& name = vector.Find("file")->string();
      SCOPED_TRACE(name);
      const UniqueFd fd = Open(PathOf(name));

      const Verdict whole = VerifySpore(fd.get(), &trust, Now(), Limits());

      for (const size_t chunk_bytes : {size_t{1} << 20, size_t{977}}) {
        const Verdict streamed =
            VerifyStreaming(PathOf(name), chunk_bytes, trust);
        EXPECT_EQ(streamed.code, whole.code);
        EXPECT_EQ(streamed.message, whole.message);
        EXPECT_EQ(streamed.digest, whole.digest);
      }
    }
  }
}

TEST(SporeVectorsTest, RefusesEveryTruncationOfASpore) {
  const crypto::TrustStore trust = Trust();
  const std::string bytes = *ReadFile(PathOf("valid/02-full.spore"));
  const UniqueFd fd(memfd_create("cut.spore", MFD_CLOEXEC));
  ASSERT_TRUE(WriteFully(fd.get(), bytes).ok());
  for (size_t size = bytes.size(); size-- > 0;) {
    ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);

    const Verdict verdict = VerifySpore(fd.get(), &trust, Now(), Limits());

    EXPECT_FALSE(verdict.accept) << size;
    EXPECT_THAT(verdict.code, AnyOf(Eq("E_ZIP_EOCD"), Eq("E_ZIP_LAYOUT")))
        << size;
  }
}

}  // namespace
}  // namespace mycelium::spore
