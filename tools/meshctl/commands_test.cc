// meshctl as it is called, without a mesh: the command line, help, spores, keys
// and trust.

#include <sys/stat.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "lib/spore/json.h"
#include "tools/meshctl/command.h"
#include "tools/meshctl/help.h"
#include "tools/meshctl/parser.h"
#include "tools/meshctl/session.h"
#include "tools/meshctl/table.h"
#include "tools/meshctl/testing.h"

namespace mycelium::meshctl {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kVectors[] = "lib/spore/testdata/vectors/";

class CommandsTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const {
    return JoinPath(directory_.path(), name);
  }

  Outcome Run(const std::vector<std::string>& words) {
    return RunWords(words, variables_, directory_.path());
  }

  // A signed spore, its key and a trust store that trusts it for `billing`.
  void MakeSpore() {
    ASSERT_EQ(Run({"keygen", "--out", Path("key")}).code, 0);
    ASSERT_EQ(Run({"trust", "init", "--trust-store", Path("trust.json")}).code,
              0);
    ASSERT_EQ(Run({"trust", "add", Path("key.pub"), "--name", "billing",
                   "--trust-store", Path("trust.json")})
                  .code,
              0);
    ASSERT_TRUE(WriteFileAtomically(Path("program"), "#!/bin/sh\n", 0755).ok());
    const Outcome built =
        Run({"build", "--name", "billing", "--version", "1.0.0", "--binary",
             Path("program"), "--key-file", Path("key"), "--out",
             Path("billing.spore")});
    ASSERT_EQ(built.code, 0) << built.err;
  }

  const TempDirectory directory_ = *TempDirectory::Create("meshctl");
  std::map<std::string, std::string> variables_ = {{"HOME", directory_.path()},
                                                   {"LANG", "C.UTF-8"}};
};

// What is printed is compared with a file beside this test. After a change that
// is meant, write it anew from the message that the failure prints.
void ExpectGolden(const std::string& text, const std::string& file) {
  const auto golden = ReadFile(absl::StrCat("tools/meshctl/testdata/", file));
  EXPECT_EQ(text, golden.ok() ? *golden : golden.status().ToString())
      << "in " << file;
}

TEST_F(CommandsTest, ShowsWhatThereIsWithoutArguments) {
  const Outcome outcome = Run({});

  EXPECT_EQ(outcome.code, 0);
  ExpectGolden(outcome.out, "overview.txt");
}

TEST_F(CommandsTest, ExplainsCommands) {
  ExpectGolden(Run({"help", "apply"}).out, "help_apply.txt");
  ExpectGolden(Run({"nodes", "--help"}).out, "help_nodes.txt");
  ExpectGolden(Run({"help", "exit-codes"}).out, "help_exit_codes.txt");
  EXPECT_EQ(Run({"help", "nodes", "drain"}).out,
            Run({"nodes", "drain", "-h"}).out);
  EXPECT_EQ(Run({"help", "pack"}).out, Run({"help", "build"}).out);
}

TEST_F(CommandsTest, ExplainsEveryCommandAndTopicWithinEightyColumns) {
  for (const Command& command : Commands()) {
    std::vector<std::string> words = {"help"};
    for (const absl::string_view word : absl::StrSplit(command.path, ' ')) {
      words.emplace_back(word);
    }
    const Outcome outcome = Run(words);
    EXPECT_EQ(outcome.code, 0) << command.path;
    for (const absl::string_view line : absl::StrSplit(outcome.out, '\n')) {
      // Lines to be copied are not broken.
      if (!absl::StartsWith(line, "  meshctl")) {
        EXPECT_LE(DisplayWidth(line), 80u) << command.path << ": " << line;
      }
    }
  }
  for (const Topic& topic : Topics()) {
    EXPECT_THAT(Run({"help", topic.name}).out, StartsWith(topic.summary));
  }
}

TEST_F(CommandsTest, SuggestsWhatWasProbablyMeant) {
  const struct {
    std::vector<std::string> words;
    const char* message;
  } cases[] = {
      {{"statsu"}, "unknown command \"statsu\" — did you mean \"status\"?"},
      {{"nodes", "drian", "x"},
       "unknown command \"nodes drian\" — did you mean \"nodes drain\"?"},
      {{"list", "--outptu", "json"},
       "unknown flag \"--outptu\" for list — did you mean \"--output\"?"},
      {{"list", "-o", "jsno"},
       "-o takes one of table, wide, json, yaml, ndjson, name, not 'jsno' — "
       "did you mean \"json\"?"},
      {{"watch", "endpoint"},
       "watch takes one of plans, endpoints, nodes, slots, events, not "
       "'endpoint' — did you mean \"endpoints\"?"},
      {{"help", "exitcodes"}, "did you mean \"exit-codes\"?"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Run(c.words);
    EXPECT_NE(outcome.code, 0);
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
  }
}

TEST_F(CommandsTest, RefusesWrongCommandLines) {
  const struct {
    std::vector<std::string> words;
    const char* message;
  } cases[] = {
      {{"budget"}, "budget needs one of: put, get, ls, rm"},
      {{"apply"}, "apply needs APP|FILE"},
      {{"get", "a", "b"}, "get does not take the argument 'b'"},
      {{"version", "x"}, "version does not take the argument 'x'"},
      {{"list", "--timeout", "soon"}, "--timeout takes a duration"},
      {{"list", "--timeout"}, "--timeout needs a value: DURATION"},
      {{"apply", "x", "--min", "many"}, "--min takes a number, not 'many'"},
      {{"list", "--json=yes"}, "--json takes no value"},
      {{"list", "-Z"}, "unknown flag \"-Z\" for list"},
      {{"--fabrik", "x"}, "did you mean \"--fabric\"?"},
      {{"apply", "Not_An_App", "--fabric", "127.0.0.1:1"},
       "'Not_An_App' is no app"},
      {{"run", "--nodes", "0"}, "--nodes must be 1 to 16"},
      {{"run", "--port", "70000"}, "--port must be 0 to 65535"},
      {{"logs", "x", "--stderr", "--stdout", "--fabric", "127.0.0.1:1"},
       "exclude each other"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Run(c.words);
    EXPECT_EQ(outcome.code, 2) << absl::StrJoin(c.words, " ");
    EXPECT_THAT(outcome.out, IsEmpty());
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
  }
}

TEST_F(CommandsTest, ErrorsAreOneObjectForPrograms) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{
           {"statsu", "-o", "json"},
           {"list", "--json"},
           {"-ojson", "verify", "/nowhere"},
           {"apply", "--output=json"},
           {"get", "x", "--fabric", "127.0.0.1:1", "-o", "ndjson"},
       }) {
    const Outcome outcome = Run(words);
    EXPECT_THAT(outcome.out, IsEmpty());
    const auto json = spore::ParseJson(outcome.err);
    ASSERT_TRUE(json.ok()) << outcome.err;
    const spore::JsonValue* error = json->Find("error");
    ASSERT_NE(error, nullptr);
    EXPECT_EQ(error->Find("exit")->integer(), outcome.code);
    EXPECT_FALSE(error->Find("message")->string().empty());
    EXPECT_TRUE(error->Find("fix")->is_array());
  }
}

TEST_F(CommandsTest, ReadsFlagsAnywhereAndInEverySpelling) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{
           {"--fabric", "a:1", "nodes", "drain", "n1", "-o", "json"},
           {"nodes", "--fabric=a:1", "drain", "-ojson", "n1"},
           {"node", "drain", "n1", "--output=json", "--fabric", "a:1"},
           {"nodes", "drain", "--fabric", "a:1", "-o=json", "--", "n1"},
       }) {
    const auto call = ParseCommandLine(words);
    ASSERT_TRUE(call.ok()) << call.status();
    EXPECT_EQ(call->command->path, "nodes drain");
    EXPECT_THAT(call->args, ElementsAre("n1"));
    EXPECT_EQ(call->Get("fabric"), "a:1");
    EXPECT_EQ(call->Get("output"), "json");
  }
  EXPECT_EQ(ParseCommandLine({"list", "-vvv"})->Count("verbose"), 3);
  EXPECT_EQ(ParseCommandLine({"verify", "f", "--trust_store", "t"})
                ->Get("trust-store"),
            "t");
}

TEST_F(CommandsTest, PassesOnWhatStandsBehindTheDashes) {
  const auto call = ParseCommandLine({"build", "--name", "x", "--env", "A=1",
                                      "-e", "B=2", "--", "--name", "y"});

  ASSERT_TRUE(call.ok());
  EXPECT_THAT(call->passthrough, ElementsAre("--name", "y"));
  EXPECT_THAT(call->GetAll("env"), ElementsAre("A=1", "B=2"));
  EXPECT_EQ(call->Get("name"), "x");
}

TEST_F(CommandsTest, ReadsDurationsAndTimes) {
  EXPECT_EQ(ParseDurationFlag("90"), absl::Seconds(90));
  EXPECT_EQ(ParseDurationFlag("1m30s"), absl::Seconds(90));
  EXPECT_EQ(ParseDurationFlag("2d"), absl::Hours(48));
  EXPECT_EQ(ParseDurationFlag("-1s"), std::nullopt);
  EXPECT_EQ(ParseDurationFlag(""), std::nullopt);
  const absl::Time now = absl::FromUnixSeconds(1000);
  EXPECT_EQ(ParseTimeFlag("10s", now), absl::FromUnixSeconds(990));
  EXPECT_EQ(ParseTimeFlag("1970-01-01T00:00:01Z", now),
            absl::FromUnixSeconds(1));
  EXPECT_EQ(ParseTimeFlag("infinite-past", now), std::nullopt);
}

TEST_F(CommandsTest, ChecksTheTableOfCommandsItself) {
  for (const Command& command : Commands()) {
    EXPECT_FALSE(command.summary.empty()) << command.path;
    EXPECT_THAT(command.summary, Not(EndsWith("."))) << command.path;
    EXPECT_FALSE(command.description.empty()) << command.path;
    std::map<std::string, int> seen;
    for (const Flag& flag : command.flags) {
      EXPECT_EQ(++seen[flag.name], 1) << command.path << " " << flag.name;
      if (flag.letter != 0) {
        EXPECT_EQ(++seen[std::string(1, flag.letter)], 1) << command.path;
        for (const Flag& global : GlobalFlags()) {
          EXPECT_NE(flag.letter, global.letter) << command.path;
        }
      }
      EXPECT_EQ(flag.value.empty(),
                flag.kind == FlagKind::kSwitch || flag.kind == FlagKind::kCount)
          << command.path << " " << flag.name;
      EXPECT_THAT(flag.help, Not(EndsWith("."))) << command.path;
    }
  }
}

TEST_F(CommandsTest, ExamplesOfTheTableAreCommandLines) {
  for (const Command& command : Commands()) {
    for (const Example& example : command.examples) {
      std::vector<std::string> words =
          absl::StrSplit(example.line, ' ', absl::SkipEmpty());
      ASSERT_EQ(words[0], "meshctl");
      words.erase(words.begin());
      const auto call = ParseCommandLine(words);
      ASSERT_TRUE(call.ok()) << example.line << ": " << call.status();
      EXPECT_EQ(call->command->path, command.path);
    }
  }
}

TEST_F(CommandsTest, CompletesCommandsFlagsAndValues) {
  EXPECT_THAT(Complete({"sta"}), ElementsAre("status"));
  EXPECT_THAT(Complete({"nodes", ""}), Contains("drain"));
  EXPECT_THAT(Complete({"budget", "g"}), ElementsAre("get"));
  EXPECT_THAT(Complete({"apply", "--dig"}), ElementsAre("--digest"));
  EXPECT_THAT(Complete({"apply", "--digest", ""}), ElementsAre(":digests"));
  EXPECT_THAT(Complete({"list", "-o", "j"}), ElementsAre("json"));
  EXPECT_THAT(Complete({"watch", ""}), Contains("endpoints"));
  EXPECT_THAT(Complete({"get", ""}), ElementsAre(":apps"));
  EXPECT_THAT(Complete({"get", "x", ""}), IsEmpty());
  EXPECT_THAT(Complete({"--fabric", "a:1", "lis"}), ElementsAre("list"));
  EXPECT_THAT(Complete({"completion", "z"}), ElementsAre("zsh"));
  EXPECT_THAT(Complete({"verify", ""}), ElementsAre(":files"));
}

TEST_F(CommandsTest, FindsNoMeshWhereThereIsNone) {
  const Outcome outcome = Run({"list"});

  EXPECT_EQ(outcome.code, 6);
  ExpectGolden(outcome.err, "error_no_mesh.txt");
}

TEST_F(CommandsTest, SaysWhichServiceCannotBeReached) {
  const Outcome outcome = Run({"list", "--fabric", "127.0.0.1:1"});

  EXPECT_EQ(outcome.code, 6);
  ExpectGolden(outcome.err, "error_unreachable.txt");
}

TEST_F(CommandsTest, TakesTheMeshFromConfigVariableAndFlag) {
  ASSERT_TRUE(MakeDirectories(Path(".config/mycelium")).ok());
  ASSERT_TRUE(WriteFileAtomically(Path(".config/mycelium/config.toml"),
                                  "current = \"prod\"\n"
                                  "[context.prod]\nfabric = \"prod:1\"\n"
                                  "[context.test]\nfabric = \"test:1\"\n"
                                  "ca = \"~/ca.pem\"\n")
                  .ok());

  EXPECT_THAT(Run({"context", "show"}).out,
              AllOf(HasSubstr("context  prod"), HasSubstr("prod:1")));
  EXPECT_THAT(Run({"context", "show", "-C", "test"}).out,
              AllOf(HasSubstr("test:1"), HasSubstr(Path("ca.pem"))));
  variables_["MESHCTL_FABRIC"] = "variable:1";
  EXPECT_THAT(Run({"context", "show"}).out, HasSubstr("MESHCTL_FABRIC"));
  EXPECT_THAT(Run({"context", "show", "--fabric", "flag:1"}).out,
              AllOf(HasSubstr("flag:1"), HasSubstr("--fabric")));
  const Outcome unknown = Run({"context", "show", "-C", "nowhere"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("there is no context 'nowhere'"));
}

TEST_F(CommandsTest, DoesNotTakeALocalMeshThatIsNotRunning) {
  ASSERT_TRUE(MakeDirectories(Path(".mesh")).ok());
  ASSERT_TRUE(WriteFileAtomically(Path(".mesh/mesh.json"),
                                  R"({"fabric":"127.0.0.1:1"})")
                  .ok());

  const Outcome outcome = Run({"list"});

  EXPECT_EQ(outcome.code, 6);
  EXPECT_THAT(outcome.err, HasSubstr("does not run"));
}

TEST_F(CommandsTest, MakesAKeyThatOthersCannotRead) {
  const Outcome outcome = Run({"keygen", "--out", Path("key"), "-o", "json"});

  ASSERT_EQ(outcome.code, 0) << outcome.err;
  struct stat info = {};
  ASSERT_EQ(stat(Path("key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600u);
  const auto json = spore::ParseJson(outcome.out);
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json->Find("key_id")->string().size(), 64u);

  const Outcome again = Run({"keygen", "--out", Path("key")});
  EXPECT_EQ(again.code, 5);
  EXPECT_THAT(again.err, HasSubstr("exists already"));
}

TEST_F(CommandsTest, BuildsAndVerifiesASpore) {
  MakeSpore();

  const Outcome outcome = Run({"verify", Path("billing.spore"), "--trust-store",
                               Path("trust.json"), "-o", "json"});

  EXPECT_EQ(outcome.code, 0) << outcome.out;
  const auto json = spore::ParseJson(outcome.out);
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json->Find("verdict")->string(), "accept");
  EXPECT_EQ(json->Find("code")->string(), "OK");
  EXPECT_EQ(json->Find("digest")->string().size(), 64u);
  EXPECT_EQ(json->Find("statement_digest")->string().size(), 64u);
  EXPECT_EQ(json->Find("policy_version")->integer(), 2);
}

TEST_F(CommandsTest, TrustsNothingWithoutATrustStore) {
  MakeSpore();

  const Outcome outcome = Run({"verify", Path("billing.spore"), "-o", "json"});

  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.out, AllOf(HasSubstr(R"("verdict": "refuse")"),
                                 HasSubstr("E_UNTRUSTED_KEY"),
                                 HasSubstr("no trust store was given")));
}

TEST_F(CommandsTest, TrustsAKeyNoMoreAfterItIsRemoved) {
  MakeSpore();
  const auto keys = spore::ParseJson(
      Run({"trust", "ls", "--trust-store", Path("trust.json"), "--json"}).out);
  ASSERT_TRUE(keys.ok());
  const std::string id =
      keys->Find("keys")->array()[0].Find("key_id")->string();

  EXPECT_EQ(Run({"trust", "rm", id.substr(0, 8), "--revoke", "--trust-store",
                 Path("trust.json")})
                .code,
            0);

  const Outcome verdict = Run({"verify", Path("billing.spore"), "--trust-store",
                               Path("trust.json"), "--json"});
  EXPECT_EQ(verdict.code, 4);
  EXPECT_THAT(verdict.out, HasSubstr("E_KEY_REVOKED"));
  EXPECT_EQ(
      Run({"trust", "rm", "ffff", "--trust-store", Path("trust.json")}).code,
      3);
}

TEST_F(CommandsTest, TheSameInputMakesTheSameSpore) {
  MakeSpore();
  variables_["SOURCE_DATE_EPOCH"] = "1700000000";
  ASSERT_TRUE(WriteFileAtomically(Path("mesh.toml"),
                                  "name = \"billing\"\nversion = \"1.0.0\"\n"
                                  "binary = \"program\"\n[env]\nA = \"1\"\n"
                                  "[nutrients]\ncpu_milli = 100\n")
                  .ok());

  const std::string first = Run({"build", Path("mesh.toml"), "-k", Path("key"),
                                 "--out", Path("a.spore"), "-q"})
                                .out;
  const std::string second = Run({"pack", directory_.path(), "--key",
                                  Path("key"), "--out", Path("b.spore"), "-q"})
                                 .out;
  const std::string by_flags =
      Run({"build", "--name=billing", "--version=1.0.0", "--binary",
           Path("program"), "--env", "A=1", "--cpu-milli", "100", "--key-file",
           Path("key"), "--out", Path("c.spore"), "-q"})
          .out;

  EXPECT_EQ(first.size(), 65u);
  EXPECT_EQ(first, second);
  EXPECT_EQ(first, by_flags);
}

TEST_F(CommandsTest, ShowsWhatIsInASpore) {
  MakeSpore();

  const Outcome people = Run({"inspect", Path("billing.spore")});
  const Outcome programs = Run({"inspect", Path("billing.spore"), "--json"});

  EXPECT_EQ(people.code, 0);
  EXPECT_THAT(people.out, AllOf(HasSubstr("billing"), HasSubstr("program"),
                                HasSubstr("not checked against any")));
  const auto json = spore::ParseJson(programs.out);
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(json->Find("manifest")->Find("name")->string(), "billing");
  EXPECT_EQ(json->Find("entries")->array().size(), 2u);
}

TEST_F(CommandsTest, SaysWhatABuildLacks) {
  MakeSpore();
  const struct {
    std::vector<std::string> words;
    int code;
    const char* message;
  } cases[] = {
      {{"build", "--name", "x"}, 2, "no binary is named"},
      {{"build", "--binary", Path("program")}, 2, "the spore has no name"},
      {{"build", "--binary", Path("program"), "--name", "x"},
       2,
       "the spore has no version"},
      {{"build", "--binary", Path("program"), "--name", "x", "--version", "1"},
       2,
       "no key to sign with"},
      {{"build", "--binary", Path("program"), "--name", "X", "--version", "1",
        "-k", Path("key")},
       2,
       "cannot pack X"},
      {{"build", "--binary", Path("nothing"), "--name", "x", "--version", "1",
        "-k", Path("key")},
       3,
       "nothing"},
      {{"build", Path("nothing.toml")}, 3, "nothing.toml"},
      {{"build", "--binary", Path("program"), "--name", "x", "--version", "1",
        "-k", Path("program")},
       2,
       "program"},
      {{"build", "--binary", Path("program"), "--env", "=x"}, 2, "NAME=VALUE"},
  };
  for (const auto& c : cases) {
    const Outcome outcome = Run(c.words);
    EXPECT_EQ(outcome.code, c.code) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(c.message));
  }
}

TEST_F(CommandsTest, ExpandsEnvOfADescription) {
  MakeSpore();
  ASSERT_TRUE(WriteFileAtomically(
                  Path("mesh.toml"),
                  "name = \"x\"\nversion = \"1\"\nbinary = \"program\"\n"
                  "[env]\n"
                  "A = \"${MESH_A:-default}/x\"\nB = \"${OTHER}\"\n")
                  .ok());
  const auto env = [this] {
    EXPECT_EQ(Run({"build", Path("mesh.toml"), "-k", Path("key"), "--out",
                   Path("x.spore")})
                  .code,
              0);
    const auto json =
        spore::ParseJson(Run({"inspect", Path("x.spore"), "--json"}).out);
    return spore::Canonicalize(*json->Find("manifest")->Find("env"));
  };

  EXPECT_EQ(env(), R"({"A":"default/x","B":"${OTHER}"})");
  variables_["MESH_A"] = "set";
  EXPECT_EQ(env(), R"({"A":"set/x","B":"${OTHER}"})");
}

TEST_F(CommandsTest, JudgesEveryVectorAsItsIndexSays) {
  const std::string vectors = kVectors;
  const auto text = ReadFile(vectors + "attack/index.json");
  ASSERT_TRUE(text.ok()) << text.status();
  spore::JsonLimits limits;
  limits.max_bytes = text->size();
  const auto index = spore::ParseJson(*text, limits);
  ASSERT_TRUE(index.ok()) << index.status();
  const auto verify = [this, &vectors](const std::string& file) {
    return Run({"verify", vectors + file, "--trust-store",
                vectors + "trust.json", "--at", "2026-02-01T00:00:00Z", "-o",
                "json"});
  };

  for (const spore::JsonValue& vector : index->array()) {
    const std::string file = vector.Find("file")->string();
    const std::string expected = vector.Find("expect")->string();
    std::vector<std::string> codes = {expected};
    for (const auto& other : vector.Find("also_ok")->array()) {
      codes.push_back(other.string());
    }
    const Outcome outcome = verify(file);
    const auto json = spore::ParseJson(outcome.out);
    ASSERT_TRUE(json.ok()) << file << ": " << outcome.out << outcome.err;
    if (expected == "ACCEPT") {
      EXPECT_EQ(outcome.code, 0) << file << ": " << outcome.out;
      continue;
    }
    EXPECT_EQ(outcome.code, 4) << file << ": " << outcome.out;
    EXPECT_EQ(json->Find("verdict")->string(), "refuse") << file;
    EXPECT_THAT(codes, Contains(json->Find("code")->string())) << file;
  }
  const auto valid = ListDirectory(vectors + "valid");
  ASSERT_TRUE(valid.ok());
  for (const std::string& name : *valid) {
    if (!absl::EndsWith(name, ".spore")) continue;
    const Outcome outcome = verify("valid/" + name);
    EXPECT_EQ(outcome.code, 0) << name << ": " << outcome.out;
  }
}

TEST_F(CommandsTest, HonoursWhatTerminalsAndPeopleAskFor) {
  EXPECT_THAT(Run({"statsu", "--color", "always"}).err, HasSubstr("statsu"));
  EXPECT_THAT(Run({"list", "--color", "always"}).err, HasSubstr("\x1b[31m"));
  EXPECT_THAT(Run({"list"}).err, Not(HasSubstr("\x1b")));
  variables_["FORCE_COLOR"] = "1";
  EXPECT_THAT(Run({"list"}).err, HasSubstr("\x1b[31m"));
  variables_["NO_COLOR"] = "1";
  EXPECT_THAT(Run({"list"}).err, Not(HasSubstr("\x1b")));
  variables_["LC_ALL"] = "C";
  EXPECT_THAT(Run({"list"}).err, StartsWith("x no mesh"));
}

}  // namespace
}  // namespace mycelium::meshctl
