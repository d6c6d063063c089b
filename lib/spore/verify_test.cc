#include "lib/spore/verify.h"

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/sha256.h"
#include "lib/spore/rfc3339.h"
#include "lib/spore/test_spore.h"

namespace mycelium::spore {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::Time Now() { return *ParseRfc3339("2026-02-01T00:00:00Z"); }

Verdict Verify(const ZipFile& zip, const crypto::TrustStore* trust) {
  const std::string bytes = WriteZip(zip);
  const UniqueFd fd = MemoryFile(bytes);
  Verdict verdict = VerifySpore(fd.get(), trust, Now(), Limits());
  // Whoever receives the file in pieces comes to the same.
  StreamingVerifier streaming{Limits()};
  for (size_t i = 0; i < bytes.size(); i += 100) {
    EXPECT_TRUE(streaming.Update(absl::string_view(bytes).substr(i, 100)).ok());
  }
  const Verdict streamed =
      streaming.Finish(fd.get(), crypto::Sha256Hex(bytes), trust, Now());
  EXPECT_EQ(streamed.code, verdict.code);
  EXPECT_EQ(streamed.message, verdict.message);
  return verdict;
}

std::string Judge(const ZipFile& zip) {
  const crypto::TrustStore trust = TestTrust();
  return Verify(zip, &trust).code;
}

JsonValue FileInfoOf(absl::string_view data) {
  JsonValue info = JsonValue::MakeObject();
  info.Set("sha256", crypto::Sha256Hex(data));
  info.Set("size", static_cast<int64_t>(data.size()));
  return info;
}

// A manifest that lists the binary and one asset in `files`.
JsonValue ManifestWithFiles() {
  JsonValue files = JsonValue::MakeObject();
  files.Set("hello", FileInfoOf(kTestBinary));
  files.Set("asset.txt", FileInfoOf("asset"));
  JsonValue manifest = TestManifest();
  manifest.Set("files", std::move(files));
  return manifest;
}

ZipFile SporeWithFiles() {
  ZipFile zip = SporeWith(SignManifest(ManifestWithFiles()));
  zip.entries.push_back(StoredEntry("asset.txt", "asset"));
  return zip;
}

TEST(VerifySporeTest, AcceptsASporeAndSaysWhatItIs) {
  const crypto::TrustStore trust = TestTrust();
  const ZipFile zip = SporeWith(SignManifest(TestManifest()));

  const Verdict verdict = Verify(zip, &trust);

  EXPECT_TRUE(verdict.accept) << verdict.message;
  EXPECT_EQ(verdict.code, "OK");
  EXPECT_TRUE(verdict.trust_checked);
  EXPECT_EQ(verdict.policy_version, trust.version());
  EXPECT_EQ(verdict.digest, crypto::Sha256Hex(WriteZip(zip)));
  EXPECT_EQ(verdict.key_id, crypto::KeyId(TestKey().public_key()));
  EXPECT_EQ(verdict.statement_digest.size(), 64u);
  EXPECT_EQ(verdict.manifest.name, "demo/hello");
  EXPECT_THAT(verdict.warnings, IsEmpty());
  EXPECT_TRUE(verdict.ToStatus().ok());
}

TEST(VerifySporeTest, ChecksIntegrityAloneWithoutATrustStore) {
  auto stranger = crypto::PrivateKey::Generate();
  ASSERT_TRUE(stranger.ok());
  JsonValue manifest = TestManifest();
  manifest.Set("public_key", crypto::Base64Encode(stranger->public_key()));
  const ZipFile zip = SporeWith(SignManifest(manifest, *stranger));

  const Verdict verdict = Verify(zip, nullptr);

  EXPECT_TRUE(verdict.accept);
  EXPECT_FALSE(verdict.trust_checked);
  EXPECT_EQ(verdict.policy_version, 0);
  EXPECT_THAT(verdict.message, HasSubstr("no trust store"));
  EXPECT_EQ(Judge(zip), "E_UNTRUSTED_KEY");
}

TEST(VerifySporeTest, RefusesBrokenContentsWithoutATrustStoreToo) {
  ZipFile zip = SporeWith(SignManifest(TestManifest()));
  zip.entries[1] = StoredEntry("hello", "#!/bin/evil\n");

  EXPECT_EQ(Verify(zip, nullptr).code, "E_HASH");
}

TEST(VerifySporeTest, RefusesAManifestThatIsMissingOrTooLarge) {
  ZipFile zip = SporeWith(SignManifest(TestManifest()));
  zip.entries.erase(zip.entries.begin());
  EXPECT_EQ(Judge(zip), "E_MANIFEST_MISSING");
  EXPECT_EQ(Judge(ZipFile()), "E_MANIFEST_MISSING");
  zip = SporeWith(SignManifest(TestManifest()));
  zip.entries[0].local.name = "MANIFEST.json";
  zip.entries[0].central.name = "MANIFEST.json";
  EXPECT_EQ(Judge(zip), "E_MANIFEST_MISSING");
  const std::string large(kMaxManifestBytes + 1, ' ');
  EXPECT_EQ(Judge(SporeWith(large)), "E_SIZE");
  zip.entries[0] = DeflatedEntry("manifest.json", large);
  EXPECT_EQ(Judge(zip), "E_SIZE");
  // Deflate data that goes on for long and unpacks to little.
  zip.entries[0] = DeflatedEntry("manifest.json", "{}");
  std::string blocks;
  for (int i = 0; i < 200'000; ++i) {
    blocks.append("\0\0\0\xff\xff", 5);
  }
  zip.entries[0].stored = blocks + zip.entries[0].stored;
  zip.entries[0].local.stored_bytes =
      static_cast<uint32_t>(zip.entries[0].stored.size());
  zip.entries[0].central = zip.entries[0].local;
  EXPECT_EQ(Judge(zip), "E_SIZE");
}

TEST(VerifySporeTest, RefusesASignatureOverSomethingElse) {
  JsonValue other = TestManifest();
  other.Set("version", "6.6.6");
  JsonValue manifest = TestManifest();
  manifest.Set("signature",
               ParseJson(SignManifest(other))->Find("signature")->string());
  EXPECT_EQ(Judge(SporeWith(Canonicalize(manifest))), "E_SIG");
  auto stranger = crypto::PrivateKey::Generate();
  ASSERT_TRUE(stranger.ok());
  EXPECT_EQ(Judge(SporeWith(SignManifest(TestManifest(), *stranger))), "E_SIG");
}

TEST(VerifySporeTest, RefusesEverySignatureWithOneBitChanged) {
  const JsonValue manifest = *ParseJson(SignManifest(TestManifest()));
  const std::string signature =
      *crypto::Base64Decode(manifest.Find("signature")->string());
  const crypto::TrustStore trust = TestTrust();
  for (size_t bit = 0; bit < signature.size() * 8; ++bit) {
    std::string changed = signature;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
    JsonValue json = manifest;
    json.Set("signature", crypto::Base64Encode(changed));
    const UniqueFd fd = MemoryFile(WriteZip(SporeWith(Canonicalize(json))));
    EXPECT_EQ(VerifySpore(fd.get(), &trust, Now(), Limits()).code, "E_SIG")
        << bit;
  }
}

TEST(VerifySporeTest, LooksAtNoDataBeforeTheSignatureHolds) {
  // The binary is broken in itself; what is said is that its signer is unknown.
  ZipFile zip = SporeWith(SignManifest(TestManifest()));
  zip.entries[1].stored[0] ^= 1;
  const crypto::TrustStore nobody;

  EXPECT_EQ(Verify(zip, &nobody).code, "E_UNTRUSTED_KEY");
  EXPECT_EQ(Judge(zip), "E_ZIP_DATA");
}

TEST(VerifySporeTest, AcceptsAssetsThatAreSigned) {
  EXPECT_EQ(Judge(SporeWithFiles()), "OK");
  ZipFile deflated = SporeWithFiles();
  deflated.entries[1] =
      WithDescriptor(DeflatedEntry("hello", kTestBinary), false);
  deflated.entries[2] = DeflatedEntry("asset.txt", "asset");
  EXPECT_EQ(Judge(deflated), "OK");
  ZipFile reordered = SporeWithFiles();
  std::swap(reordered.entries[0], reordered.entries[2]);
  EXPECT_EQ(Judge(reordered), "OK");
}

TEST(VerifySporeTest, RefusesEntriesThatAreNotSigned) {
  ZipFile zip = SporeWith(SignManifest(TestManifest()));
  zip.entries.push_back(StoredEntry("extra", "x"));
  EXPECT_EQ(Judge(zip), "E_UNSIGNED_FILE");
  zip = SporeWithFiles();
  zip.entries.push_back(StoredEntry("extra", "x"));
  EXPECT_EQ(Judge(zip), "E_UNSIGNED_FILE");
  // The binary must be listed, too.
  JsonValue manifest = TestManifest();
  JsonValue files = JsonValue::MakeObject();
  files.Set("asset.txt", FileInfoOf("asset"));
  manifest.Set("files", files);
  zip = SporeWith(SignManifest(manifest));
  zip.entries.push_back(StoredEntry("asset.txt", "asset"));
  EXPECT_EQ(Judge(zip), "E_UNSIGNED_FILE");
}

TEST(VerifySporeTest, RefusesFilesThatAreMissing) {
  ZipFile zip = SporeWithFiles();
  zip.entries.pop_back();
  EXPECT_EQ(Judge(zip), "E_FILE_MISSING");
  zip = SporeWithFiles();
  zip.entries.erase(zip.entries.begin() + 1);
  EXPECT_EQ(Judge(zip), "E_BINARY_MISSING");
  zip = SporeWith(SignManifest(TestManifest()));
  zip.entries.pop_back();
  EXPECT_EQ(Judge(zip), "E_BINARY_MISSING");
  // Without `files` nothing but the binary can be there, and so no launcher.
  JsonValue manifest = TestManifest();
  manifest.Set("command", "run.sh");
  manifest.Set("binary", "hello");
  EXPECT_EQ(Judge(SporeWith(SignManifest(manifest))), "E_BINARY_MISSING");
  manifest = TestManifest();
  manifest.Set("command", "manifest.json");
  EXPECT_EQ(Judge(SporeWith(SignManifest(manifest))), "E_BINARY_MISSING");
}

TEST(VerifySporeTest, RefusesContentsThatAreNotSigned) {
  ZipFile zip = SporeWithFiles();
  zip.entries[2] = StoredEntry("asset.txt", "ASSET");
  EXPECT_EQ(Judge(zip), "E_HASH");
  zip.entries[2] = StoredEntry("asset.txt", "longer asset");
  EXPECT_EQ(Judge(zip), "E_HASH");
  zip.entries[2] = DeflatedEntry("asset.txt", "ASSET");
  EXPECT_EQ(Judge(zip), "E_HASH");
  zip = SporeWith(SignManifest(TestManifest()));
  zip.entries[1] = StoredEntry("hello", "");
  EXPECT_EQ(Judge(zip), "E_HASH");
  // Two hashes for the binary.
  JsonValue manifest = ManifestWithFiles();
  manifest.Set("binary_sha256", crypto::Sha256Hex("other"));
  zip = SporeWith(SignManifest(manifest));
  zip.entries.push_back(StoredEntry("asset.txt", "asset"));
  EXPECT_EQ(Judge(zip), "E_HASH");
}

TEST(VerifySporeTest, JudgesTheSetOfEntriesBeforeTheirSizes) {
  ZipFile zip = SporeWithFiles();
  zip.entries[2] = StoredEntry("asset.txt", "longer asset");
  zip.entries.push_back(StoredEntry("extra", "x"));
  EXPECT_EQ(Judge(zip), "E_UNSIGNED_FILE");
  zip = SporeWithFiles();
  zip.entries.pop_back();
  zip.entries[1] = StoredEntry("hello", "");
  EXPECT_EQ(Judge(zip), "E_FILE_MISSING");
}

TEST(VerifySporeTest, JudgesExpiryByTheGivenTime) {
  JsonValue manifest = TestManifest();
  manifest.Set("expires_at", "2026-02-01T00:00:01Z");
  EXPECT_EQ(Judge(SporeWith(SignManifest(manifest))), "OK");
  manifest.Set("expires_at", "2026-02-01T00:00:00Z");
  const ZipFile expired = SporeWith(SignManifest(manifest));
  EXPECT_EQ(Judge(expired), "E_EXPIRED");
  EXPECT_TRUE(Verify(expired, nullptr).accept);
}

TEST(VerifySporeTest, RefusesRevokedSporesByEitherDigest) {
  const ZipFile zip = SporeWith(SignManifest(TestManifest()));
  const Verdict verdict = Verify(zip, nullptr);
  for (const std::string& digest : {verdict.digest, verdict.statement_digest}) {
    crypto::TrustStore trust = TestTrust();
    ASSERT_TRUE(trust.RevokeSpore(digest).ok());
    EXPECT_EQ(Verify(zip, &trust).code, "E_REVOKED");
  }
  // Packed anew, it is the same statement still.
  ZipFile repacked = zip;
  repacked.entries[1] = DeflatedEntry("hello", kTestBinary);
  crypto::TrustStore trust = TestTrust();
  ASSERT_TRUE(trust.RevokeSpore(verdict.statement_digest).ok());
  EXPECT_EQ(Verify(repacked, &trust).code, "E_REVOKED");
}

TEST(VerifySporeTest, WarnsOfWhatIsOnlyAudited) {
  const crypto::TrustStore trust = *crypto::TrustStore::Parse(absl::StrCat(
      R"({"format":"mycelium.trust/v1","version":3,"keys":{")",
      crypto::KeyId(TestKey().public_key()), R"(":{"public_key":")",
      crypto::Base64Encode(TestKey().public_key()),
      R"("}},"rules":[{"names":["demo/*"],"enforcement":"audit",
         "require_sbom":true,"keyids":[")",
      crypto::KeyId(TestKey().public_key()), "\"]}]}"));

  const Verdict verdict =
      Verify(SporeWith(SignManifest(TestManifest())), &trust);

  EXPECT_TRUE(verdict.accept) << verdict.message;
  EXPECT_THAT(verdict.warnings, ElementsAre(HasSubstr("SBOM")));
}

TEST(VerifySporeTest, HoldsItsLimits) {
  const std::string bytes = WriteZip(SporeWith(SignManifest(TestManifest())));
  const UniqueFd fd = MemoryFile(bytes);
  const auto size = static_cast<int64_t>(bytes.size());

  EXPECT_EQ(
      VerifySpore(fd.get(), nullptr, Now(), {.max_file_bytes = size}).code,
      "OK");
  const Verdict refused =
      VerifySpore(fd.get(), nullptr, Now(), {.max_file_bytes = size - 1});
  EXPECT_EQ(refused.code, "E_SIZE");
  EXPECT_EQ(refused.digest, "");
  StreamingVerifier streaming({.max_file_bytes = size - 1});
  EXPECT_EQ(ReasonOf(streaming.Update(bytes)), "E_SIZE");
}

TEST(VerifySporeTest, NamesUnreadableFiles) {
  const Verdict verdict = VerifySpore(-1, nullptr, Now(), Limits());

  EXPECT_FALSE(verdict.accept);
  EXPECT_EQ(verdict.code, "E_IO");
  EXPECT_EQ(ReasonOf(verdict.ToStatus()), "E_IO");
}

TEST(VerifySporeTest, HashesLargeFilesOnASecondThread) {
  const std::string binary(3 << 20, 'x');
  JsonValue manifest = TestManifest();
  manifest.Set("binary_sha256", crypto::Sha256Hex(binary));
  ZipFile zip = SporeWith(SignManifest(manifest));
  zip.entries[1] = StoredEntry("hello", binary);
  const std::string bytes = WriteZip(zip);
  const UniqueFd fd = MemoryFile(bytes);
  const crypto::TrustStore trust = TestTrust();

  const Verdict verdict = VerifySpore(fd.get(), &trust, Now(), Limits());

  EXPECT_TRUE(verdict.accept) << verdict.message;
  EXPECT_EQ(verdict.digest, crypto::Sha256Hex(bytes));
  const crypto::TrustStore nobody;
  EXPECT_EQ(VerifySpore(fd.get(), &nobody, Now(), Limits()).digest,
            crypto::Sha256Hex(bytes));
}

TEST(StreamingVerifierTest, HashesTheWholeAlongTheWay) {
  const std::string binary(100'000, 'x');
  JsonValue manifest = TestManifest();
  manifest.Set("binary_sha256", crypto::Sha256Hex(binary));
  ZipFile stored = SporeWith(SignManifest(manifest));
  stored.entries[1] = StoredEntry("hello", binary);
  ZipFile deflated = stored;
  deflated.entries[1] = DeflatedEntry("hello", binary);
  ZipFile lost = stored;
  lost.entries[1] = WithDescriptor(DeflatedEntry("hello", binary), false);
  const crypto::TrustStore trust = TestTrust();
  for (const ZipFile& zip : {stored, deflated, lost}) {
    const std::string bytes = WriteZip(zip);
    for (const size_t chunk_bytes : {size_t{77}, size_t{5'000}, bytes.size()}) {
      StreamingVerifier streaming{Limits()};
      crypto::Sha256 whole;
      for (size_t i = 0; i < bytes.size(); i += chunk_bytes) {
        const auto chunk = absl::string_view(bytes).substr(i, chunk_bytes);
        ASSERT_TRUE(streaming.Update(chunk, whole).ok());
      }
      const std::string digest = absl::BytesToHexString(whole.Finish());

      EXPECT_EQ(digest, crypto::Sha256Hex(bytes));
      const UniqueFd fd = MemoryFile(bytes);
      EXPECT_EQ(streaming.Finish(fd.get(), digest, &trust, Now()).code, "OK");
    }
  }
}

TEST(StreamingVerifierTest, IsNotMisledByHeadersThatLie) {
  // The local header announces less than the directory says, so that the
  // verifier loses its way in the middle of the data.
  const crypto::TrustStore trust = TestTrust();
  ZipFile zip = SporeWith(SignManifest(TestManifest()));
  zip.entries[1].local.size = 3;
  zip.entries[1].local.stored_bytes = 3;

  EXPECT_EQ(Verify(zip, &trust).code, "E_ZIP_MISMATCH");
}

TEST(StreamingVerifierTest, ReadsTheFileWhereItLostItsWay) {
  const crypto::TrustStore trust = TestTrust();
  const std::string bytes = WriteZip(SporeWith(SignManifest(TestManifest())));
  StreamingVerifier streaming{Limits()};
  ASSERT_TRUE(streaming.Update("PK\x03\x04 something else entirely").ok());
  const UniqueFd fd = MemoryFile(bytes);

  const Verdict verdict =
      streaming.Finish(fd.get(), crypto::Sha256Hex(bytes), &trust, Now());

  EXPECT_TRUE(verdict.accept) << verdict.message;
}

}  // namespace
}  // namespace mycelium::spore
