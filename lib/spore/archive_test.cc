#include "lib/spore/archive.h"

#include <fcntl.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/spore/test_spore.h"

namespace mycelium::spore {
namespace {

using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;

// "OK", or the code of the refusal.
std::string Judge(const ZipFile& zip, const Limits& limits = {}) {
  const UniqueFd fd = MemoryFile(WriteZip(zip));
  const auto entries = ReadArchive(fd.get(), limits);
  return entries.ok() ? "OK" : ReasonOf(entries.status());
}

ZipFile TwoFiles() {
  ZipFile zip;
  zip.entries = {StoredEntry("a", "first"), StoredEntry("b/c", "second")};
  return zip;
}

// Judges TwoFiles with one thing changed.
std::string JudgeChanged(const std::function<void(ZipFile&)>& change) {
  ZipFile zip = TwoFiles();
  change(zip);
  return Judge(zip);
}

// Judges a zip whose second entry has this name everywhere.
std::string JudgeName(absl::string_view name) {
  ZipFile zip = TwoFiles();
  zip.entries[1] = StoredEntry(name, "second");
  return Judge(zip);
}

// Judges a zip whose second entry is changed in both of its headers.
std::string JudgeHeaders(const std::function<void(ZipHeader&)>& change) {
  ZipFile zip = TwoFiles();
  change(zip.entries[1].local);
  change(zip.entries[1].central);
  return Judge(zip);
}

std::string JudgeExtra(absl::string_view extra) {
  return JudgeHeaders(
      [&](ZipHeader& header) { header.extra = std::string(extra); });
}

absl::StatusOr<std::string> ReadAll(const ZipEntry& entry) {
  ZipFile zip;
  zip.entries = {entry};
  const UniqueFd fd = MemoryFile(WriteZip(zip));
  const auto entries = ReadArchive(fd.get(), Limits());
  if (!entries.ok()) return entries.status();
  std::string contents;
  const absl::Status status =
      ReadEntry(fd.get(), entries->at(0), [&](absl::string_view bytes) {
        absl::StrAppend(&contents, bytes);
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return contents;
}

std::string ReadCode(const ZipEntry& entry) {
  return ReasonOf(ReadAll(entry).status());
}

TEST(ArchiveTest, ListsFilesInFileOrderWithoutDirectories) {
  ZipFile zip;
  ZipEntry directory = StoredEntry("b/", "");
  directory.external_attributes = 0x41ed0010;
  zip.entries = {DeflatedEntry("z", "zzzz"), directory,
                 StoredEntry("b/c", "second")};
  const UniqueFd fd = MemoryFile(WriteZip(zip));

  const auto entries = ReadArchive(fd.get(), Limits());

  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_THAT(*entries, ElementsAre(Field(&Entry::path, "z"),
                                    Field(&Entry::path, "b/c")));
  EXPECT_TRUE(entries->at(0).deflated);
  EXPECT_EQ(entries->at(0).size, 4);
  EXPECT_FALSE(entries->at(1).deflated);
}

TEST(ArchiveTest, AcceptsAnEmptyZip) { EXPECT_EQ(Judge(ZipFile()), "OK"); }

TEST(ArchiveTest, AcceptsDescriptorsWithAndWithoutSignature) {
  for (const bool with_signature : {true, false}) {
    ZipFile zip;
    zip.entries = {WithDescriptor(DeflatedEntry("a", "data"), with_signature),
                   StoredEntry("b", "more")};
    EXPECT_EQ(Judge(zip), "OK") << with_signature;
  }
}

TEST(ArchiveTest, RefusesABadEndRecord) {
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.suffix = "x"; }), "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.comment = "x"; }), "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.disk = 1; }), "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.directory_disk = 1; }),
            "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.disk_count = 1; }), "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.count = 0xffff; }), "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.directory_offset = 0xffffffff; }),
            "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.directory_bytes = 0xffffffff; }),
            "E_ZIP_EOCD");
  EXPECT_EQ(JudgeChanged([](auto& zip) {
              zip.before_end =
                  std::string("PK\x06\x07", 4) + std::string(16, '\0');
            }),
            "E_ZIP_EOCD");
}

TEST(ArchiveTest, RefusesADirectoryThatDoesNotFillItsPlace) {
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.before_end = "x"; }),
            "E_ZIP_LAYOUT");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.directory_offset = 0; }),
            "E_ZIP_LAYOUT");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.directory_bytes = 1; }),
            "E_ZIP_LAYOUT");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.directory_suffix = "x"; }),
            "E_ZIP_CD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.count = 1; }), "E_ZIP_CD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.count = 3; }), "E_ZIP_CD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.entries[1].comment = "x"; }),
            "E_ZIP_CD");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.entries[1].disk = 1; }),
            "E_ZIP_CD");
}

TEST(ArchiveTest, RefusesGapsOverlapsAndHiddenEntries) {
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.prefix = "x"; }), "E_ZIP_LAYOUT");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.entries[0].gap = "x"; }),
            "E_ZIP_LAYOUT");
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.entries[1].gap = "x"; }),
            "E_ZIP_LAYOUT");
  for (const size_t hidden : {0, 1}) {
    EXPECT_EQ(JudgeChanged(
                  [&](auto& zip) { zip.entries[hidden].in_directory = false; }),
              "E_ZIP_LAYOUT");
  }
  EXPECT_EQ(JudgeChanged([](auto& zip) { zip.entries[1].header_offset = 0; }),
            "E_ZIP_LAYOUT");
  EXPECT_EQ(JudgeChanged(
                [](auto& zip) { zip.entries[1].header_offset = 0xfffffff0; }),
            "E_ZIP_LAYOUT");
}

TEST(ArchiveTest, RefusesDataThatReachesIntoTheDirectory) {
  EXPECT_EQ(JudgeHeaders([](ZipHeader& header) {
              header.stored_bytes = 7;
              header.size = 7;
            }),
            "E_ZIP_LAYOUT");
  EXPECT_EQ(JudgeHeaders([](ZipHeader& header) {
              header.stored_bytes = 0xffffffff;
              header.size = 0xffffffff;
            }),
            "E_ZIP_LAYOUT");
}

TEST(ArchiveTest, RefusesHeadersThatDifferFromTheDirectory) {
  const auto judge = [](const std::function<void(ZipHeader&)>& change) {
    return JudgeChanged([&](ZipFile& zip) { change(zip.entries[1].local); });
  };
  EXPECT_EQ(judge([](auto& local) { local.name = "b/C"; }), "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.name = "b/cd"; }), "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.flags = 2; }), "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.flags = 1; }), "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.method = 8; }), "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.version_needed = 20; }),
            "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.crc32 ^= 1; }), "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.stored_bytes = 5; }),
            "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) { local.size = 5; }), "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& local) {
              local.crc32 = 0;
              local.size = 0;
              local.stored_bytes = 0;
            }),
            "E_ZIP_MISMATCH");
}

TEST(ArchiveTest, RefusesDescriptorsThatAreNotWhatTheDirectorySays) {
  const auto judge = [](const std::function<void(ZipEntry&)>& change) {
    ZipFile zip;
    zip.entries = {WithDescriptor(DeflatedEntry("a", "data"), true),
                   StoredEntry("b", "more")};
    change(zip.entries[0]);
    return Judge(zip);
  };
  EXPECT_EQ(judge([](auto& entry) { entry.descriptor = ""; }),
            "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& entry) { entry.descriptor[0] = 'X'; }),
            "E_ZIP_MISMATCH");
  for (const size_t field : {4, 8, 12}) {
    EXPECT_EQ(judge([&](auto& entry) { entry.descriptor[field] ^= 1; }),
              "E_ZIP_MISMATCH");
  }
  EXPECT_EQ(judge([](auto& entry) { entry.descriptor.insert(8, 4, '\0'); }),
            "E_ZIP_MISMATCH");
  EXPECT_EQ(judge([](auto& entry) { entry.local.size = 1; }), "E_ZIP_MISMATCH");
}

TEST(ArchiveTest, RefusesBytesBehindADescriptor) {
  for (const bool with_signature : {true, false}) {
    for (const bool last : {true, false}) {
      for (const size_t bytes : {1, 4, 16}) {
        ZipFile zip;
        zip.entries = {
            WithDescriptor(DeflatedEntry("a", "data"), with_signature)};
        zip.entries[0].gap = std::string(bytes, '\0');
        if (!last) zip.entries.push_back(StoredEntry("b", "more"));
        EXPECT_EQ(Judge(zip), "E_ZIP_LAYOUT")
            << with_signature << last << bytes;
      }
    }
  }
}

TEST(ArchiveTest, RefusesFlagsMethodsAndVersionsThatItDoesNotKnow) {
  for (int bit = 0; bit < 16; ++bit) {
    const bool allowed = bit == 1 || bit == 2 || bit == 11;
    EXPECT_EQ(JudgeHeaders([&](ZipHeader& header) {
                header.flags = static_cast<uint16_t>(1 << bit);
              }),
              allowed ? "OK" : "E_ZIP_FLAGS")
        << bit;
  }
  for (const uint16_t method : {1, 9, 12, 14, 93, 95, 99}) {
    EXPECT_EQ(JudgeHeaders([&](ZipHeader& header) { header.method = method; }),
              "E_ZIP_METHOD")
        << method;
  }
  EXPECT_EQ(JudgeHeaders([](ZipHeader& header) { header.version_needed = 20; }),
            "OK");
  EXPECT_EQ(JudgeHeaders([](ZipHeader& header) { header.version_needed = 21; }),
            "E_ZIP_CD");
  EXPECT_EQ(JudgeHeaders([](ZipHeader& header) { header.size = 5; }),
            "E_ZIP_CD");
}

TEST(ArchiveTest, AllowsOnlyExtraFieldsThatAreIgnored) {
  const auto extra = [](uint16_t id, absl::string_view data) {
    std::string field = {static_cast<char>(id & 0xff),
                         static_cast<char>(id >> 8),
                         static_cast<char>(data.size()), 0};
    return absl::StrCat(field, data);
  };
  EXPECT_EQ(JudgeExtra(extra(0x5455, "\x01time")), "OK");
  EXPECT_EQ(JudgeExtra(extra(0x7875, "owner")), "OK");
  EXPECT_EQ(JudgeExtra(extra(0x000a, "times")), "OK");
  EXPECT_EQ(JudgeExtra(extra(0xcafe, "")), "OK");
  EXPECT_EQ(JudgeExtra(extra(0xcafe, "") + extra(0x5455, "\x01")), "OK");
  for (const uint16_t id : {0x0001, 0x0017, 0x7075, 0x6375, 0x9901, 0x000d}) {
    EXPECT_EQ(JudgeExtra(extra(id, "data")), "E_ZIP_EXTRA") << id;
    EXPECT_EQ(JudgeExtra(extra(0x7875, "") + extra(id, "")), "E_ZIP_EXTRA");
  }
  EXPECT_EQ(JudgeExtra(extra(0x5455, "")), "E_ZIP_EXTRA");
  EXPECT_EQ(JudgeExtra("U"), "E_ZIP_EXTRA");
  EXPECT_EQ(JudgeExtra(extra(0x5455, "time") + "UT"), "E_ZIP_EXTRA");
  EXPECT_EQ(JudgeExtra(std::string("UT\x05\x00time", 8)), "E_ZIP_EXTRA");
  // In one of the two places only.
  EXPECT_EQ(JudgeChanged([&](ZipFile& zip) {
              zip.entries[0].local.extra = extra(0x0001, "12345678");
            }),
            "E_ZIP_EXTRA");
  EXPECT_EQ(JudgeChanged([&](ZipFile& zip) {
              zip.entries[0].local.extra = extra(0x5455, "time");
            }),
            "OK");
}

TEST(ArchiveTest, AllowsOnlyRegularFilesAndEmptyDirectories) {
  const auto judge = [](absl::string_view name, absl::string_view data,
                        uint32_t attributes) {
    ZipFile zip = TwoFiles();
    zip.entries[0] = StoredEntry(name, data);
    zip.entries[0].external_attributes = attributes;
    return Judge(zip);
  };
  EXPECT_EQ(judge("a", "x", 0), "OK");
  EXPECT_EQ(judge("a", "x", 0x89ed0000), "OK");  // 04755: modes are ignored.
  EXPECT_EQ(judge("a", "x", 0x20), "OK");        // DOS "archive".
  EXPECT_EQ(judge("d/", "", 0), "OK");
  EXPECT_EQ(judge("d/", "", 0x41ed0010), "OK");
  for (const uint32_t type : {0x1U, 0x2U, 0x4U, 0x6U, 0xaU, 0xcU, 0xfU}) {
    EXPECT_EQ(judge("a", "x", type << 28), "E_ZIP_TYPE") << type;
  }
  for (const uint32_t attribute : {0x08U, 0x10U, 0x40U, 0x400U}) {
    EXPECT_EQ(judge("a", "x", attribute), "E_ZIP_TYPE") << attribute;
  }
  EXPECT_EQ(judge("d/", "x", 0x41ed0010), "E_ZIP_TYPE");
  EXPECT_EQ(judge("d/", "", 0x81a40000), "E_ZIP_TYPE");
  EXPECT_EQ(judge("d/", "", 0xa1ff0000), "E_ZIP_TYPE");
}

TEST(ArchiveTest, AllowsOnlyPlainRelativeNames) {
  EXPECT_EQ(JudgeName("B.-_+@=,~9"), "OK");
  EXPECT_EQ(JudgeName(std::string(128, 'x')), "OK");
  EXPECT_EQ(JudgeName(std::string(129, 'x')), "E_PATH");
  const std::string half(127, 'x');
  EXPECT_EQ(JudgeName(absl::StrCat(half, "/", half)), "OK");  // 255 bytes
  EXPECT_EQ(JudgeName(absl::StrCat(half, "/", half, "x")), "E_PATH");
  EXPECT_EQ(JudgeName("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16"), "OK");
  EXPECT_EQ(JudgeName("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17"), "E_PATH");
  for (const absl::string_view name :
       {"",      "/",      "/etc/passwd", "..",          "../x",
        "x/..",  "x/../y", ".",           "./x",         "x/.",
        "x//y",  "x\\y",   "C:x",         "x y",         "-x",
        "x/-rf", "x\ny",   "x\x7f",       "caf\xc3\xa9", "x\xff",
        "x*",    "x?",     "x|y",         "x;y",         "$x",
        "~/x y", "x:y",    "x'",          "x\"",         "x<",
        "x%2e"}) {
    EXPECT_EQ(JudgeName(name), "E_PATH") << name;
  }
  EXPECT_EQ(JudgeName(absl::string_view("x\0y", 3)), "E_PATH");
}

TEST(ArchiveTest, RefusesNamesThatExcludeEachOther) {
  EXPECT_EQ(JudgeName("a"), "E_ZIP_DUP");
  EXPECT_EQ(JudgeName("A"), "E_ZIP_DUP");
  EXPECT_EQ(JudgeChanged([](ZipFile& zip) {
              zip.entries[1] = StoredEntry("A/", "");
              zip.entries[1].external_attributes = 0x41ed0010;
            }),
            "E_ZIP_DUP");
  EXPECT_EQ(JudgeName("a/b"), "E_ZIP_DUP");
  EXPECT_EQ(JudgeName("A/b/c"), "E_ZIP_DUP");
  EXPECT_EQ(JudgeName("ab"), "OK");
}

TEST(ArchiveTest, HoldsItsLimits) {
  const ZipFile zip = TwoFiles();  // 5 and 6 bytes.
  EXPECT_EQ(Judge(zip, {.max_entries = 2}), "OK");
  EXPECT_EQ(Judge(zip, {.max_entries = 1}), "E_ZIP_COUNT");
  EXPECT_EQ(Judge(zip, {.max_entry_bytes = 6}), "OK");
  EXPECT_EQ(Judge(zip, {.max_entry_bytes = 5}), "E_SIZE");
  EXPECT_EQ(Judge(zip, {.max_total_bytes = 11}), "OK");
  EXPECT_EQ(Judge(zip, {.max_total_bytes = 10}), "E_SIZE");
  const auto bytes = static_cast<int64_t>(WriteZip(zip).size());
  EXPECT_EQ(Judge(zip, {.max_file_bytes = bytes}), "OK");
  EXPECT_EQ(Judge(zip, {.max_file_bytes = bytes - 1}), "E_SIZE");
}

TEST(ArchiveTest, RefusesWhatIsNoFile) {
  EXPECT_EQ(ReasonOf(ReadArchive(-1, Limits()).status()), "E_IO");
  const UniqueFd directory(open("/", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(ReasonOf(ReadArchive(directory.get(), Limits()).status()), "E_IO");
}

TEST(ArchiveTest, ReadsStoredAndDeflatedData) {
  std::string large;
  for (int i = 0; i < 100'000; ++i) absl::StrAppend(&large, i * 7919 % 1000);
  for (const std::string& data : {std::string(), std::string("x"), large}) {
    EXPECT_EQ(ReadAll(StoredEntry("a", data)).value(), data);
    EXPECT_EQ(ReadAll(DeflatedEntry("a", data)).value(), data);
    EXPECT_EQ(ReadAll(WithDescriptor(DeflatedEntry("a", data), true)).value(),
              data);
  }
}

TEST(ArchiveTest, RefusesDataThatIsNotAsDeclared) {
  const auto changed = [](const std::function<void(ZipEntry&)>& change) {
    ZipEntry entry = DeflatedEntry("a", "some data, and more data, and more");
    change(entry);
    entry.local.stored_bytes = static_cast<uint32_t>(entry.stored.size());
    entry.central = entry.local;
    return ReadCode(entry);
  };
  EXPECT_EQ(changed([](auto& entry) { entry.stored.pop_back(); }),
            "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { entry.stored.push_back('x'); }),
            "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { entry.stored += Deflate("more"); }),
            "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { entry.stored.clear(); }), "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { entry.stored = "\xff\xff\xff"; }),
            "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { ++entry.local.size; }), "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { --entry.local.size; }), "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { entry.local.size = 1'000'000'000; }),
            "E_ZIP_DATA");
  EXPECT_EQ(changed([](auto& entry) { entry.local.crc32 ^= 1; }), "E_ZIP_DATA");
  ZipEntry stored = StoredEntry("a", "data");
  stored.local.crc32 ^= 1;
  stored.central.crc32 ^= 1;
  EXPECT_EQ(ReadCode(stored), "E_ZIP_DATA");
}

TEST(ArchiveTest, StopsInflatingAtTheDeclaredSize) {
  ZipEntry bomb = DeflatedEntry("a", std::string(50'000'000, 'x'));
  bomb.local.size = 10;
  bomb.central.size = 10;
  ZipFile zip;
  zip.entries = {bomb};
  const UniqueFd fd = MemoryFile(WriteZip(zip));
  const auto entries = ReadArchive(fd.get(), Limits());
  ASSERT_TRUE(entries.ok());
  size_t seen = 0;

  const absl::Status status =
      ReadEntry(fd.get(), entries->at(0), [&](absl::string_view bytes) {
        seen += bytes.size();
        return absl::OkStatus();
      });

  EXPECT_EQ(ReasonOf(status), "E_ZIP_DATA");
  EXPECT_LE(seen, 10u);
}

TEST(ArchiveTest, EndsReadingWhenTheSinkFails) {
  const ZipEntry entry = StoredEntry("a", std::string(1'000'000, 'x'));
  ZipFile zip;
  zip.entries = {entry};
  const UniqueFd fd = MemoryFile(WriteZip(zip));
  const auto entries = ReadArchive(fd.get(), Limits());
  ASSERT_TRUE(entries.ok());
  int calls = 0;

  const absl::Status status =
      ReadEntry(fd.get(), entries->at(0), [&](absl::string_view) {
        ++calls;
        return absl::ResourceExhaustedError("no space");
      });

  EXPECT_THAT(std::string(status.message()), HasSubstr("no space"));
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace mycelium::spore
