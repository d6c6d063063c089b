#include "lib/spore/extract.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/crypto/sha256.h"
#include "lib/crypto/trust_store.h"
#include "lib/spore/json.h"
#include "lib/spore/rfc3339.h"
#include "lib/spore/test_spore.h"
#include "lib/spore/verify.h"

namespace mycelium::spore {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr char kVectors[] = "lib/spore/testdata/vectors";

Verdict VerifyFd(int fd) {
  return VerifySpore(fd, nullptr, *ParseRfc3339("2026-02-01T00:00:00Z"),
                     Limits());
}

mode_t ModeOf(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(lstat(path.c_str(), &info), 0) << path;
  return info.st_mode;
}

class ExtractTest : public ::testing::Test {
 protected:
  ExtractTest() : directory_(*TempDirectory::Create("extract")) {}

  std::string Target() { return JoinPath(directory_.path(), "app"); }

  std::vector<std::string> Leftovers() {
    return *ListDirectory(directory_.path());
  }

  // A spore with files of several kinds.
  static ZipFile Spore() {
    const auto info = [](absl::string_view data, bool exec) {
      JsonValue json = JsonValue::MakeObject();
      json.Set("sha256", crypto::Sha256Hex(data));
      json.Set("size", static_cast<int64_t>(data.size()));
      if (exec) json.Set("exec", true);
      return json;
    };
    JsonValue files = JsonValue::MakeObject();
    files.Set("hello", info(kTestBinary, false));
    files.Set("bin/tool", info("tool", true));
    files.Set("assets/deep/a.txt", info("asset", false));
    JsonValue manifest = TestManifest();
    manifest.Set("files", files);
    ZipFile zip = SporeWith(SignManifest(manifest));
    zip.entries.push_back(
        WithDescriptor(DeflatedEntry("bin/tool", "tool"), false));
    zip.entries.back().external_attributes = 0x8fff0000;  // 07777
    ZipEntry directory = StoredEntry("empty/", "");
    directory.external_attributes = 0x41ff0010;
    zip.entries.push_back(directory);
    zip.entries.push_back(StoredEntry("assets/deep/a.txt", "asset"));
    return zip;
  }

  const TempDirectory directory_;
};

TEST_F(ExtractTest, UnpacksTheSignedFilesAndNothingElse) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));
  const Verdict verdict = VerifyFd(fd.get());
  ASSERT_TRUE(verdict.accept) << verdict.message;

  const auto command = Extract(fd.get(), verdict, Target(), Limits());

  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(*command, JoinPath(Target(), "hello"));
  EXPECT_THAT(Leftovers(), ElementsAre("app"));
  EXPECT_THAT(*ListDirectory(Target()), ElementsAre("assets", "bin", "hello"));
  EXPECT_EQ(*ReadFile(*command), kTestBinary);
  EXPECT_EQ(*ReadFile(JoinPath(Target(), "bin/tool")), "tool");
  EXPECT_EQ(*ReadFile(JoinPath(Target(), "assets/deep/a.txt")), "asset");
  EXPECT_EQ(ModeOf(Target()), mode_t{S_IFDIR | 0755});
  EXPECT_EQ(ModeOf(JoinPath(Target(), "assets/deep")), mode_t{S_IFDIR | 0755});
  EXPECT_EQ(ModeOf(*command), mode_t{S_IFREG | 0555});
  EXPECT_EQ(ModeOf(JoinPath(Target(), "bin/tool")), mode_t{S_IFREG | 0555});
  EXPECT_EQ(ModeOf(JoinPath(Target(), "assets/deep/a.txt")),
            mode_t{S_IFREG | 0444});
}

TEST_F(ExtractTest, SetsModesWhateverTheUmaskIs) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));
  const mode_t umask_before = umask(0077);

  const auto command =
      Extract(fd.get(), VerifyFd(fd.get()), Target(), Limits());

  umask(umask_before);
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(ModeOf(Target()), mode_t{S_IFDIR | 0755});
  EXPECT_EQ(ModeOf(JoinPath(Target(), "bin")), mode_t{S_IFDIR | 0755});
  EXPECT_EQ(ModeOf(*command), mode_t{S_IFREG | 0555});
}

TEST_F(ExtractTest, UnpacksEveryValidVector) {
  const auto index =
      ParseJson(*ReadFile(JoinPath(kVectors, "valid/index.json")));
  ASSERT_TRUE(index.ok());
  for (const JsonValue& vector : index->array()) {
    const std::string& name = vector.Find("file")->string();
    SCOPED_TRACE(name);
    const std::string path = JoinPath(kVectors, name);
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const Verdict verdict = VerifyFd(fd.get());
    const std::string target = JoinPath(directory_.path(), verdict.digest);

    const auto command = Extract(fd.get(), verdict, target, Limits());

    ASSERT_TRUE(command.ok()) << command.status();
    EXPECT_EQ(
        crypto::Sha256Hex(*ReadFile(JoinPath(target, verdict.manifest.binary))),
        verdict.manifest.binary_sha256);
    EXPECT_EQ(ModeOf(*command), mode_t{S_IFREG | 0555});
  }
}

TEST_F(ExtractTest, UnpacksNothingThatWasNotAccepted) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));

  const auto result = Extract(fd.get(), Verdict(), Target(), Limits());

  EXPECT_TRUE(absl::IsFailedPrecondition(result.status()));
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(ExtractTest, RefusesAFileThatChangedAfterItWasVerified) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));
  const Verdict verdict = VerifyFd(fd.get());
  const auto judge = [&](const ZipFile& zip) {
    const UniqueFd changed = MemoryFile(WriteZip(zip));
    const auto result = Extract(changed.get(), verdict, Target(), Limits());
    EXPECT_THAT(Leftovers(), IsEmpty());
    return ReasonOf(result.status());
  };
  ZipFile zip = Spore();
  zip.entries[1] = StoredEntry("hello", "#!/bin/evil\nthe binar\n");
  EXPECT_EQ(judge(zip), "E_HASH");
  zip = Spore();
  zip.entries[2] = StoredEntry("bin/tool", "evil");
  EXPECT_EQ(judge(zip), "E_HASH");
  zip = Spore();
  zip.entries[2] = DeflatedEntry("bin/tool", std::string(1'000'000, 'x'));
  zip.entries[2].local.size = 4;
  zip.entries[2].central.size = 4;
  EXPECT_EQ(judge(zip), "E_ZIP_DATA");
  zip = Spore();
  zip.entries.push_back(StoredEntry("../evil", "x"));
  EXPECT_EQ(judge(zip), "E_PATH");
  zip = Spore();
  zip.entries.push_back(StoredEntry("extra", "x"));
  EXPECT_EQ(judge(zip), "E_UNSIGNED_FILE");
  zip = Spore();
  zip.entries.pop_back();
  EXPECT_EQ(judge(zip), "E_FILE_MISSING");
}

TEST_F(ExtractTest, HoldsItsLimits) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));
  const Verdict verdict = VerifyFd(fd.get());

  const auto result =
      Extract(fd.get(), verdict, Target(), {.max_total_bytes = 100});

  EXPECT_EQ(ReasonOf(result.status()), "E_SIZE");
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(ExtractTest, LeavesWhatIsThereAlone) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));
  const Verdict verdict = VerifyFd(fd.get());
  ASSERT_TRUE(Extract(fd.get(), verdict, Target(), Limits()).ok());

  EXPECT_TRUE(absl::IsAlreadyExists(
      Extract(fd.get(), verdict, Target(), Limits()).status()));
  EXPECT_THAT(Leftovers(), ElementsAre("app"));

  // A symbolic link is something that is there, wherever it points.
  const std::string link = JoinPath(directory_.path(), "link");
  ASSERT_EQ(symlink("/nonexistent", link.c_str()), 0);
  EXPECT_TRUE(absl::IsAlreadyExists(
      Extract(fd.get(), verdict, link, Limits()).status()));
}

TEST_F(ExtractTest, NamesAParentThatIsMissing) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));

  const auto result =
      Extract(fd.get(), VerifyFd(fd.get()),
              JoinPath(directory_.path(), "absent/app"), Limits());

  EXPECT_TRUE(absl::IsNotFound(result.status())) << result.status();
}

// Makes openat2 answer ENOSYS in this process, as kernels before 5.6 do.
bool ForbidOpenat2() {
  std::array<sock_filter, 4> instructions = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),  // The number of the call.
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog program = {.len = instructions.size(),
                              .filter = instructions.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST_F(ExtractTest, UnpacksTheSameWithoutOpenat2) {
  const UniqueFd fd = MemoryFile(WriteZip(Spore()));
  const Verdict verdict = VerifyFd(fd.get());

  const pid_t child = fork();
  if (child == 0) {
    const bool good =
        ForbidOpenat2() && Extract(fd.get(), verdict, Target(), Limits()).ok();
    _exit(good ? 0 : 1);
  }

  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(Leftovers(), ElementsAre("app"));
  EXPECT_EQ(*ReadFile(JoinPath(Target(), "assets/deep/a.txt")), "asset");
  EXPECT_EQ(ModeOf(JoinPath(Target(), "assets")), mode_t{S_IFDIR | 0755});
}

TEST_F(ExtractTest, LeavesNothingWhenWritingFails) {
  const std::string binary(1 << 20, 'x');
  JsonValue manifest = TestManifest();
  manifest.Set("binary_sha256", crypto::Sha256Hex(binary));
  ZipFile zip = SporeWith(SignManifest(manifest));
  zip.entries[1] = StoredEntry("hello", binary);
  const UniqueFd fd = MemoryFile(WriteZip(zip));
  const Verdict verdict = VerifyFd(fd.get());
  // The limit stands for a full disk: writing stops in the middle of the file.
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {.rlim_cur = 300'000, .rlim_max = before.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);

  const auto result = Extract(fd.get(), verdict, Target(), Limits());

  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  EXPECT_TRUE(absl::IsResourceExhausted(result.status())) << result.status();
  EXPECT_THAT(Leftovers(), IsEmpty());
}

}  // namespace
}  // namespace mycelium::spore
