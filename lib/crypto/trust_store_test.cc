#include "lib/crypto/trust_store.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/ed25519.h"

namespace mycelium::crypto {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1'770'000'000);

const std::string& PublicKey() {
  static const std::string& key =
      *new std::string(PrivateKey::Generate()->public_key());
  return key;
}

std::string Id() { return KeyId(PublicKey()); }

// A trust store with one key; `key` and `rule` are further members of theirs,
// `top` of the whole.
std::string Json(absl::string_view key = "", absl::string_view rule = "",
                 absl::string_view top = "") {
  return absl::StrCat(R"({"format":"mycelium.trust/v1","version":7,"keys":{")",
                      Id(), R"(":{"type":"ed25519","public_key":")",
                      Base64Encode(PublicKey()), "\"", key,
                      R"(}},"rules":[{"names":["demo/*"],"keyids":[")", Id(),
                      "\"]", rule, "}]", top, "}");
}

TrustStore Parse(const std::string& json) {
  auto store = TrustStore::Parse(json);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : TrustStore();
}

std::string Signer(const TrustStore& store, absl::string_view name,
                   absl::Time created_at = kNow) {
  return ReasonOf(store.EvaluateSigner(Id(), name, created_at, kNow));
}

std::string Spore(const TrustStore& store,
                  const TrustStore::VerifiedSpore& spore) {
  std::vector<std::string> warnings;
  return ReasonOf(store.EvaluateSpore(spore, kNow, warnings));
}

TEST(TrustStoreTest, TrustsNobodyAtFirst) {
  const TrustStore store;
  EXPECT_EQ(store.version(), 1);
  EXPECT_EQ(Signer(store, "demo/x"), "E_UNTRUSTED_KEY");
  EXPECT_TRUE(TrustStore::Parse(store.Serialize()).ok());
}

TEST(TrustStoreTest, ReadsItsFile) {
  const TrustStore store = Parse(Json(
      R"(,"comment":"ci","state":"retired","not_before":"2026-01-01T00:00:00Z",
          "not_after":"2026-01-15T00:00:00Z","usages":["spore"])",
      R"(,"threshold":2,"enforcement":"audit","require_sbom":true)",
      absl::StrCat(R"(,"expires":"2027-01-01T00:00:00Z","revoked_spores":[")",
                   std::string(64, 'a'), "\",\"sha256:", std::string(64, 'b'),
                   "\"]")));

  EXPECT_EQ(store.version(), 7);
  ASSERT_EQ(store.keys().size(), 1u);
  const TrustedKey& key = store.keys()[0];
  EXPECT_EQ(key.id, Id());
  EXPECT_EQ(key.public_key, PublicKey());
  EXPECT_EQ(key.comment, "ci");
  EXPECT_EQ(key.state, KeyState::kRetired);
  EXPECT_TRUE(key.not_before.has_value());
  EXPECT_TRUE(key.not_after.has_value());
  EXPECT_THAT(key.usages, ElementsAre("spore"));
  ASSERT_EQ(store.rules().size(), 1u);
  const TrustRule& rule = store.rules()[0];
  EXPECT_THAT(rule.names, ElementsAre("demo/*"));
  EXPECT_EQ(rule.threshold, 2);
  EXPECT_EQ(rule.enforcement, Enforcement::kAudit);
  EXPECT_TRUE(rule.require_sbom);
  EXPECT_THAT(store.revoked_spores(),
              ElementsAre(std::string(64, 'a'), std::string(64, 'b')));
  EXPECT_TRUE(store.expires().has_value());
  EXPECT_EQ(Parse(store.Serialize()).Serialize(), store.Serialize());
}

TEST(TrustStoreTest, WritesTimesBackExactly) {
  const absl::Time at = kNow + absl::Milliseconds(250);
  TrustStore store;
  ASSERT_TRUE(store.AddKey(PublicKey(), "dev", {"billing"}).ok());
  ASSERT_TRUE(store.RetireKey(Id(), at).ok());
  store.SetExpires(at);

  const TrustStore again = Parse(store.Serialize());

  EXPECT_EQ(again.FindKey(Id())->not_after, at);
  EXPECT_EQ(again.expires(), at);
}

TEST(TrustStoreTest, RefusesFilesThatItDoesNotUnderstand) {
  const auto refused = [](const std::string& json) {
    const auto store = TrustStore::Parse(json);
    return absl::IsInvalidArgument(store.status());
  };
  const std::string good = Json();
  ASSERT_TRUE(TrustStore::Parse(good).ok());
  for (const std::string& json :
       {std::string(),
        std::string("[]"),
        std::string("{}"),
        good + "x",
        absl::StrReplaceAll(good, {{"trust/v1", "trust/v2"}}),
        absl::StrReplaceAll(good, {{":7", ":0"}}),
        absl::StrReplaceAll(good, {{":7", ":-1"}}),
        absl::StrReplaceAll(good, {{":7", ":1.5"}}),
        absl::StrReplaceAll(good, {{":7", ":\"7\""}}),
        absl::StrReplaceAll(good, {{"\"version\":7,", ""}}),
        absl::StrReplaceAll(good, {{"ed25519", "rsa"}}),
        absl::StrReplaceAll(good, {{"demo/*", "demo/x*"}}),
        absl::StrReplaceAll(good, {{"demo/*", "**/demo"}}),
        absl::StrReplaceAll(good, {{"demo/*", "Demo"}}),
        absl::StrReplaceAll(good, {{"demo/*", ""}}),
        absl::StrReplaceAll(good, {{"demo/*", "demo/"}}),
        absl::StrReplaceAll(good,
                            {{Id() + "\":{", std::string(64, 'a') + "\":{"}}),
        absl::StrReplaceAll(good,
                            {{Id() + "\"]", std::string(64, 'a') + "\"]"}}),
        absl::StrReplaceAll(good, {{Base64Encode(PublicKey()), "AAAA"}}),
        absl::StrReplaceAll(good, {{"\"rules\"", "\"Rules\""}}),
        Json(R"(,"state":"lost")"),
        Json(R"(,"state":true)"),
        Json(R"(,"not_after":"tomorrow")"),
        Json(R"(,"usages":"spore")"),
        Json(R"(,"unknown":1)"),
        Json("", R"(,"threshold":0)"),
        Json("", R"(,"threshold":1.5)"),
        Json("", R"(,"enforcement":"warn")"),
        Json("", R"(,"require_sbom":"yes")"),
        Json("", R"(,"require":[])"),
        Json("", "", R"(,"expires":7)"),
        Json("", "", R"(,"extra":{})"),
        Json("", "", R"(,"revoked_spores":["abc"])"),
        Json("", "", R"(,"revoked_spores":[1])"),
        Json(R"(,"state":"active","state":"revoked")")}) {
    EXPECT_TRUE(refused(json)) << json;
  }
}

TEST(TrustStoreTest, MatchesNamesByWholeSegments) {
  EXPECT_TRUE(NameMatches("billing", "billing"));
  EXPECT_FALSE(NameMatches("billing", "billing2"));
  EXPECT_FALSE(NameMatches("billing", "billing/api"));
  EXPECT_FALSE(NameMatches("billing", "team/billing"));
  EXPECT_TRUE(NameMatches("payments/*", "payments/api"));
  EXPECT_FALSE(NameMatches("payments/*", "payments"));
  EXPECT_FALSE(NameMatches("payments/*", "payments-evil/api"));
  EXPECT_FALSE(NameMatches("payments/*", "payments/api/v2"));
  EXPECT_TRUE(NameMatches("*/api", "x/api"));
  EXPECT_FALSE(NameMatches("*/api", "x/y"));
  EXPECT_TRUE(NameMatches("*", "x"));
  EXPECT_FALSE(NameMatches("*", "x/y"));
  EXPECT_TRUE(NameMatches("a/**", "a/b"));
  EXPECT_TRUE(NameMatches("a/**", "a/b/c"));
  EXPECT_FALSE(NameMatches("a/**", "a"));
  EXPECT_FALSE(NameMatches("a/**", "ab/c"));
  EXPECT_TRUE(NameMatches("**", "a"));
  EXPECT_TRUE(NameMatches("**", "a/b/c/d"));
}

TEST(TrustStoreTest, LetsAKeySignTheNamesOfItsRulesOnly) {
  const TrustStore store = Parse(Json());
  EXPECT_EQ(Signer(store, "demo/x"), "");
  EXPECT_EQ(Signer(store, "other/x"), "E_NOT_AUTHORIZED");
  const std::string stranger = KeyId(PrivateKey::Generate()->public_key());
  EXPECT_EQ(ReasonOf(store.EvaluateSigner(stranger, "demo/x", kNow, kNow)),
            "E_UNTRUSTED_KEY");
}

TEST(TrustStoreTest, JudgesTheStateOfTheKey) {
  const std::string after = R"(,"not_after":"2026-01-15T00:00:00Z")";
  const absl::Time end = absl::FromUnixSeconds(1'768'435'200);
  const absl::Duration second = absl::Seconds(1);
  for (const std::string& state : {after, after + R"(,"state":"retired")"}) {
    const TrustStore store = Parse(Json(state));
    EXPECT_EQ(Signer(store, "demo/x", end), "");
    EXPECT_EQ(Signer(store, "demo/x", end + second), "E_KEY_RETIRED");
  }
  EXPECT_EQ(Signer(Parse(Json(R"(,"state":"retired")")), "demo/x"),
            "E_KEY_RETIRED");
  EXPECT_EQ(Signer(Parse(Json(R"(,"state":"revoked")")), "demo/x", end),
            "E_KEY_REVOKED");
  const TrustStore early =
      Parse(Json(R"(,"not_before":"2026-01-15T00:00:00Z")"));
  EXPECT_EQ(Signer(early, "demo/x", end), "");
  EXPECT_EQ(Signer(early, "demo/x", end - second), "E_KEY_NOT_YET_VALID");
  EXPECT_EQ(Signer(Parse(Json(R"(,"usages":["release"])")), "demo/x"),
            "E_NOT_AUTHORIZED");
}

TEST(TrustStoreTest, ApprovesOfNothingOnceItHasExpired) {
  TrustStore store = Parse(Json());
  store.SetExpires(kNow + absl::Seconds(1));
  EXPECT_EQ(Signer(store, "demo/x"), "");
  store.SetExpires(kNow);
  EXPECT_EQ(Signer(store, "demo/x"), "E_TRUST_EXPIRED");
  store.SetExpires(std::nullopt);
  EXPECT_EQ(Signer(store, "demo/x"), "");
}

TEST(TrustStoreTest, DemandsWhatTheRulesAskFor) {
  const TrustStore sbom = Parse(Json("", R"(,"require_sbom":true)"));
  EXPECT_EQ(Spore(sbom, {.name = "demo/x"}), "E_POLICY");
  EXPECT_EQ(Spore(sbom, {.name = "demo/x", .has_sbom = true}), "");
  EXPECT_EQ(Spore(sbom, {.name = "other"}), "");
  const TrustStore two = Parse(Json("", R"(,"threshold":2)"));
  EXPECT_EQ(Spore(two, {.name = "demo/x"}), "E_POLICY");
}

TEST(TrustStoreTest, DoesNotLetABroadRuleLoosenANarrowOne) {
  TrustStore store = Parse(Json("", R"(,"require_sbom":true)"));
  ASSERT_TRUE(store.AddKey(PublicKey(), "", {"**"}).ok());
  EXPECT_EQ(Signer(store, "other"), "");
  EXPECT_EQ(Spore(store, {.name = "demo/x"}), "E_POLICY");
}

TEST(TrustStoreTest, OnlyWarnsWhereARuleAudits) {
  const TrustStore store =
      Parse(Json("", R"(,"require_sbom":true,"enforcement":"audit")"));
  std::vector<std::string> warnings;

  const absl::Status status =
      store.EvaluateSpore({.name = "demo/x"}, kNow, warnings);

  EXPECT_TRUE(status.ok());
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("SBOM")));
  EXPECT_EQ(Signer(store, "other"), "E_NOT_AUTHORIZED");
}

TEST(TrustStoreTest, RefusesRevokedAndExpiredSpores) {
  TrustStore store = Parse(Json());
  const std::string digest(64, 'c');
  ASSERT_TRUE(store.RevokeSpore(absl::StrCat("sha256:", digest)).ok());
  EXPECT_EQ(Spore(store, {.name = "demo/x", .digest = digest}), "E_REVOKED");
  EXPECT_EQ(Spore(store, {.name = "demo/x", .statement_digest = digest}),
            "E_REVOKED");
  EXPECT_EQ(Spore(store, {.name = "demo/x", .expires_at = kNow}), "E_EXPIRED");
  EXPECT_EQ(
      Spore(store, {.name = "demo/x", .expires_at = kNow + absl::Seconds(1)}),
      "");
  EXPECT_FALSE(store.RevokeSpore("sha256:xyz").ok());
}

TEST(TrustStoreTest, AddsKeys) {
  TrustStore store;
  ASSERT_TRUE(store.AddKey(PublicKey(), "dev", {"billing"}).ok());
  EXPECT_EQ(store.version(), 2);
  EXPECT_EQ(Signer(store, "billing"), "");
  EXPECT_EQ(store.FindKey(Id())->comment, "dev");

  ASSERT_TRUE(store.AddKey(PublicKey(), "", {"billing", "demo/**"}).ok());

  EXPECT_EQ(store.version(), 3);
  EXPECT_EQ(store.keys().size(), 1u);
  ASSERT_EQ(store.rules().size(), 1u);
  EXPECT_THAT(store.rules()[0].names, ElementsAre("billing", "demo/**"));
  EXPECT_EQ(store.FindKey(Id())->comment, "dev");
  EXPECT_EQ(Parse(store.Serialize()).version(), 3);
}

TEST(TrustStoreTest, RefusesEditsThatMakeNoSense) {
  TrustStore store;
  EXPECT_TRUE(absl::IsInvalidArgument(
      store.AddKey(std::string(32, '\0'), "", {"billing"})));
  EXPECT_TRUE(absl::IsInvalidArgument(store.AddKey("short", "", {"billing"})));
  EXPECT_TRUE(absl::IsInvalidArgument(store.AddKey(PublicKey(), "", {})));
  EXPECT_TRUE(
      absl::IsInvalidArgument(store.AddKey(PublicKey(), "", {"bill*"})));
  EXPECT_TRUE(absl::IsNotFound(store.RemoveKey(Id())));
  EXPECT_TRUE(absl::IsNotFound(store.RetireKey(Id(), kNow)));
  EXPECT_TRUE(absl::IsNotFound(store.RevokeKey(Id())));
  EXPECT_EQ(store.version(), 1);
  EXPECT_THAT(store.keys(), IsEmpty());
}

TEST(TrustStoreTest, RetiresRevokesAndRemovesKeys) {
  TrustStore store;
  ASSERT_TRUE(store.AddKey(PublicKey(), "", {"demo/*"}).ok());
  ASSERT_TRUE(store.RetireKey(Id(), kNow).ok());
  EXPECT_EQ(Signer(store, "demo/x", kNow), "");
  EXPECT_EQ(Signer(store, "demo/x", kNow + absl::Seconds(1)), "E_KEY_RETIRED");
  ASSERT_TRUE(store.AddKey(PublicKey(), "", {"demo/*"}).ok());
  EXPECT_EQ(Signer(store, "demo/x", kNow + absl::Seconds(1)), "");

  ASSERT_TRUE(store.RevokeKey(Id()).ok());
  EXPECT_EQ(Signer(store, "demo/x", absl::UnixEpoch()), "E_KEY_REVOKED");
  EXPECT_TRUE(
      absl::IsFailedPrecondition(store.AddKey(PublicKey(), "", {"demo/*"})));
  EXPECT_TRUE(absl::IsFailedPrecondition(store.RetireKey(Id(), kNow)));

  ASSERT_TRUE(store.RemoveKey(Id()).ok());
  EXPECT_THAT(store.keys(), IsEmpty());
  EXPECT_THAT(store.rules(), IsEmpty());
  EXPECT_EQ(store.version(), 6);
}

TEST(TrustStoreTest, KeepsTheDemandsOfARuleThatLosesItsKeys) {
  TrustStore store = Parse(Json("", R"(,"require_sbom":true)"));
  ASSERT_TRUE(store.RemoveKey(Id()).ok());
  EXPECT_EQ(Spore(store, {.name = "demo/x"}), "E_POLICY");
}

TEST(TrustStoreTest, DoesNotGoBack) {
  const TrustStore store = Parse(Json());
  EXPECT_TRUE(store.CheckNotOlderThan(7).ok());
  EXPECT_TRUE(store.CheckNotOlderThan(1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store.CheckNotOlderThan(8)));
}

TEST(TrustStoreTest, NamesTheFileThatItCannotRead) {
  auto directory = TempDirectory::Create("trust");
  ASSERT_TRUE(directory.ok());
  const std::string path = JoinPath(directory->path(), "trust.json");
  EXPECT_TRUE(absl::IsNotFound(TrustStore::Load(path).status()));
  ASSERT_TRUE(WriteFileAtomically(path, "{}").ok());
  EXPECT_THAT(std::string(TrustStore::Load(path).status().message()),
              HasSubstr(path));
  ASSERT_TRUE(WriteFileAtomically(path, Json()).ok());
  EXPECT_TRUE(TrustStore::Load(path).ok());
}

}  // namespace
}  // namespace mycelium::crypto
