#include "lib/spore/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/sha256.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/archive.h"
#include "lib/spore/rfc3339.h"
#include "lib/spore/test_spore.h"
#include "lib/spore/verify.h"

namespace mycelium::spore {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr char kVectors[] = "lib/spore/testdata/vectors";

class PackTest : public ::testing::Test {
 protected:
  PackTest() : directory_(*TempDirectory::Create("pack")) {}

  // Writes a file to pack and returns its path.
  std::string Source(const std::string& name, absl::string_view data) {
    std::string path = JoinPath(directory_.path(), name);
    EXPECT_TRUE(WriteFileAtomically(path, data).ok());
    return path;
  }

  PackOptions Options() {
    PackOptions options;
    options.manifest = JsonValue::MakeObject();
    options.manifest.Set("name", "demo/hello");
    options.manifest.Set("version", "1.0.0");
    options.manifest.Set("command", "hello");
    options.created_at = absl::FromUnixSeconds(1767323045);
    options.binary_path = Source("hello-binary", kTestBinary);
    return options;
  }

  std::string Target() { return JoinPath(directory_.path(), "out.spore"); }

  // The code (or the status code) with which packing fails.
  std::string Refused(const PackOptions& options) {
    const auto result = PackToPath(options, TestKey(), Target());
    EXPECT_FALSE(result.ok());
    EXPECT_FALSE(ReadFile(Target()).ok()) << "a failure leaves nothing";
    const auto names = ListDirectory(directory_.path());
    for (const std::string& name : names.value()) {
      EXPECT_FALSE(absl::StrContains(name, ".partial")) << name;
    }
    return ReasonOf(result.status());
  }

  const TempDirectory directory_;
};

Verdict Verify(const std::string& path, const crypto::TrustStore* trust) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  return VerifySpore(fd.get(), trust, *ParseRfc3339("2026-02-01T00:00:00Z"),
                     Limits());
}

TEST_F(PackTest, MakesASporeThatVerifies) {
  const crypto::TrustStore trust = TestTrust();

  const auto result = PackToPath(Options(), TestKey(), Target());

  ASSERT_TRUE(result.ok()) << result.status();
  const std::string bytes = *ReadFile(Target());
  EXPECT_EQ(result->digest, crypto::Sha256Hex(bytes));
  EXPECT_EQ(result->size_bytes, static_cast<int64_t>(bytes.size()));
  const Verdict verdict = Verify(Target(), &trust);
  EXPECT_TRUE(verdict.accept) << verdict.message;
  EXPECT_EQ(verdict.digest, result->digest);
  EXPECT_EQ(verdict.statement_digest, result->statement_digest);
  EXPECT_EQ(verdict.manifest.created_at, absl::FromUnixSeconds(1767323045));
}

TEST_F(PackTest, MakesTheSameBytesOfTheSameInput) {
  PackOptions options = Options();
  options.files = {{.path = "z", .source = Source("z", "zz")},
                   {.path = "a", .source = Source("a", "aa")}};
  const auto first = PackToPath(options, TestKey(), Target());
  ASSERT_TRUE(first.ok()) << first.status();

  // Another order, another place, other modes and times.
  options.files = {{.path = "a", .source = Source("copy-a", "aa")},
                   {.path = "z", .source = Source("copy-z", "zz")}};
  ASSERT_EQ(chmod(options.binary_path.c_str(), 0700), 0);
  const auto second =
      PackToPath(options, TestKey(), JoinPath(directory_.path(), "other"));

  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->digest, second->digest);
  EXPECT_EQ(*ReadFile(Target()),
            *ReadFile(JoinPath(directory_.path(), "other")));
}

TEST_F(PackTest, ListsFilesBesideTheBinary) {
  PackOptions options = Options();
  options.manifest.Set("command", "./run.sh");
  options.manifest.Set("binary", "lib/hello");
  options.files = {
      {.path = "run.sh", .source = Source("run", "#!/bin/sh\n")},
      {.path = "bin/tool", .source = Source("tool", "tool"), .exec = true},
      {.path = "data", .source = Source("data", "data")}};

  const auto result = PackToPath(options, TestKey(), Target());

  ASSERT_TRUE(result.ok()) << result.status();
  const auto& files = *result->manifest.files;
  EXPECT_EQ(files.size(), 4u);
  EXPECT_TRUE(files.at("run.sh").exec);
  EXPECT_TRUE(files.at("lib/hello").exec);
  EXPECT_TRUE(files.at("bin/tool").exec);
  EXPECT_FALSE(files.at("data").exec);
  EXPECT_EQ(files.at("data").sha256, crypto::Sha256Hex("data"));
  const crypto::TrustStore trust = TestTrust();
  EXPECT_TRUE(Verify(Target(), &trust).accept);
}

TEST_F(PackTest, CanBeReadByLibarchive) {
  PackOptions options = Options();
  options.files = {{.path = "assets/a.txt", .source = Source("a", "asset")}};
  ASSERT_TRUE(PackToPath(options, TestKey(), Target()).ok());

  archive* reader = archive_read_new();
  archive_read_support_format_zip_seekable(reader);
  ASSERT_EQ(archive_read_open_filename(reader, Target().c_str(), 10240),
            ARCHIVE_OK);
  std::vector<std::pair<std::string, mode_t>> entries;
  archive_entry* entry = nullptr;
  while (archive_read_next_header(reader, &entry) == ARCHIVE_OK) {
    entries.emplace_back(archive_entry_pathname(entry),
                         archive_entry_mode(entry));
    EXPECT_EQ(archive_read_data_skip(reader), ARCHIVE_OK);
  }
  archive_read_free(reader);

  EXPECT_THAT(entries, ElementsAre(Pair("manifest.json", 0100644),
                                   Pair("assets/a.txt", 0100644),
                                   Pair("hello", 0100755)));
}

TEST_F(PackTest, ReplacesAnOldSporeOnlyWhenItIsWhole) {
  ASSERT_TRUE(WriteFileAtomically(Target(), "old").ok());
  PackOptions options = Options();
  options.manifest.Set("name", "NOT A NAME");
  EXPECT_FALSE(PackToPath(options, TestKey(), Target()).ok());
  EXPECT_EQ(*ReadFile(Target()), "old");

  ASSERT_TRUE(PackToPath(Options(), TestKey(), Target()).ok());

  EXPECT_NE(*ReadFile(Target()), "old");
}

TEST_F(PackTest, RefusesWhatAVerifierWouldRefuse) {
  PackOptions options = Options();
  options.manifest.Set("name", "NOT A NAME");
  EXPECT_EQ(Refused(options), "E_MANIFEST");
  options = Options();
  options.manifest.Remove("command");
  EXPECT_EQ(Refused(options), "E_MANIFEST");
  options = Options();
  options.manifest.Set("command", "/bin/hello");
  EXPECT_EQ(Refused(options), "E_PATH");
  options = Options();
  options.manifest.Set("env", *ParseJson(R"({"LD_PRELOAD":"x"})"));
  EXPECT_EQ(Refused(options), "E_MANIFEST");
  options = Options();
  options.manifest = JsonValue();
  EXPECT_EQ(Refused(options), "E_MANIFEST");
  options = Options();
  options.files = {{.path = "../evil", .source = options.binary_path}};
  EXPECT_EQ(Refused(options), "E_PATH");
  options.files = {{.path = "HELLO", .source = options.binary_path}};
  EXPECT_EQ(Refused(options), "E_ZIP_DUP");
  options.files = {{.path = "hello/x", .source = options.binary_path}};
  EXPECT_EQ(Refused(options), "E_ZIP_DUP");
  options.files = {{.path = "manifest.json", .source = options.binary_path}};
  EXPECT_EQ(Refused(options), "E_MANIFEST");
  options = Options();
  options.manifest.Set("binary", "other");
  EXPECT_EQ(Refused(options), "E_BINARY_MISSING");
  options = Options();
  options.manifest.Set("files", *ParseJson(R"({"absent":{}})"));
  EXPECT_EQ(Refused(options), "E_FILE_MISSING");
}

TEST_F(PackTest, RefusesSourcesThatCannotBePacked) {
  PackOptions options = Options();
  options.binary_path = directory_.path();
  EXPECT_THAT(
      std::string(PackToPath(options, TestKey(), Target()).status().message()),
      HasSubstr("not a regular file"));
  options.binary_path = JoinPath(directory_.path(), "absent");
  EXPECT_TRUE(
      absl::IsNotFound(PackToPath(options, TestKey(), Target()).status()));
  options.binary_path = JoinPath(directory_.path(), "fifo");
  ASSERT_EQ(mkfifo(options.binary_path.c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(
      PackToPath(options, TestKey(), Target()).status()));
  options = Options();
  options.files = {{.path = "hello", .source = options.binary_path}};
  EXPECT_TRUE(absl::IsInvalidArgument(
      PackToPath(options, TestKey(), Target()).status()));
  options = Options();
  options.created_at.reset();
  EXPECT_TRUE(absl::IsInvalidArgument(
      PackToPath(options, TestKey(), Target()).status()));
}

// Takes a vector apart and packs it again.
TEST_F(PackTest, RebuildsTheCanonicalVectorsBitForBit) {
  const std::map<std::string, std::string> key_files = {
      {"06942074b366bc7d0ef773ed5e5a7b8dad2c88f2804349ffab13c2d7fc763dd3",
       "ci"},
      {"a46917ae840aaaa589d69785fcd2eb59d51da2267d7a168dd96a4bb625a8a617",
       "rotated"},
      {"6604553b3a941c8bdbfbf1077e3b955597a95e4c24c8c5200139656f1f2c22be",
       "payments"}};
  const auto index =
      ParseJson(*ReadFile(JoinPath(kVectors, "valid/index.json")));
  ASSERT_TRUE(index.ok());
  int rebuilt = 0;
  for (const JsonValue& vector : index->array()) {
    if (!vector.Find("canonical")->boolean()) continue;
    const std::string& name = vector.Find("file")->string();
    SCOPED_TRACE(name);
    const std::string path = JoinPath(kVectors, name);
    const std::string& key_id = vector.Find("keyid")->string();
    const auto key = crypto::PrivateKey::FromPem(*ReadFile(
        absl::StrCat(kVectors, "/keys/", key_files.at(key_id), ".key.pem")));
    ASSERT_TRUE(key.ok()) << key.status();
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const Verdict verdict = Verify(path, nullptr);
    PackOptions options;
    options.manifest = verdict.manifest.json;
    for (const absl::string_view member :
         {"signature", "public_key", "binary_sha256", "kind"}) {
      options.manifest.Remove(member);
    }
    const auto entries = ReadArchive(fd.get(), Limits());
    for (const Entry& entry : entries.value()) {
      if (entry.path == kManifestPath) continue;
      std::string data;
      ASSERT_TRUE(ReadEntry(fd.get(), entry, [&](absl::string_view bytes) {
                    absl::StrAppend(&data, bytes);
                    return absl::OkStatus();
                  }).ok());
      const std::string source = Source(
          absl::StrCat("source-", rebuilt, "-", crypto::Sha256Hex(entry.path)),
          data);
      if (entry.path == verdict.manifest.binary) {
        options.binary_path = source;
      } else {
        options.files.push_back({.path = entry.path, .source = source});
      }
    }

    const auto result = PackToPath(options, *key, Target());

    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(absl::StrCat("sha256:", result->digest),
              vector.Find("spore_digest")->string());
    EXPECT_EQ(*ReadFile(Target()), *ReadFile(path));
    ++rebuilt;
  }
  EXPECT_EQ(rebuilt, 11);
}

}  // namespace
}  // namespace mycelium::spore
