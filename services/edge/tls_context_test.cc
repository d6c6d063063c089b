#include "services/edge/tls_context.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "services/edge/test_certificate.h"

namespace mycelium::edge {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TlsContextTest : public ::testing::Test {
 protected:
  void Add(const std::string& name, const std::vector<std::string>& hosts,
           int days = 1) {
    const absl::Status status =
        WriteTestCertificate(directory_.path(), name, hosts, days);
    ASSERT_TRUE(status.ok()) << status;
  }
  void Write(const std::string& file, const std::string& text) {
    ASSERT_TRUE(
        WriteFileAtomically(JoinPath(directory_.path(), file), text).ok());
  }
  absl::StatusOr<std::shared_ptr<const TlsContext>> Load(bool strict = false) {
    return TlsContext::Load(
        {.certificates = directory_.path(), .strict_sni = strict},
        std::make_shared<TicketKeys>());
  }

  TempDirectory directory_ = *TempDirectory::Create("tls-context-test");
};

TEST_F(TlsContextTest, AnExactNameWinsOverAWildcardAndThatOverTheDefault) {
  Add("a", {"*.example.test"});
  Add("b", {"one.example.test", "Two.Example.Test"});
  Add("default", {"other.test"});

  const auto context = Load();

  ASSERT_TRUE(context.ok()) << context.status();
  const struct {
    std::string host;
    std::string want;
  } cases[] = {
      {"one.example.test", "b"},
      {"TWO.example.test", "b"},
      {"one.example.test.", "b"},
      {"three.example.test", "a"},
      {"x.three.example.test", "default"},
      {"example.test", "default"},
      {".example.test", "default"},
      {"*.example.test", "a"},
      {"", "default"},
      {".", "default"},
      {"..", "default"},
      {"nowhere.test", "default"},
      {"other.test", "default"},
  };
  for (const auto& test : cases)
    EXPECT_EQ((*context)->NameFor(test.host), test.want) << test.host;
}

TEST_F(TlsContextTest, WithoutADefaultTheFirstByNameIsIt) {
  Add("b", {"b.test"});
  Add("a", {"a.test"});

  const auto context = Load();

  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_EQ((*context)->NameFor("nowhere.test"), "a");
}

TEST_F(TlsContextTest, StrictlyThereIsNoDefault) {
  Add("a", {"a.test"});

  const auto context = Load(true);

  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_EQ((*context)->NameFor("a.test"), "a");
  EXPECT_EQ((*context)->NameFor("nowhere.test"), "");
  EXPECT_EQ((*context)->NameFor(""), "");
}

TEST_F(TlsContextTest, WhatAnOperatorShouldKnowIsAWarning) {
  Add("a", {"a.test"});
  Add("b", {"a.test", "*.b.test"}, -1);
  Add("c", {});

  const auto context = Load();

  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_THAT((*context)->warnings(),
              ElementsAre("b.crt and a.crt are both for a.test: the latter is "
                          "used",
                          "b.crt has expired",
                          "c.crt names no DNS host: it can only be the "
                          "default"));
}

TEST_F(TlsContextTest, FilesOfOtherKindsAndHiddenOnesAreLeftAlone) {
  Add("a", {"a.test"});
  Write("README", "certificates");
  Write(".b.crt", "junk");

  const auto context = Load();

  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_THAT((*context)->warnings(), IsEmpty());
  EXPECT_EQ((*context)->Certificates().size(), 1);
}

TEST_F(TlsContextTest, AnErrorNamesTheFileAndSaysWhy) {
  const auto error = [this] { return std::string(Load().status().message()); };
  EXPECT_THAT(error(), HasSubstr("no certificate; want NAME.crt and NAME.key"));
  Add("a", {"a.test"});
  Add("b", {"b.test"});
  const std::string key = *ReadFile(JoinPath(directory_.path(), "a.key"));
  const std::string certificate =
      *ReadFile(JoinPath(directory_.path(), "a.crt"));

  Write("a.key", "junk");
  EXPECT_THAT(error(), HasSubstr("/a.key: no PEM private key in it"));
  Write("a.key", *ReadFile(JoinPath(directory_.path(), "b.key")));
  EXPECT_THAT(error(),
              HasSubstr("/a.key: it is not the key of the certificate in "
                        "a.crt"));
  Write("a.key", key);
  Write("a.crt", certificate + certificate.substr(0, 100));
  EXPECT_THAT(error(), HasSubstr("/a.crt: "));
  std::string chain;
  for (int i = 0; i < 200; ++i) chain += certificate;
  Write("a.crt", chain);
  EXPECT_THAT(error(), HasSubstr("/a.crt: a chain of "));
  Write("a.crt", certificate);
  EXPECT_TRUE(Load().ok());
  ASSERT_TRUE(RemoveTree(JoinPath(directory_.path(), "a.key")).ok());
  EXPECT_THAT(error(), HasSubstr("/a.crt: there is no a.key beside it"));
  ASSERT_TRUE(RemoveTree(directory_.path()).ok());
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
}

TEST(TicketKeysTest, AKeyOpensTicketsUntilItIsReplacedTwice) {
  TicketKeys keys;
  const TicketKeys::Key first = keys.Newest();
  TicketKeys::Key found;
  bool newest = false;

  ASSERT_TRUE(keys.Find(first.name.data(), &found, &newest));
  EXPECT_TRUE(newest);
  EXPECT_EQ(found.cipher, first.cipher);
  keys.Rotate();
  ASSERT_TRUE(keys.Find(first.name.data(), &found, &newest));
  EXPECT_FALSE(newest);
  keys.Rotate();
  EXPECT_FALSE(keys.Find(first.name.data(), &found, &newest));
}

}  // namespace
}  // namespace mycelium::edge
