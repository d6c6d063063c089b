#include "lib/spore/manifest.h"

#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/crypto/base64.h"
#include "lib/spore/rfc3339.h"
#include "lib/spore/test_spore.h"

namespace mycelium::spore {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

// The verdict on a manifest that is right but for one change: "OK" or the code.
std::string JudgeChanged(const std::function<void(JsonValue&)>& change) {
  JsonValue json = TestManifest();
  change(json);
  const std::string text = SignManifest(json);
  const auto manifest = ParseManifest(text);
  return manifest.ok() ? "OK" : ReasonOf(manifest.status());
}

std::string JudgeMember(absl::string_view member, const JsonValue& value) {
  return JudgeChanged([&](JsonValue& json) { json.Set(member, value); });
}

// As JudgeMember, with the value as JSON.
std::string JudgeJson(absl::string_view member, absl::string_view value) {
  const auto parsed = ParseJson(value);
  EXPECT_TRUE(parsed.ok()) << value << ": " << parsed.status();
  return JudgeMember(member, *parsed);
}

Manifest Parsed(const std::function<void(JsonValue&)>& change) {
  JsonValue json = TestManifest();
  change(json);
  auto manifest = ParseManifest(SignManifest(json));
  EXPECT_TRUE(manifest.ok()) << manifest.status();
  return manifest.ok() ? *std::move(manifest) : Manifest();
}

JsonValue Object(absl::string_view json) { return *ParseJson(json); }

std::string Strings(int count, absl::string_view value) {
  std::string json = "[";
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&json, i == 0 ? "" : ",", "\"", value, "\"");
  }
  return json + "]";
}

TEST(ManifestTest, FillsInDefaults) {
  const Manifest manifest = Parsed([](JsonValue&) {});

  EXPECT_EQ(manifest.name, "demo/hello");
  EXPECT_EQ(manifest.version, "1.0.0");
  EXPECT_EQ(manifest.command, "hello");
  EXPECT_EQ(manifest.binary, "hello");
  EXPECT_THAT(manifest.args, IsEmpty());
  EXPECT_THAT(manifest.env, IsEmpty());
  EXPECT_THAT(manifest.provides, ElementsAre("http"));
  EXPECT_EQ(manifest.health.path, "/health");
  EXPECT_EQ(manifest.health.type, Health::Type::kHttp);
  EXPECT_EQ(manifest.health.interval_ms, 0);
  EXPECT_EQ(manifest.nutrients.cpu_milli, 0);
  EXPECT_EQ(manifest.slo.p99_budget_ms, 0);
  EXPECT_EQ(manifest.security.lsm_profile, "");
  EXPECT_TRUE(manifest.security.read_only_fs);
  EXPECT_EQ(manifest.created_at, *ParseRfc3339("2026-01-02T03:04:05Z"));
  EXPECT_FALSE(manifest.expires_at.has_value());
  EXPECT_FALSE(manifest.files.has_value());
  EXPECT_EQ(manifest.public_key, TestKey().public_key());
  EXPECT_EQ(manifest.signature.size(), 64u);
}

TEST(ManifestTest, ReadsEveryMember) {
  const Manifest manifest = Parsed([](JsonValue& json) {
    json.Set("command", "./bin/run.sh");
    json.Set("binary", "bin/app");
    json.Set("args", Object(R"(["--port","${PORT}",""])"));
    json.Set("env", Object(R"({"A":"1","_b2":""})"));
    json.Set("provides", Object(R"(["http:8080","grpc"])"));
    json.Set("health", Object(R"({"path":"/healthz?x=1","type":"tcp",
                                  "interval_ms":500,"timeout_ms":2.5e2})"));
    json.Set("nutrients", Object(R"({"cpu_milli":250.0,"memory_mb":64})"));
    json.Set("slo", Object(R"({"p99_budget_ms":12.5})"));
    json.Set("security", Object(R"({"lsm_profile":"strict",
                                    "read_only_fs":false,
                                    "require":["landlock","seccomp"]})"));
    json.Set("files", Object(absl::StrCat(
                          R"({"bin/app":{"exec":true,"size":7,"sha256":")",
                          std::string(64, 'a'), "\"}}")));
    json.Set("expires_at", "2027-01-01T00:00:00+01:00");
    json.Set("critical", Object(R"(["slo","files","signature"])"));
    json.Set("format", "mycelium.spore/v1");
    json.Set("labels", Object(R"({"team":"web","n":[null,1]})"));
    json.Set("secrets", Object(R"(["DB_PASSWORD"])"));
    json.Set("config", Object(R"({"a":{}})"));
  });

  EXPECT_EQ(manifest.command, "bin/run.sh");
  EXPECT_EQ(manifest.binary, "bin/app");
  EXPECT_THAT(manifest.args, ElementsAre("--port", "${PORT}", ""));
  EXPECT_THAT(manifest.env, ElementsAre(Pair("A", "1"), Pair("_b2", "")));
  EXPECT_THAT(manifest.provides, ElementsAre("http:8080", "grpc"));
  EXPECT_EQ(manifest.health.path, "/healthz?x=1");
  EXPECT_EQ(manifest.health.type, Health::Type::kTcp);
  EXPECT_EQ(manifest.health.interval_ms, 500);
  EXPECT_EQ(manifest.health.timeout_ms, 250);
  EXPECT_EQ(manifest.nutrients.cpu_milli, 250);
  EXPECT_EQ(manifest.nutrients.memory_mb, 64);
  EXPECT_EQ(manifest.slo.p99_budget_ms, 12.5);
  EXPECT_EQ(manifest.security.lsm_profile, "strict");
  EXPECT_FALSE(manifest.security.read_only_fs);
  EXPECT_THAT(manifest.security.require, ElementsAre("landlock", "seccomp"));
  ASSERT_TRUE(manifest.files.has_value());
  EXPECT_TRUE(manifest.files->at("bin/app").exec);
  EXPECT_EQ(manifest.files->at("bin/app").size, 7);
  EXPECT_EQ(*manifest.expires_at, *ParseRfc3339("2026-12-31T23:00:00Z"));
  EXPECT_THAT(manifest.critical, ElementsAre("slo", "files", "signature"));
  EXPECT_EQ(manifest.json.Find("labels")->Find("team")->string(), "web");
}

TEST(ManifestTest, RefusesMissingMembers) {
  const auto judge = [](absl::string_view member) {
    return JudgeChanged([&](JsonValue& json) { json.Remove(member); });
  };
  for (const absl::string_view member :
       {"kind", "name", "version", "command", "binary_sha256", "created_at"}) {
    EXPECT_EQ(judge(member), "E_MANIFEST") << member;
  }
  EXPECT_EQ(judge("public_key"), "E_KEY");
  EXPECT_EQ(ReasonOf(ParseManifest(Canonicalize(TestManifest())).status()),
            "E_SIG");
}

TEST(ManifestTest, RefusesMembersOfTheWrongType) {
  for (const absl::string_view member :
       {"kind",          "name",       "version",    "command", "binary",
        "binary_sha256", "created_at", "expires_at", "args",    "env",
        "provides",      "health",     "nutrients",  "slo",     "security",
        "files",         "labels",     "secrets",    "config",  "critical",
        "format"}) {
    for (const absl::string_view value : {"null", "true", "7"}) {
      EXPECT_EQ(JudgeJson(member, value), "E_MANIFEST") << member << value;
    }
  }
  EXPECT_EQ(JudgeJson("public_key", "7"), "E_KEY");
}

TEST(ManifestTest, RefusesWhatIsNoObject) {
  for (const absl::string_view text : {"null", "[]", "\"x\"", "1", "true"}) {
    EXPECT_EQ(ReasonOf(ParseManifest(text).status()), "E_MANIFEST") << text;
  }
  EXPECT_EQ(ReasonOf(ParseManifest("{").status()), "E_JSON");
}

TEST(ManifestTest, HoldsItsSize) {
  const std::string text = SignManifest(TestManifest());
  const std::string padding(kMaxManifestBytes - text.size(), ' ');
  EXPECT_TRUE(ParseManifest(text + padding).ok());
  EXPECT_EQ(ReasonOf(ParseManifest(text + padding + " ").status()), "E_SIZE");
}

TEST(ManifestTest, ChecksKindFormatAndVersion) {
  EXPECT_EQ(JudgeMember("kind", "spore"), "E_MANIFEST");
  EXPECT_EQ(JudgeMember("format", "mycelium.spore/v2"), "E_MANIFEST");
  EXPECT_EQ(JudgeMember("version", "v0.1.0-rc.1+build_7"), "OK");
  EXPECT_EQ(JudgeMember("version", std::string(64, '1')), "OK");
  EXPECT_EQ(JudgeMember("version", std::string(65, '1')), "E_MANIFEST");
  for (const char* version :
       {"", ".1", "-1", "+1", "_1", "1 0", "1/0", "1\n", "1:0", "\xc3\xa9"}) {
    EXPECT_EQ(JudgeMember("version", version), "E_MANIFEST") << version;
  }
}

TEST(ManifestTest, ChecksNames) {
  EXPECT_EQ(JudgeMember("name", "a"), "OK");
  EXPECT_EQ(JudgeMember("name", "0/a.b/c_d/e-f"), "OK");
  EXPECT_EQ(JudgeMember("name", "a..b"), "OK");
  EXPECT_EQ(JudgeMember("name", std::string(128, 'a')), "OK");
  EXPECT_EQ(JudgeMember("name", std::string(129, 'a')), "E_MANIFEST");
  for (const char* name :
       {"",    "/",   "a/",   "/a",       "a//b",    "a/b/c/d/e", "A",
        "aB",  "a b", "a\n",  "-a",       "a-",      ".a",        "a.",
        "_a",  "a_",  "a/-b", "a/b-",     "..",      "a/..",      "a*",
        "a@b", "a:b", "a\\b", "\xc3\xa4", "\xd0\xb0"}) {
    EXPECT_EQ(JudgeMember("name", name), "E_MANIFEST") << name;
  }
  EXPECT_EQ(JudgeMember("name", std::string("a\0b", 3)), "E_MANIFEST");
}

TEST(ManifestTest, ChecksPaths) {
  EXPECT_EQ(JudgeMember("command", "./hello"), "OK");
  EXPECT_EQ(JudgeMember("command", "bin/hello"), "OK");
  for (const absl::string_view member : {"command", "binary"}) {
    for (const char* path :
         {"", "/hello", "../hello", "a/../hello", "hello/", "a//b", "a\\b",
          "-x", "././hello", ".", "./", "/bin/sh", "hello world", "hello;ls"}) {
      EXPECT_EQ(JudgeMember(member, path), "E_PATH") << path;
    }
    EXPECT_EQ(JudgeMember(member, std::string("a\0b", 3)), "E_PATH");
    EXPECT_EQ(JudgeMember(member, JsonValue::Array{"sh", "-c"}), "E_MANIFEST");
  }
  EXPECT_EQ(JudgeMember("binary", "./hello"), "E_PATH");
}

TEST(ManifestTest, ChecksHashes) {
  const std::string good(64, 'a');
  EXPECT_EQ(JudgeMember("binary_sha256", good), "OK");
  for (const std::string& hash :
       {std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'A'),
        std::string(63, 'a') + "g", "sha256:" + good, std::string()}) {
    EXPECT_EQ(JudgeMember("binary_sha256", hash), "E_MANIFEST") << hash;
  }
}

TEST(ManifestTest, ChecksArguments) {
  EXPECT_EQ(JudgeJson("args", Strings(1024, "x")), "OK");
  EXPECT_EQ(JudgeJson("args", Strings(1025, "x")), "E_MANIFEST");
  EXPECT_EQ(JudgeMember("args", JsonValue::Array{std::string(131'072, 'x')}),
            "OK");
  EXPECT_EQ(JudgeMember("args", JsonValue::Array{std::string(131'073, 'x')}),
            "E_MANIFEST");
  EXPECT_EQ(JudgeJson("args", R"(["a\u0000b"])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("args", R"(["a",1])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("args", R"(["a",null])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("args", R"(["; rm -rf /","`ls` &","é"] )"), "OK");
  EXPECT_EQ(JudgeJson("args", "\"--port 1\""), "E_MANIFEST");
}

TEST(ManifestTest, ChecksTheEnvironment) {
  const auto judge = [](const std::string& name) {
    JsonValue env = JsonValue::MakeObject();
    env.Set(name, "value");
    return JudgeMember("env", env);
  };
  EXPECT_EQ(judge(std::string(128, 'A')), "OK");
  EXPECT_EQ(judge(std::string(129, 'A')), "E_MANIFEST");
  for (const char* name : {"_", "a", "Z9_", "LD", "LDX", "PORTS", "MYCELIUM",
                           "port", "ld_preload", "PATH"}) {
    EXPECT_EQ(judge(name), "OK") << name;
  }
  for (const char* name : {"",
                           "9A",
                           "A-B",
                           "A.B",
                           "A=B",
                           "A B",
                           "A\n",
                           "\xc3\x84",
                           "PORT",
                           "LD_PRELOAD",
                           "LD_LIBRARY_PATH",
                           "LD_AUDIT",
                           "LD_",
                           "MYCELIUM_APP",
                           "MYCELIUM_",
                           "BASH_ENV",
                           "ENV",
                           "IFS",
                           "SHELLOPTS",
                           "BASHOPTS",
                           "PS4",
                           "PROMPT_COMMAND",
                           "BASH_FUNC_x",
                           "GLIBC_TUNABLES",
                           "GCONV_PATH",
                           "LOCPATH",
                           "NLSPATH",
                           "MALLOC_TRACE",
                           "HOSTALIASES",
                           "RES_OPTIONS"}) {
    EXPECT_EQ(judge(name), "E_MANIFEST") << name;
  }
  EXPECT_EQ(JudgeJson("env", R"({"A":"x\u0000"})"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("env", R"({"A":1})"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("env", R"({"A":null})"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("env", R"(["A=1"])"), "E_MANIFEST");
  JsonValue large = JsonValue::MakeObject();
  large.Set("A", std::string(131'071, 'x'));
  EXPECT_EQ(JudgeMember("env", large), "OK");
  large.Set("A", std::string(131'072, 'x'));
  EXPECT_EQ(JudgeMember("env", large), "E_MANIFEST");
  JsonValue many = JsonValue::MakeObject();
  for (int i = 0; i < 1024; ++i) many.Set(absl::StrCat("A", i), "");
  EXPECT_EQ(JudgeMember("env", many), "OK");
  many.Set("B", "");
  EXPECT_EQ(JudgeMember("env", many), "E_MANIFEST");
}

TEST(ManifestTest, ChecksWhatIsProvided) {
  JsonValue::Array names;
  for (int i = 0; i < 64; ++i) names.emplace_back(absl::StrCat("port", i));
  EXPECT_EQ(JudgeMember("provides", names), "OK");
  names.emplace_back("one-more");
  EXPECT_EQ(JudgeMember("provides", names), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("provides", "[]"), "OK");
  EXPECT_EQ(JudgeJson("provides", R"(["http","http"])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("provides", R"(["http",7])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("provides", R"([""])"), "E_MANIFEST");
}

TEST(ManifestTest, ChecksHealth) {
  EXPECT_EQ(JudgeJson("health", "{}"), "OK");
  EXPECT_EQ(JudgeJson("health", R"({"path":"/"})"), "OK");
  for (const absl::string_view health :
       {R"({"path":""})", R"({"path":"health"})", R"({"path":"/a b"})",
        R"({"path":"/a\r\nX: y"})", R"({"path":"/é"})", R"({"path":7})",
        R"({"path":"http://x/"})", R"({"type":"HTTP"})", R"({"type":"grpc"})",
        R"({"type":1})", R"({"interval_ms":0})", R"({"interval_ms":1.5})",
        R"({"interval_ms":"1"})", R"({"timeout_ms":-1})",
        R"({"timeout_ms":86400001})"}) {
    EXPECT_EQ(JudgeJson("health", health), "E_MANIFEST") << health;
  }
  EXPECT_EQ(JudgeJson("health", R"({"timeout_ms":86400000})"), "OK");
}

TEST(ManifestTest, ChecksNutrients) {
  EXPECT_EQ(JudgeJson("nutrients", R"({"cpu_milli":1,"memory_mb":1})"), "OK");
  EXPECT_EQ(JudgeJson("nutrients", R"({"cpu_milli":1e6,"memory_mb":16777216})"),
            "OK");
  for (const absl::string_view nutrients :
       {R"({"cpu_milli":0})", R"({"cpu_milli":-1})", R"({"cpu_milli":1.5})",
        R"({"cpu_milli":1000001})", R"({"cpu_milli":"1"})",
        R"({"cpu_milli":true})", R"({"cpu_milli":null})", R"({"memory_mb":0})",
        R"({"memory_mb":16777217})", R"({"memory_mb":0.5})"}) {
    EXPECT_EQ(JudgeJson("nutrients", nutrients), "E_MANIFEST") << nutrients;
  }
}

TEST(ManifestTest, ChecksTheServiceLevel) {
  EXPECT_EQ(JudgeJson("slo", R"({"p99_budget_ms":0.001})"), "OK");
  EXPECT_EQ(JudgeJson("slo", "{}"), "OK");
  for (const absl::string_view slo :
       {R"({"p99_budget_ms":0})", R"({"p99_budget_ms":-0.0})",
        R"({"p99_budget_ms":-1})", R"({"p99_budget_ms":"5"})",
        R"({"p99_budget_ms":true})"}) {
    EXPECT_EQ(JudgeJson("slo", slo), "E_MANIFEST") << slo;
  }
}

TEST(ManifestTest, ChecksSecurity) {
  EXPECT_EQ(JudgeJson("security", "{}"), "OK");
  EXPECT_EQ(JudgeJson("security", R"({"lsm_profile":"my.profile-1_a"})"), "OK");
  for (const absl::string_view security :
       {R"({"lsm_profile":""})", R"({"lsm_profile":"../etc/x"})",
        R"({"lsm_profile":"a/b"})", R"({"lsm_profile":"-x"})",
        R"({"lsm_profile":1})", R"({"read_only_fs":"false"})",
        R"({"read_only_fs":0})", R"({"read_only_fs":null})",
        R"({"require":"landlock"})", R"({"require":[1]})",
        R"({"require":["a b"]})", R"({"privileged":true})",
        R"({"Read_only_fs":true})", R"({"":1})"}) {
    EXPECT_EQ(JudgeJson("security", security), "E_MANIFEST") << security;
  }
}

TEST(ManifestTest, ChecksTimes) {
  EXPECT_EQ(JudgeMember("created_at", "2026-01-02T03:04:05.5-07:00"), "OK");
  for (const char* time : {"", "2026-01-02", "2026-13-02T03:04:05Z",
                           "2026-01-02T03:04:05", "2026-02-30T00:00:00Z"}) {
    EXPECT_EQ(JudgeMember("created_at", time), "E_MANIFEST") << time;
    EXPECT_EQ(JudgeMember("expires_at", time), "E_MANIFEST") << time;
  }
  EXPECT_EQ(JudgeMember("expires_at", "2026-01-02T03:04:06Z"), "OK");
  EXPECT_EQ(JudgeMember("expires_at", "2026-01-02T03:04:05Z"), "E_MANIFEST");
  EXPECT_EQ(JudgeMember("expires_at", "2026-01-02T04:04:05+01:00"),
            "E_MANIFEST");
  EXPECT_EQ(JudgeMember("expires_at", "2026-01-02T03:04:04Z"), "E_MANIFEST");
}

TEST(ManifestTest, ChecksFiles) {
  const std::string hash(64, 'b');
  const auto judge = [](absl::string_view path, absl::string_view info) {
    JsonValue files = JsonValue::MakeObject();
    files.Set(path, *ParseJson(info));
    return JudgeMember("files", files);
  };
  const std::string good = absl::StrCat(R"({"size":0,"sha256":")", hash, "\"}");
  EXPECT_EQ(judge("a/b.txt", good), "OK");
  EXPECT_EQ(JudgeJson("files", "{}"), "OK");
  for (const absl::string_view path :
       {"../x", "/x", "", "a//b", "./x", "a/", "-x", "a b", "C:x", "a\\b"}) {
    EXPECT_EQ(judge(path, good), "E_PATH") << path;
  }
  EXPECT_EQ(judge("manifest.json", good), "E_MANIFEST");
  for (const std::string& info :
       {std::string("{}"), std::string("[]"), std::string("null"),
        std::string(R"({"size":1})"),
        absl::StrCat(R"({"sha256":")", hash, "\"}"),
        absl::StrCat(R"({"size":-1,"sha256":")", hash, "\"}"),
        absl::StrCat(R"({"size":1.5,"sha256":")", hash, "\"}"),
        absl::StrCat(R"({"size":"1","sha256":")", hash, "\"}"),
        absl::StrCat(R"({"size":1,"sha256":")", hash.substr(1), "\"}"),
        absl::StrCat(R"({"size":1,"exec":1,"sha256":")", hash, "\"}"),
        absl::StrCat(R"({"size":1,"exec":"true","sha256":")", hash, "\"}")}) {
    EXPECT_EQ(judge("a", info), "E_MANIFEST") << info;
  }
}

TEST(ManifestTest, RefusesWhatItMustUnderstandAndDoesNot) {
  EXPECT_EQ(JudgeJson("critical", "[]"), "OK");
  EXPECT_EQ(JudgeJson("critical", R"(["slo","security","labels"])"), "OK");
  EXPECT_EQ(JudgeJson("critical", R"(["slo","quantum"])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("critical", R"(["SLO"])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("critical", R"([1])"), "E_MANIFEST");
  EXPECT_EQ(JudgeJson("critical", R"({"slo":true})"), "E_MANIFEST");
}

TEST(ManifestTest, IgnoresUnknownMembersButSignsThem) {
  const Manifest with =
      Parsed([](JsonValue& json) { json.Set("future", Object("[1]")); });
  const Manifest without = Parsed([](JsonValue&) {});

  EXPECT_THAT(with.signed_json, HasSubstr("\"future\":[1]"));
  EXPECT_NE(StatementDigest(with), StatementDigest(without));
  EXPECT_THAT(with.signed_json, testing::Not(HasSubstr("\"signature\"")));
  EXPECT_THAT(with.signed_json, HasSubstr("\"public_key\""));
}

TEST(ManifestTest, SignsInnerMembersNamedSignature) {
  const Manifest manifest = Parsed([](JsonValue& json) {
    json.Set("labels", Object(R"({"signature":"inner"})"));
  });

  EXPECT_THAT(manifest.signed_json, HasSubstr(R"("signature":"inner")"));
}

TEST(ManifestTest, ChecksKeyAndSignature) {
  const auto judge = [](absl::string_view member, const JsonValue& value) {
    JsonValue json = *ParseJson(SignManifest(TestManifest()));
    json.Set(member, value);
    return ReasonOf(ParseManifest(Canonicalize(json)).status());
  };
  const std::string key = crypto::Base64Encode(TestKey().public_key());
  EXPECT_EQ(judge("public_key", key), "");
  for (const std::string& bad :
       {std::string(), key + "\n", key.substr(0, 43), "=" + key,
        crypto::Base64Encode(std::string(31, 'x')),
        crypto::Base64Encode(std::string(33, 'x')),
        crypto::Base64Encode(std::string(32, '\0')),
        crypto::Base64Encode("\x01" + std::string(31, '\0')),
        crypto::Base64Encode(std::string(32, '\xff')), std::string(64, 'a')}) {
    EXPECT_EQ(judge("public_key", bad), "E_KEY") << bad;
  }
  EXPECT_EQ(judge("public_key", JsonValue()), "E_KEY");
  for (const std::string& bad :
       {std::string(), crypto::Base64Encode(std::string(63, 'x')),
        crypto::Base64Encode(std::string(65, 'x')), std::string(128, 'a'),
        crypto::Base64Encode(std::string(64, 'x')) + " ",
        crypto::Base64Encode(std::string(64, '\xff')).replace(0, 1, "-")}) {
    EXPECT_EQ(judge("signature", bad), "E_SIG") << bad;
  }
  EXPECT_EQ(judge("signature", JsonValue()), "E_SIG");
  EXPECT_EQ(judge("signature", JsonValue::Array{"x"}), "E_SIG");
}

TEST(ManifestTest, SaysWhatIsWrong) {
  JsonValue json = TestManifest();
  json.Set("nutrients", Object(R"({"cpu_milli":0})"));

  const auto manifest = ParseManifest(SignManifest(json));

  EXPECT_EQ(manifest.status().message(),
            "manifest member nutrients.cpu_milli must be an integer from 1 to "
            "1000000, not 0");
}

TEST(ManifestTest, KnowsTheAppOfAName) {
  EXPECT_EQ(ManifestApp("billing"), "billing");
  EXPECT_EQ(ManifestApp("team/payments/api"), "api");
}

}  // namespace
}  // namespace mycelium::spore
